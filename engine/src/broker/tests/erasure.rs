//! What is left on the disk of messages that were erased.

use super::*;

const SECRET: &[u8] = b"the secret of anna";

fn holding(disk: &SimulatedDisk) -> Vec<String> {
    let holds = |bytes: &[u8]| bytes.windows(SECRET.len()).any(|part| part == SECRET);
    let files = disk.snapshot().into_iter();
    let holding = files.filter(|(_, bytes)| holds(bytes));
    holding.map(|(path, _)| path).collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_erased_is_in_no_file_when_the_erasure_says_so() {
    for wals in [1, 2] {
        let disk = SimulatedDisk::new();
        let settings = Settings { wals, ..settings() };
        let broker = Broker::start(parts(&disk), settings.clone()).await.unwrap();
        let made = broker.create_topic(new_topic()).await.unwrap();
        let secret = std::str::from_utf8(SECRET).unwrap();
        let send = async |key: &str, body: &str| {
            // An id stays, so it is not made of the body here.
            let one = Envelope {
                message_id: key.to_owned(),
                ..message(key, body)
            };
            let messages = vec![one];
            let sent = broker.send(&topic(), messages).await.unwrap();
            assert!(sent.into_iter().all(|one| one.is_ok()));
        };
        // In segments of several lives, some let go of and waiting to be used again, and in the one being written.
        for round in 0..4 {
            send("anna", secret).await;
            send("bert", &"x".repeat(300_000)).await;
            if round % 2 == 0 {
                broker.tier().await.unwrap();
            }
        }
        assert!(!holding(&disk).is_empty(), "the log has it as it came");
        let erased = broker.erase(made.id, b"anna").await.unwrap();
        assert_eq!((erased.messages, erased.held, erased.log_bytes), (4, 0, 0));
        assert_eq!(holding(&disk), Vec::<String>::new());
        // The log goes on, and so do its readers after a crash.
        send("bert", "after it").await;
        drop(broker);
        let disk = disk.crash(&Seeded::new(7));
        let broker = Broker::start(parts(&disk), settings).await.unwrap();
        let mut seen = Vec::new();
        loop {
            let found = receive(&broker, 30, 0).await;
            if found.is_empty() {
                break;
            }
            seen.extend(found.into_iter().map(|d| d.envelope.body.map(|b| b.len())));
        }
        assert_eq!(seen.len(), 9);
        assert_eq!(seen.iter().filter(|body| body.is_none()).count(), 4);
        assert!(seen.contains(&Some("after it".len())));
    }
}
