//! Histories of the engine.
