//! Routes and assignments: where a topic's queues are.
//!
//! There is one broker, so its endpoints are the ones that the client dialled: they survive address
//! translation, port mapping and tunnels.

use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::Code;
use tonic::Request;

use crate::authorize::{Action, Resource};
use crate::broker::TopicType;
use crate::service::client::client_id;
use crate::service::code::{self, Refusal};
use crate::service::first_use;
use crate::service::gate::Gate;

/// Name of the one broker.
pub const BROKER: &str = "millpond";
/// Queue id of an assignment that means every queue of the broker.
const ALL_QUEUES: i32 = -1;

/// The checked name of a topic in a request.
///
/// # Errors
/// `ILLEGAL_TOPIC` with the rule it breaks.
pub fn topic_name(topic: Option<&pb::Resource>) -> Result<TopicName, Refusal> {
    Ok(TopicName::new(
        topic.map_or("", |topic| topic.name.as_str()),
    )?)
}

/// The checked name of a consumer group in a request.
///
/// # Errors
/// `ILLEGAL_CONSUMER_GROUP` with the rule it breaks.
pub fn group_name(group: Option<&pb::Resource>) -> Result<GroupName, Refusal> {
    Ok(GroupName::new(
        group.map_or("", |group| group.name.as_str()),
    )?)
}

/// The type of the messages that a topic takes, as the wire names it.
#[must_use]
pub fn message_type(kind: TopicType) -> pb::MessageType {
    match kind {
        TopicType::Normal => pb::MessageType::Normal,
        TopicType::Fifo => pb::MessageType::Fifo,
        TopicType::Delay => pb::MessageType::Delay,
        TopicType::Transaction => pb::MessageType::Transaction,
        TopicType::Priority => pb::MessageType::Priority,
        TopicType::Lite => pb::MessageType::Lite,
    }
}

/// Every queue of a topic.
///
/// # Errors
/// [`Refusal`] with the code of the contract.
pub async fn query_route(
    gate: &Gate,
    request: Request<pb::QueryRouteRequest>,
) -> Result<pb::QueryRouteResponse, Refusal> {
    client_id(request.metadata())?;
    let name = topic_name(request.get_ref().topic.as_ref())?;
    let topic = Resource::Topic(name.as_str());
    let admitted = gate.admit(request.extensions(), Action::Describe, topic)?;
    let request = request.get_ref();
    let endpoints = endpoints(request.endpoints.as_ref())?;
    let open = admitted.inside()?;
    first_use::dead_letters(open, &name).await?;
    let (queues, types) = first_use::shape(open, &name)?;
    let queue = |id| pb::MessageQueue {
        topic: request.topic.clone(),
        id,
        permission: pb::Permission::ReadWrite.into(),
        broker: Some(broker(endpoints)),
        accept_message_types: types.iter().map(|kind| (*kind).into()).collect(),
    };
    let queues = i32::try_from(queues).unwrap_or(i32::MAX);
    Ok(pb::QueryRouteResponse {
        status: Some(code::ok()),
        message_queues: (0..queues).map(queue).collect(),
    })
}

/// What a push consumer should poll: one assignment for the whole broker.
///
/// # Errors
/// [`Refusal`] with the code of the contract.
pub async fn query_assignment(
    gate: &Gate,
    request: Request<pb::QueryAssignmentRequest>,
) -> Result<pb::QueryAssignmentResponse, Refusal> {
    client_id(request.metadata())?;
    let name = topic_name(request.get_ref().topic.as_ref())?;
    let group = group_name(request.get_ref().group.as_ref())?;
    let admitted = gate
        .admit(
            request.extensions(),
            Action::Consume,
            Resource::Topic(name.as_str()),
        )?
        .also(Action::Consume, Resource::Group(group.as_str()))?;
    let request = request.get_ref();
    let endpoints = endpoints(request.endpoints.as_ref())?;
    let open = admitted.inside()?;
    first_use::dead_letters(open, &name).await?;
    first_use::shape(open, &name)?;
    let queue = pb::MessageQueue {
        topic: request.topic.clone(),
        id: ALL_QUEUES,
        permission: pb::Permission::ReadWrite.into(),
        broker: Some(broker(endpoints)),
        accept_message_types: Vec::new(),
    };
    Ok(pb::QueryAssignmentResponse {
        status: Some(code::ok()),
        assignments: vec![pb::Assignment {
            message_queue: Some(queue),
        }],
    })
}

fn broker(endpoints: &pb::Endpoints) -> pb::Broker {
    pb::Broker {
        name: BROKER.to_owned(),
        id: 0,
        endpoints: Some(endpoints.clone()),
    }
}

fn endpoints(endpoints: Option<&pb::Endpoints>) -> Result<&pb::Endpoints, Refusal> {
    let good = |address: &pb::Address| {
        !address.host.trim().is_empty() && (1..=i32::from(u16::MAX)).contains(&address.port)
    };
    endpoints
        .filter(|endpoints| !endpoints.addresses.is_empty())
        .filter(|endpoints| endpoints.addresses.iter().all(good))
        .ok_or_else(|| {
            Refusal::new(
                Code::IllegalAccessPoint,
                "name the endpoints that you connected to: at least one host with a port",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_need_a_host_and_a_port() {
        let of = |addresses: &[(&str, i32)]| pb::Endpoints {
            scheme: pb::AddressScheme::IPv4.into(),
            addresses: addresses
                .iter()
                .map(|(host, port)| pb::Address {
                    host: (*host).to_owned(),
                    port: *port,
                })
                .collect(),
        };
        assert!(endpoints(Some(&of(&[("127.0.0.1", 8081)]))).is_ok());
        for bad in [
            of(&[]),
            of(&[("", 1)]),
            of(&[("a", 0)]),
            of(&[("a", 1), ("b", 65536)]),
        ] {
            let refusal = endpoints(Some(&bad)).unwrap_err();
            assert_eq!(refusal.code, Code::IllegalAccessPoint, "{bad:?}");
        }
        assert!(endpoints(None).is_err());
    }

    #[test]
    fn missing_names_are_refused_like_empty_ones() {
        assert_eq!(topic_name(None).unwrap_err().code, Code::IllegalTopic);
        assert_eq!(
            group_name(None).unwrap_err().code,
            Code::IllegalConsumerGroup
        );
    }
}
