//! A stored message as consumers get it.

use millpond_proto::time::Timestamp;
use millpond_proto::wire::rocketmq as pb;
use millpond_storage::format::envelope::{Envelope, PropertyValue, flags};

use crate::broker::transfer::{property, text};
use crate::broker::{Delivery, TopicType};
use crate::service::digest::Digests;
use crate::service::route;
use crate::service::time::to_wire;

/// What messages on their way to consumers need of this server.
#[derive(Debug, Default)]
pub struct Desk {
    /// Where it listens.
    pub store_host: String,
    /// Digests of bodies.
    pub digests: Digests,
}

/// The message of a delivery.
///
/// `topic` is the resource that the consumer asked for, echoed with its namespace. Binary properties do not
/// exist on this wire and are left out.
#[must_use]
pub fn message(delivery: Delivery, topic: Option<pb::Resource>, desk: &Desk) -> pb::Message {
    let Delivery {
        envelope,
        handle,
        attempt,
    } = delivery;
    let checksum = desk.digests.of(&envelope);
    let message_type = route::message_type(type_of(&envelope));
    let dead_letter = text(&envelope, property::TOPIC).map(|origin| pb::DeadLetterQueue {
        topic: origin.to_owned(),
        message_id: text(&envelope, property::MESSAGE_ID)
            .unwrap_or(&envelope.message_id)
            .to_owned(),
    });
    let user_properties = envelope
        .properties
        .into_iter()
        .filter(|property| {
            ![property::TOPIC, property::MESSAGE_ID].contains(&property.key.as_str())
        })
        .filter_map(|property| match property.value {
            Some(PropertyValue::Text(text)) => Some((property.key, text)),
            Some(PropertyValue::Binary(_)) | None => None,
        })
        .collect();
    let gzip = envelope.flags & flags::BODY_GZIP != 0;
    let system = pb::SystemProperties {
        body_digest: Some(pb::Digest {
            r#type: pb::DigestType::Md5.into(),
            checksum,
        }),
        body_encoding: if gzip {
            pb::Encoding::Gzip.into()
        } else {
            pb::Encoding::Identity.into()
        },
        message_type: message_type.into(),
        dead_letter_queue: dead_letter,
        delivery_timestamp: envelope.due_at_ms.map(|ms| to_wire(Timestamp(ms))),
        priority: envelope.priority,
        born_timestamp: Some(to_wire(Timestamp(envelope.born_at_ms))),
        store_timestamp: Some(to_wire(Timestamp(envelope.stored_at_ms))),
        store_host: desk.store_host.clone(),
        receipt_handle: Some(handle.to_text()),
        queue_id: i32::try_from(envelope.queue).unwrap_or(i32::MAX),
        queue_offset: Some(i64::try_from(envelope.offset).unwrap_or(i64::MAX)),
        delivery_attempt: Some(i32::try_from(attempt.max(1)).unwrap_or(i32::MAX)),
        tag: envelope.tag,
        keys: envelope.keys,
        message_id: envelope.message_id,
        born_host: envelope.born_host,
        message_group: envelope.message_group,
        trace_context: envelope.trace_context,
        lite_topic: envelope.lite_topic,
        ..pb::SystemProperties::default()
    };
    pb::Message {
        topic,
        user_properties,
        system_properties: Some(system),
        body: envelope.body.unwrap_or_default(),
    }
}

/// The kind that a message was sent as: what its properties say, in the order in which a send reads
/// them.
#[must_use]
pub fn type_of(envelope: &Envelope) -> TopicType {
    if envelope.flags & flags::TRANSACTION != 0 {
        TopicType::Transaction
    } else if envelope.due_at_ms.is_some() {
        TopicType::Delay
    } else if envelope.message_group.is_some() {
        TopicType::Fifo
    } else if envelope.priority.is_some() {
        TopicType::Priority
    } else if envelope.lite_topic.is_some() {
        TopicType::Lite
    } else {
        TopicType::Normal
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millpond_storage::format::envelope::Property;

    use super::*;
    use crate::broker::ReceiptHandle;

    #[test]
    fn a_delivery_carries_what_the_clients_check() {
        let text = |key: &str, value: &str| Property {
            key: key.to_owned(),
            value: Some(PropertyValue::Text(value.to_owned())),
        };
        let handle = ReceiptHandle {
            topic: 7,
            queue: 3,
            offset: 42,
            lease: 9,
        };
        let delivery = Delivery {
            envelope: Envelope {
                queue: 3,
                offset: 42,
                stored_at_ms: 1500,
                message_id: "01".to_owned(),
                properties: vec![text("a", "1")],
                body: Some(Bytes::from_static(b"hello")),
                flags: flags::BODY_GZIP,
                trace_context: Some("00-4bf9-00f0-01".to_owned()),
                ..Envelope::default()
            },
            handle: handle.clone(),
            attempt: 0,
        };
        let message = message(delivery, None, &Desk::default());
        let system = message.system_properties.unwrap();
        let digest = system.body_digest.unwrap();
        assert_eq!(digest.checksum, "5D41402ABC4B2A76B9719D911017C592");
        assert_eq!(system.delivery_attempt, Some(1));
        assert_eq!(system.queue_offset, Some(42));
        assert_eq!(system.body_encoding, i32::from(pb::Encoding::Gzip));
        assert_eq!(system.message_type, i32::from(pb::MessageType::Normal));
        assert_eq!(system.store_timestamp.unwrap().seconds, 1);
        assert_eq!(system.invisible_duration, None);
        assert_eq!(system.trace_context.as_deref(), Some("00-4bf9-00f0-01"));
        let sent_back = ReceiptHandle::from_text(&system.receipt_handle.unwrap()).unwrap();
        assert_eq!(sent_back, handle);
        assert_eq!(message.user_properties["a"], "1");
    }

    #[test]
    fn a_delivery_says_what_kind_of_message_it_is() {
        type Change = fn(&mut Envelope);
        let cases: [(pb::MessageType, Change); 6] = [
            (pb::MessageType::Normal, |_| {}),
            (pb::MessageType::Fifo, |e| {
                e.message_group = Some("g".into())
            }),
            (pb::MessageType::Delay, |e| e.due_at_ms = Some(2500)),
            (pb::MessageType::Transaction, |e| {
                e.flags = flags::TRANSACTION
            }),
            (pb::MessageType::Priority, |e| e.priority = Some(3)),
            (pb::MessageType::Lite, |e| e.lite_topic = Some("l".into())),
        ];
        for (kind, change) in cases {
            let mut envelope = Envelope::default();
            change(&mut envelope);
            let delivery = Delivery {
                envelope: envelope.clone(),
                handle: ReceiptHandle::default(),
                attempt: 1,
            };
            let system = message(delivery, None, &Desk::default())
                .system_properties
                .unwrap();
            assert_eq!(system.message_type(), kind);
            assert_eq!(system.message_group, envelope.message_group);
            assert_eq!(system.priority, envelope.priority);
            assert_eq!(system.lite_topic, envelope.lite_topic);
            let due = system.delivery_timestamp.map(|at| (at.seconds, at.nanos));
            assert_eq!(due, envelope.due_at_ms.map(|_| (2, 500_000_000)));
        }
    }
}
