//! A value, when it was taken, and whether it is good.

use std::sync::Arc;

use super::{PointId, Stamp, Value};

/// Whether a reading can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quality {
    /// Taken and understood.
    #[default]
    Good,
    /// Could not be understood or is out of its type; the value is the text as it came.
    Bad,
    /// Older than its `timeout` filter allows.
    Stale,
}

impl Quality {
    /// The word in payloads and user properties.
    pub fn as_str(self) -> &'static str {
        match self {
            Quality::Good => "good",
            Quality::Bad => "bad",
            Quality::Stale => "stale",
        }
    }
}

/// One reading of one point.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Which point.
    pub point: PointId,
    /// What was read.
    pub value: Value,
    /// Whether to believe it.
    pub quality: Quality,
    /// When it was taken.
    pub taken: Stamp,
}

/// What came with a reading.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Frame {
    /// All fields of the frame that it stood in, where somebody reads them.
    pub fields: Option<Arc<Vec<(String, Value)>>>,
    /// Further readings of the same frame follow at once: whoever computes with several of them waits for the last.
    pub more: bool,
}

impl Frame {
    /// The fields; none where nobody reads them.
    pub fn fields(&self) -> &[(String, Value)] {
        self.fields.as_ref().map_or(&[], |f| f.as_slice())
    }
}
