//! Servers that fall silent, for tests: they take a call and at most begin an answer, in HTTP/2 written by hand.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{Either, select};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::chance::Seeded;
use crate::client::connection::Client;
use crate::time::{Clock, Sleep, Timestamp};

/// What a server says of itself, and that it heard what the client said.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0";
/// The head of an answer to the first call: 200, `application/grpc`.
const HEAD: &[u8] = b"\0\0\x14\x01\x04\0\0\0\x01\x88\x0f\x10\x10application/grpc";

/// A clock whose every sleep ends once the server is silent, and that remembers how long they were to be.
#[derive(Debug, Default)]
pub(super) struct Silence {
    fallen: Arc<Notify>,
    pub(super) asked: Mutex<Vec<Duration>>,
}

impl Clock for Silence {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        self.asked.lock().unwrap().push(duration);
        let fallen = Arc::clone(&self.fallen);
        Box::pin(async move { fallen.notified().await })
    }
}

/// What a call answers to a client whose server falls silent when it has heard it, behind the head of its answer or before it.
pub(super) async fn call<T>(
    sends_head: bool,
    call: impl AsyncFnOnce(Client) -> T,
) -> (T, Arc<Silence>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let silence = Arc::new(Silence::default());
    let fallen = Arc::clone(&silence.fallen);
    let serving = async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(SETTINGS).await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        loop {
            let mut frame = [0; 9];
            stream.read_exact(&mut frame).await.unwrap();
            let [high, middle, low, kind, ..] = frame;
            let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
            stream.read_exact(&mut payload).await.unwrap();
            if kind == 1 {
                break;
            }
        }
        if sends_head {
            stream.write_all(HEAD).await.unwrap();
        }
        fallen.notify_one();
        std::future::pending::<()>().await;
    };
    let chance = Arc::new(Seeded::new(1));
    let client = Client::connect_with(&address, Arc::clone(&silence) as Arc<dyn Clock>, chance);
    match select(pin!(call(client.unwrap())), pin!(serving)).await {
        Either::Left((answer, _)) => (answer, silence),
        Either::Right(((), _)) => unreachable!("a silent server does not end"),
    }
}
