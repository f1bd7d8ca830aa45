//! A message as a producer sends it: the contract's checks, in its order, and the envelope that it becomes.
//!
//! Checked against everything but its topic, which its kind is compared with in [`super::send`].

use std::collections::BTreeMap;

use bytes::Bytes;
use millpond_proto::limits;
use millpond_proto::property::TOMBSTONE;
use millpond_proto::time::Timestamp;
use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::Code;
use millpond_storage::format::envelope::{Envelope, Property, PropertyValue, flags};

use crate::broker::TopicType;
use crate::broker::fit::{self, Content, Unfit, has_control};
use crate::service::code::Refusal;
use crate::service::lite;
use crate::service::producer::numbered;
use crate::service::time::{duration_ms, from_wire};

/// Longest host name and trace context that are kept.
const TEXT_BYTES_MAX: usize = 1024;

/// Checks one message against everything but its topic, puts it into an envelope and tells its kind.
///
/// # Errors
/// [`Refusal`] with the code of the first rule that it breaks.
pub fn check(message: pb::Message, now: Timestamp) -> Result<(Envelope, TopicType), Refusal> {
    let body = message.body;
    let mut properties = message.user_properties;
    let is_tombstone = tombstone(&mut properties)?;
    let mut system = message.system_properties.unwrap_or_default();
    let tag = system.tag.take().filter(|tag| !tag.is_empty());
    let pairs = properties.iter();
    let fits = fit::check(Content {
        body: (!is_tombstone).then_some(&body),
        properties: pairs.map(|(key, value)| (key.as_str(), value.as_str())),
        tag: tag.as_deref(),
        keys: &system.keys,
    });
    fits.map_err(|unfit| Refusal::new(code_of(&unfit), unfit.to_string()))?;
    check_system(&system, now)?;
    let kind = effective_type(&system);
    let message_group = system.message_group.filter(|group| !group.is_empty());
    let key = message_group
        .as_ref()
        .or_else(|| system.keys.iter().find(|key| !key.is_empty()))
        .map(|key| Bytes::copy_from_slice(key.as_bytes()));
    let (producer_id, producer_sequence) = numbered(&properties)?.unzip();
    let gzip = system.body_encoding == i32::from(pb::Encoding::Gzip);
    let envelope = Envelope {
        born_at_ms: system.born_timestamp.as_ref().map_or(now, from_wire).0,
        message_id: system.message_id,
        message_group,
        key,
        keys: system.keys,
        tag,
        properties: properties
            .into_iter()
            .map(|(key, value)| Property {
                key,
                value: Some(PropertyValue::Text(value)),
            })
            .collect(),
        flags: if gzip { flags::BODY_GZIP } else { 0 },
        body: (!is_tombstone).then_some(body),
        born_host: system.born_host,
        trace_context: system.trace_context,
        due_at_ms: system.delivery_timestamp.as_ref().map(|at| from_wire(at).0),
        priority: system.priority,
        lite_topic: system.lite_topic.filter(|name| !name.is_empty()),
        producer_id,
        producer_sequence,
        ..Envelope::default()
    };
    Ok((envelope, kind))
}

/// Takes out the property that makes a message a tombstone.
fn tombstone(properties: &mut BTreeMap<String, String>) -> Result<bool, Refusal> {
    match properties.remove(TOMBSTONE).as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(Refusal::new(
            Code::IllegalMessagePropertyKey,
            format!("property {TOMBSTONE:?} is {other:?}; set it to \"true\", or leave it out"),
        )),
    }
}

fn code_of(unfit: &Unfit) -> Code {
    match unfit {
        Unfit::BodyEmpty => Code::MessageBodyEmpty,
        Unfit::BodyTooLarge { .. } => Code::MessageBodyTooLarge,
        Unfit::ManyProperties { .. } | Unfit::LargeProperties { .. } => {
            Code::MessagePropertiesTooLarge
        }
        Unfit::ReservedProperty { .. } | Unfit::PropertyWithControl { .. } => {
            Code::IllegalMessagePropertyKey
        }
        Unfit::Tag { .. } => Code::IllegalMessageTag,
        Unfit::Key { .. } => Code::IllegalMessageKey,
    }
}

fn check_system(system: &pb::SystemProperties, now: Timestamp) -> Result<(), Refusal> {
    let id = &system.message_id;
    if id.trim().is_empty() || id.len() > limits::MESSAGE_ID_BYTES_MAX {
        return Err(Refusal::new(
            Code::IllegalMessageId,
            format!(
                "give the message an id of 1 to {} bytes",
                limits::MESSAGE_ID_BYTES_MAX
            ),
        ));
    }
    let orphan = system.orphaned_transaction_recovery_duration.as_ref();
    if orphan.is_some_and(|orphan| duration_ms(orphan) > limits::TRANSACTION_CHECK_FIRST_MS_MAX) {
        return Err(Refusal::new(
            Code::BadRequest,
            format!(
                "the orphan recovery time is over {} ms; give less",
                limits::TRANSACTION_CHECK_FIRST_MS_MAX
            ),
        ));
    }
    if system.message_type == i32::from(pb::MessageType::Transaction)
        && system.delivery_timestamp.is_some()
    {
        return Err(Refusal::new(
            Code::MessagePropertyConflictWithType,
            "a message waits for a time or for its transaction, not for both; leave one out",
        ));
    }
    if let Some(at) = &system.delivery_timestamp
        && from_wire(at).0.saturating_sub(now.0) > limits::DELAY_MS_MAX
    {
        return Err(Refusal::new(
            Code::IllegalDeliveryTime,
            format!(
                "the delivery time is more than {} ms (ten years) ahead; send it later",
                limits::DELAY_MS_MAX
            ),
        ));
    }
    if let Some(group) = system
        .message_group
        .as_ref()
        .filter(|group| !group.is_empty())
        && (group.trim().is_empty()
            || group.len() > limits::MESSAGE_GROUP_BYTES_MAX
            || has_control(group))
    {
        return Err(Refusal::new(
            Code::IllegalMessageGroup,
            format!(
                "message group: 1 to {} bytes, no control characters, not only white space",
                limits::MESSAGE_GROUP_BYTES_MAX
            ),
        ));
    }
    if let Some(priority) = system.priority.filter(|priority| *priority < 0) {
        return Err(Refusal::new(
            Code::BadRequest,
            format!("the priority is {priority}, allowed is 0 and above"),
        ));
    }
    if let Some(name) = &system.lite_topic
        && !name.is_empty()
    {
        lite::check_name(name)?;
    }
    for (what, text) in [
        ("born_host", Some(&system.born_host)),
        ("trace_context", system.trace_context.as_ref()),
    ] {
        if text.is_some_and(|text| text.len() > TEXT_BYTES_MAX) {
            return Err(Refusal::new(
                Code::BadRequest,
                format!("{what} is longer than {TEXT_BYTES_MAX} bytes; shorten it"),
            ));
        }
    }
    Ok(())
}

/// The kind that a message's properties make it; what it calls itself counts for transactions alone.
fn effective_type(system: &pb::SystemProperties) -> TopicType {
    let some = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if system.message_type == i32::from(pb::MessageType::Transaction) {
        TopicType::Transaction
    } else if system.delivery_timestamp.is_some() {
        TopicType::Delay
    } else if some(&system.message_group) {
        TopicType::Fifo
    } else if system.priority.is_some() {
        TopicType::Priority
    } else if some(&system.lite_topic) {
        TopicType::Lite
    } else {
        TopicType::Normal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn message(change: impl FnOnce(&mut pb::Message, &mut pb::SystemProperties)) -> pb::Message {
        let mut system = pb::SystemProperties {
            message_id: "01ABC".to_owned(),
            born_host: "here".to_owned(),
            ..pb::SystemProperties::default()
        };
        let mut message = pb::Message {
            topic: Some(pb::Resource {
                name: "flights".to_owned(),
                ..pb::Resource::default()
            }),
            body: Bytes::from_static(b"{}"),
            ..pb::Message::default()
        };
        change(&mut message, &mut system);
        message.system_properties = Some(system);
        message
    }

    #[test]
    fn each_rule_has_the_contracts_code() {
        type Change = fn(&mut pb::Message, &mut pb::SystemProperties);
        let later = |ms: i64| Some(crate::service::time::to_wire(Timestamp(NOW.0 + ms)));
        let far = later(limits::DELAY_MS_MAX + 1);
        let cases: Vec<(Code, Change)> = vec![
            (Code::MessageBodyEmpty, |m, _| m.body = Bytes::new()),
            (Code::MessageBodyTooLarge, |m, _| {
                m.body = Bytes::from(vec![0; limits::BODY_BYTES_MAX + 1]);
            }),
            (Code::MessagePropertiesTooLarge, |m, _| {
                m.user_properties = (0..129).map(|i| (i.to_string(), String::new())).collect();
            }),
            (Code::IllegalMessagePropertyKey, |m, _| {
                m.user_properties.insert("KEYS".to_owned(), String::new());
            }),
            (Code::IllegalMessagePropertyKey, |m, _| {
                m.user_properties.insert("a".to_owned(), "\u{1}".to_owned());
            }),
            (Code::IllegalMessageTag, |_, s| s.tag = Some(" ".to_owned())),
            (Code::IllegalMessageTag, |_, s| {
                s.tag = Some("a|b".to_owned())
            }),
            (Code::IllegalMessageKey, |_, s| {
                s.keys = vec!["\t".to_owned()]
            }),
            (Code::MessagePropertiesTooLarge, |m, _| {
                let value = "x".repeat(limits::PROPERTIES_BYTES_MAX);
                m.user_properties.insert("a".to_owned(), value);
            }),
            (Code::IllegalMessageId, |_, s| s.message_id = " ".to_owned()),
            (Code::IllegalMessageId, |_, s| {
                s.message_id = "x".repeat(256)
            }),
            (Code::BadRequest, |_, s| {
                s.orphaned_transaction_recovery_duration =
                    Some(crate::service::time::wire_duration(3_600_001));
            }),
            (Code::IllegalMessageGroup, |_, s| {
                s.message_group = Some("g".repeat(64))
            }),
            (Code::MessagePropertyConflictWithType, |_, s| {
                s.message_type = pb::MessageType::Transaction.into();
                s.delivery_timestamp = Some(crate::service::time::to_wire(NOW));
            }),
            (Code::BadRequest, |_, s| s.priority = Some(-1)),
            (Code::IllegalLiteTopic, |_, s| {
                s.lite_topic = Some("l".repeat(65));
            }),
        ];
        for (index, (code, change)) in cases.into_iter().enumerate() {
            let refusal = check(message(change), NOW).unwrap_err();
            assert_eq!(refusal.code, code, "case {index}: {refusal}");
        }
        let too_far = check(message(|_, s| s.delivery_timestamp = far), NOW).unwrap_err();
        assert_eq!(too_far.code, Code::IllegalDeliveryTime);
    }

    #[test]
    fn what_a_message_carries_makes_its_kind() {
        type Change = fn(&mut pb::SystemProperties);
        let cases: [(TopicType, Change); 7] = [
            (TopicType::Normal, |_| {}),
            // What it calls itself does not count.
            (TopicType::Normal, |s| {
                s.message_type = pb::MessageType::Fifo.into()
            }),
            (TopicType::Fifo, |s| s.message_group = Some("g".to_owned())),
            (TopicType::Delay, |s| {
                s.message_group = Some("g".to_owned());
                s.delivery_timestamp = Some(crate::service::time::to_wire(NOW));
            }),
            (TopicType::Transaction, |s| {
                s.message_type = pb::MessageType::Transaction.into();
            }),
            (TopicType::Priority, |s| s.priority = Some(0)),
            (TopicType::Lite, |s| s.lite_topic = Some("l".to_owned())),
        ];
        for (kind, change) in cases {
            let (_, found) = check(message(|_, s| change(s)), NOW).unwrap();
            assert_eq!(found, kind);
        }
    }

    #[test]
    fn earlier_rules_speak_first() {
        let all_wrong = message(|m, s| {
            m.body = Bytes::new();
            s.message_id.clear();
            s.priority = Some(-1);
        });
        assert_eq!(
            check(all_wrong, NOW).unwrap_err().code,
            Code::MessageBodyEmpty
        );
    }

    #[test]
    fn a_message_keeps_what_its_producer_said() {
        let (envelope, _) = check(
            message(|m, s| {
                m.user_properties.insert("b".to_owned(), "2".to_owned());
                m.user_properties.insert("a".to_owned(), "1".to_owned());
                s.keys = vec![String::new(), "N14228".to_owned(), "x".to_owned()];
                s.tag = Some("late".to_owned());
                s.body_encoding = pb::Encoding::Gzip.into();
                s.born_timestamp = Some(crate::service::time::to_wire(Timestamp(5)));
                s.trace_context = Some("00-1".to_owned());
                s.message_type = pb::MessageType::Fifo.into();
            }),
            NOW,
        )
        .unwrap();
        assert_eq!(envelope.key.as_deref(), Some(b"N14228".as_slice()));
        assert_eq!(envelope.keys.len(), 3);
        assert_eq!(envelope.flags, flags::BODY_GZIP);
        assert_eq!(envelope.born_at_ms, 5);
        assert_eq!(envelope.tag.as_deref(), Some("late"));
        assert_eq!(envelope.trace_context.as_deref(), Some("00-1"));
        let keys: Vec<_> = envelope.properties.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, ["a", "b"]);
    }
}
