//! Sending: the messages of a call are checked ([`super::incoming`]), then the broker stores them.
//!
//! A message that breaks a rule refuses the whole call before anything is stored, as the official
//! server does; what happens to each message in the log is told per entry.

use millpond_proto::limits;
use millpond_proto::name::TopicName;
use millpond_proto::time::Timestamp;
use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::Code;
use millpond_storage::format::envelope::Envelope;
use tonic::Request;

use crate::authorize::{Action, Resource};
use crate::broker::delay::{Delayed, RecallHandle};
use crate::broker::half::TransactionId;
use crate::broker::{BrokerError, Sent, TopicType};
use crate::service::client::client_id;
use crate::service::code::{self, Refusal};
use crate::service::first_use;
use crate::service::gate::Gate;
use crate::service::incoming::check;
use crate::service::transaction;

/// Stores messages; one entry per message.
///
/// # Errors
/// [`Refusal`] when nothing was stored.
pub async fn send_message(
    gate: &Gate,
    request: Request<pb::SendMessageRequest>,
) -> Result<pb::SendMessageResponse, Refusal> {
    client_id(request.metadata())?;
    let name = one_topic(&request.get_ref().messages)?;
    let topic = Resource::Topic(name);
    let admitted = gate.admit(request.extensions(), Action::Publish, topic)?;
    let name = TopicName::new(name)?;
    let messages = request.into_inner().messages;
    if messages.len() > limits::SEND_BATCH_MAX {
        return Err(Refusal::new(
            Code::BadRequest,
            format!(
                "{} messages in one call, limit {}; send them in several",
                messages.len(),
                limits::SEND_BATCH_MAX
            ),
        ));
    }
    let checked = Checked::all(messages, gate.clock().now())?;
    let broker = admitted.broker()?;
    let takes = first_use::topic(admitted, &name, checked.kind).await?;
    let first = Some(checked.kind).filter(|kind| *kind != takes.kind);
    if let Some(kind) = first.or(checked.other_kind) {
        return Err(conflict(&name, takes.kind, kind));
    }
    if let Some(job) = takes.written_by {
        return Err(BrokerError::WrittenBy {
            name: name.to_string(),
            job,
            advice: "send to a topic of its input",
        }
        .into());
    }
    let Checked { ids, envelopes, .. } = checked;
    // What waits is the exception: what its way takes of room is taken there, and not from every call.
    let entries = match takes.kind {
        TopicType::Delay => {
            let delayed = Box::pin(broker.send_delayed(&name, envelopes)).await?;
            entries(delayed, ids)
        }
        TopicType::Transaction => {
            let halves = envelopes.into_iter().zip(checked.check_after_ms).collect();
            let begun = Box::pin(broker.send_half(&name, halves)).await?;
            entries(begun, ids)
        }
        _ => entries(broker.send(&name, envelopes).await?, ids),
    };
    Ok(pb::SendMessageResponse {
        status: Some(code::summary(
            entries.iter().filter_map(|entry| entry.status.as_ref()),
        )),
        entries,
    })
}

/// The messages of a call, each checked against everything but its topic.
struct Checked {
    ids: Vec<String>,
    envelopes: Vec<Envelope>,
    /// The kind of the first one.
    kind: TopicType,
    /// The first kind that is another one.
    other_kind: Option<TopicType>,
    /// Of each message of a call that begins transactions, see [`transaction::check_after_ms`].
    check_after_ms: Vec<i64>,
}

impl Checked {
    fn all(messages: Vec<pb::Message>, now: Timestamp) -> Result<Self, Refusal> {
        let mut checked = Self {
            ids: Vec::with_capacity(messages.len()),
            envelopes: Vec::with_capacity(messages.len()),
            kind: TopicType::default(),
            other_kind: None,
            check_after_ms: Vec::new(),
        };
        for message in messages {
            let check_after_ms = transaction::check_after_ms(&message);
            let (envelope, kind) = check(message, now)?;
            if checked.envelopes.is_empty() {
                checked.kind = kind;
            } else if kind != checked.kind {
                checked.other_kind.get_or_insert(kind);
            }
            if kind == TopicType::Transaction {
                checked.check_after_ms.push(check_after_ms);
            }
            checked.ids.push(envelope.message_id.clone());
            checked.envelopes.push(envelope);
        }
        Ok(checked)
    }
}

/// How a message was stored.
enum Stored {
    Sent(Sent),
    Waits(RecallHandle),
    Half(TransactionId),
}

impl From<Sent> for Stored {
    fn from(sent: Sent) -> Self {
        Self::Sent(sent)
    }
}

impl From<TransactionId> for Stored {
    fn from(id: TransactionId) -> Self {
        Self::Half(id)
    }
}

impl From<Delayed> for Stored {
    fn from(delayed: Delayed) -> Self {
        match delayed {
            Delayed::Sent(sent) => Self::Sent(sent),
            Delayed::Waits(handle) => Self::Waits(handle),
        }
    }
}

fn entries<T: Into<Stored>>(
    stored: Vec<Result<T, BrokerError>>,
    ids: Vec<String>,
) -> Vec<pb::SendResultEntry> {
    let stored = stored.into_iter().zip(ids);
    stored
        .map(|(stored, id)| entry(stored.map(Into::into), id))
        .collect()
}

fn entry(stored: Result<Stored, BrokerError>, message_id: String) -> pb::SendResultEntry {
    let stored = match stored {
        Ok(stored) => stored,
        Err(error) => {
            return pb::SendResultEntry {
                status: Some(Refusal::from(error).into_status()),
                ..pb::SendResultEntry::default()
            };
        }
    };
    let mut entry = pb::SendResultEntry {
        status: Some(code::ok()),
        message_id,
        ..pb::SendResultEntry::default()
    };
    match stored {
        Stored::Sent(sent) => entry.offset = i64::try_from(sent.offset.0).unwrap_or(i64::MAX),
        Stored::Waits(handle) => entry.recall_handle = handle.to_text(),
        Stored::Half(id) => entry.transaction_id = id.to_text(),
    }
    entry
}

fn one_topic(messages: &[pb::Message]) -> Result<&str, Refusal> {
    let corrupted = |text: &str| Refusal::new(Code::MessageCorrupted, text);
    fn name(message: &pb::Message) -> Option<&str> {
        message.topic.as_ref().map(|topic| topic.name.as_str())
    }
    let first = messages
        .first()
        .ok_or_else(|| corrupted("no message; send at least one"))?;
    if messages.iter().any(|message| name(message) != name(first)) {
        return Err(corrupted(
            "messages of several topics in one call; send one topic per call",
        ));
    }
    Ok(name(first).unwrap_or_default())
}

/// Refuses a message of another kind than its topic takes, and names both ways out.
fn conflict(topic: &TopicName, takes: TopicType, found: TopicType) -> Refusal {
    let what = |kind| match kind {
        TopicType::Transaction => "a transaction",
        TopicType::Delay => "a delivery timestamp",
        TopicType::Fifo => "a message group",
        TopicType::Priority => "a priority",
        TopicType::Lite => "a lite topic",
        TopicType::Normal => "any of these properties",
    };
    let mend = match (takes, found) {
        (TopicType::Normal, found) => format!("send it without {}", what(found)),
        (takes, TopicType::Normal) => format!("give it {}", what(takes)),
        (takes, found) => format!("give it {} and not {}", what(takes), what(found)),
    };
    let (takes, found) = (takes.as_str(), found.as_str());
    Refusal::new(
        Code::MessagePropertyConflictWithType,
        format!(
            "topic {topic:?} takes {takes} messages, this one is a {found} message; {mend}, or \
             send it to a {found} topic, made with: millpond topic create NAME --type {found}",
            topic = topic.as_str(),
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_another_kind_is_told_where_to_go() {
        let topic = TopicName::new("orders").unwrap();
        for takes in TopicType::ALL {
            for found in TopicType::ALL.into_iter().filter(|found| *found != takes) {
                let refusal = conflict(&topic, takes, found);
                assert_eq!(refusal.code, Code::MessagePropertyConflictWithType);
                let command = format!("topic create NAME --type {}", found.as_str());
                assert!(refusal.message.contains(&command), "{refusal}");
                assert!(refusal.message.contains(takes.as_str()), "{refusal}");
            }
        }
    }

    #[test]
    fn one_call_is_one_topic() {
        let code = |messages: &[pb::Message]| one_topic(messages).unwrap_err().code;
        assert_eq!(code(&[]), Code::MessageCorrupted);
        let to = |name: Option<&str>| pb::Message {
            topic: name.map(|name| pb::Resource {
                name: name.to_owned(),
                ..pb::Resource::default()
            }),
            ..pb::Message::default()
        };
        let torn = [to(Some("flights")), to(None)];
        assert_eq!(code(&torn), Code::MessageCorrupted);
        let whole = [to(Some("flights")), to(Some("flights"))];
        assert_eq!(one_topic(&whole).unwrap(), "flights");
    }
}
