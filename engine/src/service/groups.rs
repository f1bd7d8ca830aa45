//! Administration of consumer groups and their dead letters: between the wire's words and the broker's.

use std::sync::Arc;

use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId};
use millpond_proto::time::Timestamp;
use millpond_proto::wire::admin as pb;
use millpond_proto::wire::admin::reset_group_request::To;
use millpond_storage::format::envelope::Envelope;
use tonic::Status;

use crate::broker::lite::LiteGroup;
use crate::broker::record::Backoff;
use crate::broker::standing::ResetTo;
use crate::broker::transfer::{Letters, Outcome, Selection, property, text};
use crate::broker::{Broker, BrokerError, Group, GroupChange, GroupProgress, GroupStart};
use crate::service::code::grpc;
use crate::service::messages::stored;
use crate::service::names::{group_name, topic_name};
use crate::service::time::{from_wire, to_wire};

/// Messages in an answer to a request that does not say.
const MESSAGES_DEFAULT: usize = 32;

/// A group to be made.
pub(super) fn new(request: pb::CreateGroupRequest) -> Result<Group, Status> {
    let start = start(&request.start, request.start_at.as_ref())?;
    Ok(Group {
        start: start.unwrap_or_default(),
        attempts_max: Some(request.attempts_max).filter(|attempts| *attempts > 0),
        backoff: request.backoff.and_then(backoff),
        fifo: request.fifo,
        lite: request.lite.map(lite_group).transpose()?,
        ..Group::new(group_name(&request.name)?)
    })
}

/// What a request sets.
pub(super) fn change(request: pb::AlterGroupRequest) -> Result<GroupChange, Status> {
    Ok(GroupChange {
        start: start(&request.start, request.start_at.as_ref())?,
        attempts_max: request.attempts_max,
        backoff: request.backoff.map(backoff),
        fifo: request.fifo,
        paused: request.paused,
        exclusive: request.lite_exclusive,
    })
}

/// A group as the wire has it.
pub(super) fn group_to_wire(group: &Group) -> pb::Group {
    let (start, start_at) = match group.start {
        GroupStart::Earliest => ("earliest", None),
        GroupStart::Latest => ("latest", None),
        GroupStart::At(at) => ("time", Some(at)),
    };
    pb::Group {
        name: group.name.to_string(),
        start: start.to_owned(),
        attempts_max: group.attempts_max.unwrap_or(0),
        backoff: group.backoff.as_ref().map(|backoff| pb::Backoff {
            list_ms: backoff.list_ms.clone(),
            initial_ms: backoff.initial_ms,
            max_ms: backoff.max_ms,
            multiplier: backoff.multiplier,
        }),
        fifo: group.fifo,
        paused: group.paused,
        start_at: start_at.map(to_wire),
        lite: group.lite.as_ref().map(|lite| pb::LiteGroup {
            topic: lite.topic.clone(),
            exclusive: lite.exclusive,
        }),
    }
}

fn lite_group(lite: pb::LiteGroup) -> Result<LiteGroup, Status> {
    Ok(LiteGroup {
        topic: topic_name(&lite.topic)?.to_string(),
        exclusive: lite.exclusive,
    })
}

/// Where a group stands, as the wire has it.
pub(super) fn progress_to_wire(progress: GroupProgress, now: Timestamp) -> pb::GroupProgress {
    let lag = progress.oldest_at.map(|oldest| now.since(oldest));
    pb::GroupProgress {
        topic: progress.topic.to_string(),
        queue: progress.queue.0,
        ack_floor: progress.ack_floor.0,
        next: progress.next.0,
        in_flight: progress.in_flight,
        lag: progress.lag,
        oldest_at: progress.oldest_at.map(to_wire),
        lag_ms: lag.map_or(0, |lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
    }
}

/// Puts a group elsewhere.
pub(super) async fn reset(
    broker: &Arc<Broker>,
    request: pb::ResetGroupRequest,
) -> Result<pb::ResetGroupResponse, Status> {
    let to = match &request.to {
        Some(To::End(end)) => match end.as_str() {
            "earliest" => ResetTo::Earliest,
            "latest" => ResetTo::Latest,
            other => {
                return Err(Status::invalid_argument(format!(
                    "the end {other:?} is unknown; choose \"earliest\" or \"latest\""
                )));
            }
        },
        Some(To::Time(at)) => ResetTo::Time(from_wire(at)),
        Some(To::Offset(offset)) => ResetTo::Offset(Offset(*offset)),
        Some(To::Skip(count)) => ResetTo::Skip(*count),
        None => {
            let text = "say where to: an end, a time, an offset or how many to skip";
            return Err(Status::invalid_argument(text));
        }
    };
    let (group, topic) = (group_name(&request.group)?, topic_name(&request.topic)?);
    let queue = request.queue.map(QueueId);
    let placed = broker.reset_group(&group, &topic, queue, to).await;
    let places = placed.map_err(|e| grpc(&e))?.into_iter();
    let places = places.map(|(queue, next)| pb::QueuePlace {
        queue: queue.0,
        next: next.0,
    });
    Ok(pb::ResetGroupResponse {
        places: places.collect(),
    })
}

/// What consumers of a group hold.
pub(super) async fn in_flight(
    broker: &Arc<Broker>,
    request: &pb::ListInFlightRequest,
) -> Result<pb::ListInFlightResponse, Status> {
    let group = group_name(&request.group)?;
    let found = broker.group_in_flight(&group, limit(request.limit)).await;
    let messages = found.map_err(|e| grpc(&e))?.into_iter();
    let messages = messages.map(|one| pb::InFlightMessage {
        topic: one.topic.to_string(),
        queue: one.queue.0,
        offset: one.offset.0,
        consumer: one.consumer,
        since: Some(to_wire(one.since)),
        until: Some(to_wire(one.until)),
        attempts: one.attempts,
        renewed: one.renewed,
    });
    Ok(pb::ListInFlightResponse {
        messages: messages.collect(),
    })
}

/// Some of a group's dead letters.
pub(super) async fn dead_letters(
    broker: &Arc<Broker>,
    request: pb::DeadLettersRequest,
) -> Result<pb::DeadLettersResponse, Status> {
    let group = group_name(&request.group)?;
    let found = broker.dead_letters(&group, &selection(request)).await;
    let found = found.map_err(|e: BrokerError| grpc(&e))?;
    Ok(letters(found, |letter| Outcome {
        letter,
        failed: None,
    }))
}

/// Delivers dead letters once more, or is done with them.
pub(super) async fn settle(
    broker: &Arc<Broker>,
    request: pb::DeadLettersRequest,
    redrive: bool,
) -> Result<pb::DeadLettersResponse, Status> {
    let group = group_name(&request.group)?;
    let selection = selection(request);
    let settled = if redrive {
        broker.redrive(&group, &selection).await
    } else {
        broker.purge(&group, &selection).await
    };
    Ok(letters(settled.map_err(|e| grpc(&e))?, |outcome| outcome))
}

fn selection(request: pb::DeadLettersRequest) -> Selection {
    Selection {
        message_ids: request.message_ids.into_iter().collect(),
        from: (request.from_queue, request.from_offset),
        limit: limit(request.limit),
    }
}

fn limit(asked: u32) -> usize {
    match usize::try_from(asked).unwrap_or(usize::MAX) {
        0 => MESSAGES_DEFAULT,
        asked => asked.min(limits::READ_MESSAGES_MAX),
    }
}

fn letters<T>(found: Letters<T>, outcome: impl Fn(T) -> Outcome) -> pb::DeadLettersResponse {
    let (next_queue, next_offset) = found.next.unwrap_or_default();
    pb::DeadLettersResponse {
        letters: found
            .letters
            .into_iter()
            .map(|one| letter(outcome(one)))
            .collect(),
        more: found.next.is_some(),
        next_queue,
        next_offset,
    }
}

fn letter(outcome: Outcome) -> pb::DeadLetter {
    let Outcome { letter, failed } = outcome;
    let number = |key: &str| text(&letter, key).and_then(|text| text.parse::<u64>().ok());
    let word = |envelope: &Envelope, key: &str| text(envelope, key).unwrap_or("").to_owned();
    pb::DeadLetter {
        topic: word(&letter, property::TOPIC),
        queue: number(property::QUEUE)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0),
        offset: number(property::OFFSET).unwrap_or(0),
        attempts: number(property::ATTEMPTS)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0),
        reason: word(&letter, property::REASON),
        failed: failed.unwrap_or_default(),
        message: Some(stored(letter)),
    }
}

/// Nothing set is no change, or the server's default.
fn backoff(backoff: pb::Backoff) -> Option<Backoff> {
    let set = !backoff.list_ms.is_empty() || backoff.initial_ms != 0;
    set.then_some(Backoff {
        list_ms: backoff.list_ms,
        initial_ms: backoff.initial_ms,
        max_ms: backoff.max_ms,
        multiplier: backoff.multiplier,
    })
}

fn start(start: &str, at: Option<&prost_types::Timestamp>) -> Result<Option<GroupStart>, Status> {
    match (start, at) {
        ("", None) => Ok(None),
        ("" | "time", Some(at)) => Ok(Some(GroupStart::At(from_wire(at)))),
        ("earliest", None) => Ok(Some(GroupStart::Earliest)),
        ("latest", None) => Ok(Some(GroupStart::Latest)),
        (other, _) => Err(Status::invalid_argument(format!(
            "start {other:?} is unknown; choose \"earliest\", \"latest\", or \"time\" with start_at"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_starts_where_the_request_says() {
        let group = |start: &str, at: Option<i64>| {
            new(pb::CreateGroupRequest {
                name: "g".to_owned(),
                start: start.to_owned(),
                start_at: at.map(|ms| to_wire(Timestamp(ms))),
                ..pb::CreateGroupRequest::default()
            })
        };
        assert_eq!(group("", None).unwrap().start, GroupStart::Earliest);
        assert_eq!(group("latest", None).unwrap().start, GroupStart::Latest);
        let at = GroupStart::At(Timestamp(1500));
        assert_eq!(group("time", Some(1500)).unwrap().start, at);
        for (start, at) in [("now", None), ("time", None), ("latest", Some(1))] {
            let refused = group(start, at).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        }
    }

    #[test]
    fn what_a_request_does_not_name_is_no_change() {
        let nothing = pb::AlterGroupRequest::default();
        assert_eq!(change(nothing).unwrap(), GroupChange::default());
        let request = pb::AlterGroupRequest {
            attempts_max: Some(0),
            backoff: Some(pb::Backoff::default()),
            paused: Some(true),
            ..pb::AlterGroupRequest::default()
        };
        let expected = GroupChange {
            attempts_max: Some(0),
            backoff: Some(None),
            paused: Some(true),
            ..GroupChange::default()
        };
        assert_eq!(change(request).unwrap(), expected);
    }
}
