//! Lines from stdin for the commands that ask, or that send what they read: a thread of its own, because a read of a
//! terminal cannot be given up. It reads ahead only as far as the channel's room, so memory stays bounded.

use std::io::{self, BufRead, Read};
use std::thread;

use tokio::sync::mpsc;

use crate::link::simple::MAX_PACKET;

/// The answer that ends the questions.
pub const EXIT: &str = "exit_";

/// Lines without their `\n`, until stdin ends. A line longer than any MQTT packet is an error, and the last item.
pub fn lines() -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (tx, rx) = mpsc::channel(1);
    let reader = move || {
        let mut stdin = io::stdin().lock();
        loop {
            let line = next_line(&mut stdin, MAX_PACKET);
            let last = !matches!(line, Ok(Some(_)));
            let Some(item) = line.transpose() else { return };
            if tx.blocking_send(item).is_err() || last {
                return;
            }
        }
    };
    // Without a thread there are no lines: the closed channel says so.
    let _ = thread::Builder::new().name("stdin".into()).spawn(reader);
    rx
}

fn next_line(input: &mut impl BufRead, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = input.take(limit as u64 + 1).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if read > limit {
        return Err(io::Error::other("a line of stdin is longer than MQTT carries"));
    }
    Ok((read > 0).then_some(line))
}

/// An answer as a person means it: without the carriage return of other systems.
pub fn answer(line: Vec<u8>) -> Vec<u8> {
    let mut line = line;
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_the_newline_and_the_last_needs_none() {
        let mut input = &b"one\n\ntwo"[..];
        assert_eq!(next_line(&mut input, 100).unwrap(), Some(b"one".to_vec()));
        assert_eq!(next_line(&mut input, 100).unwrap(), Some(vec![]));
        assert_eq!(next_line(&mut input, 100).unwrap(), Some(b"two".to_vec()));
        assert_eq!(next_line(&mut input, 100).unwrap(), None);
    }

    #[test]
    fn a_line_without_end_is_not_read_for_ever() {
        let mut input = io::repeat(b'x');
        let mut input = io::BufReader::new(&mut input);
        assert!(next_line(&mut input, 1000).is_err());
        assert_eq!(next_line(&mut &b"1234\n"[..], 4).unwrap(), Some(b"1234".to_vec()));
    }
}
