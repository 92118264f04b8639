//! The table follows.
