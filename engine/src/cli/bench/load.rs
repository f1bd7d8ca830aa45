//! The workers: producers on a timetable, consumers that pop and acknowledge.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use millpond_proto::client::{Client, OutgoingMessage, Producer, SimpleConsumer};
use millpond_proto::limits;
use millpond_proto::task::{Lane, Runtimes, Spawn as _, Task};
use millpond_proto::time::{Clock as _, Stopwatch, SystemClock};
use tokio::sync::oneshot;

use crate::cli::args::BenchArgs;
use crate::cli::bench::measure::Measured;
use crate::cli::error::CliError;

/// Workers that share a connection: enough to fill it, few enough not to wait for it.
const WORKERS_PER_CONNECTION: usize = 16;
/// How long a consumed message stays with us.
const INVISIBLE: Duration = Duration::from_secs(60);
/// How long a consumer waits before it looks whether the run is over.
const POLL: Duration = Duration::from_millis(500);
/// Bytes at the start of a body that tell when its message was due, in microseconds of the run.
const STAMP_BYTES: usize = 8;

/// One run.
#[derive(Debug)]
pub struct Load {
    run: Arc<Run>,
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Run {
    topic: String,
    group: String,
    args: BenchArgs,
    time: Stopwatch,
    /// Messages on the timetable so far.
    taken: AtomicU64,
    /// Messages that are stored.
    sent: AtomicU64,
    /// Messages that are acknowledged.
    consumed: AtomicU64,
    producing: AtomicBool,
    /// Whether what is consumed was produced by this run.
    stamped: bool,
}

type Rows = Vec<(&'static str, Measured)>;

impl Load {
    /// A run that starts now, with connections of its own to the client's server.
    #[must_use]
    pub fn new(client: &Client, args: &BenchArgs, topic: &str) -> Self {
        let connections = args
            .producers
            .max(args.consumers)
            .div_ceil(WORKERS_PER_CONNECTION);
        let clients = (1..connections)
            .filter_map(|_| Client::connect(client.address()).ok())
            .chain([client.clone()])
            .collect();
        Self {
            run: Arc::new(Run {
                topic: topic.to_owned(),
                group: args.group.clone(),
                args: args.clone(),
                time: Stopwatch::start(),
                taken: AtomicU64::new(0),
                sent: AtomicU64::new(0),
                consumed: AtomicU64::new(0),
                producing: AtomicBool::new(true),
                stamped: args.topic.is_none(),
            }),
            clients,
        }
    }

    /// Sends until the time is over.
    ///
    /// # Errors
    /// [`CliError`] when a worker was lost.
    pub async fn produce(self) -> Result<Rows, CliError> {
        let workers = self.producers();
        Ok(vec![("produce", gather(workers).await?)])
    }

    /// Pops and acknowledges what there is until nothing comes or the time is over.
    ///
    /// # Errors
    /// [`CliError`] when a worker was lost.
    pub async fn consume(self) -> Result<Rows, CliError> {
        self.run.producing.store(false, Ordering::Relaxed);
        let workers = self.consumers();
        Ok(vec![("pop and ack", gather(workers).await?)])
    }

    /// Both at once; a message's way counts from when it was due to when it was received.
    ///
    /// # Errors
    /// [`CliError`] when a worker was lost.
    pub async fn end_to_end(self) -> Result<Rows, CliError> {
        let consumers = self.consumers();
        let producers = self.producers();
        let produced = async {
            let produced = gather(producers).await;
            self.run.producing.store(false, Ordering::Relaxed);
            produced
        };
        let (produced, consumed) = tokio::join!(produced, gather(consumers));
        Ok(vec![("produce", produced?), ("end to end", consumed?)])
    }

    fn producers(&self) -> Vec<Worker> {
        (0..self.run.args.producers)
            .map(|number| {
                let producer = Producer::new(self.client(number));
                let run = Arc::clone(&self.run);
                Worker::start(async move { run.produce(&producer).await })
            })
            .collect()
    }

    fn consumers(&self) -> Vec<Worker> {
        (0..self.run.args.consumers)
            .map(|number| {
                let client = self.client(number);
                let consumer = SimpleConsumer::new(client, &self.run.group, &self.run.topic);
                let run = Arc::clone(&self.run);
                Worker::start(async move { run.consume(&consumer).await })
            })
            .collect()
    }

    fn client(&self, worker: usize) -> &Client {
        &self.clients[worker % self.clients.len()]
    }
}

impl Run {
    async fn produce(&self, producer: &Producer) -> Measured {
        let mut measured = Measured::default();
        while let Some(due) = self.next_due().await {
            let messages = (0..self.args.batch).map(|_| OutgoingMessage::new(self.body(due)));
            let count = self.args.batch as u64;
            match producer.send_batch(&self.topic, messages.collect()).await {
                Ok(entries) => {
                    let latency = self.time.elapsed().saturating_sub(due);
                    let stored = entries.iter().filter(|entry| entry.is_ok()).count() as u64;
                    measured.record(stored, stored * self.body_bytes() as u64, latency);
                    self.sent.fetch_add(stored, Ordering::Relaxed);
                    for error in entries.iter().filter_map(|entry| entry.as_ref().err()) {
                        measured.fail(error);
                    }
                    debug_assert!(stored <= count);
                }
                Err(error) => measured.fail(&error),
            }
        }
        measured.elapsed = self.time.elapsed();
        measured
    }

    /// Waits for the time of the next batch on the timetable; `None` when the run is over.
    async fn next_due(&self) -> Option<Duration> {
        let end = Duration::from_secs(self.args.seconds);
        let Some(rate) = self.args.rate else {
            let now = self.time.elapsed();
            return (now < end).then_some(now);
        };
        let number = self
            .taken
            .fetch_add(self.args.batch as u64, Ordering::Relaxed);
        let due = Duration::from_secs_f64(number as f64 / f64::from(rate));
        if due >= end {
            return None;
        }
        let wait = due.saturating_sub(self.time.elapsed());
        if !wait.is_zero() {
            SystemClock.sleep(wait).await;
        }
        Some(due)
    }

    async fn consume(&self, consumer: &SimpleConsumer) -> Measured {
        let mut measured = Measured::default();
        let end = Duration::from_secs(self.args.seconds);
        loop {
            let asked = self.time.elapsed();
            let producing = self.producing.load(Ordering::Relaxed);
            let drained = !producing
                && self.consumed.load(Ordering::Relaxed) >= self.sent.load(Ordering::Relaxed)
                && self.sent.load(Ordering::Relaxed) > 0;
            if drained {
                return measured;
            }
            let batch = self.args.receive.min(limits::RECEIVE_BATCH_MAX);
            let messages = match consumer.receive(batch, INVISIBLE, POLL).await {
                Ok(messages) => messages,
                Err(error) => {
                    measured.fail(&error);
                    // A server that refuses is not asked again without a pause.
                    SystemClock.sleep(POLL).await;
                    Vec::new()
                }
            };
            let over = self.time.elapsed() >= end;
            if messages.is_empty() {
                if !producing || over {
                    return measured;
                }
                continue;
            }
            let received = self.time.elapsed();
            match consumer.ack_all(&messages).await {
                Ok(entries) => {
                    let now = self.time.elapsed();
                    for (message, entry) in messages.iter().zip(&entries) {
                        match entry {
                            Ok(()) => {
                                let due = producing_stamp(&message.body, self.stamped);
                                let latency = due.map_or(now.saturating_sub(asked), |due| {
                                    received.saturating_sub(due)
                                });
                                measured.record(1, message.body.len() as u64, latency);
                                self.consumed.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => measured.fail(error),
                        }
                    }
                }
                Err(error) => measured.fail(&error),
            }
            measured.elapsed = self.time.elapsed();
            if over && !producing {
                return measured;
            }
        }
    }

    fn body_bytes(&self) -> usize {
        self.args.size.max(STAMP_BYTES)
    }

    fn body(&self, due: Duration) -> Bytes {
        let mut body = vec![b'x'; self.body_bytes()];
        let us = u64::try_from(due.as_micros()).unwrap_or(u64::MAX);
        body[..STAMP_BYTES].copy_from_slice(&us.to_le_bytes());
        body.into()
    }
}

/// When the message was due, if this run sent it.
fn producing_stamp(body: &Bytes, stamped: bool) -> Option<Duration> {
    let stamp: [u8; STAMP_BYTES] = body.get(..STAMP_BYTES)?.try_into().ok()?;
    stamped.then(|| Duration::from_micros(u64::from_le_bytes(stamp)))
}

/// A worker on any thread, and where its figures come out.
struct Worker {
    task: Task,
    measured: oneshot::Receiver<Measured>,
}

impl Worker {
    fn start(work: impl Future<Output = Measured> + Send + 'static) -> Self {
        let (sender, measured) = oneshot::channel();
        let work = Box::pin(async move {
            let _ = sender.send(work.await);
        });
        Self {
            task: Runtimes::single().spawn(Lane::Service, work),
            measured,
        }
    }
}

async fn gather(workers: Vec<Worker>) -> Result<Measured, CliError> {
    let mut all = Measured::default();
    for (ended, measured) in join_all(workers.into_iter().map(|worker| async move {
        let measured = worker.measured.await;
        (worker.task.await, measured)
    }))
    .await
    {
        match (ended, measured) {
            (Ok(()), Ok(measured)) => all.add(measured),
            _ => return Err(CliError::Worker),
        }
    }
    Ok(all)
}
