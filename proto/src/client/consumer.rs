//! Receives messages one poll at a time and acknowledges them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::client::connection::Client;
use crate::client::error::ClientError;
use crate::time::Timestamp;
use crate::wire::rocketmq::receive_message_response::Content;
use crate::wire::rocketmq::{
    AckMessageEntry, AckMessageRequest, ChangeInvisibleDurationRequest, Code, Encoding,
    FilterExpression, FilterType, Message, MessageQueue, Permission, ReceiveMessageRequest,
    Resource,
};

/// How much longer than the poll the call may take before it counts as lost.
const POLL_GRACE: Duration = Duration::from_secs(3);
/// A poll longer than this is one without end.
const POLL_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How long an acknowledgement may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A delivered message; acknowledge it before its invisible time ends, or it is delivered again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// The producer's id of it.
    pub message_id: String,
    /// Topic.
    pub topic: String,
    /// Queue.
    pub queue: i32,
    /// Offset in the queue.
    pub offset: i64,
    /// Keys; the first one chose the queue.
    pub keys: Vec<String>,
    /// Tag.
    pub tag: Option<String>,
    /// User properties.
    pub properties: BTreeMap<String, String>,
    /// The body, exactly as it was sent.
    pub body: Bytes,
    /// Whether the producer compressed the body with gzip.
    pub gzip: bool,
    /// 1 at the first delivery.
    pub attempt: i32,
    /// When the producer made it.
    pub born_at: Option<Timestamp>,
    /// When the server stored it.
    pub stored_at: Option<Timestamp>,
    /// Names this delivery.
    pub receipt_handle: String,
}

/// Receives from one topic on behalf of one consumer group.
#[derive(Clone, Debug)]
pub struct SimpleConsumer {
    client: Client,
    group: Resource,
    topic: Resource,
}

impl SimpleConsumer {
    /// A consumer of `topic` in `group`; the group is made when it first polls.
    #[must_use]
    pub fn new(client: &Client, group: &str, topic: &str) -> Self {
        let named = |name: &str| Resource {
            resource_namespace: String::new(),
            name: name.to_owned(),
        };
        Self {
            client: client.clone(),
            group: named(group),
            topic: named(topic),
        }
    }

    /// Receives up to `max` messages (at most 32), waiting up to `poll` for the first; empty when none came.
    ///
    /// They are invisible to others of the group for `invisible` (10 s to 12 h).
    ///
    /// # Errors
    /// Any [`ClientError`]; a deadline exceeded when the answer is not there as a whole 3 s after the poll.
    pub async fn receive(
        &self,
        max: usize,
        invisible: Duration,
        poll: Duration,
    ) -> Result<Vec<ReceivedMessage>, ClientError> {
        let limit = poll.min(POLL_MAX) + POLL_GRACE;
        let mut request = tonic::Request::new(ReceiveMessageRequest {
            group: Some(self.group.clone()),
            message_queue: Some(MessageQueue {
                topic: Some(self.topic.clone()),
                id: -1,
                permission: Permission::Read as i32,
                ..MessageQueue::default()
            }),
            filter_expression: Some(FilterExpression {
                r#type: FilterType::Tag as i32,
                expression: "*".to_owned(),
            }),
            batch_size: i32::try_from(max).unwrap_or(i32::MAX),
            invisible_duration: Some(on_the_wire(invisible)),
            long_polling_timeout: Some(on_the_wire(poll.min(POLL_MAX))),
            ..ReceiveMessageRequest::default()
        });
        request.set_timeout(limit);
        self.client.within(limit, self.received(request)).await
    }

    async fn received(
        &self,
        request: tonic::Request<ReceiveMessageRequest>,
    ) -> Result<Vec<ReceivedMessage>, ClientError> {
        let mut answers = self
            .client
            .messaging()
            .receive_message(request)
            .await
            .map_err(|status| self.client.status_error(&status))?
            .into_inner();
        let mut messages = Vec::new();
        let mut answered = false;
        while let Some(answer) = answers
            .message()
            .await
            .map_err(|status| self.client.status_error(&status))?
        {
            match answer.content {
                Some(Content::Status(status)) => {
                    let none = [Code::MessageNotFound];
                    ClientError::check(Some(status), &none, self.client.address())?;
                    answered = true;
                }
                Some(Content::Message(message)) => messages.push(self.delivered(message)?),
                Some(Content::DeliveryTimestamp(_)) | None => {}
            }
        }
        if !answered && messages.is_empty() {
            return Err(self.client.incomplete("a status"));
        }
        Ok(messages)
    }

    /// Acknowledges a message; when this returns, it is never delivered to the group again.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `INVALID_RECEIPT_HANDLE` when its invisible time is over.
    pub async fn ack(&self, message: &ReceivedMessage) -> Result<(), ClientError> {
        let acked = self.ack_all(std::slice::from_ref(message)).await?;
        match acked.into_iter().next() {
            Some(acked) => acked,
            None => Err(self.client.incomplete("the entry of an acknowledgement")),
        }
    }

    /// Acknowledges messages in one call; one result per message, in order.
    ///
    /// # Errors
    /// Any [`ClientError`] when the call as a whole failed.
    pub async fn ack_all(
        &self,
        messages: &[ReceivedMessage],
    ) -> Result<Vec<Result<(), ClientError>>, ClientError> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let entries = messages.iter().map(|message| AckMessageEntry {
            message_id: message.message_id.clone(),
            receipt_handle: message.receipt_handle.clone(),
            lite_topic: None,
        });
        let mut request = tonic::Request::new(AckMessageRequest {
            group: Some(self.group.clone()),
            topic: Some(self.topic.clone()),
            entries: entries.collect(),
        });
        request.set_timeout(CALL_TIMEOUT);
        let answer = self
            .client
            .messaging()
            .ack_message(request)
            .await
            .map_err(|status| self.client.status_error(&status))?
            .into_inner();
        let address = self.client.address();
        if answer.entries.len() != messages.len() {
            ClientError::check(answer.status, &[], address)?;
            return Err(self.client.incomplete("an entry for every acknowledgement"));
        }
        let entries = answer
            .entries
            .into_iter()
            .map(|entry| ClientError::check(entry.status, &[], address).map(|_| ()));
        Ok(entries.collect())
    }

    /// Makes a message visible to the group `invisible` from now; its handle is renewed in place.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `INVALID_RECEIPT_HANDLE` when its invisible time is over.
    pub async fn change_invisible(
        &self,
        message: &mut ReceivedMessage,
        invisible: Duration,
    ) -> Result<(), ClientError> {
        let mut request = tonic::Request::new(ChangeInvisibleDurationRequest {
            group: Some(self.group.clone()),
            topic: Some(self.topic.clone()),
            receipt_handle: message.receipt_handle.clone(),
            invisible_duration: Some(on_the_wire(invisible)),
            message_id: message.message_id.clone(),
            ..ChangeInvisibleDurationRequest::default()
        });
        request.set_timeout(CALL_TIMEOUT);
        let answer = self
            .client
            .messaging()
            .change_invisible_duration(request)
            .await
            .map_err(|status| self.client.status_error(&status))?
            .into_inner();
        ClientError::check(answer.status, &[], self.client.address())?;
        message.receipt_handle = answer.receipt_handle;
        Ok(())
    }

    fn delivered(&self, message: Message) -> Result<ReceivedMessage, ClientError> {
        let Some(system) = message.system_properties else {
            return Err(self.client.incomplete("a message's system properties"));
        };
        let gzip = system.body_encoding() == Encoding::Gzip;
        Ok(ReceivedMessage {
            message_id: system.message_id,
            topic: message.topic.unwrap_or_default().name,
            queue: system.queue_id,
            offset: system.queue_offset.unwrap_or_default(),
            keys: system.keys,
            tag: system.tag,
            properties: message.user_properties,
            body: message.body,
            gzip,
            attempt: system.delivery_attempt.unwrap_or(1),
            born_at: system.born_timestamp.map(timestamp),
            stored_at: system.store_timestamp.map(timestamp),
            receipt_handle: system.receipt_handle.unwrap_or_default(),
        })
    }
}

/// A wire timestamp in our milliseconds.
#[must_use]
pub fn timestamp(wire: prost_types::Timestamp) -> Timestamp {
    Timestamp(
        wire.seconds
            .saturating_mul(1000)
            .saturating_add(i64::from(wire.nanos / 1_000_000)),
    )
}

fn on_the_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).expect("less than a second fits"),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::client::silent;

    #[tokio::test]
    async fn a_server_that_falls_silent_behind_the_head_of_its_answer_does_not_hold_a_poll() {
        let poll = Duration::from_secs(5);
        let (received, silence) = silent::call(true, async |client| {
            let consumer = SimpleConsumer::new(&client, "g", "t");
            consumer.receive(16, Duration::from_secs(30), poll).await
        })
        .await;
        let error = received.unwrap_err();
        let late = Code::DeadlineExceeded;
        assert!(
            matches!(error, ClientError::Status { code, .. } if code == late),
            "{error}"
        );
        assert!(error.leaves_unknown());
        assert_eq!(*silence.asked.lock().unwrap(), [poll + POLL_GRACE]);
    }

    #[tokio::test]
    async fn a_poll_may_be_as_long_as_can_be_said() {
        let (received, _) = silent::call(false, async |client| {
            let consumer = SimpleConsumer::new(&client, "g", "t");
            consumer.receive(1, Duration::MAX, Duration::MAX).await
        })
        .await;
        assert!(received.is_err());
    }
}
