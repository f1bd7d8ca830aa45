//! Reading, finding and tracing messages: between the wire's words and the broker's.

use std::sync::Arc;

use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId};
use millpond_proto::time::Timestamp;
use millpond_proto::wire::admin as pb;
use millpond_proto::wire::admin::find_messages_request::By;
use millpond_storage::format::envelope::{Envelope, PropertyValue};
use millpond_storage::tier::cold::lookup::Lookup;
use tonic::Status;

use crate::broker::Broker;
use crate::broker::filter::{Filter, FilterKind};
use crate::broker::find::{Place, Scanned, Search};
use crate::broker::request::FateKind;
use crate::service::code::grpc;
use crate::service::names::{group_name, topic_name};
use crate::service::time::{from_wire, to_wire};

/// Messages in an answer to a request that does not say.
const MESSAGES_DEFAULT: usize = 32;

/// Messages of a queue from an offset on.
pub(super) async fn read(
    broker: &Broker,
    request: &pb::ReadRequest,
) -> Result<pb::ReadResponse, Status> {
    let name = topic_name(&request.topic)?;
    let (queue, from) = (QueueId(request.queue), Offset(request.from));
    let read = broker.read(&name, queue, from, limit(request.limit)).await;
    let (messages, next) = read.map_err(|e| grpc(&e))?;
    Ok(pb::ReadResponse {
        messages: messages.into_iter().map(stored).collect(),
        next: next.0,
    })
}

/// Takes a step of a search.
pub(super) async fn find(
    broker: &Arc<Broker>,
    request: pb::FindMessagesRequest,
) -> Result<pb::FindMessagesResponse, Status> {
    let topic = topic_name(&request.topic)?;
    let search = Search {
        filter: filter(&request.filter_type, &request.filter)?,
        lookup: request.by.map(|by| match by {
            By::MessageId(id) => Lookup::MessageId(id),
            By::Key(key) => Lookup::Key(key),
        }),
        queue: request.queue.map(QueueId),
        since: request.since.as_ref().map(from_wire),
        until: request.until.as_ref().map(from_wire),
        from: Place {
            queue: QueueId(request.from_queue),
            offset: Offset(request.from_offset),
        },
        limit: limit(request.limit),
    };
    let found = broker.find(&topic, &search).await;
    let found = found.map_err(|error| grpc(&error))?;
    let next = found.next.unwrap_or_default();
    Ok(pb::FindMessagesResponse {
        messages: found.messages.into_iter().map(stored).collect(),
        complete: found.next.is_none(),
        next_queue: next.queue.0,
        next_offset: next.offset.0,
        scanned: Some(scanned(&found.scanned)),
    })
}

/// What became of a message.
pub(super) async fn trace(
    broker: &Arc<Broker>,
    request: pb::TraceMessageRequest,
) -> Result<pb::TraceMessageResponse, Status> {
    let topic = topic_name(&request.topic)?;
    let group = match request.group.as_str() {
        "" => None,
        name => Some(group_name(name)?),
    };
    let (queue, offset) = (QueueId(request.queue), Offset(request.offset));
    let trace = broker.trace(&topic, queue, offset, group.as_ref()).await;
    let trace = trace.map_err(|error| grpc(&error))?;
    let (message, unreadable) = match trace.message {
        Ok(message) => (Some(stored(message)), String::new()),
        Err(why) => (None, why),
    };
    let fates = trace
        .fates
        .into_iter()
        .map(|(group, fate)| pb::MessageFate {
            group,
            state: match fate.kind() {
                FateKind::NotDelivered => "not delivered",
                FateKind::InFlight => "in flight",
                FateKind::Waiting => "waiting",
                FateKind::Parked => "parked",
                FateKind::Done => "done",
            }
            .to_owned(),
            attempts: fate.attempts,
            consumer: fate.holder.unwrap_or_default().consumer,
            until: fate.until_ms.map(|ms| to_wire(Timestamp(ms))),
        });
    let events = trace.events.into_iter().map(|event| pb::MessageEvent {
        group: event.group,
        what: event.what.to_owned(),
        at: event.at.map(to_wire),
        consumer: event.consumer,
        attempt: event.attempt.unwrap_or(0),
        until: event.until.map(to_wire),
        why: event.why,
    });
    Ok(pb::TraceMessageResponse {
        message,
        unreadable,
        fates: fates.collect(),
        events: events.collect(),
        log_since: trace.history.since_ms.map(|ms| to_wire(Timestamp(ms))),
        complete: trace.is_complete,
        log_bytes: trace.history.bytes,
        log_damaged: trace.history.damaged,
    })
}

/// Text properties as they are, binary ones left out: the contract's map holds text.
pub(super) fn stored(envelope: Envelope) -> pb::StoredMessage {
    let (stored_at, born_at) = (to_wire(envelope.stored_at()), to_wire(envelope.born_at()));
    pb::StoredMessage {
        queue: envelope.queue,
        offset: envelope.offset,
        stored_at: Some(stored_at),
        born_at: Some(born_at),
        message_id: envelope.message_id,
        key: envelope.key,
        keys: envelope.keys,
        tag: envelope.tag,
        properties: envelope
            .properties
            .into_iter()
            .filter_map(|property| match property.value {
                Some(PropertyValue::Text(text)) => Some((property.key, text)),
                Some(PropertyValue::Binary(_)) | None => None,
            })
            .collect(),
        body: envelope.body,
        message_group: envelope.message_group,
        priority: envelope.priority,
        trace_context: envelope.trace_context,
        born_host: envelope.born_host,
        lite_topic: envelope.lite_topic,
    }
}

/// How many messages an answer has at most.
fn limit(asked: u32) -> usize {
    match usize::try_from(asked).unwrap_or(usize::MAX) {
        0 => MESSAGES_DEFAULT,
        asked => asked.min(limits::READ_MESSAGES_MAX),
    }
}

fn filter(kind: &str, expression: &str) -> Result<Filter, Status> {
    let kind = match kind {
        _ if expression.is_empty() => return Ok(Filter::all()),
        "" | "sql92" => FilterKind::Sql92,
        "tag" => FilterKind::Tag,
        other => {
            return Err(Status::invalid_argument(format!(
                "the filter type {other:?} is unknown; choose \"sql92\" or \"tag\""
            )));
        }
    };
    Filter::parse(kind, expression).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn scanned(scanned: &Scanned) -> pb::Scanned {
    let (first, last) = scanned.stored_ms.unzip();
    let at = |ms: Option<i64>| ms.map(|ms| to_wire(Timestamp(ms)));
    pb::Scanned {
        compared: scanned.compared,
        ruled_out: scanned.ruled_out,
        damaged: scanned.damaged,
        bytes: scanned.bytes,
        stored_first: at(first),
        stored_last: at(last),
    }
}
