//! The listening half on real and in-memory connections; the broker behind it stays shut.

use std::sync::Arc;

use millpond_proto::task::Runtimes;
use millpond_proto::time::SystemClock;
use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::messaging_service_client::MessagingServiceClient;
use millpond_proto::wire::rocketmq::settings::PubSub;
use millpond_proto::wire::rocketmq::telemetry_command::Command;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tonic::Request;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus as Health;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};

use super::*;
use crate::net::{MemoryNetwork, TcpNetwork};

mod bounds;
mod connection;
mod consumers;
mod contract;
mod first_use;
mod lite;
mod metrics;
mod producers;
mod quirks;
mod sending;

async fn listen(network: &dyn Network) -> Listening {
    let any = "127.0.0.1:0".parse().unwrap();
    let config = Config {
        grpc: any,
        http: any,
        ..Config::default()
    };
    let config = config.check().unwrap();
    let bound = bind(&config, network).await.unwrap();
    let spawn = Arc::new(Runtimes::single());
    Listening::begin(&config, bound, Arc::new(SystemClock), spawn, Arc::default())
        .await
        .unwrap()
}

async fn channel(listening: &Listening) -> Channel {
    let address = format!("http://{}", listening.grpc_addr);
    Channel::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap()
}

fn from_client<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("x-mq-client-id", "here@1".parse().unwrap());
    request
}

fn code(status: Option<pb::Status>) -> pb::Code {
    pb::Code::try_from(status.expect("every answer has a status").code).unwrap()
}

/// Accepts any certificate, as the official clients do.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Begins HTTP/2 and waits for the server's settings frame.
async fn greet(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    io.write_all(&empty_settings).await.unwrap();
    io.flush().await.unwrap();
    let mut frame = [0; 9];
    io.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[3], 4, "the first frame is SETTINGS");
}

#[tokio::test]
async fn tls_and_plaintext_share_the_port() {
    let network = MemoryNetwork::default();
    let listening = listen(&network).await;
    let peer = "127.0.0.1:5000".parse().unwrap();

    greet(network.connect(listening.grpc_addr, peer).unwrap()).await;

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let io = network.connect(listening.grpc_addr, peer).unwrap();
    let name = ServerName::try_from("millpond.example").unwrap();
    let io = connector.connect(name, io).await.unwrap();
    assert_eq!(io.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    greet(io).await;
    listening.end().await;
}

#[tokio::test]
async fn health_says_not_serving_until_the_gate_opens() {
    let listening = listen(&TcpNetwork).await;
    let mut client = HealthClient::new(channel(&listening).await);
    for service in [
        "",
        "apache.rocketmq.v2.MessagingService",
        "millpond.v1.Admin",
    ] {
        let request = tonic_health::pb::HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = client.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), Health::NotServing, "{service}");
    }
    drop(client);
    listening.end().await;
}

#[tokio::test]
async fn reflection_lists_every_service() {
    let listening = listen(&TcpNetwork).await;
    let mut client = ServerReflectionClient::new(channel(&listening).await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = futures::stream::iter([request]);
    let mut answers = client
        .server_reflection_info(requests)
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else {
        panic!("a list");
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|ServiceResponse { name }| name)
        .collect();
    for name in [
        "apache.rocketmq.v2.MessagingService",
        "millpond.v1.Admin",
        "grpc.health.v1.Health",
    ] {
        assert!(
            names.iter().any(|listed| listed == name),
            "{name} in {names:?}"
        );
    }
    drop((client, answers));
    listening.end().await;
}

#[tokio::test]
async fn calls_are_answered_with_a_status_inside() {
    let listening = listen(&TcpNetwork).await;
    let mut client = MessagingServiceClient::new(channel(&listening).await);

    let beat = client
        .heartbeat(pb::HeartbeatRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(code(beat.status), pb::Code::ClientIdRequired);
    let beat = client
        .heartbeat(from_client(pb::HeartbeatRequest::default()))
        .await
        .unwrap();
    assert_eq!(code(beat.into_inner().status), pb::Code::Ok);

    let end = from_client(pb::EndTransactionRequest::default());
    let end = client.end_transaction(end).await.unwrap().into_inner();
    assert_eq!(code(end.status), pb::Code::IllegalTopic);

    let pull = from_client(pb::PullMessageRequest::default());
    let mut frames = client.pull_message(pull).await.unwrap().into_inner();
    let frame = frames.message().await.unwrap().unwrap().content.unwrap();
    let pb::pull_message_response::Content::Status(status) = frame else {
        panic!("a status");
    };
    assert_eq!(code(Some(status)), pb::Code::IllegalTopic);
    assert!(frames.message().await.unwrap().is_none());

    // The data folder is not open, so what needs it is told to wait.
    let route = from_client(pb::QueryRouteRequest {
        topic: Some(pb::Resource {
            name: "flights".to_owned(),
            ..pb::Resource::default()
        }),
        endpoints: Some(pb::Endpoints {
            scheme: pb::AddressScheme::IPv4.into(),
            addresses: vec![pb::Address {
                host: "127.0.0.1".to_owned(),
                port: 8081,
            }],
        }),
    });
    let route = client.query_route(route).await.unwrap().into_inner();
    assert_eq!(code(route.status), pb::Code::TooManyRequests);
    drop((client, frames));
    listening.end().await;
}

#[tokio::test]
async fn a_refused_poll_is_a_status_and_a_delivery_timestamp() {
    let listening = listen(&TcpNetwork).await;
    let mut client = MessagingServiceClient::new(channel(&listening).await);
    let poll = from_client(pb::ReceiveMessageRequest::default());
    let mut frames = client.receive_message(poll).await.unwrap().into_inner();
    let mut contents = Vec::new();
    while let Some(frame) = frames.message().await.unwrap() {
        contents.push(frame.content.unwrap());
    }
    use pb::receive_message_response::Content;
    let [Content::Status(status), Content::DeliveryTimestamp(_)] = contents.as_slice() else {
        panic!("{contents:?}");
    };
    assert_eq!(code(Some(status.clone())), pb::Code::IllegalTopic);
    drop((client, frames));
    listening.end().await;
}

#[tokio::test]
async fn telemetry_with_an_endless_deadline_lives_until_the_server_stops() {
    let listening = listen(&TcpNetwork).await;
    let mut client = MessagingServiceClient::new(channel(&listening).await);
    let settings = pb::TelemetryCommand {
        status: None,
        command: Some(Command::Settings(pb::Settings {
            pub_sub: Some(PubSub::Publishing(pb::Publishing::default())),
            ..pb::Settings::default()
        })),
    };
    let mut request = from_client(futures::stream::iter([settings]));
    request
        .metadata_mut()
        .insert("grpc-timeout", "99999999H".parse().unwrap());
    let mut commands = client.telemetry(request).await.unwrap().into_inner();
    let first = commands.message().await.unwrap().unwrap();
    assert_eq!(code(first.status), pb::Code::Ok);
    drop(client);
    let rest = async {
        let mut count = 0;
        while commands.message().await.unwrap().is_some() {
            count += 1;
        }
        count
    };
    let (count, ()) = tokio::join!(rest, listening.end());
    assert!(count <= 1, "the first answer is repeated at most once");
}

async fn page(network: &MemoryNetwork, address: SocketAddr, peer: &str, path: &str) -> String {
    let mut io = network.connect(address, peer.parse().unwrap()).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn health_pages_tell_alive_from_ready() {
    let network = MemoryNetwork::default();
    let listening = listen(&network).await;
    let http = listening.http_addr;
    let live = page(&network, http, "127.0.0.1:9", "/livez").await;
    assert!(live.starts_with("HTTP/1.1 200"), "{live}");
    let ready = page(&network, http, "127.0.0.1:9", "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.contains("opening its data folder"), "{ready}");
    let home = page(&network, http, "127.0.0.1:9", "/").await;
    assert!(home.contains("\"state\":\"starting\""), "{home}");
    let stranger = page(&network, http, "10.0.0.9:9", "/").await;
    assert!(stranger.starts_with("HTTP/1.1 403"), "{stranger}");
    listening.end().await;
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_flag() {
    let network = MemoryNetwork::default();
    let address = "127.0.0.1:8081".parse().unwrap();
    let _taken = bind_one(&network, address, "--grpc").await.unwrap();
    let error = bind_one(&network, address, "--grpc").await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("127.0.0.1:8081") && text.contains("--grpc"),
        "{text}"
    );
    assert_eq!(error.remedy(), Remedy::FixRequest);
}
