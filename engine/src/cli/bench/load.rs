//! The workers: producers on a timetable, consumers that pop and acknowledge.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use millpond_proto::client::{Client, OutgoingMessage, Producer, SimpleConsumer};
use millpond_proto::limits;
use millpond_proto::task::{Lane, Runtimes, Spawn as _, Task};
use millpond_proto::time::{Clock as _, Stopwatch, SystemClock};
use tokio::sync::oneshot;

use crate::cli::bench::measure::Measured;
use crate::cli::bench::plan::Plan;
use crate::cli::error::CliError;

/// Workers that share a connection: enough to fill it, few enough not to wait for it.
const WORKERS_PER_CONNECTION: usize = 16;
/// How long a consumed message stays with us.
const INVISIBLE: Duration = Duration::from_secs(60);
/// How long a consumer waits before it looks whether the run is over.
const POLL: Duration = Duration::from_millis(500);
/// How long after the end consumers wait for what was sent and has not come.
const DRAIN: Duration = Duration::from_secs(10);

/// One run.
#[derive(Debug)]
pub struct Load {
    run: Arc<Run>,
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Run {
    plan: Plan,
    time: Stopwatch,
    /// Messages on the timetable so far.
    taken: AtomicU64,
    /// Messages that are stored.
    sent: AtomicU64,
    /// Messages that are acknowledged, by any group.
    consumed: AtomicU64,
    producing: AtomicBool,
}

type Rows = Vec<(&'static str, Measured)>;

impl Load {
    /// A run that starts now, with connections of its own to the client's server.
    #[must_use]
    pub fn new(client: &Client, plan: Plan) -> Self {
        let workers = plan.all_producers().max(plan.all_consumers());
        let connections = workers.div_ceil(WORKERS_PER_CONNECTION);
        let clients = (1..connections)
            .filter_map(|_| Client::connect(client.address()).ok())
            .chain([client.clone()])
            .collect();
        Self {
            run: Arc::new(Run {
                plan,
                time: Stopwatch::start(),
                taken: AtomicU64::new(0),
                sent: AtomicU64::new(0),
                consumed: AtomicU64::new(0),
                producing: AtomicBool::new(true),
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
        Ok(vec![("produce", self.gather(workers).await?)])
    }

    /// Pops and acknowledges what there is until nothing comes or the time is over.
    ///
    /// # Errors
    /// [`CliError`] when a worker was lost.
    pub async fn consume(self) -> Result<Rows, CliError> {
        self.run.producing.store(false, Ordering::Relaxed);
        let workers = self.consumers();
        Ok(vec![("pop and ack", self.gather(workers).await?)])
    }

    /// Both at once; a message's way counts from when it was due to when it was received.
    ///
    /// # Errors
    /// [`CliError`] when a worker was lost.
    pub async fn end_to_end(self) -> Result<Rows, CliError> {
        let consumers = self.consumers();
        let producers = self.producers();
        let produced = async {
            let produced = self.gather(producers).await;
            self.run.producing.store(false, Ordering::Relaxed);
            produced
        };
        let (produced, consumed) = tokio::join!(produced, self.gather(consumers));
        Ok(vec![("produce", produced?), ("end to end", consumed?)])
    }

    fn producers(&self) -> Vec<Worker> {
        (0..self.run.plan.all_producers())
            .map(|number| {
                let producer = Producer::new(self.client(number));
                let run = Arc::clone(&self.run);
                Worker::start(async move { run.produce(&producer, number).await })
            })
            .collect()
    }

    fn consumers(&self) -> Vec<Worker> {
        let plan = &self.run.plan;
        let names = plan.topics.iter().flat_map(|topic| {
            let groups = plan.groups.iter();
            groups.map(move |group| (topic, group))
        });
        let workers = names.flat_map(|names| std::iter::repeat_n(names, plan.consumers));
        workers
            .enumerate()
            .map(|(number, (topic, group))| {
                let consumer = SimpleConsumer::new(self.client(number), group, topic);
                let run = Arc::clone(&self.run);
                Worker::start(async move { run.consume(&consumer).await })
            })
            .collect()
    }

    fn client(&self, worker: usize) -> &Client {
        &self.clients[worker % self.clients.len()]
    }

    /// What the workers saw once they have ended; the time before anything counted is not in it.
    async fn gather(&self, workers: Vec<Worker>) -> Result<Measured, CliError> {
        let mut all = gather(workers).await?;
        all.elapsed = all.elapsed.saturating_sub(self.run.plan.warm_up);
        Ok(all)
    }
}

impl Run {
    async fn produce(&self, producer: &Producer, worker: usize) -> Measured {
        let plan = &self.plan;
        let topic = &plan.topics[worker % plan.topics.len()];
        let mut measured = Measured::default();
        while let Some((number, due)) = self.next_due().await {
            let messages = (number..number + plan.batch as u64).map(|number| OutgoingMessage {
                key: plan.keys.of(number),
                ..OutgoingMessage::new(plan.body(number, due))
            });
            let messages: Vec<_> = messages.collect();
            let sizes: Vec<u64> = messages
                .iter()
                .map(|message| message.body.len() as u64)
                .collect();
            let counts = due >= plan.warm_up;
            match producer.send_batch(topic, messages).await {
                Ok(entries) => {
                    let latency = self.time.elapsed().saturating_sub(due);
                    for (entry, size) in entries.iter().zip(sizes) {
                        match entry {
                            Ok(_) if counts => measured.record(1, size, latency),
                            Ok(_) => {}
                            Err(error) => measured.fail(error),
                        }
                    }
                    let stored = entries.iter().filter(|entry| entry.is_ok()).count() as u64;
                    self.sent.fetch_add(stored, Ordering::Relaxed);
                }
                Err(error) => measured.fail(&error),
            }
        }
        measured.elapsed = self.time.elapsed();
        measured
    }

    /// Waits for the time of the next batch on the timetable, and tells the number of its first message; `None`
    /// when the run is over.
    async fn next_due(&self) -> Option<(u64, Duration)> {
        let end = self.plan.end();
        let count = self.plan.batch as u64;
        let number = self.taken.fetch_add(count, Ordering::Relaxed);
        let Some(rate) = self.plan.rate else {
            let now = self.time.elapsed();
            return (now < end).then_some((number, now));
        };
        let due = Duration::from_secs_f64(number as f64 / f64::from(rate));
        if due >= end {
            return None;
        }
        let wait = due.saturating_sub(self.time.elapsed());
        if !wait.is_zero() {
            SystemClock.sleep(wait).await;
        }
        Some((number, due))
    }

    async fn consume(&self, consumer: &SimpleConsumer) -> Measured {
        let mut measured = Measured::default();
        let end = self.plan.end();
        let groups = self.plan.groups.len() as u64;
        loop {
            let asked = self.time.elapsed();
            let producing = self.producing.load(Ordering::Relaxed);
            let drained = !producing
                && self.consumed.load(Ordering::Relaxed)
                    >= groups * self.sent.load(Ordering::Relaxed)
                && self.sent.load(Ordering::Relaxed) > 0;
            if drained {
                return measured;
            }
            let batch = self.plan.receive.min(limits::RECEIVE_BATCH_MAX);
            let messages = match consumer.receive(batch, INVISIBLE, POLL).await {
                Ok(messages) => messages,
                Err(error) => {
                    measured.fail(&error);
                    // A server that refuses is not asked again without a pause.
                    SystemClock.sleep(POLL).await;
                    Vec::new()
                }
            };
            // What was sent may still come; where nobody sends, there is nothing more.
            let is_owed = producing || self.sent.load(Ordering::Relaxed) > 0;
            let patience = if is_owed { DRAIN } else { Duration::ZERO };
            let over = self.time.elapsed() >= end + patience;
            if messages.is_empty() {
                if over || !is_owed {
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
                                let due = self.plan.due(&message.body);
                                let latency = due.map_or(now.saturating_sub(asked), |due| {
                                    received.saturating_sub(due)
                                });
                                if due.is_none_or(|due| due >= self.plan.warm_up) {
                                    measured.record(1, message.body.len() as u64, latency);
                                }
                                self.consumed.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => measured.fail(error),
                        }
                    }
                }
                Err(error) => measured.fail(&error),
            }
            measured.elapsed = self.time.elapsed();
            if over {
                return measured;
            }
        }
    }
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
