//! The Rust SDK: producer, simple consumer and administration over gRPC.
