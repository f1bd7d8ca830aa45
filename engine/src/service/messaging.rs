//! The messaging service of RocketMQ 5: what the official clients call.
//!
//! Each call is a function in a file of its own; here they are put on the wire. A refusal is an answer
//! with a status inside, never a gRPC error; only the telemetry stream has no place for one.

use std::future::Future;
use std::sync::Arc;

use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::messaging_service_server::MessagingService;
use tonic::{Request, Response, Status, Streaming};

use crate::authorize::{Action, Resource};
use crate::service::burden::Burden;
use crate::service::client::{Clients, client_id};
use crate::service::code::{self, Refusal};
use crate::service::delivery::Desk;
use crate::service::digest::Digests;
use crate::service::gate::Gate;
use crate::service::parting::Parting;
use crate::service::producers::Producers;
use crate::service::subscription::Subscriptions;
use crate::service::{ack, delay, lite, pull, receive, renew, route, send, telemetry, transaction};

/// The service over one gate.
#[derive(Clone, Debug)]
pub struct Messaging {
    gate: Arc<Gate>,
    clients: Arc<Clients>,
    subscriptions: Arc<Subscriptions>,
    producers: Arc<Producers>,
    burden: Arc<Burden>,
    desk: Arc<Desk>,
}

impl Messaging {
    /// The service; `store_host` is where it listens, as delivered messages tell.
    #[must_use]
    pub fn new(gate: Arc<Gate>, store_host: &str) -> Self {
        Self {
            gate,
            clients: Arc::default(),
            subscriptions: Arc::default(),
            producers: Arc::default(),
            burden: Arc::default(),
            desk: Arc::new(Desk {
                store_host: store_host.to_owned(),
                digests: Digests::default(),
            }),
        }
    }

    /// What its producers have on their way, for tests that fill it.
    #[cfg(test)]
    pub(crate) fn burden(&self) -> &Burden {
        &self.burden
    }

    /// Renews the leases of its clients, and parts with those that are gone, until the server stops.
    pub fn renewal(&self) -> impl Future<Output = ()> + Send + use<> {
        renew::renewal(self.parting())
    }

    /// Asks producers about open transactions until the server stops.
    pub fn checks(&self) -> impl Future<Output = ()> + Send + use<> {
        let (gate, producers) = (Arc::clone(&self.gate), Arc::clone(&self.producers));
        transaction::checks(gate, producers, Arc::clone(&self.desk))
    }

    fn parting(&self) -> Parting {
        Parting {
            gate: Arc::clone(&self.gate),
            clients: Arc::clone(&self.clients),
            subscriptions: Arc::clone(&self.subscriptions),
        }
    }

    /// Checks a call that is about the client itself.
    fn client<T>(&self, request: &Request<T>) -> Result<String, Refusal> {
        let id = client_id(request.metadata())?;
        let _admitted =
            self.gate
                .admit(request.extensions(), Action::Describe, Resource::Server)?;
        Ok(id.to_owned())
    }
}

/// An answer that can say no.
trait Answer {
    fn refused(status: pb::Status) -> Self;
}

macro_rules! answers {
    ($($answer:ident),* $(,)?) => {$(
        impl Answer for pb::$answer {
            fn refused(status: pb::Status) -> Self {
                Self {
                    status: Some(status),
                    ..Self::default()
                }
            }
        }
    )*};
}

// A struct update that updates nothing is what one macro for all of them costs.
#[expect(clippy::needless_update, reason = "some answers have a status alone")]
mod answers {
    use super::{Answer, pb};

    answers!(
        QueryRouteResponse,
        HeartbeatResponse,
        SendMessageResponse,
        QueryAssignmentResponse,
        AckMessageResponse,
        ForwardMessageToDeadLetterQueueResponse,
        UpdateOffsetResponse,
        GetOffsetResponse,
        QueryOffsetResponse,
        EndTransactionResponse,
        NotifyClientTerminationResponse,
        ChangeInvisibleDurationResponse,
        RecallMessageResponse,
        SyncLiteSubscriptionResponse,
    );
}

type Answered<T> = Result<Response<T>, Status>;

fn answer<T: Answer>(result: Result<T, Refusal>) -> Answered<T> {
    Ok(Response::new(result.unwrap_or_else(|refusal| {
        tracing::debug!(
            code = refusal.code.as_str_name(),
            message = refusal.message,
            "refused"
        );
        T::refused(refusal.into_status())
    })))
}

#[tonic::async_trait]
impl MessagingService for Messaging {
    type ReceiveMessageStream = receive::Frames;
    type PullMessageStream = pull::Frames;
    type TelemetryStream = telemetry::Commands;

    async fn query_route(
        &self,
        request: Request<pb::QueryRouteRequest>,
    ) -> Answered<pb::QueryRouteResponse> {
        answer(route::query_route(&self.gate, request).await)
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Answered<pb::HeartbeatResponse> {
        answer(self.client(&request).map(|id| {
            // A beat before the settings is welcome too: no client needs the error.
            self.clients.beat(&id, self.gate.clock().now());
            pb::HeartbeatResponse {
                status: Some(code::ok()),
            }
        }))
    }

    async fn send_message(
        &self,
        request: Request<pb::SendMessageRequest>,
    ) -> Answered<pb::SendMessageResponse> {
        match self.burden.take(&request.get_ref().messages) {
            Ok(_held) => answer(send::send_message(&self.gate, request).await),
            Err(refusal) => answer(Err(refusal)),
        }
    }

    async fn query_assignment(
        &self,
        request: Request<pb::QueryAssignmentRequest>,
    ) -> Answered<pb::QueryAssignmentResponse> {
        answer(route::query_assignment(&self.gate, request).await)
    }

    async fn receive_message(
        &self,
        request: Request<pb::ReceiveMessageRequest>,
    ) -> Answered<Self::ReceiveMessageStream> {
        let desk = Arc::clone(&self.desk);
        let frames = receive::receive_message(
            &self.gate,
            &self.clients,
            &self.subscriptions,
            desk,
            request,
        );
        Ok(Response::new(frames.await))
    }

    async fn ack_message(
        &self,
        request: Request<pb::AckMessageRequest>,
    ) -> Answered<pb::AckMessageResponse> {
        answer(ack::ack_message(&self.gate, request).await)
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        request: Request<pb::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Answered<pb::ForwardMessageToDeadLetterQueueResponse> {
        answer(ack::forward_to_dead_letters(&self.gate, request).await)
    }

    async fn pull_message(
        &self,
        request: Request<pb::PullMessageRequest>,
    ) -> Answered<Self::PullMessageStream> {
        let desk = Arc::clone(&self.desk);
        let frames = pull::pull_message(&self.gate, &self.clients, desk, request);
        Ok(Response::new(frames))
    }

    async fn update_offset(
        &self,
        request: Request<pb::UpdateOffsetRequest>,
    ) -> Answered<pb::UpdateOffsetResponse> {
        answer(pull::update_offset(&self.gate, request).await)
    }

    async fn get_offset(
        &self,
        request: Request<pb::GetOffsetRequest>,
    ) -> Answered<pb::GetOffsetResponse> {
        answer(pull::get_offset(&self.gate, request).await)
    }

    async fn query_offset(
        &self,
        request: Request<pb::QueryOffsetRequest>,
    ) -> Answered<pb::QueryOffsetResponse> {
        answer(pull::query_offset(&self.gate, request).await)
    }

    async fn end_transaction(
        &self,
        request: Request<pb::EndTransactionRequest>,
    ) -> Answered<pb::EndTransactionResponse> {
        answer(transaction::end_transaction(&self.gate, request).await)
    }

    async fn telemetry(
        &self,
        request: Request<Streaming<pb::TelemetryCommand>>,
    ) -> Answered<Self::TelemetryStream> {
        let id = self.client(&request).map_err(Refusal::into_grpc)?;
        let (gate, clients) = (Arc::clone(&self.gate), Arc::clone(&self.clients));
        let producers = Arc::clone(&self.producers);
        let commands = telemetry::stream(gate, clients, producers, id, request.into_inner());
        Ok(Response::new(commands))
    }

    async fn notify_client_termination(
        &self,
        request: Request<pb::NotifyClientTerminationRequest>,
    ) -> Answered<pb::NotifyClientTerminationResponse> {
        let id = match self.client(&request) {
            Ok(id) => id,
            Err(refusal) => return answer(Err(refusal)),
        };
        self.parting().part(&id).await;
        answer(Ok(pb::NotifyClientTerminationResponse {
            status: Some(code::ok()),
        }))
    }

    async fn change_invisible_duration(
        &self,
        request: Request<pb::ChangeInvisibleDurationRequest>,
    ) -> Answered<pb::ChangeInvisibleDurationResponse> {
        answer(ack::change_invisible_duration(&self.gate, &self.clients, request).await)
    }

    async fn recall_message(
        &self,
        request: Request<pb::RecallMessageRequest>,
    ) -> Answered<pb::RecallMessageResponse> {
        answer(delay::recall_message(&self.gate, request).await)
    }

    async fn sync_lite_subscription(
        &self,
        request: Request<pb::SyncLiteSubscriptionRequest>,
    ) -> Answered<pb::SyncLiteSubscriptionResponse> {
        answer(
            lite::sync_lite_subscription(&self.gate, &self.clients, &self.producers, request).await,
        )
    }
}
