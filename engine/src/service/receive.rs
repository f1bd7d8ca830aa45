//! Receiving: a long poll whose answer is a short stream.
//!
//! The frames are always the same: a status, the messages, a delivery timestamp, and then the end,
//! because clients read the stream to its end before they look. An answer that is not read to its end
//! reached nobody: what it carried goes back at once. `auto_renew` means an invisible time of
//! [`limits::INVISIBLE_MS_DEFAULT`] that is renewed while the consumer lives ([`super::renew`]).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Context};

use futures::future::Either;
use futures::stream::Stream;
use millpond_proto::limits;
use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::Code;
use millpond_proto::wire::rocketmq::receive_message_response::Content;
use tonic::{Request, Status};

use crate::authorize::{Action, Resource};
use crate::broker::poll::Consumer;
use crate::broker::undelivered::{Batch, Undelivered};
use crate::broker::{Broker, Delivery, Receive};
use crate::service::client::{Client, Clients, client_id, client_version};
use crate::service::code::{self, Refusal};
use crate::service::delivery::{Desk, message};
use crate::service::first_use;
use crate::service::gate::Gate;
use crate::service::lite;
use crate::service::pull::filter;
use crate::service::route::{group_name, topic_name};
use crate::service::subscription::Subscriptions;
use crate::service::time::{Poll, duration_ms, millis, timeout, to_wire};

/// A poll that was checked.
struct Checked {
    broker: Arc<Broker>,
    receive: Receive,
    consumer: Consumer,
    /// Whether its group reads lite topics.
    is_lite: bool,
    topic: Option<pb::Resource>,
    /// Whether the topic may still come.
    may_come: bool,
}

/// Polls. What answers begins once all of it is known, so that it leaves in one piece.
pub async fn receive_message(
    gate: &Gate,
    clients: &Clients,
    subscriptions: &Subscriptions,
    desk: Arc<Desk>,
    request: Request<pb::ReceiveMessageRequest>,
) -> Frames {
    let mut topic = None;
    let (status, deliveries, undelivered) = match check(gate, clients, subscriptions, request) {
        Err(refusal) => (refusal.into_status(), Vec::new(), None),
        Ok(mut checked) => {
            topic = checked.topic.take();
            poll(gate, checked).await
        }
    };
    desk.digests
        .prepare(deliveries.iter().map(|one| &one.envelope));
    Frames {
        status: Some(status),
        deliveries: deliveries.into_iter(),
        delivered_at: Some(to_wire(gate.clock().now())),
        topic,
        desk,
        undelivered,
    }
}

/// The frames of an answer, each made when it is asked for; what they carry goes back when they are not all taken.
#[derive(Debug)]
pub struct Frames {
    status: Option<pb::Status>,
    deliveries: std::vec::IntoIter<Delivery>,
    delivered_at: Option<prost_types::Timestamp>,
    topic: Option<pb::Resource>,
    desk: Arc<Desk>,
    undelivered: Option<Undelivered>,
}

impl Frames {
    fn content(&mut self) -> Option<Content> {
        if let Some(status) = self.status.take() {
            return Some(Content::Status(status));
        }
        match self.deliveries.next() {
            Some(delivery) => {
                let message = message(delivery, self.topic.clone(), &self.desk);
                Some(Content::Message(message))
            }
            None => self.delivered_at.take().map(Content::DeliveryTimestamp),
        }
    }
}

impl Stream for Frames {
    type Item = Result<pb::ReceiveMessageResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> task::Poll<Option<Self::Item>> {
        let content = self.content();
        if let Some(undelivered) = &mut self.undelivered {
            match &content {
                Some(_) => undelivered.begin(),
                // The end was asked for behind the last frame: they are all on the wire.
                None => undelivered.clear(),
            }
        }
        let frame = |content| pb::ReceiveMessageResponse {
            content: Some(content),
        };
        task::Poll::Ready(content.map(|content| Ok(frame(content))))
    }
}

async fn poll(gate: &Gate, checked: Checked) -> (pb::Status, Vec<Delivery>, Option<Undelivered>) {
    let Checked {
        broker,
        receive,
        consumer,
        is_lite,
        may_come,
        ..
    } = checked;
    let stopping = std::pin::pin!(gate.stopping());
    let received = async {
        let mut receive = receive;
        if may_come {
            let since = gate.clock().now();
            if !broker.await_topic(&receive.topic, receive.poll).await? {
                return Ok(Batch::default());
            }
            let waited = gate.clock().now().since(since);
            receive.poll = receive.poll.saturating_sub(waited);
        }
        if is_lite {
            // Its group must not become an ordinary one because it polls before it subscribes.
            lite::make(&broker, &receive.group, &receive.topic).await?;
        }
        broker.receive_as(receive, &consumer).await
    };
    let received = std::pin::pin!(received);
    let received = match futures::future::select(received, stopping).await {
        Either::Left((received, _)) => received,
        // Nothing was delivered: the client polls again, and finds the server that comes back.
        Either::Right(_) => Ok(Batch::default()),
    };
    match received {
        Err(error) => (Refusal::from(error).into_status(), Vec::new(), None),
        Ok(batch) if batch.deliveries().is_empty() => {
            let none = Refusal::new(Code::MessageNotFound, "no new message");
            (none.into_status(), Vec::new(), None)
        }
        Ok(batch) => {
            let (deliveries, undelivered) = batch.split();
            (code::ok(), deliveries, undelivered)
        }
    }
}

fn check(
    gate: &Gate,
    clients: &Clients,
    subscriptions: &Subscriptions,
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
    let now = gate.clock().now();
    let client = clients.heard(client_id, now).unwrap_or_default();
    let filter = Arc::new(filter(request.get_ref().filter_expression.as_ref())?);
    let invisible_ms = invisible_ms(request.get_ref())?;
    let Client {
        request_timeout_ms,
        is_lite,
        ..
    } = client;
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
    let open = admitted.inside()?;
    let broker = Arc::clone(&open.broker);
    first_use::group(open, &group)?;
    lite::check_kind(open, client.is_lite, &group)?;
    let may_come = first_use::may_come(open, &name);
    subscriptions.polls(&group, &name, client_id, &filter, now)?;
    let consumer = Consumer {
        id: client_id.to_owned(),
        attempt_id: request.get_ref().attempt_id.clone(),
        renewed: request.get_ref().auto_renew,
        filter: Some(filter),
    };
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
        consumer,
        is_lite: is_lite == Some(true),
        topic: request.message_queue.and_then(|queue| queue.topic),
        may_come,
    })
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
    fn filters_are_read_by_their_type() {
        let read = |kind: pb::FilterType, expression: &str| {
            let expression = pb::FilterExpression {
                r#type: kind.into(),
                expression: expression.to_owned(),
            };
            filter(Some(&expression)).map_err(|refusal| refusal.code)
        };
        assert!(filter(None).unwrap().is_all());
        assert!(read(pb::FilterType::Tag, "*").unwrap().is_all());
        assert!(read(pb::FilterType::Unspecified, "").unwrap().is_all());
        assert!(!read(pb::FilterType::Tag, "a || b").unwrap().is_all());
        assert!(!read(pb::FilterType::Sql, "a > 1").unwrap().is_all());
        let refused = Err(Code::IllegalFilterExpression);
        assert_eq!(read(pb::FilterType::Sql, ""), refused);
        assert_eq!(read(pb::FilterType::Sql, "a >"), refused);
    }
}
