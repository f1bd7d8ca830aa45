//! Streams on the wire: pulling by offset, and the offsets of queues and readers.
//!
//! A pull is a long poll whose answer is a short stream, as a receive is: a status, the messages, the
//! offset to go on at, and then the end. Its messages carry no receipt handle, because nothing is leased.
//! Without a group it is a broadcast: whoever asks gets everything.

use std::sync::Arc;

use futures::future::Either;
use futures::stream::{BoxStream, StreamExt as _};
use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId};
use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::Code;
use millpond_proto::wire::rocketmq::pull_message_response::Content;
use millpond_storage::format::envelope::Envelope;
use tonic::{Request, Status};

use crate::authorize::{Action, Resource};
use crate::broker::filter::{Filter, FilterError, FilterKind};
use crate::broker::pull::{Place, Pull, Pulled};
use crate::broker::{Broker, Delivery, ReceiptHandle};
use crate::service::client::{Client, Clients, client_id, client_version};
use crate::service::code::{self, Refusal};
use crate::service::delivery::{self, Desk};
use crate::service::first_use;
use crate::service::gate::Gate;
use crate::service::route::{group_name, topic_name};
use crate::service::time::{Poll, duration_ms, from_wire, timeout};

/// What the client reads.
pub type Frames = BoxStream<'static, Result<pb::PullMessageResponse, Status>>;

/// Messages a pull asks for that does not say.
const BATCH_DEFAULT: usize = 32;

/// A pull that was checked.
struct Checked {
    broker: Arc<Broker>,
    pull: Pull,
    topic: Option<pb::Resource>,
}

/// Pulls; the wait happens while the client reads.
pub fn pull_message(
    gate: &Arc<Gate>,
    clients: &Clients,
    desk: Arc<Desk>,
    request: Request<pb::PullMessageRequest>,
) -> Frames {
    let gate = Arc::clone(gate);
    let checked = check(&gate, clients, request);
    let frames = async move {
        let contents = match checked {
            Err(refusal) => vec![Content::Status(refusal.into_status())],
            Ok(checked) => pull(&gate, checked, &desk).await,
        };
        futures::stream::iter(contents.into_iter().map(|content| {
            Ok(pb::PullMessageResponse {
                content: Some(content),
            })
        }))
    };
    futures::stream::once(frames).flatten().boxed()
}

async fn pull(gate: &Gate, checked: Checked, desk: &Desk) -> Vec<Content> {
    let Checked {
        broker,
        pull,
        topic,
    } = checked;
    let from = pull.from;
    let stopping = std::pin::pin!(gate.stopping());
    let pulled = std::pin::pin!(broker.pull(pull));
    let pulled = match futures::future::select(pulled, stopping).await {
        Either::Left((pulled, _)) => pulled,
        // Nothing was read: the client asks again, and finds the server that comes back.
        Either::Right(_) => Ok(Pulled {
            messages: Vec::new(),
            next: from,
        }),
    };
    let Pulled { messages, next } = match pulled {
        Ok(pulled) => pulled,
        Err(error) => return vec![Content::Status(Refusal::from(error).into_status())],
    };
    let status = if messages.is_empty() {
        Refusal::new(Code::MessageNotFound, "no new message").into_status()
    } else {
        code::ok()
    };
    desk.digests.prepare(messages.iter());
    let messages = messages
        .into_iter()
        .map(|envelope| Content::Message(message(envelope, topic.clone(), desk)));
    std::iter::once(Content::Status(status))
        .chain(messages)
        .chain([Content::NextOffset(on_wire(next))])
        .collect()
}

/// A message as consumers get it, but of no delivery.
fn message(envelope: Envelope, topic: Option<pb::Resource>, desk: &Desk) -> pb::Message {
    let delivery = Delivery {
        envelope,
        handle: ReceiptHandle::default(),
        attempt: 1,
    };
    let mut message = delivery::message(delivery, topic, desk);
    if let Some(system) = &mut message.system_properties {
        system.receipt_handle = None;
    }
    message
}

fn check(
    gate: &Gate,
    clients: &Clients,
    request: Request<pb::PullMessageRequest>,
) -> Result<Checked, Refusal> {
    let client_id = client_id(request.metadata())?;
    let (topic, queue) = queue(request.get_ref().message_queue.as_ref())?;
    let mut admitted = gate.admit(
        request.extensions(),
        Action::Consume,
        Resource::Topic(topic.as_str()),
    )?;
    let group = request.get_ref().group.as_ref();
    if let Some(group) = group.filter(|group| !group.name.is_empty()) {
        let group = GroupName::new(&group.name)?;
        admitted = admitted.also(Action::Consume, Resource::Group(group.as_str()))?;
    }
    let client = clients
        .heard(client_id, gate.clock().now())
        .unwrap_or_default();
    let filter = filter(request.get_ref().filter_expression.as_ref())?;
    let from = offset(request.get_ref().offset)?;
    let Client {
        request_timeout_ms, ..
    } = client;
    let asked = request.get_ref().long_polling_timeout.as_ref();
    let poll = Poll {
        // Who names no wait gets what is there.
        asked_ms: Some(asked.map_or(0, duration_ms)),
        deadline: timeout(request.metadata()),
        request_timeout_ms,
        client_version: client_version(request.metadata()),
    }
    .wait()?;
    let broker = Arc::clone(admitted.broker()?);
    let request = request.into_inner();
    let limit = match usize::try_from(request.batch_size) {
        Ok(size) if size > 0 => size.min(limits::READ_MESSAGES_MAX),
        _ => BATCH_DEFAULT,
    };
    Ok(Checked {
        broker,
        pull: Pull {
            topic,
            queue,
            from,
            limit,
            filter,
            poll,
        },
        topic: request.message_queue.and_then(|queue| queue.topic),
    })
}

/// Where a queue begins, ends, or what it held first at a time.
///
/// # Errors
/// [`Refusal`] with the code of the contract.
pub async fn query_offset(
    gate: &Gate,
    request: Request<pb::QueryOffsetRequest>,
) -> Result<pb::QueryOffsetResponse, Refusal> {
    client_id(request.metadata())?;
    let (topic, queue) = queue(request.get_ref().message_queue.as_ref())?;
    let resource = Resource::Topic(topic.as_str());
    let admitted = gate.admit(request.extensions(), Action::Consume, resource)?;
    let place = match request.get_ref().query_offset_policy() {
        pb::QueryOffsetPolicy::Beginning => Place::Beginning,
        pb::QueryOffsetPolicy::End => Place::End,
        pb::QueryOffsetPolicy::Timestamp => {
            let Some(time) = &request.get_ref().timestamp else {
                let text = "the policy TIMESTAMP needs a timestamp; set it, or ask for END";
                return Err(Refusal::new(Code::BadRequest, text));
            };
            Place::StoredAt(from_wire(time))
        }
    };
    let broker = Arc::clone(admitted.broker()?);
    let offset = broker.offset_at(&topic, queue, place).await?;
    Ok(pb::QueryOffsetResponse {
        status: Some(code::ok()),
        offset: on_wire(offset),
    })
}

/// The offset that a reader noted.
///
/// # Errors
/// `OFFSET_NOT_FOUND` when it noted none.
pub async fn get_offset(
    gate: &Gate,
    request: Request<pb::GetOffsetRequest>,
) -> Result<pb::GetOffsetResponse, Refusal> {
    client_id(request.metadata())?;
    let (topic, queue) = queue(request.get_ref().message_queue.as_ref())?;
    let group = group_name(request.get_ref().group.as_ref())?;
    let resource = Resource::Topic(topic.as_str());
    let admitted = gate
        .admit(request.extensions(), Action::Consume, resource)?
        .also(Action::Consume, Resource::Group(group.as_str()))?;
    let broker = Arc::clone(admitted.broker()?);
    match broker.noted_offset(&group, &topic, queue).await? {
        Some(offset) => Ok(pb::GetOffsetResponse {
            status: Some(code::ok()),
            offset: on_wire(offset),
        }),
        None => Err(Refusal::new(
            Code::OffsetNotFound,
            format!(
                "group {:?} noted no offset for queue {queue} of topic {:?}; start where \
                 QueryOffset tells, then note it with UpdateOffset",
                group.as_str(),
                topic.as_str()
            ),
        )),
    }
}

/// Notes a reader's offset; the answer is durable.
///
/// # Errors
/// `ILLEGAL_OFFSET` below zero and behind the end.
pub async fn update_offset(
    gate: &Gate,
    request: Request<pb::UpdateOffsetRequest>,
) -> Result<pb::UpdateOffsetResponse, Refusal> {
    client_id(request.metadata())?;
    let (topic, queue) = queue(request.get_ref().message_queue.as_ref())?;
    let group = group_name(request.get_ref().group.as_ref())?;
    let resource = Resource::Topic(topic.as_str());
    let admitted = gate
        .admit(request.extensions(), Action::Consume, resource)?
        .also(Action::Consume, Resource::Group(group.as_str()))?;
    let offset = offset(request.get_ref().offset)?;
    first_use::group(admitted.inside()?, &group)?;
    let broker = Arc::clone(admitted.broker()?);
    broker.note_offset(&group, &topic, queue, offset).await?;
    Ok(pb::UpdateOffsetResponse {
        status: Some(code::ok()),
    })
}

/// The filter of a request; none means all messages.
///
/// # Errors
/// `ILLEGAL_FILTER_EXPRESSION` with the place and what to write instead.
pub fn filter(filter: Option<&pb::FilterExpression>) -> Result<Filter, Refusal> {
    let Some(filter) = filter else {
        return Ok(Filter::all());
    };
    let kind = match filter.r#type() {
        pb::FilterType::Sql => FilterKind::Sql92,
        pb::FilterType::Tag | pb::FilterType::Unspecified => FilterKind::Tag,
    };
    Ok(Filter::parse(kind, &filter.expression)?)
}

impl From<FilterError> for Refusal {
    fn from(error: FilterError) -> Self {
        Self::new(Code::IllegalFilterExpression, error.to_string())
    }
}

fn queue(queue: Option<&pb::MessageQueue>) -> Result<(TopicName, QueueId), Refusal> {
    let topic = topic_name(queue.and_then(|queue| queue.topic.as_ref()))?;
    let id = queue.map_or(0, |queue| queue.id);
    match u32::try_from(id) {
        Ok(id) => Ok((topic, QueueId(id))),
        Err(_) => Err(Refusal::new(
            Code::BadRequest,
            format!("queue {id} does not exist; take one that QueryRoute names"),
        )),
    }
}

fn offset(offset: i64) -> Result<Offset, Refusal> {
    match u64::try_from(offset) {
        Ok(offset) => Ok(Offset(offset)),
        Err(_) => Err(Refusal::new(
            Code::IllegalOffset,
            format!("offset {offset} is below zero; ask QueryOffset where the queue begins"),
        )),
    }
}

fn on_wire(offset: Offset) -> i64 {
    i64::try_from(offset.0).unwrap_or(i64::MAX)
}
