//! A bare tonic service that answers with the bytes it got: what a call costs before a broker does anything.
//!
//! It runs in a process of its own, which is this bench once more with another word, so that its CPU time is
//! told apart from its callers' as the server's is.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{Body, BoxFuture, Context, Poll, Service, StdError, http};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::measure::{cpu_of, say};

/// Tells this bench to be the echo.
pub(crate) const WORD: &str = "be-the-echo";

const PATH: PathAndQuery = PathAndQuery::from_static("/millpond.bench.Echo/Echo");

/// The running service.
pub(crate) struct Echo {
    child: Child,
    address: SocketAddr,
}

impl Echo {
    /// Starts it and waits until it says where it listens.
    pub(crate) fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(WORD)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        let address = line.trim().parse().unwrap();
        Self { child, address }
    }

    /// CPU time that it has used.
    pub(crate) fn cpu(&self) -> Duration {
        cpu_of(self.child.id())
    }

    /// A connection to it.
    pub(crate) async fn connect(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.unwrap()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has bytes sent back.
pub(crate) async fn call(channel: &Channel, bytes: Bytes) {
    let size = bytes.len();
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let codec = ProstCodec::<Bytes, Bytes>::default();
    let answer = client.unary(Request::new(bytes), PATH, codec).await;
    assert_eq!(answer.unwrap().into_inner().len(), size);
}

/// Serves until it is killed.
pub(crate) async fn serve() {
    let free = "127.0.0.1:0".parse().unwrap();
    let incoming = TcpIncoming::bind(free).unwrap().with_nodelay(Some(true));
    say(&incoming.local_addr().unwrap().to_string());
    let server = tonic::transport::Server::builder().add_service(Answering);
    server.serve_with_incoming(incoming).await.unwrap();
}

#[derive(Clone, Copy)]
struct Answering;

impl NamedService for Answering {
    const NAME: &'static str = "millpond.bench.Echo";
}

impl UnaryService<Bytes> for Answering {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

impl<B> Service<http::Request<B>> for Answering
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = *self;
        Box::pin(async move {
            let codec = ProstCodec::<Bytes, Bytes>::default();
            Ok(tonic::server::Grpc::new(codec)
                .unary(service, request)
                .await)
        })
    }
}
