//! What a message may hold, whoever sends it: the contract's bounds of bodies, properties, tags and keys.
//!
//! Consumers of the wire count on these, and so do reads that hold several messages at once. Producers and `INSERT` both come
//! through here; what continuous queries write does not.

use bytes::Bytes;
use millpond_proto::limits;
use millpond_storage::format::envelope::{Envelope, PropertyValue};

/// Property keys that the system keeps for itself.
const RESERVED_KEYS: [&str; 52] = [
    "TRACE_ON",
    "MSG_REGION",
    "KEYS",
    "TAGS",
    "WAIT",
    "DELAY",
    "RETRY_TOPIC",
    "REAL_TOPIC",
    "REAL_QID",
    "TRAN_MSG",
    "PGROUP",
    "MIN_OFFSET",
    "MAX_OFFSET",
    "BUYER_ID",
    "ORIGIN_MESSAGE_ID",
    "TRANSFER_FLAG",
    "CORRECTION_FLAG",
    "MQ2_FLAG",
    "RECONSUME_TIME",
    "UNIQ_KEY",
    "MAX_RECONSUME_TIMES",
    "CONSUME_START_TIME",
    "POP_CK",
    "POP_CK_OFFSET",
    "1ST_POP_TIME",
    "TRAN_PREPARED_QUEUE_OFFSET",
    "DUP_INFO",
    "EXTEND_UNIQ_INFO",
    "INSTANCE_ID",
    "CORRELATION_ID",
    "REPLY_TO_CLIENT",
    "TTL",
    "ARRIVE_TIME",
    "PUSH_REPLY_TIME",
    "CLUSTER",
    "MSG_TYPE",
    "INNER_MULTI_QUEUE_OFFSET",
    "TIMER_DELAY_MS",
    "TIMER_DELAY_SEC",
    "TIMER_DELIVER_MS",
    "TIMER_ENQUEUE_MS",
    "TIMER_DEQUEUE_MS",
    "TIMER_ROLL_TIMES",
    "TIMER_OUT_MS",
    "TIMER_DEL_UNIQKEY",
    "TIMER_DELAY_LEVEL",
    "__BORNHOST",
    "BORN_TIMESTAMP",
    "DLQ_ORIGIN_TOPIC",
    "DLQ_ORIGIN_MESSAGE_ID",
    "__CRC32#",
    "_SYS_MSG_PRIORITY_",
];

/// The first rule that a message breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// No body.
    #[error("the body is empty; send at least one byte")]
    BodyEmpty,
    /// Too large a body.
    #[error(
        "the body has {bytes} bytes, limit {}; compress or split it",
        limits::BODY_BYTES_MAX
    )]
    BodyTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Too many properties.
    #[error("{count} user properties, limit {}", limits::PROPERTIES_MAX)]
    ManyProperties {
        /// How many.
        count: usize,
    },
    /// Too much beside the body.
    #[error(
        "properties, tag and keys have {bytes} bytes, limit {}; put more into the body",
        limits::PROPERTIES_BYTES_MAX
    )]
    LargeProperties {
        /// Their size.
        bytes: usize,
    },
    /// A property of the system.
    #[error("property {key:?} is reserved by the system; rename it")]
    ReservedProperty {
        /// Its key.
        key: String,
    },
    /// A property that is no text for people.
    #[error("property {key:?} has control characters; remove them")]
    PropertyWithControl {
        /// Its key.
        key: String,
    },
    /// No tag.
    #[error("tag {tag:?}: no '|', no control characters, not only white space")]
    Tag {
        /// The text.
        tag: String,
    },
    /// No key.
    #[error("key {key:?}: no control characters, not only white space")]
    Key {
        /// The text.
        key: String,
    },
}

/// The parts of a message that are bounded.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a, P> {
    /// `None`: it deletes its key.
    pub body: Option<&'a Bytes>,
    /// Keys and values.
    pub properties: P,
    /// The tag, if it has one.
    pub tag: Option<&'a str>,
    /// By which people look it up.
    pub keys: &'a [String],
}

/// Checks a message in the order of the contract.
///
/// # Errors
/// [`Unfit`], the first rule that it breaks.
pub fn check<'a, P>(content: Content<'a, P>) -> Result<(), Unfit>
where
    P: Iterator<Item = (&'a str, &'a str)> + Clone,
{
    if let Some(body) = content.body {
        if body.is_empty() {
            return Err(Unfit::BodyEmpty);
        }
        if body.len() > limits::BODY_BYTES_MAX {
            return Err(Unfit::BodyTooLarge { bytes: body.len() });
        }
    }
    let count = content.properties.clone().count();
    if count > limits::PROPERTIES_MAX {
        return Err(Unfit::ManyProperties { count });
    }
    for (key, value) in content.properties.clone() {
        check_property(key, value)?;
    }
    if let Some(tag) = content.tag
        && (tag.trim().is_empty() || tag.contains('|') || has_control(tag))
    {
        let tag = tag.to_owned();
        return Err(Unfit::Tag { tag });
    }
    let mut keys = content.keys.iter();
    if let Some(key) = keys.find(|key| !key.is_empty() && !is_key(key)) {
        let key = key.clone();
        return Err(Unfit::Key { key });
    }
    let properties = content
        .properties
        .map(|(key, value)| key.len() + value.len());
    let keys = content.keys.iter().map(String::len);
    check_bytes(properties.sum::<usize>() + content.tag.map_or(0, str::len) + keys.sum::<usize>())
}

/// Checks a message that was made of a row.
///
/// # Errors
/// As [`check`].
pub fn check_row(message: &Envelope) -> Result<(), Unfit> {
    check_bytes(message.key.as_ref().map_or(0, Bytes::len))?;
    let properties = message.properties.iter();
    check(Content {
        body: message.body.as_ref(),
        properties: properties.map(|property| {
            let value = match &property.value {
                Some(PropertyValue::Text(text)) => text.as_str(),
                _ => "",
            };
            (property.key.as_str(), value)
        }),
        tag: message.tag.as_deref(),
        keys: &message.keys,
    })
}

/// Whether a text may be a key by which people look a message up.
#[must_use]
pub fn is_key(text: &str) -> bool {
    !text.trim().is_empty() && !has_control(text)
}

fn check_property(key: &str, value: &str) -> Result<(), Unfit> {
    if RESERVED_KEYS.contains(&key) {
        let key = key.to_owned();
        return Err(Unfit::ReservedProperty { key });
    }
    if has_control(key) || has_control(value) {
        let key = key.to_owned();
        return Err(Unfit::PropertyWithControl { key });
    }
    Ok(())
}

fn check_bytes(bytes: usize) -> Result<(), Unfit> {
    match bytes > limits::PROPERTIES_BYTES_MAX {
        true => Err(Unfit::LargeProperties { bytes }),
        false => Ok(()),
    }
}

/// Whether a text holds what no text for people does.
pub(crate) fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}
