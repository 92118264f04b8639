//! BYTES <-> FRAMES <-> FIELDS, pure.
