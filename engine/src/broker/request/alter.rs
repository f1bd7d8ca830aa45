//! Changes of what the catalog holds: fields, of which those that are not named stay as they are.
//!
//! The catalog's shard puts a change on top of what there is then, so that of two at once neither undoes the other.

use crate::broker::record::{Backoff, ColumnRecord, SchemaRecord};

/// A change of a topic, which is made as a whole or not at all.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AlterTopic {
    /// Topic.
    #[prost(string, tag = "1")]
    pub name: String,
    /// New number of queues; 0: as it is.
    #[prost(uint32, tag = "2")]
    pub queues: u32,
    /// Columns to add.
    #[prost(message, repeated, tag = "3")]
    pub add_columns: Vec<ColumnRecord>,
    /// New time to keep messages; 0: for ever; none: as it is.
    #[prost(int64, optional, tag = "9")]
    pub retention_ms: Option<i64>,
    /// New number of bytes to keep; 0: no bound; none: as it is.
    #[prost(uint64, optional, tag = "10")]
    pub retention_bytes: Option<u64>,
    /// Whether only the last message of each key is kept from now on; none: as it is.
    #[prost(bool, optional, tag = "45")]
    pub compacts: Option<bool>,
    /// New time to keep tombstones; 0: the default; none: as it is.
    #[prost(int64, optional, tag = "46")]
    pub tombstones_ms: Option<i64>,
    /// New time to keep the table; 0: for ever; none: as it is.
    #[prost(int64, optional, tag = "47")]
    pub table_ms: Option<i64>,
    /// New number of bytes that the table keeps; 0: no bound; none: as it is.
    #[prost(uint64, optional, tag = "48")]
    pub table_bytes: Option<u64>,
    /// Whether the table is kept as the log is from now on.
    #[prost(bool, tag = "49")]
    pub table_as_log: bool,
    /// New time after which a lite topic ends; 0: the default; none: as it is.
    #[prost(int64, optional, tag = "40")]
    pub lite_expiry_ms: Option<i64>,
    /// The next version of the schema of its bodies; none: as it is.
    #[prost(message, optional, tag = "55")]
    pub schema: Option<SchemaRecord>,
    /// What later versions must be able to do; none: as it is.
    #[prost(uint32, optional, tag = "56")]
    pub compatibility: Option<u32>,
}

/// A change of a consumer group.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AlterGroup {
    /// Group.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Where it starts from now on in queues that it meets; none: as it is.
    #[prost(message, optional, tag = "2")]
    pub start: Option<StartAt>,
    /// New number of deliveries before a message is dead; 0: the server's default; none: as it is.
    #[prost(uint32, optional, tag = "3")]
    pub attempts_max: Option<u32>,
    /// New invisible times after failed deliveries; none: as they are.
    #[prost(message, optional, tag = "4")]
    pub backoff: Option<BackoffChange>,
    /// Whether it works in order from now on; none: as it is.
    #[prost(bool, optional, tag = "5")]
    pub fifo: Option<bool>,
    /// Whether nothing is delivered from now on; none: as it is.
    #[prost(bool, optional, tag = "6")]
    pub paused: Option<bool>,
    /// Of lite topics: whether each has one listener from now on; none: as it is.
    #[prost(bool, optional, tag = "7")]
    pub exclusive: Option<bool>,
}

/// Where a group starts.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct StartAt {
    /// Whether behind the last message.
    #[prost(bool, tag = "1")]
    pub latest: bool,
    /// At the first message stored at or after this time, ms.
    #[prost(sint64, optional, tag = "2")]
    pub at_ms: Option<i64>,
}

/// How failed deliveries come back from now on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BackoffChange {
    /// None: as the server's default.
    #[prost(message, optional, tag = "1")]
    pub to: Option<Backoff>,
}
