//! Acknowledging deliveries, changing when they come back, giving them up.

use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::Code;
use tonic::Request;

use crate::authorize::{Action, Resource};
use crate::broker::{BrokerError, ReceiptHandle};
use crate::service::client::{Clients, client_id};
use crate::service::code::{self, Refusal};
use crate::service::gate::Gate;
use crate::service::receive::check_invisible;
use crate::service::route::{group_name, topic_name};
use crate::service::time::{duration_ms, millis};

/// Below this a push consumer's negative acknowledgement is taken for a mistake.
const PUSH_BACK_OFF_MS_MIN: i64 = 100;

/// Acknowledges; one result per entry, in order, with the handle as the client sent it.
///
/// # Errors
/// [`Refusal`] when nothing was acknowledged.
pub async fn ack_message(
    gate: &Gate,
    request: Request<pb::AckMessageRequest>,
) -> Result<pb::AckMessageResponse, Refusal> {
    client_id(request.metadata())?;
    let topic = topic_name(request.get_ref().topic.as_ref())?;
    let group = group_name(request.get_ref().group.as_ref())?;
    let admitted = gate
        .admit(
            request.extensions(),
            Action::Consume,
            Resource::Topic(topic.as_str()),
        )?
        .also(Action::Consume, Resource::Group(group.as_str()))?;
    let broker = admitted.broker()?;
    let entries = request.into_inner().entries;
    if entries.is_empty() {
        return Err(Refusal::new(
            Code::InternalServerError,
            "nothing to acknowledge; send at least one entry",
        ));
    }
    let (handles, malformed) = decode(&entries);
    let results = if handles.is_empty() {
        Vec::new()
    } else {
        broker.ack(&group, &topic, handles).await?
    };
    let entries = answers(entries, malformed, results);
    Ok(pb::AckMessageResponse {
        status: Some(code::summary(
            entries.iter().filter_map(|entry| entry.status.as_ref()),
        )),
        entries,
    })
}

/// Moves the end of a delivery's invisible time, and gives it a new handle.
///
/// # Errors
/// [`Refusal`] when it was not moved.
pub async fn change_invisible_duration(
    gate: &Gate,
    clients: &Clients,
    request: Request<pb::ChangeInvisibleDurationRequest>,
) -> Result<pb::ChangeInvisibleDurationResponse, Refusal> {
    let client_id = client_id(request.metadata())?;
    let topic = topic_name(request.get_ref().topic.as_ref())?;
    let group = group_name(request.get_ref().group.as_ref())?;
    let admitted = gate
        .admit(
            request.extensions(),
            Action::Consume,
            Resource::Topic(topic.as_str()),
        )?
        .also(Action::Consume, Resource::Group(group.as_str()))?;
    let client = clients.heard(client_id, gate.clock().now());
    let request = request.get_ref();
    // Node sends an empty duration for "at once".
    let ms = request.invisible_duration.as_ref().map_or(0, duration_ms);
    check_invisible(ms, 0)?;
    let handle = ReceiptHandle::from_text(&request.receipt_handle)?;
    // A push consumer means "later, as the group says": Node reads the list as none, and seconds as
    // milliseconds.
    let is_mistaken = ms < PUSH_BACK_OFF_MS_MIN && client.unwrap_or_default().is_push;
    let invisible = (!is_mistaken).then(|| millis(ms));
    let broker = admitted.broker()?;
    let handle = if request.suspend == Some(true) {
        broker.suspend(&group, &topic, handle, millis(ms)).await?
    } else {
        broker
            .change_invisible_or_back_off(&group, &topic, handle, invisible)
            .await?
    };
    Ok(pb::ChangeInvisibleDurationResponse {
        status: Some(code::ok()),
        receipt_handle: handle.to_text(),
    })
}

/// Sends a delivered message to its group's dead letters.
///
/// # Errors
/// [`Refusal`] when it was not sent there.
pub async fn forward_to_dead_letters(
    gate: &Gate,
    request: Request<pb::ForwardMessageToDeadLetterQueueRequest>,
) -> Result<pb::ForwardMessageToDeadLetterQueueResponse, Refusal> {
    client_id(request.metadata())?;
    let topic = topic_name(request.get_ref().topic.as_ref())?;
    let group = group_name(request.get_ref().group.as_ref())?;
    let admitted = gate
        .admit(
            request.extensions(),
            Action::Consume,
            Resource::Topic(topic.as_str()),
        )?
        .also(Action::Consume, Resource::Group(group.as_str()))?;
    let handle = ReceiptHandle::from_text(&request.get_ref().receipt_handle)?;
    admitted
        .broker()?
        .forward_to_dead_letters(&group, &topic, handle)
        .await?;
    Ok(pb::ForwardMessageToDeadLetterQueueResponse {
        status: Some(code::ok()),
    })
}

/// The handles that can be read, and for each entry whether it could not.
fn decode(entries: &[pb::AckMessageEntry]) -> (Vec<ReceiptHandle>, Vec<Option<BrokerError>>) {
    let mut handles = Vec::with_capacity(entries.len());
    let mut malformed = Vec::with_capacity(entries.len());
    for entry in entries {
        malformed.push(match ReceiptHandle::from_text(&entry.receipt_handle) {
            Ok(handle) => {
                handles.push(handle);
                None
            }
            Err(error) => Some(error),
        });
    }
    (handles, malformed)
}

fn answers(
    entries: Vec<pb::AckMessageEntry>,
    malformed: Vec<Option<BrokerError>>,
    results: Vec<Result<(), BrokerError>>,
) -> Vec<pb::AckMessageResultEntry> {
    let mut results = results.into_iter();
    entries
        .into_iter()
        .zip(malformed)
        .map(|(entry, malformed)| {
            let result = match malformed {
                Some(error) => Err(error),
                None => results.next().expect("the broker answers every handle"),
            };
            let status = match result {
                Ok(()) => code::ok(),
                Err(error) => Refusal::from(error).into_status(),
            };
            pb::AckMessageResultEntry {
                message_id: entry.message_id,
                receipt_handle: entry.receipt_handle,
                status: Some(status),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_gets_its_own_answer() {
        let handle = ReceiptHandle {
            topic: 1,
            queue: 2,
            offset: 3,
            lease: 4,
        };
        let entry = |id: &str, handle: String| pb::AckMessageEntry {
            message_id: id.to_owned(),
            receipt_handle: handle,
            lite_topic: None,
        };
        let entries = vec![
            entry("a", handle.to_text()),
            entry("b", "not one of ours".to_owned()),
            entry("c", handle.to_text()),
        ];
        let (handles, malformed) = decode(&entries);
        assert_eq!(handles, [handle.clone(), handle]);
        let expired = BrokerError::InvalidHandle {
            why: "its invisible time is over",
        };
        let answers = answers(entries, malformed, vec![Ok(()), Err(expired)]);
        let codes: Vec<_> = answers
            .iter()
            .map(|a| a.status.as_ref().unwrap().code)
            .collect();
        let invalid = i32::from(Code::InvalidReceiptHandle);
        assert_eq!(codes, [i32::from(Code::Ok), invalid, invalid]);
        assert_eq!(answers[1].receipt_handle, "not one of ours");
        let status = code::summary(answers.iter().filter_map(|a| a.status.as_ref()));
        assert_eq!(status.code, i32::from(Code::MultipleResults));
    }
}
