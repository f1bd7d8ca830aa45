//! Administration of messages that are not visible yet: between the wire's words and the broker's.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millpond_proto::name::TopicName;
use millpond_proto::time::Timestamp;
use millpond_proto::wire::admin as pb;
use millpond_storage::format::envelope::Envelope;
use prost::Message;
use tonic::Status;

use crate::broker::Broker;
use crate::broker::delay::RecallHandle;
use crate::broker::half::TransactionId;
use crate::service::code::grpc;
use crate::service::names::topic_name;
use crate::service::time::to_wire;

/// Entries in an answer to a request that does not say.
const ENTRIES_DEFAULT: u32 = 32;

fn only(topic: &str) -> Result<Option<TopicName>, Status> {
    let named = Some(topic).filter(|topic| !topic.is_empty());
    named.map(topic_name).transpose()
}

fn limit(asked: u32) -> usize {
    let limit = if asked == 0 { ENTRIES_DEFAULT } else { asked };
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Where a list goes on, as its last answer said.
fn place<P: Message + Default>(from: &str) -> Result<P, Status> {
    let bytes = URL_SAFE_NO_PAD.decode(from).ok();
    let place = bytes.and_then(|bytes| P::decode(bytes.as_slice()).ok());
    place.ok_or_else(|| {
        Status::invalid_argument("\"from\" is not what an answer said; leave it empty to begin")
    })
}

fn place_text(place: &impl Message) -> String {
    URL_SAFE_NO_PAD.encode(place.encode_to_vec())
}

fn body_bytes(message: &Envelope) -> u64 {
    message.body.as_ref().map_or(0, bytes::Bytes::len) as u64
}

/// Messages that wait for their time.
pub(super) async fn delayed(
    broker: &Broker,
    request: &pb::ListDelayedRequest,
) -> Result<pb::ListDelayedResponse, Status> {
    let topic = only(&request.topic)?;
    let from = place(&request.from)?;
    let found = broker.delayed(topic.as_ref(), from, limit(request.limit));
    let (waiting, next) = found.await.map_err(|error| grpc(&error))?;
    let topics = broker.topics();
    let name = |id: u64| {
        let topic = topics.iter().find(|topic| topic.id.0 == id);
        topic.map_or_else(|| id.to_string(), |topic| topic.name.to_string())
    };
    let messages = waiting.into_iter().map(|one| pb::DelayedMessage {
        topic: name(one.handle.topic),
        queue: one.handle.queue,
        due: one.message.due_at_ms.map(|ms| to_wire(Timestamp(ms))),
        recall_handle: one.handle.to_text(),
        body_bytes: body_bytes(&one.message),
        message_id: one.message.message_id,
    });
    Ok(pb::ListDelayedResponse {
        messages: messages.collect(),
        next: next.map_or_else(String::new, |next| place_text(&next)),
    })
}

/// Takes a message back before its time.
pub(super) async fn cancel(
    broker: &Broker,
    request: &pb::CancelDelayedRequest,
) -> Result<pb::CancelDelayedResponse, Status> {
    let topic = topic_name(&request.topic)?;
    let handle = RecallHandle::from_text(&request.recall_handle).map_err(|error| grpc(&error))?;
    let recalled = broker.recall(&topic, handle).await;
    let message_id = recalled.map_err(|error| grpc(&error))?;
    Ok(pb::CancelDelayedResponse { message_id })
}

/// Open transactions, and those that the server rolled back.
pub(super) async fn transactions(
    broker: &Broker,
    request: &pb::ListTransactionsRequest,
) -> Result<pb::ListTransactionsResponse, Status> {
    let topic = only(&request.topic)?;
    let after = Some(request.from.as_str()).filter(|from| !from.is_empty());
    let after = after.map(place).transpose()?;
    let found = broker.transactions(topic.as_ref(), after, limit(request.limit));
    let (found, next) = found.await.map_err(|error| grpc(&error))?;
    let transactions = found.into_iter().map(|one| pb::Transaction {
        topic: one.topic,
        transaction_id: one.id.to_text(),
        stored_at: Some(to_wire(one.stored_at)),
        checks: one.checks,
        next_check: one.next_check.map(to_wire),
        body_bytes: one.message.as_ref().map_or(0, body_bytes),
        message_id: one
            .message
            .map_or_else(String::new, |message| message.message_id),
    });
    Ok(pb::ListTransactionsResponse {
        transactions: transactions.collect(),
        next: next.map_or_else(String::new, |next| place_text(&next)),
    })
}

/// Ends a transaction.
pub(super) async fn end(
    broker: &Broker,
    request: &pb::EndTransactionRequest,
) -> Result<pb::EndTransactionResponse, Status> {
    let topic = topic_name(&request.topic)?;
    let id = TransactionId::from_text(&request.transaction_id).map_err(|error| grpc(&error))?;
    let ended = broker.end_transaction(&topic, id, None, request.commit);
    ended.await.map_err(|error| grpc(&error))?;
    Ok(pb::EndTransactionResponse {})
}
