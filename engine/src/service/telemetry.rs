//! The telemetry stream: settings up, merged settings down, commands later.
//!
//! Headers leave before the first command is read (the Rust client waits for them). The first command
//! must be settings; each settings command is answered, and the first answer is sent once more a moment
//! later, because the Node client can miss one that comes too fast. The stream ends when the server stops,
//! or after that repetition when the client has closed its half: the Java client's shutdown waits for
//! the end without a limit. The settings stay, for calls that come after. Other commands of clients
//! answer commands that this server never sends; they are passed over.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, Stream, StreamExt as _};
use millpond_proto::name::TopicName;
use millpond_proto::time::Sleep;
use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::settings::PubSub;
use millpond_proto::wire::rocketmq::telemetry_command::Command;
use tokio::sync::mpsc;
use tonic::Status;

use crate::service::client::Clients;
use crate::service::code;
use crate::service::gate::Gate;
use crate::service::producers::Producers;
use crate::service::settings::{merge, policy_of};

/// How long after the first answer it is sent once more.
const REPEAT_AFTER: Duration = Duration::from_millis(400);

/// What the client gets to see.
pub type Commands = BoxStream<'static, Result<pb::TelemetryCommand, Status>>;

struct Telemetry<S> {
    gate: Arc<Gate>,
    clients: Arc<Clients>,
    client_id: String,
    /// `None` once the client has closed its half.
    inbound: Option<S>,
    greeted: bool,
    repeat: Option<(Sleep, pb::Settings)>,
    producers: Arc<Producers>,
    /// This stream's number among them.
    number: u64,
    /// What the server asks the client.
    commands: mpsc::Receiver<pb::TelemetryCommand>,
}

impl<S> Drop for Telemetry<S> {
    fn drop(&mut self) {
        self.producers.leave(self.number);
        self.clients.hung_up(&self.client_id);
    }
}

/// Answers the commands of one client for as long as it listens.
pub fn stream<S>(
    gate: Arc<Gate>,
    clients: Arc<Clients>,
    producers: Arc<Producers>,
    client_id: String,
    inbound: S,
) -> Commands
where
    S: Stream<Item = Result<pb::TelemetryCommand, Status>> + Send + Unpin + 'static,
{
    let (number, commands) = match producers.enter(&client_id) {
        Ok(entered) => entered,
        Err(refusal) => {
            let refused = Err(refusal.into_grpc());
            return futures::stream::once(std::future::ready(refused)).boxed();
        }
    };
    let telemetry = Telemetry {
        gate,
        clients,
        client_id,
        inbound: Some(inbound),
        greeted: false,
        repeat: None,
        producers,
        number,
        commands,
    };
    futures::stream::unfold(Some(telemetry), |telemetry| async move {
        let mut telemetry = telemetry?;
        match telemetry.next().await {
            Some(Ok(command)) => Some((Ok(command), Some(telemetry))),
            Some(Err(status)) => Some((Err(status), None)),
            None => None,
        }
    })
    .boxed()
}

impl<S> Telemetry<S>
where
    S: Stream<Item = Result<pb::TelemetryCommand, Status>> + Send + Unpin + 'static,
{
    async fn next(&mut self) -> Option<Result<pb::TelemetryCommand, Status>> {
        let gate = Arc::clone(&self.gate);
        let stopping = std::pin::pin!(gate.stopping());
        let mut stopping = stopping;
        loop {
            if self.inbound.is_none() && self.repeat.is_none() {
                return None;
            }
            let command = tokio::select! {
                biased;
                () = &mut stopping => return None,
                settings = repeat(&mut self.repeat) => return Some(Ok(answer(settings))),
                Some(command) = self.commands.recv() => return Some(Ok(command)),
                command = inbound(&mut self.inbound) => command,
            };
            match command {
                None => self.inbound = None,
                // The connection is gone.
                Some(Err(_)) => return None,
                Some(Ok(command)) => match self.take(command) {
                    Ok(None) => {}
                    Ok(Some(settings)) => return Some(Ok(answer(settings))),
                    Err(status) => return Some(Err(status)),
                },
            }
        }
    }

    fn take(&mut self, command: pb::TelemetryCommand) -> Result<Option<pb::Settings>, Status> {
        let Some(Command::Settings(settings)) = command.command else {
            if self.greeted {
                tracing::debug!(client = self.client_id, "passed over a telemetry command");
                return Ok(None);
            }
            let text = "the first telemetry command must be settings; send them first";
            return Err(Status::invalid_argument(text));
        };
        let broker = self.gate.opened().map(|open| open.broker.as_ref());
        let policy = |subscription: &pb::Subscription| policy_of(broker, subscription);
        let (merged, client) = merge(settings, policy).map_err(code::Refusal::into_grpc)?;
        let now = self.gate.clock().now();
        if let Some(PubSub::Publishing(publishing)) = &merged.pub_sub {
            let names = publishing.topics.iter().map(|topic| &topic.name);
            // There is no topic of another name to ask about.
            let names = names.filter(|name| TopicName::new(name.as_str()).is_ok());
            let published = self
                .producers
                .publishes(self.number, names.cloned().collect());
            published.map_err(code::Refusal::into_grpc)?;
        }
        self.clients
            .remember(&self.client_id, client, now)
            .map_err(code::Refusal::into_grpc)?;
        if !self.greeted {
            self.greeted = true;
            self.repeat = Some((self.gate.clock().sleep(REPEAT_AFTER), merged.clone()));
        } else if let Some((_, settings)) = &mut self.repeat {
            settings.clone_from(&merged);
        }
        Ok(Some(merged))
    }
}

fn answer(settings: pb::Settings) -> pb::TelemetryCommand {
    pb::TelemetryCommand {
        status: Some(code::ok()),
        command: Some(Command::Settings(settings)),
    }
}

async fn repeat(repeat: &mut Option<(Sleep, pb::Settings)>) -> pb::Settings {
    match repeat {
        None => std::future::pending().await,
        Some((sleep, _)) => {
            sleep.as_mut().await;
            let (_, settings) = repeat.take().expect("it was there before the sleep");
            settings
        }
    }
}

async fn inbound<S: Stream + Unpin>(inbound: &mut Option<S>) -> Option<S::Item> {
    match inbound {
        None => std::future::pending().await,
        Some(inbound) => inbound.next().await,
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use millpond_proto::limits;
    use millpond_proto::time::{SimulatedClock, Timestamp};
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;
    use crate::authorize::Policy;

    type Sender = mpsc::Sender<Result<pb::TelemetryCommand, Status>>;

    fn begin() -> (Arc<Gate>, Arc<Clients>, Sender, Commands) {
        let clock = Arc::new(SimulatedClock::starting_at(Timestamp(1_000)));
        let gate = Arc::new(Gate::new(Policy { insecure: false }, clock));
        let clients = Arc::new(Clients::default());
        let (sender, inbound) = mpsc::channel(8);
        let inbound = ReceiverStream::new(inbound);
        let id = "host@1".to_owned();
        let commands = stream(
            Arc::clone(&gate),
            Arc::clone(&clients),
            Arc::default(),
            id,
            inbound,
        );
        (gate, clients, sender, commands)
    }

    fn settings() -> pb::TelemetryCommand {
        pb::TelemetryCommand {
            status: None,
            command: Some(Command::Settings(pb::Settings {
                pub_sub: Some(PubSub::Publishing(pb::Publishing::default())),
                ..pb::Settings::default()
            })),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn settings_are_answered_and_once_repeated() {
        let (gate, clients, sender, mut commands) = begin();
        assert!(
            commands.next().now_or_never().is_none(),
            "nothing before settings"
        );
        sender.send(Ok(settings())).await.unwrap();
        let first = commands.next().await.unwrap().unwrap();
        assert_eq!(first.status.clone().unwrap().code, i32::from(pb::Code::Ok));
        assert_eq!(clients.count(), 1);
        let before = gate.clock().now();
        let second = commands.next().await.unwrap().unwrap();
        assert_eq!(first, second);
        assert_eq!(gate.clock().now().since(before), REPEAT_AFTER);
        assert!(
            commands.next().now_or_never().is_none(),
            "repeated once only"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_closed_stream_ends_after_its_last_settings_and_the_settings_stay() {
        let (gate, clients, sender, mut commands) = begin();
        sender.send(Ok(settings())).await.unwrap();
        drop(sender);
        assert!(commands.next().await.unwrap().is_ok());
        assert!(commands.next().await.unwrap().is_ok());
        assert!(commands.next().await.is_none());
        assert_eq!(clients.count(), 1);
        let late = Timestamp(gate.clock().now().as_ms() + limits::CLIENT_HUNG_UP_MS + 1);
        assert_eq!(clients.gone(late), ["host@1"], "it has hung up");
        clients.beat("host@1", late);
        assert!(clients.gone(late).is_empty(), "and was heard again");
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_stream_ends_when_the_server_stops() {
        let (gate, _clients, sender, mut commands) = begin();
        sender.send(Ok(settings())).await.unwrap();
        assert!(commands.next().await.unwrap().is_ok());
        assert!(commands.next().await.unwrap().is_ok());
        assert!(commands.next().now_or_never().is_none(), "still open");
        gate.stop();
        assert!(commands.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn another_first_command_ends_the_stream_with_the_reason() {
        let (_gate, _clients, sender, mut commands) = begin();
        sender
            .send(Ok(pb::TelemetryCommand::default()))
            .await
            .unwrap();
        let status = commands.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(commands.next().await.is_none());
    }
}
