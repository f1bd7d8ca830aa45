//! The cold tier.
