//! A savepoint as the catalog keeps it.

use crate::broker::record::CutRecord;

/// The state of a job under a name; the state itself is an object of the state store.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SavepointRecord {
    /// Identity.
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Name of the job whose state it holds.
    #[prost(string, tag = "3")]
    pub job: String,
    /// The statement of that job.
    #[prost(string, tag = "4")]
    pub sql: String,
    /// What it computes, as text.
    #[prost(string, tag = "5")]
    pub computes: String,
    /// The epoch that the state is of.
    #[prost(message, optional, tag = "6")]
    pub cut: Option<CutRecord>,
    /// Object that holds the state.
    #[prost(string, tag = "7")]
    pub key: String,
    /// Size of the object.
    #[prost(uint64, tag = "8")]
    pub size_bytes: u64,
    /// When it was taken.
    #[prost(sint64, tag = "9")]
    pub saved_at_ms: i64,
}
