//! One connection, frame by frame: how liberal it is, and where it ends.

use super::*;

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
/// Number of the setting that bounds the calls at once.
const STREAMS_MAX: u16 = 3;

/// An HTTP/2 connection without a library in between.
struct Raw<C>(C);

impl<C: AsyncRead + AsyncWrite + Unpin> Raw<C> {
    async fn write(&mut self, kind: u8, flags: u8, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 0];
        self.0.write_all(&head).await.unwrap();
        self.0.write_all(payload).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// Kind, flags and payload of the next frame.
    async fn read(&mut self) -> (u8, u8, Vec<u8>) {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await.unwrap();
        (head[3], head[4], payload)
    }
}

#[tokio::test]
async fn pings_without_calls_are_answered_however_often_they_come() {
    let network = MemoryNetwork::default();
    let listening = listen(&network).await;
    let peer = "127.0.0.1:5000".parse().unwrap();
    let mut raw = Raw(network.connect(listening.grpc_addr, peer).unwrap());
    raw.0
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    raw.write(SETTINGS, 0, &[]).await;
    let (kind, _, settings) = raw.read().await;
    assert_eq!(kind, SETTINGS);
    raw.write(SETTINGS, ACK, &[]).await;
    let mut streams = None;
    for setting in settings.chunks_exact(6) {
        let number = u16::from_be_bytes([setting[0], setting[1]]);
        let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
        if number == STREAMS_MAX {
            streams = Some(value);
        }
    }
    assert_eq!(streams, Some(limits::STREAMS_PER_CONNECTION));
    // C++ pings each minute and Java each five, with no call open; gRPC's own rule would end them.
    for n in 0..200_u64 {
        raw.write(PING, 0, &n.to_be_bytes()).await;
        loop {
            let (kind, flags, payload) = raw.read().await;
            assert_ne!(kind, GOAWAY, "after {n} pings");
            if kind == PING && flags == ACK {
                assert_eq!(payload, n.to_be_bytes());
                break;
            }
        }
    }
    listening.end().await;
}
