//! The two ways out of a command: data on stdout, words on stderr. Neither panics when the other end has gone.

use std::io::{self, ErrorKind, Write};

use super::{Failure, Outcome, exit};

/// A line for a person, on stderr.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A question for a person, on stderr, without a line end.
pub fn ask(question: &str) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(question.as_bytes());
    let _ = err.flush();
}

/// Data, on stdout, at once. A reader that has gone (`| head`) ends the command with 0 and no noise.
pub fn data(bytes: &[u8]) -> Outcome {
    let mut out = io::stdout().lock();
    written(out.write_all(bytes).and_then(|()| out.flush()))
}

/// What a write to stdout comes to.
pub fn written(result: io::Result<()>) -> Outcome {
    match result {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Failure::silent(exit::DONE)),
        Err(e) => Err(Failure::failed(format!("cannot write to stdout: {e}"))),
    }
}
