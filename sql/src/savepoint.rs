//! A savepoint as the broker remembers it: the state of a job under a name, from which another job can go on.
//!
//! The state is an object of its own, whole, so that nothing that becomes of the job touches it. The
//! record is the truth: an object without one is what a crash left.

use millpond_proto::time::Timestamp;

use crate::topic::EpochCut;

/// A savepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Savepoint {
    /// Identity.
    pub id: u64,
    /// Name.
    pub name: String,
    /// Name of the job whose state it holds.
    pub job: String,
    /// The statement of that job.
    pub sql: String,
    /// What it computes, as [`crate::plan::continuous::ContinuousPlan::fingerprint`] tells it.
    pub computes: String,
    /// The epoch that the state is of; a job that goes on from it reads its inputs from there.
    pub cut: EpochCut,
    /// Key of the object in the state store.
    pub key: String,
    /// Size of the object.
    pub size_bytes: u64,
    /// When it was taken.
    pub saved_at: Timestamp,
}
