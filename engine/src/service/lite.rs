//! Lite topics: what a consumer listens to, and which groups may.
//!
//! A group reads the lite topics of one parent or it reads whole topics, never both; it is one or the other from
//! the time that it is made. Where groups are made on first use, the first consumer decides.

use millpond_proto::limits;
use millpond_proto::message::Offset;
use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::time::Timestamp;
use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::offset_option::{OffsetType, Policy};
use millpond_proto::wire::rocketmq::telemetry_command::Command;
use millpond_proto::wire::rocketmq::{Code, LiteSubscriptionAction};
use tonic::Request;

use crate::authorize::{Action, Resource};
use crate::broker::lite::LiteGroup;
use crate::broker::lite::listeners;
use crate::broker::lite::topics::{StartAt, Word};
use crate::broker::{Broker, BrokerError, Group, TopicType};
use crate::service::client::{Clients, client_id};
use crate::service::code::{self, Refusal};
use crate::service::first_use;
use crate::service::gate::{Gate, Open};
use crate::service::producers::Producers;
use crate::service::route::{group_name, topic_name};

/// Notes what a consumer listens to.
///
/// # Errors
/// [`Refusal`] when nothing was changed.
pub async fn sync_lite_subscription(
    gate: &Gate,
    clients: &Clients,
    streams: &Producers,
    request: Request<pb::SyncLiteSubscriptionRequest>,
) -> Result<pb::SyncLiteSubscriptionResponse, Refusal> {
    let id = client_id(request.metadata())?.to_owned();
    let topic = topic_name(request.get_ref().topic.as_ref())?;
    let group = group_name(request.get_ref().group.as_ref())?;
    let admitted = gate
        .admit(
            request.extensions(),
            Action::Consume,
            Resource::Topic(topic.as_str()),
        )?
        .also(Action::Consume, Resource::Group(group.as_str()))?;
    let open = admitted.inside()?;
    let client = clients.heard(&id, gate.clock().now()).unwrap_or_default();
    let request = request.into_inner();
    for name in &request.lite_topic_set {
        check_name(name)?;
    }
    let word = Word {
        group: &group,
        topic: &topic,
        consumer: &id,
        action: action(request.action)?,
        names: &request.lite_topic_set,
        version: request.version,
        start: request
            .offset_option
            .as_ref()
            .map(start)
            .transpose()?
            .flatten(),
    };
    // That a lite consumer asks for it says what it is.
    let parent = first_use::topic(admitted, &topic, TopicType::Lite).await?;
    if parent.kind != TopicType::Lite {
        return Err(BrokerError::NoParent {
            name: topic.to_string(),
        }
        .into());
    }
    check_kind(open, client.is_lite, &group)?;
    made(open, &group, &topic).await?;
    let taken = open.broker.listen(word).await?;
    for (consumer, lite_topic) in taken {
        let command = pb::TelemetryCommand {
            status: Some(code::ok()),
            command: Some(Command::NotifyUnsubscribeLiteCommand(
                pb::NotifyUnsubscribeLiteCommand { lite_topic },
            )),
        };
        if !streams.tell(&consumer, &command) {
            tracing::debug!(
                consumer,
                "a lite topic was taken from a consumer that can not be told"
            );
        }
    }
    Ok(pb::SyncLiteSubscriptionResponse {
        status: Some(code::ok()),
    })
}

/// Refuses a consumer of lite topics in a group that reads whole topics, and the reverse.
///
/// # Errors
/// `ILLEGAL_CONSUMER_GROUP`.
pub fn check_kind(open: &Open, is_lite: Option<bool>, group: &GroupName) -> Result<(), Refusal> {
    let Ok(known) = open.broker.group(group) else {
        return Ok(());
    };
    match (is_lite, known.lite) {
        (Some(true), None) => Err(BrokerError::NotLite {
            group: group.to_string(),
        }
        .into()),
        (Some(false), Some(lite)) => Err(Refusal::new(
            Code::IllegalConsumerGroup,
            format!(
                "group {group} reads the lite topics of {:?}; use a lite consumer, or another group",
                lite.topic
            ),
        )),
        _ => Ok(()),
    }
}

/// Makes the group of a consumer of lite topics, where groups are made on first use.
///
/// # Errors
/// [`BrokerError::GroupNotFound`] where they are not.
pub async fn made(open: &Open, group: &GroupName, parent: &TopicName) -> Result<(), BrokerError> {
    first_use::group(open, group)?;
    if open.broker.group(group).is_ok() {
        return Ok(());
    }
    make(&open.broker, group, parent).await
}

/// Makes a group of the lite topics of a parent, unless it is there.
///
/// # Errors
/// [`BrokerError`] when it could not be made.
pub async fn make(
    broker: &Broker,
    group: &GroupName,
    parent: &TopicName,
) -> Result<(), BrokerError> {
    let new = Group {
        lite: Some(LiteGroup {
            topic: parent.to_string(),
            exclusive: false,
        }),
        ..Group::new(group.clone())
    };
    match broker.create_group(new).await {
        Ok(_) | Err(BrokerError::Exists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Refuses what is no name of a lite topic.
///
/// # Errors
/// `ILLEGAL_LITE_TOPIC`.
pub fn check_name(name: &str) -> Result<(), Refusal> {
    let is_good = !name.trim().is_empty()
        && name.len() <= limits::LITE_TOPIC_BYTES_MAX
        && !name.chars().any(char::is_control);
    if is_good {
        return Ok(());
    }
    Err(Refusal::new(
        Code::IllegalLiteTopic,
        format!(
            "lite topic: 1 to {} bytes, no control characters, not only white space",
            limits::LITE_TOPIC_BYTES_MAX
        ),
    ))
}

fn action(action: i32) -> Result<listeners::Action, Refusal> {
    match LiteSubscriptionAction::try_from(action) {
        Ok(LiteSubscriptionAction::PartialAdd) => Ok(listeners::Action::Add),
        Ok(LiteSubscriptionAction::PartialRemove) => Ok(listeners::Action::Remove),
        Ok(LiteSubscriptionAction::CompleteAdd) => Ok(listeners::Action::Set),
        Ok(LiteSubscriptionAction::CompleteRemove) => Ok(listeners::Action::Clear),
        Err(_) => Err(Refusal::new(
            Code::BadRequest,
            format!("subscription action {action} is unknown; add or remove, in part or all"),
        )),
    }
}

/// Where the group is to stand; none: where it stood.
fn start(option: &pb::OffsetOption) -> Result<Option<StartAt>, Refusal> {
    let number = |value: i64| {
        u64::try_from(value).map_err(|_| {
            let text = format!("{value} is no place to start at; give 0 or more");
            Refusal::new(Code::IllegalOffset, text)
        })
    };
    Ok(match &option.offset_type {
        Some(OffsetType::Policy(policy)) => match Policy::try_from(*policy) {
            Ok(Policy::Last) => None,
            Ok(Policy::Min) => Some(StartAt::Earliest),
            Ok(Policy::Max) => Some(StartAt::Latest),
            Err(_) => {
                let text = format!("offset policy {policy} is unknown; use LAST, MIN or MAX");
                return Err(Refusal::new(Code::IllegalOffset, text));
            }
        },
        Some(OffsetType::Offset(offset)) => Some(StartAt::Offset(Offset(number(*offset)?))),
        Some(OffsetType::TailN(count)) => Some(StartAt::Tail(number(*count)?)),
        Some(OffsetType::Timestamp(ms)) => {
            number(*ms)?;
            Some(StartAt::Time(Timestamp(*ms)))
        }
        None => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_printable() {
        for good in [
            "a",
            "user 7/chat",
            &"l".repeat(limits::LITE_TOPIC_BYTES_MAX),
        ] {
            assert_eq!(check_name(good), Ok(()));
        }
        for bad in [
            "",
            " ",
            "a\n",
            &"l".repeat(limits::LITE_TOPIC_BYTES_MAX + 1),
        ] {
            assert_eq!(check_name(bad).unwrap_err().code, Code::IllegalLiteTopic);
        }
    }

    #[test]
    fn a_consumer_says_where_to_start() {
        let at = |of| {
            let option = pb::OffsetOption {
                offset_type: Some(of),
            };
            start(&option).map_err(|refusal| refusal.code)
        };
        assert_eq!(at(OffsetType::Policy(Policy::Last.into())), Ok(None));
        let end = Ok(Some(StartAt::Latest));
        assert_eq!(at(OffsetType::Policy(Policy::Max.into())), end);
        assert_eq!(at(OffsetType::TailN(3)), Ok(Some(StartAt::Tail(3))));
        assert_eq!(at(OffsetType::Offset(-1)), Err(Code::IllegalOffset));
        assert_eq!(at(OffsetType::Policy(9)), Err(Code::IllegalOffset));
    }
}
