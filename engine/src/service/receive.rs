//! Receiving: a long poll whose answer is a short stream.
//!
//! The frames are always the same: a status, the messages, a delivery timestamp, and then the end,
//! because clients read the stream to its end before they look. `auto_renew` is taken as an invisible
//! time of [`limits::INVISIBLE_MS_DEFAULT`]; it is not renewed while the consumer works. Filters other
//! than all messages are refused rather than ignored.

use std::sync::Arc;

use futures::future::Either;
use futures::stream::{BoxStream, StreamExt as _};
use millpond_proto::limits;
use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::Code;
use millpond_proto::wire::rocketmq::receive_message_response::Content;
use tonic::{Request, Status};

use crate::authorize::{Action, Resource};
use crate::broker::{Broker, Receive};
use crate::service::client::{Client, Clients, client_id, client_version};
use crate::service::code::{self, Refusal};
use crate::service::delivery::message;
use crate::service::gate::Gate;
use crate::service::route::{group_name, topic_name};
use crate::service::time::{Poll, duration_ms, millis, timeout, to_wire};

/// What the client reads.
pub type Frames = BoxStream<'static, Result<pb::ReceiveMessageResponse, Status>>;

/// A poll that was checked.
struct Checked {
    broker: Arc<Broker>,
    receive: Receive,
    topic: Option<pb::Resource>,
}

/// Polls; the wait happens while the client reads.
pub fn receive_message(
    gate: &Arc<Gate>,
    clients: &Clients,
    store_host: Arc<str>,
    request: Request<pb::ReceiveMessageRequest>,
) -> Frames {
    let gate = Arc::clone(gate);
    let checked = check(&gate, clients, request);
    let frames = async move {
        let (status, messages) = match checked {
            Err(refusal) => (refusal.into_status(), Vec::new()),
            Ok(checked) => poll(&gate, checked, &store_host).await,
        };
        let delivered_at = to_wire(gate.clock().now());
        let frames = std::iter::once(Content::Status(status))
            .chain(messages.into_iter().map(Content::Message))
            .chain([Content::DeliveryTimestamp(delivered_at)])
            .map(|content| {
                Ok(pb::ReceiveMessageResponse {
                    content: Some(content),
                })
            });
        futures::stream::iter(frames)
    };
    futures::stream::once(frames).flatten().boxed()
}

async fn poll(gate: &Gate, checked: Checked, store_host: &str) -> (pb::Status, Vec<pb::Message>) {
    let Checked {
        broker,
        receive,
        topic,
    } = checked;
    let stopping = std::pin::pin!(gate.stopping());
    let received = std::pin::pin!(broker.receive(receive));
    let received = match futures::future::select(received, stopping).await {
        Either::Left((received, _)) => received,
        // Nothing was delivered: the client polls again, and finds the server that comes back.
        Either::Right(_) => Ok(Vec::new()),
    };
    match received {
        Err(error) => (Refusal::from(error).into_status(), Vec::new()),
        Ok(deliveries) if deliveries.is_empty() => {
            let none = Refusal::new(Code::MessageNotFound, "no new message");
            (none.into_status(), Vec::new())
        }
        Ok(deliveries) => {
            let messages = deliveries
                .into_iter()
                .map(|delivery| message(delivery, topic.clone(), store_host))
                .collect();
            (code::ok(), messages)
        }
    }
}

fn check(
    gate: &Gate,
    clients: &Clients,
    request: Request<pb::ReceiveMessageRequest>,
) -> Result<Checked, Refusal> {
    let client_id = client_id(request.metadata())?;
    let queue = request.get_ref().message_queue.as_ref();
    let name = topic_name(queue.and_then(|queue| queue.topic.as_ref()))?;
    let group = group_name(request.get_ref().group.as_ref())?;
    let admitted = gate
        .admit(
            request.extensions(),
            Action::Consume,
            Resource::Topic(name.as_str()),
        )?
        .also(Action::Consume, Resource::Group(group.as_str()))?;
    let client = clients
        .heard(client_id, gate.clock().now())
        .unwrap_or_default();
    check_filter(request.get_ref().filter_expression.as_ref())?;
    let invisible_ms = invisible_ms(request.get_ref())?;
    let Client { request_timeout_ms } = client;
    let poll = Poll {
        asked_ms: request
            .get_ref()
            .long_polling_timeout
            .as_ref()
            .map(duration_ms),
        deadline: timeout(request.metadata()),
        request_timeout_ms,
        client_version: client_version(request.metadata()),
    }
    .wait()?;
    let broker = Arc::clone(admitted.broker()?);
    let request = request.into_inner();
    let limit = usize::try_from(request.batch_size).unwrap_or(0);
    Ok(Checked {
        broker,
        receive: Receive {
            group,
            topic: name,
            limit: limit.clamp(1, limits::RECEIVE_BATCH_MAX),
            invisible: millis(invisible_ms),
            poll,
        },
        topic: request.message_queue.and_then(|queue| queue.topic),
    })
}

fn check_filter(filter: Option<&pb::FilterExpression>) -> Result<(), Refusal> {
    let Some(filter) = filter else {
        return Ok(());
    };
    let expression = filter.expression.trim();
    let tag = filter.r#type != i32::from(pb::FilterType::Sql);
    if tag && (expression.is_empty() || expression == "*") {
        return Ok(());
    }
    Err(Refusal::new(
        Code::IllegalFilterExpression,
        format!(
            "filter {expression:?} is not served yet; subscribe with the tag expression \"*\" and \
             pass over what you do not need"
        ),
    ))
}

fn invisible_ms(request: &pb::ReceiveMessageRequest) -> Result<i64, Refusal> {
    if request.auto_renew {
        return Ok(limits::INVISIBLE_MS_DEFAULT);
    }
    let ms = request.invisible_duration.as_ref().map_or(0, duration_ms);
    check_invisible(ms, limits::INVISIBLE_MS_MIN)?;
    Ok(ms)
}

/// Refuses an invisible time outside `min_ms` to the longest.
///
/// # Errors
/// `ILLEGAL_INVISIBLE_TIME`.
pub fn check_invisible(ms: i64, min_ms: i64) -> Result<(), Refusal> {
    if (min_ms..=limits::INVISIBLE_MS_MAX).contains(&ms) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::IllegalInvisibleTime,
        format!(
            "the invisible time is {ms} ms, allowed are {min_ms} to {} ms",
            limits::INVISIBLE_MS_MAX
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::time::wire_duration;

    fn invisible(auto_renew: bool, ms: Option<i64>) -> Result<i64, Code> {
        let request = pb::ReceiveMessageRequest {
            auto_renew,
            invisible_duration: ms.map(wire_duration),
            ..pb::ReceiveMessageRequest::default()
        };
        invisible_ms(&request).map_err(|refusal| refusal.code)
    }

    #[test]
    fn the_invisible_time_lies_between_ten_seconds_and_twelve_hours() {
        assert_eq!(invisible(false, Some(10_000)), Ok(10_000));
        assert_eq!(invisible(false, Some(43_200_000)), Ok(43_200_000));
        for bad in [None, Some(0), Some(9_999), Some(43_200_001)] {
            assert_eq!(
                invisible(false, bad),
                Err(Code::IllegalInvisibleTime),
                "{bad:?}"
            );
        }
        assert_eq!(invisible(true, None), Ok(60_000));
    }

    #[test]
    fn only_all_messages_are_served() {
        let filter = |kind: pb::FilterType, expression: &str| {
            let filter = pb::FilterExpression {
                r#type: kind.into(),
                expression: expression.to_owned(),
            };
            check_filter(Some(&filter)).map_err(|refusal| refusal.code)
        };
        assert_eq!(check_filter(None), Ok(()));
        assert_eq!(filter(pb::FilterType::Tag, "*"), Ok(()));
        assert_eq!(filter(pb::FilterType::Tag, ""), Ok(()));
        assert_eq!(filter(pb::FilterType::Unspecified, ""), Ok(()));
        let refused = Err(Code::IllegalFilterExpression);
        assert_eq!(filter(pb::FilterType::Tag, "a || b"), refused);
        assert_eq!(filter(pb::FilterType::Sql, "a > 1"), refused);
        assert_eq!(filter(pb::FilterType::Sql, ""), refused);
    }
}
