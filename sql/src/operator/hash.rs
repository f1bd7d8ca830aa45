//! How keys that are at rest are found: by a hash that costs little and is the same in every run.
//!
//! The order of a map that hashes so is never seen: whoever gives or saves what is in it sorts it first. The seed is
//! fixed, since a replay must do what was done; keys that were chosen to collide make their own query slow, and no other.

/// Makes hashes for maps of keys.
pub(crate) type Fixed = foldhash::fast::FixedState;
