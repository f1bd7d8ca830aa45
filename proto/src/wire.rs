//! The wire contracts as Rust types, made from `proto/api` at build time.

#![expect(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::missing_errors_doc,
    clippy::clone_on_ref_ptr,
    reason = "generated; the contracts in proto/api carry the documentation"
)]

/// RocketMQ 5: the messaging service that official clients call.
pub mod rocketmq {
    tonic::include_proto!("apache.rocketmq.v2");
}

/// Millpond's own administration, jobs and queries.
pub mod admin {
    tonic::include_proto!("millpond.v1");
}

/// All contracts as an encoded `FileDescriptorSet`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
