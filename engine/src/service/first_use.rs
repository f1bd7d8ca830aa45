//! What is made on first use: a topic by its first message, a group by its first poll.
//!
//! Only where the server was told so ([`Config::auto_create`](crate::config::Config)); by default that is
//! where nobody but this machine can reach it, so that a typo in production is an error and not a topic.
//!
//! A topic gets the type of its first message, and nothing else makes one: a route that was asked for or
//! a consumer that waits would have to guess the type, which is fixed for a topic's life. Until then the
//! route of an unknown topic says that every type may be sent that all clients know, and polls wait for
//! it. Names that begin with `%` are the server's own and are never made so.
//!
//! One topic is made wherever it is asked for: that of a known group's dead letters. Whoever reads them
//! starts before the first one is there, and no official client waits for a topic to come.

use millpond_proto::limits;
use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::wire::rocketmq as pb;

use crate::authorize::{Action, Resource};
use crate::broker::message::Takes;
use crate::broker::{BrokerError, NewTopic, TopicType};
use crate::service::code::Refusal;
use crate::service::gate::{Admitted, Open};
use crate::service::route::message_type;

/// What an unknown topic may become, as far as every client knows the type.
const TYPES_TO_COME: [TopicType; 4] = [
    TopicType::Normal,
    TopicType::Fifo,
    TopicType::Delay,
    TopicType::Transaction,
];

/// Whether a topic that is not there may still come by itself.
#[must_use]
pub fn may_come(open: &Open, name: &TopicName) -> bool {
    open.makes_on_first_use && !name.as_str().starts_with('%')
}

/// How many queues a topic has or would have, and what may be sent to it.
///
/// # Errors
/// [`BrokerError::TopicNotFound`] when it is not there and will not come.
pub fn shape(open: &Open, name: &TopicName) -> Result<(u32, Vec<pb::MessageType>), BrokerError> {
    match open.broker.topic(name) {
        Ok(topic) => Ok((topic.queues, vec![message_type(topic.kind)])),
        Err(BrokerError::TopicNotFound { .. }) if may_come(open, name) => {
            let types = TYPES_TO_COME.map(message_type).to_vec();
            Ok((limits::QUEUES_DEFAULT, types))
        }
        Err(error) => Err(error),
    }
}

/// What the topic takes that a message is sent to; made for it when it is the first.
///
/// # Errors
/// [`Refusal`] when it is not there and is not made.
pub async fn topic(
    admitted: Admitted<'_>,
    name: &TopicName,
    kind: TopicType,
) -> Result<Takes, Refusal> {
    let open = admitted.inside()?;
    match open.broker.takes(name) {
        Err(BrokerError::TopicNotFound { .. }) if may_come(open, name) => {}
        found => return Ok(found?),
    }
    // Once in a topic's life: apart, so that every other send is spared the room that this takes.
    Box::pin(make(admitted, name, kind)).await
}

async fn make(admitted: Admitted<'_>, name: &TopicName, kind: TopicType) -> Result<Takes, Refusal> {
    let admitted = admitted.also(Action::Manage, Resource::Topic(name.as_str()))?;
    let broker = admitted.broker()?;
    let new = NewTopic {
        name: name.clone(),
        kind,
        queues: None,
        columns: Vec::new(),
        watermark: None,
        primary_key: Vec::new(),
        written_by: None,
    };
    match broker.create_topic(new).await {
        Ok(_) => tracing::info!(
            topic = name.as_str(),
            kind = kind.as_str(),
            "made on first use"
        ),
        // Another message was quicker.
        Err(BrokerError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(broker.takes(name)?)
}

/// Makes the dead letter topic that a consumer asks for, if its group is there.
///
/// # Errors
/// [`BrokerError`] when it is one and can not be made.
pub async fn dead_letters(open: &Open, name: &TopicName) -> Result<(), BrokerError> {
    match open.broker.topic(name) {
        Err(BrokerError::TopicNotFound { .. }) => open.broker.make_dead_letters(name).await,
        _ => Ok(()),
    }
}

/// Refuses an unknown group where groups are not made on first use.
///
/// # Errors
/// [`BrokerError::GroupNotFound`].
pub fn group(open: &Open, name: &GroupName) -> Result<(), BrokerError> {
    if !open.makes_on_first_use {
        open.broker.group(name)?;
    }
    Ok(())
}
