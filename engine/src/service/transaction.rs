//! Transactions on the wire: their end, and the questions to producers about those that nobody ends.

use std::sync::Arc;
use std::time::Duration;

use millpond_proto::limits;
use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::Code;
use millpond_proto::wire::rocketmq::telemetry_command::Command;
use millpond_storage::format::envelope::Envelope;
use tonic::Request;

use crate::authorize::{Action, Resource};
use crate::broker::half::{Transaction, TransactionId};
use crate::broker::{Broker, BrokerError, Delivery, ReceiptHandle};
use crate::service::client::client_id;
use crate::service::code::{self, Refusal};
use crate::service::delivery::{self, Desk};
use crate::service::gate::Gate;
use crate::service::producers::Producers;
use crate::service::route::topic_name;
use crate::service::time::duration_ms;

/// How often the server looks for transactions to ask about.
const PAUSE: Duration = Duration::from_secs(1);

/// How long after a half message is stored its producer is asked first, in ms: its own wish, or the default.
#[must_use]
pub fn check_after_ms(message: &pb::Message) -> i64 {
    let system = message.system_properties.as_ref();
    let wish = system.and_then(|system| system.orphaned_transaction_recovery_duration.as_ref());
    wish.map(duration_ms)
        .filter(|ms| *ms > 0)
        .map_or(limits::TRANSACTION_CHECK_FIRST_MS, |ms| {
            ms.min(limits::TRANSACTION_CHECK_FIRST_MS_MAX)
        })
}

/// Ends a transaction; a resolution that says nothing leaves it to the questions.
///
/// # Errors
/// `INVALID_TRANSACTION_ID` when the id is of no transaction of this topic and message, `BAD_REQUEST` when
/// the transaction has ended the other way.
pub async fn end_transaction(
    gate: &Gate,
    request: Request<pb::EndTransactionRequest>,
) -> Result<pb::EndTransactionResponse, Refusal> {
    client_id(request.metadata())?;
    let topic = topic_name(request.get_ref().topic.as_ref())?;
    let resource = Resource::Topic(topic.as_str());
    let admitted = gate.admit(request.extensions(), Action::Publish, resource)?;
    let broker = admitted.broker()?;
    let request = request.get_ref();
    if request.transaction_id.trim().is_empty() {
        return Err(Refusal::new(
            Code::InvalidTransactionId,
            "no transaction id; send the one that the half message was answered with",
        ));
    }
    let id = TransactionId::from_text(&request.transaction_id)?;
    let message_id = Some(request.message_id.as_str()).filter(|id| !id.is_empty());
    let commit = match request.resolution() {
        pb::TransactionResolution::Commit => Some(true),
        pb::TransactionResolution::Rollback => Some(false),
        pb::TransactionResolution::Unspecified => None,
    };
    if let Some(commit) = commit {
        broker
            .end_transaction(&topic, id, message_id, commit)
            .await?;
    }
    Ok(pb::EndTransactionResponse {
        status: Some(code::ok()),
    })
}

/// Asks producers about open transactions until the server stops.
pub async fn checks(gate: Arc<Gate>, producers: Arc<Producers>, desk: Arc<Desk>) {
    let stopping = std::pin::pin!(gate.stopping());
    let checking = std::pin::pin!(async {
        loop {
            gate.clock().sleep(PAUSE).await;
            let Some(open) = gate.opened() else { continue };
            if let Err(error) = turn(&open.broker, &producers, &desk).await {
                tracing::debug!(%error, "transactions are asked about a little later");
            }
        }
    });
    futures::future::select(stopping, checking).await;
}

async fn turn(broker: &Broker, producers: &Producers, desk: &Desk) -> Result<(), BrokerError> {
    let (mut asked, mut alone) = (Vec::new(), Vec::new());
    for transaction in broker.transactions_to_check().await? {
        let id = transaction.id;
        let topic = transaction.topic.clone();
        let is_asked =
            question(transaction, desk).is_some_and(|question| producers.ask(&topic, question));
        if is_asked {
            asked.push(id);
        } else {
            alone.push(id);
        }
    }
    broker.transactions_checked(&asked, true).await?;
    broker.transactions_checked(&alone, false).await
}

/// The command that asks about a transaction, with the message in full.
fn question(transaction: Transaction, desk: &Desk) -> Option<pb::TelemetryCommand> {
    let envelope = transaction.message?;
    let handle = ReceiptHandle {
        topic: envelope.topic,
        queue: envelope.queue,
        ..ReceiptHandle::default()
    };
    // It lies at no offset of the topic yet: a digest must not be remembered for whatever will.
    let envelope = Envelope {
        topic: 0,
        ..envelope
    };
    let delivery = Delivery {
        envelope,
        handle,
        attempt: 1,
    };
    let topic = pb::Resource {
        name: transaction.topic,
        ..pb::Resource::default()
    };
    let command = pb::RecoverOrphanedTransactionCommand {
        message: Some(delivery::message(delivery, Some(topic), desk)),
        transaction_id: transaction.id.to_text(),
    };
    Some(pb::TelemetryCommand {
        status: Some(code::ok()),
        command: Some(Command::RecoverOrphanedTransactionCommand(command)),
    })
}
