//! Requests and answers, RTU and TCP. The frames are made and read by rmodbus; here is how an answer is found among
//! whatever a line brings.
//!
//! Source: MODBUS over Serial Line V1.02 section 2.5 (RTU), MODBUS Messaging on TCP/IP V1.0b section 3.1 (MBAP header).
//! An answer counts only with the unit, the function, the length and the check (TCP: the transaction) of its request.
//! Noise before it, an adapter's echo of the request, and late answers to other requests are passed over.

use std::time::Duration;

use rmodbus::client::ModbusRequest;
use rmodbus::{ErrorKind, ModbusProto};

use super::registers::Table;
use crate::hal::port::{Line, PortKind};

/// What is asked of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    /// So many cells of a table from an address on.
    Read { table: Table, from: u16, count: u16 },
    /// One coil.
    Coil { at: u16, on: bool },
    /// Registers; with `single` one by function 6.
    Registers { at: u16, words: Vec<u16>, single: bool },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The cells; empty after a write.
    Cells(Vec<u16>),
    /// The unit refused.
    Refused(Refused),
}

/// Why a unit refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// For people.
    pub text: String,
    /// There are no such cells, or not so many at once: asking for fewer may help.
    pub address: bool,
}

/// How frames look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Frames {
    /// Unit, function, data, CRC.
    Rtu,
    /// With the header of Modbus TCP, without CRC.
    Tcp,
}

impl Frames {
    /// What a port speaks where nobody says otherwise.
    pub fn of(port: &PortKind) -> Frames {
        if matches!(port, PortKind::Tcp { .. }) { Frames::Tcp } else { Frames::Rtu }
    }
}

/// Silence between two frames of RTU: three and a half characters, at least 1.75 ms.
pub(super) fn silence(port: &PortKind) -> Duration {
    let of = |line: &Line| Duration::from_secs_f64((38.5 / f64::from(line.baud_rate.max(1))).max(0.001_75));
    match port {
        PortKind::Path { line, .. } | PortKind::Usb { line, .. } => of(line),
        PortKind::Tcp { .. } | PortKind::Command { .. } => Duration::ZERO,
    }
}

/// A request on its way, and how its answer is known.
pub(super) struct Asked {
    request: ModbusRequest,
    frames: Frames,
    unit: u8,
    function: u8,
    transaction: u16,
    question: Question,
}

impl Asked {
    /// A request as bytes; an error is a count that no frame holds.
    pub fn new(frames: Frames, unit: u8, transaction: u16, question: Question) -> Result<(Asked, Vec<u8>), String> {
        let mut request = match frames {
            Frames::Rtu => ModbusRequest::new(unit, ModbusProto::Rtu),
            Frames::Tcp => ModbusRequest::new_tcp_udp(unit, transaction),
        };
        let mut bytes: Vec<u8> = Vec::new();
        let made = match &question {
            Question::Read { table: Table::Coil, from, count } => request.generate_get_coils(*from, *count, &mut bytes),
            Question::Read { table: Table::Discrete, from, count } => {
                request.generate_get_discretes(*from, *count, &mut bytes)
            }
            Question::Read { table: Table::Holding, from, count } => {
                request.generate_get_holdings(*from, *count, &mut bytes)
            }
            Question::Read { table: Table::Input, from, count } => {
                request.generate_get_inputs(*from, *count, &mut bytes)
            }
            Question::Coil { at, on } => request.generate_set_coil(*at, *on, &mut bytes),
            Question::Registers { at, words, single: true } => {
                request.generate_set_holding(*at, words.first().copied().unwrap_or(0), &mut bytes)
            }
            Question::Registers { at, words, single: false } => {
                request.generate_set_holdings_bulk(*at, words, &mut bytes)
            }
        };
        made.map_err(|e| format!("the request cannot be made: {e:?}"))?;
        let function = match &question {
            Question::Read { table: Table::Coil, .. } => 1,
            Question::Read { table: Table::Discrete, .. } => 2,
            Question::Read { table: Table::Holding, .. } => 3,
            Question::Read { table: Table::Input, .. } => 4,
            Question::Coil { .. } => 5,
            Question::Registers { single: true, .. } => 6,
            Question::Registers { single: false, .. } => 16,
        };
        Ok((Asked { request, frames, unit, function, transaction, question }, bytes))
    }

    /// The answer among these bytes, once it is whole.
    pub fn answer(&self, bytes: &[u8]) -> Option<Answer> {
        match self.frames {
            Frames::Rtu => (0..bytes.len()).find_map(|at| self.rtu(bytes.get(at..)?)),
            Frames::Tcp => self.tcp(bytes),
        }
    }

    /// Bytes behind the function where all is well: read: a count and the cells; write: an echo.
    fn rest(&self) -> usize {
        match &self.question {
            Question::Read { table, count, .. } if table.is_bits() => 1 + usize::from(*count).div_ceil(8),
            Question::Read { count, .. } => 1 + 2 * usize::from(*count),
            Question::Coil { .. } | Question::Registers { .. } => 4,
        }
    }

    fn rtu(&self, bytes: &[u8]) -> Option<Answer> {
        let [unit, function, ..] = *bytes else { return None };
        if unit != self.unit {
            return None;
        }
        let size = match function {
            f if f == self.function => 2 + self.rest() + 2,
            f if f == self.function | 0x80 => 5,
            _ => return None,
        };
        self.read(bytes.get(..size)?, 2, size - 2)
    }

    fn tcp(&self, mut bytes: &[u8]) -> Option<Answer> {
        loop {
            let [t1, t0, 0, 0, n1, n0, unit, function, ..] = *bytes else {
                // a header is never out of step, unless what came is none: look one byte on
                let whole = bytes.len() >= 8;
                bytes = bytes.get(1..).filter(|_| whole)?;
                continue;
            };
            let length = usize::from(u16::from_be_bytes([n1, n0]));
            if !(3..=254).contains(&length) {
                bytes = bytes.get(1..)?;
                continue;
            }
            let frame = bytes.get(..6 + length)?;
            let ours = u16::from_be_bytes([t1, t0]) == self.transaction
                && unit == self.unit
                && (function == self.function && length == 2 + self.rest()
                    || function == self.function | 0x80 && length == 3);
            if ours && let Some(answer) = self.read(frame, 8, frame.len()) {
                return Some(answer);
            }
            bytes = bytes.get(6 + length..)?;
        }
    }

    /// A frame of the right length: its data, or the refusal.
    fn read(&self, frame: &[u8], data: usize, end: usize) -> Option<Answer> {
        let body = match self.request.parse_slice(frame) {
            Ok(body) => body,
            // broken, or another's
            Err(ErrorKind::FrameBroken | ErrorKind::FrameCRCError | ErrorKind::OOB) => return None,
            Err(_) => return frame.get(data).map(|code| Answer::Refused(refused(*code))),
        };
        match &self.question {
            Question::Read { table, count, .. } => {
                if usize::from(*frame.get(data)?) != end - data - 1 {
                    return None;
                }
                let cells: Vec<u16> = if table.is_bits() {
                    let bit = |i: usize| body.get(i / 8).map(|byte| u16::from(byte >> (i % 8) & 1));
                    (0..usize::from(*count)).map(bit).collect::<Option<_>>()?
                } else {
                    body.chunks_exact(2).filter_map(|w| w.try_into().ok()).map(u16::from_be_bytes).collect()
                };
                (cells.len() == usize::from(*count)).then_some(Answer::Cells(cells))
            }
            // a write is answered with its address
            Question::Coil { at, .. } | Question::Registers { at, .. } => {
                (frame.get(data..data + 2)? == at.to_be_bytes()).then_some(Answer::Cells(Vec::new()))
            }
        }
    }
}

/// Why a unit refused, by its code (the library reads the gateways' codes wrongly).
fn refused(code: u8) -> Refused {
    let text = match code {
        1 => "it does not know this function",
        2 => "it has no such address",
        3 => "it does not take this value or count",
        4 => "it failed while it did so",
        5 => "it needs more time",
        6 => "it is busy",
        7 => "it cannot do it",
        8 => "its memory is damaged",
        10 => "the gateway before it has no way to it",
        11 => "it did not answer the gateway before it",
        _ => "it refused for a reason of its own",
    };
    Refused { text: format!("{text} (Modbus exception {code})"), address: matches!(code, 2 | 3) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const READ: Question = Question::Read { table: Table::Holding, from: 0x6b, count: 3 };

    fn rtu(question: Question) -> (Asked, Vec<u8>) {
        Asked::new(Frames::Rtu, 0x11, 7, question).unwrap()
    }

    /// With its CRC, by the catalogue.
    fn frame(bytes: &[u8]) -> Vec<u8> {
        let crc = crc::Crc::<u16>::new(&crc::CRC_16_MODBUS).checksum(bytes);
        [bytes, &crc.to_le_bytes()].concat()
    }

    #[test]
    fn the_example_of_the_specification_is_asked_and_answered() {
        let (asked, request) = rtu(READ);
        assert_eq!(request, frame(&[0x11, 3, 0, 0x6b, 0, 3]));
        let answer = frame(&[0x11, 3, 6, 0x02, 0x2b, 0, 0, 0, 0x64]);
        assert_eq!(asked.answer(&answer), Some(Answer::Cells(vec![0x022b, 0, 0x64])));
        for cut in 0..answer.len() {
            assert_eq!(asked.answer(&answer[..cut]), None, "{cut} bytes");
        }
    }

    #[test]
    fn noise_an_echo_and_others_answers_are_passed_over() {
        let (asked, request) = rtu(READ);
        let answer = frame(&[0x11, 3, 6, 1, 2, 3, 4, 5, 6]);
        let others = frame(&[0x12, 3, 6, 9, 9, 9, 9, 9, 9]);
        let shorter = frame(&[0x11, 3, 2, 9, 9]);
        let line = [&[0, 0x11, 3][..], &request, &others, &shorter, &[0xff], &answer].concat();
        assert_eq!(asked.answer(&line), Some(Answer::Cells(vec![0x0102, 0x0304, 0x0506])));
        let mut broken = answer.clone();
        broken[4] ^= 1;
        assert_eq!(asked.answer(&broken), None);
        assert_eq!(asked.answer(&[broken, answer].concat()), Some(Answer::Cells(vec![0x0102, 0x0304, 0x0506])));
    }

    #[test]
    fn a_refusal_says_why_and_whether_fewer_may_help() {
        let (asked, _) = rtu(READ);
        let Some(Answer::Refused(refused)) = asked.answer(&frame(&[0x11, 0x83, 2])) else { panic!("no refusal") };
        assert!(refused.address && refused.text.contains("no such address"), "{refused:?}");
        let Some(Answer::Refused(refused)) = asked.answer(&frame(&[0x11, 0x83, 6])) else { panic!("no refusal") };
        assert!(!refused.address && refused.text.contains("busy"), "{refused:?}");
    }

    #[test]
    fn writes_are_answered_with_their_address() {
        let (asked, request) = rtu(Question::Registers { at: 1, words: vec![0x000a, 0x0102], single: false });
        assert_eq!(request, frame(&[0x11, 16, 0, 1, 0, 2, 4, 0, 10, 1, 2]));
        assert_eq!(asked.answer(&frame(&[0x11, 16, 0, 1, 0, 2])), Some(Answer::Cells(vec![])));
        assert_eq!(asked.answer(&frame(&[0x11, 16, 0, 2, 0, 2])), None);
        let (_, request) = rtu(Question::Registers { at: 1, words: vec![3], single: true });
        assert_eq!(request, frame(&[0x11, 6, 0, 1, 0, 3]));
        let (asked, request) = rtu(Question::Coil { at: 0xac, on: true });
        assert_eq!(request, frame(&[0x11, 5, 0, 0xac, 0xff, 0]));
        assert_eq!(asked.answer(&request), Some(Answer::Cells(vec![])));
    }

    #[test]
    fn bits_come_lowest_first() {
        let (asked, _) = rtu(Question::Read { table: Table::Coil, from: 0x13, count: 10 });
        let answer = asked.answer(&frame(&[0x11, 1, 2, 0b1100_1101, 0b01]));
        assert_eq!(answer, Some(Answer::Cells(vec![1, 0, 1, 1, 0, 0, 1, 1, 1, 0])));
    }

    #[test]
    fn tcp_answers_belong_to_their_transaction() {
        let (asked, request) = Asked::new(Frames::Tcp, 1, 0x1501, READ).unwrap();
        assert_eq!(request, [0x15, 1, 0, 0, 0, 6, 1, 3, 0, 0x6b, 0, 3]);
        let answer = |transaction: u8| [0x15, transaction, 0, 0, 0, 9, 1, 3, 6, 1, 2, 3, 4, 5, 6];
        assert_eq!(asked.answer(&answer(0)), None, "a late answer");
        let line = [&[0xff, 0xff][..], &answer(0), &answer(1)].concat();
        assert_eq!(asked.answer(&line), Some(Answer::Cells(vec![0x0102, 0x0304, 0x0506])));
        let refusal = asked.answer(&[0x15, 1, 0, 0, 0, 3, 1, 0x83, 11]);
        assert!(matches!(refusal, Some(Answer::Refused(r)) if r.text.contains("gateway")));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), tcp in any::<bool>()) {
            let frames = if tcp { Frames::Tcp } else { Frames::Rtu };
            for question in [READ, Question::Coil { at: 1, on: false }, Question::Read { table: Table::Coil, from: 0, count: 9 }] {
                let (asked, _) = Asked::new(frames, 0x11, 0x0101, question).unwrap();
                let _ = asked.answer(&bytes);
                let _ = asked.answer(&[&[0x11, 3, 6][..], &bytes].concat());
                let _ = asked.answer(&[&[1, 1, 0, 0, 0, 9, 0x11, 3][..], &bytes].concat());
            }
        }

        #[test]
        fn an_answer_is_found_whatever_comes_before_it(noise in proptest::collection::vec(any::<u8>(), 0..40)) {
            let (asked, _) = rtu(READ);
            let answer = frame(&[0x11, 3, 6, 0, 1, 0, 2, 0, 3]);
            prop_assert_eq!(asked.answer(&[noise, answer].concat()), Some(Answer::Cells(vec![1, 2, 3])));
        }
    }
}
