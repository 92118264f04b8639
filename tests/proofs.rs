//! PROOFS on the real thing: the real daemon, a real mosquitto, a real kernel, and faults in all of them. After each
//! fault the books must balance to the last reading (`support/books.rs`).
//!
//! Not a part of plain `cargo test`: they need root, mounts and minutes. `.ci/proofs.sh` runs them, `just proofs` too;
//! what they cannot do on a machine they say, and fail. Each prints a line that docs/reliability.md quotes.

#[path = "support/books.rs"]
mod books;
#[path = "proofs/calls.rs"]
mod calls;
#[path = "proofs/disk.rs"]
mod disk;
#[path = "support/fault.rs"]
mod fault;
#[path = "proofs/kills.rs"]
mod kills;
#[path = "support/lab.rs"]
mod lab;
#[path = "proofs/powercut.rs"]
mod powercut;
#[path = "proofs/rig.rs"]
mod rig;
mod support;
