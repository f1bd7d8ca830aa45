//! Avro bodies: one datum per body, bare or in single-object encoding (Avro specification 1.12).
//!
//! The crate `arrow-avro` decodes batches into builders that it can not roll back, so one bad datum would take its neighbours
//! with it. Here each body is read into the slots of its row first. The crate gives the fingerprints, and is what the tests compare with.
//!
//! Reading order: `avro/schema.rs` (a schema as shapes, its columns), `avro/default.rs` (what stands for a field that is not there),
//! `avro/read.rs`, `avro/write.rs`, `avro/resolve.rs` (which schema reads what another wrote).

mod default;
mod read;
mod resolve;
mod schema;
mod write;

pub(crate) use read::AvroDecoder;
pub(crate) use schema::AvroSchema;
pub(crate) use write::AvroEncoder;

/// How a datum in single-object encoding begins; the fingerprint of its schema follows.
const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];

/// Deepest nesting of a schema or a datum.
const DEPTH_MAX: usize = 64;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod versions;
