//! What is wrong in a file, for the person who wrote it.

use std::fmt;

/// A place in a text; both count from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub col: usize,
    /// How many characters the caret marks, at least 1.
    pub len: usize,
}

/// One problem: where, what is wrong, what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where; `None` if it concerns the whole file.
    pub place: Option<Place>,
    /// A second place it has to do with ("first used here").
    pub related: Option<(Place, String)>,
    /// What is wrong, one line.
    pub text: String,
    /// What to write instead, one line.
    pub help: Option<String>,
    /// A warning does not stop the daemon.
    pub warning: bool,
}

impl Problem {
    /// An error at a place.
    pub fn error(place: Option<Place>, text: impl Into<String>) -> Problem {
        Problem { place, related: None, text: text.into(), help: None, warning: false }
    }
    /// A warning at a place.
    pub fn warning(place: Option<Place>, text: impl Into<String>) -> Problem {
        Problem { warning: true, ..Problem::error(place, text) }
    }
    /// With advice.
    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }
    /// With a second place.
    pub fn related(mut self, place: Option<Place>, text: impl Into<String>) -> Problem {
        self.related = place.map(|p| (p, text.into()));
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if let Some(help) = &self.help {
            write!(f, "; {help}")?;
        }
        Ok(())
    }
}
