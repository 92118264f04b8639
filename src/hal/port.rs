//! Byte streams by name.
