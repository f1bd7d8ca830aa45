//! The tail: where each message lies, and the blocks written last.
