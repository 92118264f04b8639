//! What holds for every framing, check and decoder, whatever bytes come.

use proptest::prelude::*;

use super::*;

/// Framings and checks that a test may name; each with `max: 64` so that limits are met.
const FRAMES: &[(&str, Option<&str>)] = &[
    (r#"{"delimiter": "\n", "max": 64}"#, None),
    (r#"{"delimiter": "\r\n", "max": 64}"#, Some(r#"{"xor": "u8"}"#)),
    (r#"{"delimiter": "aab", "max": 64}"#, None),
    (r#"{"length": 5, "max": 64}"#, Some(r#"{"sum": "u8"}"#)),
    (r#"{"start": "aa", "length": 6, "max": 64}"#, None),
    (r#"{"start": "aa aa", "length": 6, "max": 64}"#, Some(r#"{"sum": "u8"}"#)),
    (r#"{"start": "02", "end": "03", "max": 64}"#, None),
    (r#"{"start": "7e", "end": "7e", "max": 64}"#, Some(r#"{"sum": "u8", "at": -2}"#)),
    (r#"{"start": "02 aa", "end": "aa 03", "trailer": 3, "max": 64, "ignore": {"start": "3a", "end": "0a"}}"#, None),
    (r#"{"length_prefix": "u8", "adjust": 1, "max": 64}"#, Some(r#"{"sum": "u8"}"#)),
    (r#"{"start": "aa", "length_prefix": "u16le", "adjust": 3, "max": 64}"#, Some(r#"{"xor": "u8"}"#)),
    (r#"{"start": "aa", "length_prefix": "u16be", "at": 2, "adjust": -1, "max": 64}"#, None),
    (r#""cobs""#, None),
    (r#"{"cobs": true, "max": 64}"#, Some(r#"{"sum": "u8"}"#)),
    (r#"{"slip": true, "max": 64}"#, None),
    (r#"{"nmea": true, "max": 64}"#, None),
];

fn framer(frame: &str, check: Option<&str>) -> Framer {
    let check: Option<CheckKeys> = check.map(|check| serde_json::from_str(check).unwrap());
    Framer::new(&serde_json::from_str(frame).unwrap(), check.as_ref()).ok().unwrap()
}

/// Bytes of which many mean something to one of the framings.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        3 => any::<u8>(),
        2 => prop::sample::select(b"\r\n$*!,:;=ab0123".to_vec()),
        2 => prop::sample::select(vec![0u8, 1, 2, 3, 5, 0x7e, 0xaa, 0xc0, 0xdb, 0xdc, 0xff]),
    ];
    prop::collection::vec(byte, 0..300)
}

/// Pushes in pieces; returns the frames and the number of bytes told as lost.
fn feed(framer: &mut Framer, mut bytes: &[u8], sizes: &[usize]) -> (Vec<Vec<u8>>, usize) {
    let (mut frames, mut lost) = (Vec::new(), 0);
    let mut sizes = sizes.iter().cycle();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at((*sizes.next().unwrap()).min(bytes.len()));
        framer.push(piece, |event| match event {
            Event::Frame(frame) => frames.push(frame.bytes.to_vec()),
            Event::Rejected { bytes, .. } => lost += bytes,
            Event::Dropped(bytes) => lost += bytes.len(),
        });
        bytes = rest;
    }
    (frames, lost)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn frames_and_losses_do_not_depend_on_how_the_stream_is_split(
        which in 0..FRAMES.len(), bytes in noise(), sizes in prop::collection::vec(1usize..40, 1..8)
    ) {
        let (frame, check) = FRAMES[which];
        let mut whole = framer(frame, check);
        let mut split = framer(frame, check);
        let one = feed(&mut whole, &bytes, &[usize::MAX]);
        let many = feed(&mut split, &bytes, &sizes);
        prop_assert_eq!(&one.0, &many.0, "{}", frame);
        // what is told early or late is the same once what is still kept is added
        prop_assert_eq!(one.1 + whole.buffered(), many.1 + split.buffered(), "{}", frame);
    }

    #[test]
    fn no_more_than_the_longest_frame_is_kept(which in 0..FRAMES.len(), bytes in noise()) {
        let (frame, check) = FRAMES[which];
        let mut framer = framer(frame, check);
        // SLIP may need two bytes for one, COBS one more in 254, a delimiter stands behind the frame
        let limit = if frame.contains("slip") { 128 } else if frame == "\"cobs\"" { 4200 } else { 64 + 4 };
        for byte in &bytes {
            framer.push(&[*byte], |_| {});
            prop_assert!(framer.buffered() <= limit, "{} keeps {}", frame, framer.buffered());
        }
        framer.idle(|_| {});
        framer.reset(Joined::Midway);
        prop_assert_eq!(framer.buffered(), 0);
    }

    #[test]
    fn garbage_before_a_good_frame_costs_at_most_itself(
        garbage in noise(), content in prop::collection::vec(any::<u8>(), 1..20), form in 0..4usize
    ) {
        let crc = r#"{"crc": "CRC-32"}"#;
        let (frame, head) = match form {
            0 => (format!(r#"{{"length": {}}}"#, content.len() + 4), vec![]),
            1 => (format!(r#"{{"start": "aa 55", "length": {}}}"#, content.len() + 6), vec![0xaa, 0x55]),
            2 => (r#"{"length_prefix": "u8", "adjust": 5}"#.to_owned(), vec![content.len() as u8]),
            _ => (r#"{"start": "aa", "length_prefix": "u16be", "adjust": 7}"#.to_owned(), vec![0xaa, 0, content.len() as u8]),
        };
        let mut framer = framer(&frame, Some(crc));
        let mut good = head;
        good.extend(&content);
        framer.check().unwrap().append(&mut good).unwrap();
        let mut stream = garbage.clone();
        stream.extend(&good);
        let (mut frames, _) = feed(&mut framer, &stream, &[7]);
        // a wrong length in the garbage may still wait for more; silence ends that
        while framer.idle_after().is_some() {
            framer.idle(|event| if let Event::Frame(frame) = event { frames.push(frame.bytes.to_vec()) });
        }
        prop_assert_eq!(frames, vec![good]);
    }

    #[test]
    fn a_check_put_onto_any_request_is_verified(
        request in prop::collection::vec(any::<u8>(), 8..40), which in 0..6usize
    ) {
        let keys = [
            r#"{"crc": "CRC-16/MODBUS"}"#, r#"{"crc": "CRC-82/DARC", "endian": "big"}"#, r#"{"crc": "XMODEM", "as": "hex"}"#,
            r#"{"sum": "u16le", "then": "invert", "at": 3, "over": [5, -1]}"#, r#"{"xor": "u8", "then": "negate", "at": -3}"#,
            r#"{"fletcher": "u8", "over": [2, -2]}"#,
        ][which];
        let check = Check::new(&serde_json::from_str(keys).unwrap()).unwrap();
        let mut frame = request.clone();
        check.append(&mut frame).unwrap();
        prop_assert_eq!(frame.len(), request.len() + check.width());
        prop_assert_eq!(check.verify(&frame), Ok(()));
    }

}

proptest! {
    // the patterns are compiled for every case
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn no_frame_harms_a_decoder(bytes in noise(), cut in 0usize..80) {
        let frame = Frame::plain(&bytes[..cut.min(bytes.len())]);
        for (decode, point) in [
            (r#"{"type": "keyvalue"}"#, r#"{"field": "a", "type": "number"}"#),
            (r#"{"type": "keyvalue", "pair": "ab", "assign": "::"}"#, r#"{"field": "a", "type": "bool"}"#),
            (r#"{"type": "csv"}"#, r#"{"field": 2}"#),
            (r#"{"type": "csv", "separator": " "}"#, r#"{"field": 0, "pattern": "(a+)|b"}"#),
            (r#"{"type": "regex", "pattern": "(?<x>[0-9]+)(b)?"}"#, r#"{"field": "x"}"#),
            (r#"{"type": "json"}"#, r#"{"field": "a.0.b"}"#),
            (r#"{"type": "nmea"}"#, r#"{"field": "latitude"}"#),
            (r#"{"type": "nmea", "match": {"field": "type", "is": 1}}"#, r#"{"field": "date"}"#),
            (r#"{"type": "binary"}"#, r#"{"at": -9, "as": "f64be"}"#),
            (r#"{"type": "binary", "match": {"at": -2, "is": "00"}}"#, r#"{"at": 3, "text": "rest"}"#),
            (r#"{"type": "tlv", "length": "u16be"}"#, r#"{"tag": 1, "bcd": 3}"#),
            (r#"{"type": "text"}"#, r#"{"pattern": "([a-z]+)"}"#),
            (r#"{"type": "raw"}"#, r#"{"type": "number"}"#),
        ] {
            let point: FieldKeys = serde_json::from_str(point).unwrap();
            let mut decoder = Decoder::new(&serde_json::from_str(decode).unwrap(), &[("p", &point)]).ok().unwrap();
            let mut out = Vec::new();
            if decoder.decode(&frame, &mut out).is_ok() {
                decoder.fields(&frame, &mut |_, value| assert!(value.as_number().is_none_or(f64::is_finite)));
            }
            for reading in out {
                prop_assert!(reading.value.as_number().is_none_or(f64::is_finite));
            }
        }
    }
}

#[test]
fn the_first_line_is_dropped_unless_the_caller_or_a_check_knows_better() {
    let lines = r#"{"delimiter": "\n"}"#;
    let mut midway = framer(lines, None);
    assert_eq!(feed(&mut midway, b"1.5\n21.5\n", &[9]), (vec![b"21.5".to_vec()], 4));
    midway.reset(Joined::AtStart);
    assert_eq!(feed(&mut midway, b"1.5\n21.5\n", &[2]).0.len(), 2);
    midway.push(b"half a li", |_| {});
    midway.reset(Joined::Midway);
    assert_eq!(feed(&mut midway, b"ne\nwhole\n", &[2]).0, [b"whole"]);

    let mut checked = framer(lines, Some(r#"{"xor": "u8", "as": "hex"}"#));
    assert_eq!(feed(&mut checked, b"a61\na61\n", &[3]), (vec![b"a61".to_vec(); 2], 0));
    checked.reset(Joined::Midway);
    assert_eq!(feed(&mut checked, b"61\na61\n", &[3]), (vec![b"a61".to_vec()], 3));
}

#[test]
fn a_silence_never_takes_a_frame_from_a_slow_sender() {
    let mut framer = framer(r#"{"start": "aa", "length_prefix": "u8", "adjust": 3}"#, Some(r#"{"sum": "u8"}"#));
    let mut frames = 0;
    for byte in [0xaa, 2, 0xaa, 1, 0x57] {
        framer.push(&[byte], |event| frames += usize::from(matches!(event, Event::Frame(_))));
        if framer.idle_after().is_some() {
            framer.idle(|_| panic!("nothing may be told"));
        }
    }
    assert_eq!(frames, 1);
}

#[test]
fn a_wrong_length_holds_nothing_back_for_long_where_the_line_never_falls_silent() {
    let keys = r#"{"start": "aa 55", "length_prefix": "u16le", "adjust": 6}"#;
    let mut framer = framer(keys, Some(r#"{"crc": "CRC-16/MODBUS"}"#));
    let mut longest = 0;
    let (mut frames, mut lost) = (Vec::new(), 0);
    for n in 0..60u8 {
        let mut frame = vec![0xaa, 0x55, 2, 0, 0xaa, n];
        framer.check().unwrap().append(&mut frame).unwrap();
        if n == 20 || n == 22 {
            frame[3] = 0x0f;
        }
        for byte in frame {
            framer.push(&[byte], |event| match event {
                Event::Frame(frame) => frames.push(frame.bytes[5]),
                Event::Rejected { bytes, .. } => lost += bytes,
                Event::Dropped(bytes) => lost += bytes.len(),
            });
            longest = longest.max(framer.buffered());
        }
    }
    assert_eq!(frames, (0..60).filter(|n| *n != 20 && *n != 22).collect::<Vec<u8>>());
    assert_eq!(lost, 16);
    assert!(longest <= 128, "{longest} bytes were held back");
}

#[test]
fn one_bad_frame_counts_once() {
    let mut framer = framer(r#"{"length": 8}"#, Some(r#"{"crc": "CRC-16/MODBUS"}"#));
    let mut good = vec![1, 2, 3, 4, 5, 6];
    framer.check().unwrap().append(&mut good).unwrap();
    let mut bad = good.clone();
    bad[3] ^= 0x10;
    let (mut rejected, mut frames) = (0, 0);
    for bytes in [&good, &bad, &good, &good, &bad, &bad, &good] {
        framer.push(bytes, |event| match event {
            Event::Frame(_) => frames += 1,
            Event::Rejected { .. } => rejected += 1,
            Event::Dropped(_) => {}
        });
    }
    // two in a row cannot be told from one long loss where nothing marks a start
    assert_eq!((frames, rejected), (4, 2));
}

#[test]
fn keys_that_do_not_go_together_are_told_with_their_place() {
    for (frame, path) in [
        ("{}", "frame"),
        (r#"{"delimiter": "\n", "length": 3}"#, "frame.length"),
        (r#"{"delimiter": "\n", "trailer": 3}"#, "frame.trailer"),
        (r#"{"start": "02"}"#, "frame.start"),
        (r#"{"end": "03"}"#, "frame.end"),
        (r#"{"length": 0}"#, "frame.length"),
        (r#"{"length": 100, "max": 50}"#, "frame.length"),
        (r#"{"length": 9, "max": 0}"#, "frame.max"),
        (r#"{"start": "02 03", "length_prefix": "u8", "at": 1}"#, "frame.at"),
        (r#"{"length_prefix": "u8", "adjust": -255}"#, "frame.adjust"),
        (r#"{"gap": "0ms"}"#, "frame.gap"),
    ] {
        let errors = Framer::new(&serde_json::from_str(frame).unwrap(), None).err().unwrap();
        assert_eq!(errors.len(), 1, "{frame}");
        assert_eq!(errors[0].path, path, "{frame}");
        assert!(errors[0].help.is_some(), "{frame}");
    }
    for (decode, point, path) in [
        (r#"{"type": "csv", "columns": ["humidity"]}"#, r#"{"field": "humidty"}"#, "points.p.field"),
        (r#"{"type": "csv", "columns": ["a", "b"]}"#, r#"{"field": 2}"#, "points.p.field"),
        (r#"{"type": "csv", "pair": ";"}"#, r#"{"field": 1}"#, "decode.pair"),
        (r#"{"type": "regex"}"#, "{}", "decode"),
        (r#"{"type": "regex", "pattern": "(a"}"#, r#"{"field": 1}"#, "decode.pattern"),
        (r#"{"type": "regex", "pattern": "(?<a>b)"}"#, "{}", "points.p.field"),
        (r#"{"type": "nmea"}"#, r#"{"field": "latitud"}"#, "points.p.field"),
        (r#"{"type": "binary"}"#, r#"{"as": "u8"}"#, "points.p"),
        (r#"{"type": "json"}"#, r#"{"at": 3}"#, "points.p.at"),
        (r#"{"type": "json"}"#, r#"{"pattern": "[a"}"#, "points.p.pattern"),
        (r#"{"type": "tlv"}"#, r#"{"as": "u8"}"#, "points.p"),
        (r#"{"type": "binary", "match": {"field": "x", "is": 1}}"#, r#"{"at": 0, "as": "u8"}"#, "decode.match.field"),
        (r#"{"type": "json"}"#, r#"{"match": {"is": 1}}"#, "points.p.match"),
        (r#"{"type": "keyvalue", "pair": "=", "assign": "="}"#, "{}", "decode.assign"),
    ] {
        let point: FieldKeys = serde_json::from_str(point).unwrap();
        let errors = Decoder::new(&serde_json::from_str(decode).unwrap(), &[("p", &point)]).err().unwrap();
        let paths: Vec<&str> = errors.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, [path], "{decode}");
    }
    let near = Framer::new(&serde_json::from_str(r#"{"gap": "20ms"}"#).unwrap(), Some(&CheckKeys::default()));
    assert_eq!(near.err().unwrap()[0].path, "check");
}

#[test]
fn braces_may_be_marks_of_json_frames() {
    let point = FieldKeys::default();
    for (frame, check, stream) in [
        (r#"{"start": "{", "end": "}"}"#, None, &b"xx{\"t\":7}\r\n"[..]),
        (r#"{"start": "02", "end": "03"}"#, None, b"\x02{\"t\":7}\x03"),
        (r#"{"delimiter": "\n"}"#, Some(r#"{"xor": "u8", "as": "hex", "over": [0, -3]}"#), b"{\"t\":7}*7f\n"),
    ] {
        let keys = serde_json::from_str(r#"{"type": "json"}"#).unwrap();
        let check: Option<CheckKeys> = check.map(|check| serde_json::from_str(check).unwrap());
        let frame = serde_json::from_str(frame).unwrap();
        let mut pipeline = Pipeline::new(&frame, check.as_ref(), &keys, &[("t", &point)]).unwrap();
        let mut values = Vec::new();
        pipeline.push(stream, &mut |output| match output {
            Output::Frame { readings, .. } => values.append(readings),
            Output::Rejected { reason, .. } => panic!("{reason}"),
            _ => {}
        });
        assert_eq!(values, [Decoded { point: 0, value: crate::model::Value::Number(7.0), bad: false }]);
    }
}

#[test]
fn a_column_of_csv_has_its_number_beside_its_name() {
    let point: FieldKeys = serde_json::from_str(r#"{"field": 1}"#).unwrap();
    for columns in [r#"{"type": "csv", "columns": ["a", "b"]}"#, r#"{"type": "csv"}"#] {
        let keys = serde_json::from_str(columns).unwrap();
        let frame = serde_json::from_str(r#"{"delimiter": "\n"}"#).unwrap();
        let mut pipeline = Pipeline::new(&frame, None, &keys, &[("b", &point)]).unwrap();
        pipeline.reset(crate::codec::Joined::AtStart);
        let mut values = Vec::new();
        pipeline.push(b"1,22\n", &mut |output| match output {
            Output::Frame { readings, .. } => values.extend(readings.drain(..).map(|r| r.value)),
            _ => panic!("the line was refused"),
        });
        assert_eq!(values, [crate::model::Value::Number(22.0)], "{columns}");
    }
}

#[test]
fn a_pipeline_may_live_in_any_task() {
    fn goes_anywhere<T: Send + 'static>() {}
    goes_anywhere::<Pipeline>();
}
