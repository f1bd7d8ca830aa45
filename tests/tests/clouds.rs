//! The cold tier in Google's and Azure's object stores, over the wire of each, as `gs://` and `az://` are given: the
//! same bytes at every offset whatever the wire does, and a server that keeps it there.
//!
//! The servers of [`crate::rest`] are reached as an emulator is: by variables alone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millpond_engine::cold::ColdUrl;
use millpond_proto::chance::Seeded;
use millpond_proto::client::{OutgoingMessage, Producer};
use millpond_storage::disk::Disk;
use millpond_storage::disk::simulated::SimulatedDisk;
use millpond_storage::tier::probe::{ProbeError, probe};
use millpond_tests::harness::Folder;
use object_store::ObjectStore;

use crate::cold::{Wire, bodies, live_through};
use crate::rest::{Dialect, Fault, RestServer};

const DIALECTS: [Dialect; 2] = [Dialect::Google, Dialect::Azure];

fn client(server: &RestServer, url: &str) -> Arc<dyn ObjectStore> {
    let mut variables = server.variables();
    for name in ["GOOGLE_TIMEOUT", "AZURE_TIMEOUT"] {
        variables.push((name.to_owned(), "300ms".to_owned()));
    }
    let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
    let url: ColdUrl = url.parse().unwrap();
    url.open(&disk, &variables).unwrap()
}

struct RestWire<'a>(&'a RestServer, Fault);

impl Wire for RestWire<'_> {
    fn order(&self, before: usize) {
        let before = std::iter::repeat_n(Fault::None, before);
        self.0.script(before.chain([self.1.clone()]));
    }

    fn calm(&self) {
        self.0.script([]);
    }

    fn keys(&self) -> Vec<String> {
        self.0.keys()
    }
}

fn faults() -> Vec<Fault> {
    let long = Duration::from_millis(600);
    vec![
        Fault::Slow(Duration::from_millis(20)),
        Fault::Refuse(500),
        Fault::Refuse(429),
        Fault::Refuse(409),
        Fault::Refuse(412),
        Fault::RefuseAfter(500),
        Fault::RefuseAfter(412),
        Fault::HangBefore(long),
        Fault::HangAfter(long),
        Fault::Reset,
        Fault::StaleList,
        Fault::LateDelete,
    ]
}

#[tokio::test]
async fn every_offset_reads_the_same_whatever_goes_wrong_on_the_wires_of_google_and_azure() {
    for dialect in DIALECTS {
        for (number, fault) in faults().into_iter().enumerate() {
            let server = RestServer::start(dialect);
            let wire = RestWire(&server, fault);
            live_through(&wire, &client(&server, server.url()), number % 4).await;
        }
    }
}

#[tokio::test]
async fn the_probe_takes_both_and_refuses_a_missing_bucket_or_a_wrong_token() {
    let chance = Seeded::new(1);
    for dialect in DIALECTS {
        let server = RestServer::start(dialect);
        let (url, objects) = (server.url(), client(&server, server.url()));
        probe(&*objects, &chance, url).await.unwrap();
        assert_eq!(server.keys(), Vec::<String>::new());
        // A lost answer to the put: it is read back, and was done.
        server.script([Fault::RefuseAfter(500)]);
        probe(&*objects, &chance, url).await.unwrap();
        let elsewhere = url.replace("bucket", "nowhere");
        let error = probe(&*client(&server, &elsewhere), &chance, &elsewhere).await;
        let error = error.unwrap_err();
        assert!(matches!(error, ProbeError::Failed { .. }), "{error}");
        assert!(error.to_string().contains(&elsewhere), "{error}");
    }
    let server = RestServer::start(Dialect::Azure);
    let mut variables = server.variables();
    variables[2].1 = "not the token".to_owned();
    let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
    let url: ColdUrl = server.url().parse().unwrap();
    let wrong = url.open(&disk, &variables).unwrap();
    let error = probe(&*wrong, &chance, url.name()).await.unwrap_err();
    assert!(error.to_string().contains("credentials"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_keeps_its_cold_tier_at_google_or_azure() {
    for dialect in DIALECTS {
        let bucket = RestServer::start(dialect);
        let folder = Folder::new();
        let cold = ["--cold", bucket.url()];
        let server = folder.serve_with(&cold, &bucket.variables()).unwrap();
        let _ = server.millpond(&["topic", "create", "orders", "--queues", "1"]);
        let producer = Producer::new(&server.client());
        let mut expected = Vec::new();
        for i in 0..20_u64 {
            let body = Bytes::from(format!("body {i}"));
            let message = OutgoingMessage::new(body.clone());
            producer.send("orders", message).await.unwrap();
            expected.push((i, body));
            if i % 10 == 9 {
                let _ = server.millpond(&["storage", "tier"]);
            }
        }
        let _ = server.millpond(&["storage", "compact", "orders"]);
        assert_eq!(bodies(&server, "orders").await, expected);
        let is_file = |key: &&String| key.ends_with(".parquet");
        assert!(bucket.keys().iter().any(|key| is_file(&key)), "{dialect:?}");
        server.kill();

        // A bucket that is down is no reason not to start.
        bucket.set_down(true);
        let server = folder.serve_with(&cold, &bucket.variables()).unwrap();
        bucket.set_down(false);
        assert_eq!(bodies(&server, "orders").await, expected);
        assert!(server.stop());
    }
}
