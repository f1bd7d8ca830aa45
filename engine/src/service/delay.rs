//! Recalling delayed messages.

use millpond_proto::wire::rocketmq as pb;
use tonic::Request;

use crate::authorize::{Action, Resource};
use crate::broker::delay::RecallHandle;
use crate::service::client::client_id;
use crate::service::code::{self, Refusal};
use crate::service::gate::Gate;
use crate::service::route::topic_name;

/// Takes back a message before its time, and answers its id.
///
/// # Errors
/// `INVALID_RECEIPT_HANDLE` when the handle is of no message of that topic that waits, `BAD_REQUEST` when the
/// message was delivered.
pub async fn recall_message(
    gate: &Gate,
    request: Request<pb::RecallMessageRequest>,
) -> Result<pb::RecallMessageResponse, Refusal> {
    client_id(request.metadata())?;
    let topic = topic_name(request.get_ref().topic.as_ref())?;
    let resource = Resource::Topic(topic.as_str());
    let admitted = gate.admit(request.extensions(), Action::Publish, resource)?;
    let broker = admitted.broker()?;
    let handle = RecallHandle::from_text(&request.get_ref().recall_handle)?;
    let message_id = broker.recall(&topic, handle).await?;
    Ok(pb::RecallMessageResponse {
        status: Some(code::ok()),
        message_id,
    })
}
