//! A shared port against a real pseudo terminal: who hears what, who speaks when, and what a blocked write holds up.

use std::os::unix::fs::symlink;

use super::*;
use crate::hal::port::Line;
use crate::hal::port::pty::Pair;

/// Far more than anything here takes; a test that meets it has failed.
const LONG: Duration = Duration::from_secs(20);
const QUIET: Duration = Duration::from_millis(5);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, what).await.expect("it takes too long")
}

fn running(path: impl Into<String>) -> Bus {
    let line = Line { baud_rate: 115_200, ..Line::default() };
    let (bus, mut task) = bus(PortSpec { name: "meter".into(), kind: PortKind::Path { path: path.into(), line } });
    tokio::spawn(async move { task.run().await });
    bus
}

fn on(pty: &Pair) -> Bus {
    running(pty.path().to_str().unwrap())
}

/// Bytes until there are so many, and whether all of them were for others.
async fn bytes(member: &mut Member, n: usize) -> (Vec<u8>, bool) {
    let (mut got, mut for_others) = (Vec::new(), true);
    while got.len() < n {
        match soon(member.next()).await {
            Heard::Bytes { bytes, others, .. } => {
                got.extend_from_slice(&bytes);
                for_others &= others;
            }
            other => panic!("{other:?} after {got:?}"),
        }
    }
    (got, for_others)
}

async fn line(pty: &mut Pair, n: usize) -> Vec<u8> {
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while got.len() < n {
        let n = soon(pty.read(&mut buffer)).await.unwrap();
        got.extend_from_slice(&buffer[..n]);
    }
    got
}

#[tokio::test]
async fn all_hear_all_and_who_asks_knows_where_its_answer_begins() {
    let mut pty = Pair::open().unwrap();
    let bus = on(&pty);
    let (mut a, mut b) = (bus.join().await.unwrap(), bus.join().await.unwrap());
    let turn = soon(a.turn(Urgency::Poll)).await;
    pty.write_all(b"before").await.unwrap();
    assert_eq!(bytes(&mut b, 6).await, (b"before".to_vec(), false));
    a.write(&turn, b"READ".to_vec(), QUIET).await;
    assert_eq!(line(&mut pty, 4).await, b"READ");
    pty.write_all(b"answer").await.unwrap();
    assert_eq!(bytes(&mut a, 6).await.0, b"before");
    assert!(matches!(soon(a.next()).await, Heard::Begun { .. }));
    assert!(matches!(soon(a.next()).await, Heard::Written(Ok(_))));
    assert_eq!(bytes(&mut a, 6).await, (b"answer".to_vec(), false));
    assert_eq!(bytes(&mut b, 6).await, (b"answer".to_vec(), true));
    drop(turn);
    pty.write_all(b"after").await.unwrap();
    assert_eq!(bytes(&mut b, 5).await, (b"after".to_vec(), false));
}

#[tokio::test]
async fn nobody_is_interrupted_but_a_line_that_is_never_quiet_is_spoken_on_all_the_same() {
    let mut pty = Pair::open().unwrap();
    let bus = on(&pty);
    let mut a = bus.join().await.unwrap();
    let turn = soon(a.turn(Urgency::Poll)).await;
    pty.write_all(b"x").await.unwrap();
    assert!(matches!(soon(a.next()).await, Heard::Bytes { .. }));
    let asked = Instant::now();
    a.write(&turn, b"?".to_vec(), Duration::from_millis(100)).await;
    let mut talking = tokio::time::interval(Duration::from_millis(10));
    let begun = loop {
        tokio::select! {
            _ = talking.tick() => pty.write_all(b"x").await.unwrap(),
            heard = a.next() => if matches!(heard, Heard::Begun { quiet: false }) { break asked.elapsed() },
        }
    };
    assert!(begun >= NEVER_QUIET && begun < LONG / 2, "{begun:?}");
}

#[tokio::test]
async fn a_write_that_is_stuck_does_not_stop_the_reading_and_is_given_up() {
    let mut pty = Pair::open().unwrap();
    let bus = on(&pty);
    let mut a = bus.join().await.unwrap();
    let turn = soon(a.turn(Urgency::Command)).await;
    // nobody takes it: a pseudo terminal keeps a few thousand bytes
    a.write(&turn, vec![b'x'; 1 << 20], QUIET).await;
    assert!(matches!(soon(a.next()).await, Heard::Begun { .. }));
    let begun = Instant::now();
    for _ in 0..10 {
        pty.write_all(b"T=1\n").await.unwrap();
        assert_eq!(bytes(&mut a, 4).await.0, b"T=1\n");
    }
    assert!(begun.elapsed() < WRITE_PATIENCE, "the reading waited for the write");
    match soon(a.next()).await {
        Heard::Written(Err(why)) => assert!(why.contains("of 1048576 bytes in time"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_does_not_listen_holds_back_the_port_and_nothing_is_lost() {
    let mut pty = Pair::open().unwrap();
    let bus = on(&pty);
    let (mut deaf, mut eager) = (bus.join().await.unwrap(), bus.join().await.unwrap());
    let text: Vec<u8> = (0..20_000).flat_map(|n: u32| format!("{n}\n").into_bytes()).collect();
    let wanted = text.clone();
    let feed = tokio::spawn(async move { pty.write_all(&text).await.map(|()| pty) });
    let mut heard = Vec::new();
    // all that is let through while one of the two does not listen
    while let Ok(Heard::Bytes { bytes, .. }) = tokio::time::timeout(Duration::from_millis(300), eager.next()).await {
        heard.extend_from_slice(&bytes);
    }
    assert!(heard.len() < wanted.len() && heard.len() <= (AHEAD + 1) * READ, "{}", heard.len());
    let all = bytes(&mut deaf, wanted.len());
    let rest = async { bytes(&mut eager, wanted.len() - heard.len()).await.0 };
    let ((all, _), rest) = tokio::join!(all, rest);
    heard.extend(rest);
    assert!(all == wanted && heard == wanted);
    drop(feed.await.unwrap().unwrap());
}

#[tokio::test]
async fn a_port_that_is_gone_is_told_and_comes_back_under_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("usb-FTDI-if00-port0");
    let bus = running(link.to_str().unwrap());
    let why = soon(bus.join()).await.err().expect("there is no such port");
    assert!(why.contains("there is no"), "{why}");
    for round in 0..3 {
        let mut pty = Pair::open().unwrap();
        symlink(pty.path(), &link).unwrap();
        soon(bus.wait(LONG)).await;
        let mut a = soon(bus.join()).await.unwrap();
        let text = format!("round {round}");
        pty.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(bytes(&mut a, text.len()).await.0, text.as_bytes());
        std::fs::remove_file(&link).unwrap();
        let unplugged = Instant::now();
        drop(pty);
        assert!(matches!(soon(a.next()).await, Heard::Lost(_)));
        assert!(unplugged.elapsed() < LONG / 2);
        let later = soon(bus.join()).await;
        assert!(later.is_err());
    }
}

#[tokio::test]
async fn a_question_gets_the_answer_that_comes_after_it_in_as_many_pieces_as_it_likes() {
    let mut pty = Pair::open().unwrap();
    let bus = on(&pty);
    let mut a = bus.join().await.unwrap();
    pty.write_all(b"noise;").await.unwrap();
    let instrument = tokio::spawn(async move {
        assert_eq!(line(&mut pty, 2).await, b"Q1");
        for piece in [&b"an"[..], b"swer", b"1;"] {
            pty.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(line(&mut pty, 2).await, b"Q2");
        pty.write_all(b"half").await.unwrap();
        pty
    });
    let whole = |heard: &[u8]| heard.ends_with(b";").then(|| heard.to_vec());
    let patience = Duration::from_millis(300);
    let first = soon(a.ask(Urgency::Poll, b"Q1".to_vec(), QUIET, patience, whole)).await;
    assert_eq!(first, Ok(b"answer1;".to_vec()));
    let second = soon(a.ask(Urgency::Command, b"Q2".to_vec(), QUIET, patience, whole)).await;
    assert_eq!(second, Err(AskError::Silent(b"half".to_vec())));
    drop(instrument.await.unwrap());
    let third = soon(a.ask(Urgency::Command, b"Q3".to_vec(), QUIET, patience, whole)).await;
    assert!(matches!(third, Err(AskError::Lost(_))), "{third:?}");
}

#[tokio::test]
async fn the_task_ends_with_the_last_device_on_the_port() {
    let pty = Pair::open().unwrap();
    let (bus, mut task) = bus(PortSpec {
        name: "meter".into(),
        kind: PortKind::Path { path: pty.path().to_str().unwrap().into(), line: Line::default() },
    });
    let task = tokio::spawn(async move { task.run().await });
    let member = soon(bus.join()).await.unwrap();
    drop(bus);
    assert!(!task.is_finished());
    drop(member);
    soon(task).await.unwrap();
}
