//! The Rust SDK: producer, simple consumer and administration over gRPC.
//!
//! A [`Client`] is one connection that any number of producers, consumers and admin handles share; it
//! dials on first use. Nothing is retried here, and nothing waits without an end: an error says by [`ClientError::remedy`] whether
//! trying again can help, and the caller knows whether doing so is safe. No background task is
//! started, so nothing has to be shut down.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use millpond_proto::client::{Client, OutgoingMessage, Producer, SimpleConsumer};
//!
//! # async fn lesson() -> Result<(), millpond_proto::client::ClientError> {
//! let client = Client::connect("http://127.0.0.1:8081")?;
//! let sent = Producer::new(&client)
//!     .send("greetings", OutgoingMessage::new("hello").with_key("world"))
//!     .await?;
//! assert!(!sent.message_id.is_empty());
//!
//! let consumer = SimpleConsumer::new(&client, "readers", "greetings");
//! let invisible = Duration::from_secs(30);
//! for message in consumer.receive(16, invisible, Duration::from_secs(5)).await? {
//!     consumer.ack(&message).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Reading order: [`connection`], [`error`], [`producer`], [`consumer`], [`admin`], [`shelf`].

pub mod admin;
pub mod connection;
pub mod consumer;
pub mod error;
pub mod producer;
pub mod shelf;
#[cfg(test)]
mod silent;

// A user of the SDK meets these five names and nothing else, so they are found at its door.
pub use admin::Admin;
pub use connection::Client;
pub use consumer::SimpleConsumer;
pub use error::ClientError;
pub use producer::{OutgoingMessage, Producer};
