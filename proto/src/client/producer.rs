//! Sends messages.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::client::connection::Client;
use crate::client::error::ClientError;
use crate::time::Timestamp;
use crate::wire::rocketmq::{
    Code, Encoding, Message, MessageType, Resource, SendMessageRequest, SystemProperties,
};

/// How long the server may take for an answer to a send.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// A message to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutgoingMessage {
    /// Equal keys share a queue, so their order is kept; without one, queues take turns.
    pub key: Option<String>,
    /// More keys to look the message up by.
    pub keys: Vec<String>,
    /// Tag for filters.
    pub tag: Option<String>,
    /// User properties.
    pub properties: BTreeMap<String, String>,
    /// For a fifo topic: messages of one group are delivered in order.
    pub message_group: Option<String>,
    /// For a topic of lite topics: which one; its messages are delivered in order.
    pub lite_topic: Option<String>,
    /// For a priority topic: greater is delivered first, from 0.
    pub priority: Option<i32>,
    /// For a delay topic: not delivered before.
    pub deliver_at: Option<Timestamp>,
    /// The body; may not be empty.
    pub body: Bytes,
}

/// A message that the server has made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The message's id.
    pub message_id: String,
    /// Its offset in its queue; 0 while it is not visible.
    pub offset: i64,
    /// Takes it back before its time; delayed messages only.
    pub recall_handle: Option<String>,
}

/// Sends messages over a client's connection.
#[derive(Clone, Debug)]
pub struct Producer {
    client: Client,
}

impl OutgoingMessage {
    /// A message with a body and nothing else.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            ..Self::default()
        }
    }

    /// Sets the key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the tag.
    #[must_use]
    pub fn with_tag(mut self, tag: impl Into<String>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    /// Sets the message group.
    #[must_use]
    pub fn with_message_group(mut self, group: impl Into<String>) -> Self {
        self.message_group = Some(group.into());
        self
    }

    /// Sets the lite topic.
    #[must_use]
    pub fn with_lite_topic(mut self, name: impl Into<String>) -> Self {
        self.lite_topic = Some(name.into());
        self
    }

    /// Sets the priority.
    #[must_use]
    pub fn with_priority(mut self, priority: i32) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Sets when it may be delivered first.
    #[must_use]
    pub fn deliver_at(mut self, at: Timestamp) -> Self {
        self.deliver_at = Some(at);
        self
    }

    /// Adds a user property.
    #[must_use]
    pub fn with_property(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(key.into(), value.into());
        self
    }
}

impl Producer {
    /// A producer on this connection.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
        }
    }

    /// Sends one message; when this returns, it is durable.
    ///
    /// # Errors
    /// Any [`ClientError`]. Where [`ClientError::leaves_unknown`] the outcome is unknown.
    pub async fn send(&self, topic: &str, message: OutgoingMessage) -> Result<Sent, ClientError> {
        let sent = self.send_batch(topic, vec![message]).await?;
        match sent.into_iter().next() {
            Some(sent) => sent,
            None => Err(self.client.incomplete("the entry of a message")),
        }
    }

    /// Sends messages in one call, in order; one result per message, each durable when `Ok`.
    ///
    /// At most [`crate::limits::SEND_BATCH_MAX`] messages and
    /// [`crate::limits::REQUEST_BYTES_MAX`] bytes in all.
    ///
    /// # Errors
    /// Any [`ClientError`] when the call as a whole failed. Where [`ClientError::leaves_unknown`] its outcome is unknown, as when
    /// the server does not answer within 30 s; nothing was stored after a refusal.
    pub async fn send_batch(
        &self,
        topic: &str,
        messages: Vec<OutgoingMessage>,
    ) -> Result<Vec<Result<Sent, ClientError>>, ClientError> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let count = messages.len();
        let resource = Resource {
            resource_namespace: String::new(),
            name: topic.to_owned(),
        };
        let messages = messages
            .into_iter()
            .map(|message| self.on_the_wire(&resource, message))
            .collect();
        let call = async {
            let mut messaging = self.client.messaging();
            let answer = messaging.send_message(SendMessageRequest { messages });
            let answer = answer.await;
            answer.map_err(|status| self.client.status_error(&status))
        };
        let answer = self.client.within(SEND_TIMEOUT, call).await?.into_inner();
        let address = self.client.address();
        if answer.entries.len() != count {
            // A refusal of the whole request may leave the entries out.
            ClientError::check(answer.status, &[], address)?;
            return Err(self.client.incomplete("an entry for every message"));
        }
        let entries = answer.entries.into_iter().map(|entry| {
            ClientError::check(entry.status, &[Code::Ok], address)?;
            Ok(Sent {
                message_id: entry.message_id,
                offset: entry.offset,
                recall_handle: Some(entry.recall_handle).filter(|handle| !handle.is_empty()),
            })
        });
        Ok(entries.collect())
    }

    fn on_the_wire(&self, topic: &Resource, message: OutgoingMessage) -> Message {
        let mut keys = message.keys;
        // The wire has no field for the key: the server takes the first of the keys.
        if let Some(key) = message.key {
            keys.retain(|other| *other != key);
            keys.insert(0, key);
        }
        let message_type = if message.deliver_at.is_some() {
            MessageType::Delay
        } else if message.message_group.is_some() {
            MessageType::Fifo
        } else if message.priority.is_some() {
            MessageType::Priority
        } else if message.lite_topic.is_some() {
            MessageType::Lite
        } else {
            MessageType::Normal
        };
        Message {
            topic: Some(topic.clone()),
            user_properties: message.properties,
            system_properties: Some(SystemProperties {
                tag: message.tag,
                keys,
                message_id: self.client.next_message_id(),
                body_encoding: Encoding::Identity as i32,
                message_type: message_type as i32,
                born_timestamp: Some(to_wire(self.client.now())),
                born_host: "millpond-client".to_owned(),
                message_group: message.message_group,
                priority: message.priority,
                lite_topic: message.lite_topic,
                delivery_timestamp: message.deliver_at.map(to_wire),
                ..SystemProperties::default()
            }),
            body: message.body,
        }
    }
}

fn to_wire(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.as_ms().div_euclid(1000),
        nanos: i32::try_from(at.as_ms().rem_euclid(1000) * 1_000_000)
            .expect("less than a second in nanoseconds fits"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::silent;

    #[tokio::test]
    async fn what_a_message_carries_makes_its_type() {
        let producer = Producer::new(&Client::connect("localhost:1").unwrap());
        let system = |message| {
            let wire = producer.on_the_wire(&Resource::default(), message);
            wire.system_properties.unwrap()
        };
        let fifo = system(OutgoingMessage::new("body").with_message_group("g"));
        assert_eq!(fifo.message_type(), MessageType::Fifo);
        assert_eq!(fifo.message_group.as_deref(), Some("g"));
        let urgent = system(OutgoingMessage::new("body").with_priority(7));
        assert_eq!(urgent.message_type(), MessageType::Priority);
        let delayed = system(OutgoingMessage::new("body").deliver_at(Timestamp(-1)));
        assert_eq!(delayed.message_type(), MessageType::Delay);
        let at = delayed.delivery_timestamp.unwrap();
        assert_eq!((at.seconds, at.nanos), (-1, 999_000_000));
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_does_not_hold_a_send() {
        let (sent, silence) = silent::call(false, async |client| {
            let producer = Producer::new(&client);
            producer.send("t", OutgoingMessage::new("body")).await
        })
        .await;
        let error = sent.unwrap_err();
        assert!(error.leaves_unknown(), "{error}");
        assert!(error.to_string().contains("did not answer within 30s"));
        assert_eq!(*silence.asked.lock().unwrap(), [SEND_TIMEOUT]);
    }

    #[tokio::test]
    async fn the_key_comes_first_among_the_keys_and_only_once() {
        let producer = Producer::new(&Client::connect("localhost:1").unwrap());
        let message = OutgoingMessage {
            keys: vec!["a".to_owned(), "k".to_owned()],
            ..OutgoingMessage::new("body").with_key("k")
        };
        let wire = producer.on_the_wire(&Resource::default(), message);
        assert_eq!(wire.system_properties.unwrap().keys, ["k", "a"]);
    }
}
