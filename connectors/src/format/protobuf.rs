//! Protobuf bodies: one message per body, described by a descriptor set (`protoc --descriptor_set_out --include_imports`).
//!
//! A column is the field of its name. Scalars, enums (by name) and `google.protobuf.Timestamp` are read from the wire directly, so that what
//! nobody declared is skipped unread; a field that is repeated, a map or another message is JSON text, for which the whole message is decoded.
//! A field without presence that is not there has its default value, one with presence is NULL, and so is an empty list or map, which
//! the wire does not tell from none.
//!
//! Reading order: `protobuf/schema.rs` (columns), `protobuf/resolve.rs` (compatibility), `protobuf/read.rs`, `protobuf/wire.rs`, `protobuf/json.rs`, `protobuf/write.rs`.

mod json;
mod read;
mod resolve;
mod schema;
mod wire;
mod write;

pub(crate) use read::ProtobufDecoder;
pub(crate) use schema::ProtobufSchema;
pub(crate) use write::ProtobufEncoder;

/// The message that is a TIMESTAMP.
const TIMESTAMP: &str = "google.protobuf.Timestamp";

#[cfg(test)]
mod tests;
