//! PLANTED BUGS: each of these once lost somebody's data somewhere. The crash tests switch them on one by one and
//! must find every one. Without the feature `planted-bugs` none can be switched on and the checks vanish.

/// A durability bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A batch is reported durable without fdatasync.
    NoSync,
    /// A new file's name is not made durable.
    NoDirSync,
    /// A batch is reported durable, and synced afterwards.
    AckBeforeSync,
    /// A finished segment is removed, and forgotten, before the state says that it is finished.
    UnlinkBeforeCursor,
    /// The state is written without fdatasync.
    UnsyncedCursor,
    /// Checksums are not looked at.
    CrcOff,
    /// After a failed fdatasync the same file is synced again and believed.
    RetriedSync,
    /// Writing goes on behind a torn tail.
    TailKept,
    /// The reserved sequence numbers are used again after a start.
    SeqReuse,
    /// The state calls finished what was only handed out.
    CursorAhead,
    /// What was handed out is forgotten when the link breaks.
    PendingCleared,
    /// A record is forgotten when it is handed out.
    DoneBeforeAck,
}

/// Which bug is on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults(#[cfg(any(test, feature = "planted-bugs"))] Option<Bug>);

impl Faults {
    /// Switches `bug` on.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub fn plant(bug: Bug) -> Faults {
        Faults(Some(bug))
    }

    #[cfg(any(test, feature = "planted-bugs"))]
    pub(super) fn has(self, bug: Bug) -> bool {
        self.0 == Some(bug)
    }

    #[cfg(not(any(test, feature = "planted-bugs")))]
    pub(super) fn has(self, _: Bug) -> bool {
        false
    }
}
