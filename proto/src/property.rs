//! Names of user properties that mean something to the server.
//!
//! **Idempotent producers.** A producer that sets both properties below on a message may send it again as
//! often as it likes, also after a restart of either side: the server stores it once and answers each
//! time with the offset of the first. The id is the producer's own choice (unique among producers of the
//! topic, the same after its restart); the number grows with every message. Bounds:
//! [`limits::PRODUCER_WINDOW`](crate::limits::PRODUCER_WINDOW) latest messages per queue,
//! [`limits::PRODUCER_EXPIRY_MS`](crate::limits::PRODUCER_EXPIRY_MS) of silence. Delayed and transactional
//! messages can be numbered too: sent again, they are answered with the same recall handle or transaction id.
//!
//! **Tombstones.** A message with [`TOMBSTONE`] is stored without its body: it says that its key is no more. Clients of RocketMQ
//! can not send an empty body, so whatever they send there is left out.

/// The producer's id of itself: 1 to [`PRODUCER_ID_BYTES_MAX`](crate::limits::PRODUCER_ID_BYTES_MAX) bytes.
pub const PRODUCER_ID: &str = "millpond.producer.id";
/// The producer's number of the message: decimal, 0 to 9223372036854775807.
pub const PRODUCER_SEQUENCE: &str = "millpond.producer.sequence";
/// Set to `true`: the message has no body and deletes its key.
pub const TOMBSTONE: &str = "millpond.tombstone";
