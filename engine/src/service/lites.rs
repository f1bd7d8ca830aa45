//! Administration of lite topics: between the wire's words and the broker's.

use millpond_proto::wire::admin as pb;
use tonic::Status;

use crate::broker::Broker;
use crate::broker::lite::topics::{LiteTopic, LiteTopics};
use crate::service::code::grpc;
use crate::service::names::{group_name, topic_name};
use crate::service::time::to_wire;

/// Lite topics in an answer to a request that does not say.
const TOPICS_DEFAULT: usize = 32;

/// Lite topics of a parent, or one of them.
pub(super) async fn list(
    broker: &Broker,
    request: &pb::ListLiteTopicsRequest,
) -> Result<pb::ListLiteTopicsResponse, Status> {
    let parent = topic_name(&request.topic)?;
    let found = if request.name.is_empty() {
        let limit = match request.limit {
            0 => TOPICS_DEFAULT,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let from = request.from.as_ref();
        let from = from.map(|place| (u16::try_from(place.shard).unwrap_or(u16::MAX), place.number));
        broker.lite_topics(&parent, from, limit).await
    } else {
        let one = broker.lite_topic(&parent, &request.name).await;
        one.map(|one| LiteTopics {
            topics: vec![one],
            count: 1,
            next: None,
        })
    };
    let found = found.map_err(|e| grpc(&e))?;
    Ok(pb::ListLiteTopicsResponse {
        topics: found.topics.into_iter().map(lite_topic).collect(),
        count: found.count,
        next: found.next.map(|(shard, number)| pb::LitePlace {
            shard: shard.into(),
            number,
        }),
    })
}

/// Ends a lite topic.
pub(super) async fn end(
    broker: &Broker,
    request: &pb::EndLiteTopicRequest,
) -> Result<pb::EndLiteTopicResponse, Status> {
    let parent = topic_name(&request.topic)?;
    let ended = broker.end_lite_topic(&parent, &request.name).await;
    ended.map_err(|e| grpc(&e))?;
    Ok(pb::EndLiteTopicResponse {})
}

/// What each consumer of a group listens to.
pub(super) fn listeners(
    broker: &Broker,
    request: &pb::ListLiteListenersRequest,
) -> Result<pb::ListLiteListenersResponse, Status> {
    let listeners = broker.listeners_of(&group_name(&request.group)?);
    let listeners = listeners.map_err(|e| grpc(&e))?.into_iter();
    let listeners = listeners.map(|(consumer, lite_topics)| pb::LiteListener {
        consumer,
        lite_topics,
    });
    Ok(pb::ListLiteListenersResponse {
        listeners: listeners.collect(),
    })
}

fn lite_topic(found: LiteTopic) -> pb::LiteTopic {
    let groups = found.groups.into_iter();
    let groups = groups.map(|group| pb::LiteStanding {
        group: group.group,
        in_flight: group.in_flight,
        lag: group.lag,
    });
    pb::LiteTopic {
        name: found.name,
        queue: found.queue,
        messages: found.messages,
        stored_at: Some(to_wire(found.stored_at)),
        ends_at: Some(to_wire(found.ends_at)),
        groups: groups.collect(),
    }
}
