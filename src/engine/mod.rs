//! DECISIONS.
pub mod filters;
