//! What the server as a whole takes at once, at the wire: one that has its hands full says so to whoever comes.

use super::consumers::{by, message, poll, receive, world};
use super::*;

#[tokio::test]
async fn a_server_with_its_hands_full_tells_every_producer_to_come_again_and_serves_consumers() {
    let mut world = world().await;
    world.make("orders").await;
    world.send(message("orders", "before", None)).await;
    // Another door to the same broker, so that its room can be taken here as slow sends of others take it.
    let gate = Arc::clone(&world.server.listening.gate);
    let messaging = Messaging::new(Arc::clone(&gate), "here");
    let spawn: Arc<dyn Spawn> = Arc::new(Runtimes::single());
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = TcpNetwork.bind(any).await.unwrap();
    let address = listener.address();
    let front = grpc_front(&gate, Arc::clone(&spawn), messaging.clone()).await;
    let door = Door::http2(listener, None, Arc::new(SystemClock), Cut::default());
    let never = futures::future::pending().boxed().shared();
    let _served = spawn.spawn(Lane::Service, serve_grpc(front.unwrap().1, door, never));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    let mut client = MessagingServiceClient::new(channel.connect().await.unwrap());
    let send = async |mut client: MessagingServiceClient<Channel>, who: &str| {
        let messages = vec![message("orders", who, None)];
        let answer = client.send_message(by(who, pb::SendMessageRequest { messages }));
        answer.await.unwrap().into_inner().status.unwrap()
    };

    let others = pb::Message {
        body: vec![0; limits::SENDING_BYTES_MAX].into(),
        ..pb::Message::default()
    };
    let held = messaging.burden().take(&[others]).unwrap();
    for who in ["anna", "bert"] {
        let status = send(client.clone(), who).await;
        assert_eq!(status.code, i32::from(pb::Code::TooManyRequests));
        let limit = limits::SENDING_BYTES_MAX.to_string();
        for said in [
            "on their way to the log",
            &limit,
            "send again a little later",
        ] {
            assert!(status.message.contains(said), "{}", status.message);
        }
    }
    let (_, got) = receive(&mut client, "c", poll("orders", "billing", "*")).await;
    assert_eq!(got.len(), 1, "whoever takes messages away is served");

    drop(held);
    for who in ["anna", "bert"] {
        let status = send(client.clone(), who).await;
        assert_eq!(status.code, i32::from(pb::Code::Ok), "{}", status.message);
    }
    let (_, got) = receive(&mut client, "c", poll("orders", "billing", "*")).await;
    let mut ids: Vec<_> = got.iter().map(|one| &one.body[..]).collect();
    ids.sort_unstable();
    assert_eq!(
        ids,
        [&b"anna"[..], b"bert"],
        "what was refused is not there"
    );
    world.server.stop().await;
}

#[test]
fn connections_leave_files_to_the_log() {
    let ports = |files| [GRPC_SHARE, HTTP_SHARE].map(|share| connections_max(files, share));
    assert_eq!(ports(Some(1024)), [480, 160]);
    assert_eq!(
        ports(Some(10)),
        [3, 1],
        "one at least can ask what is wrong"
    );
    for enough in [Some(u64::MAX), None] {
        assert_eq!(ports(enough), [limits::CONNECTIONS_MAX; 2]);
    }
}
