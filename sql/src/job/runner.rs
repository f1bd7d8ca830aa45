//! The loop of one continuous query: read a few ticks, compute, commit the cut, append the output.
//!
//! Invariants. At most one epoch lies between its cut (the intent) and its output (the effect). An epoch
//! holds whole ticks, and at least one row unless something leaves in it for the time alone; where rows just pass through, without state and so without time, it
//! holds what is durable, and begins when something is. After a restart the last saved state is loaded and the cuts
//! recorded since are computed again; only the last one's output is appended again, which changes
//! nothing if it was appended before. A trouble that passes is met by starting over from what is
//! recorded, so there is one way to recover and not two. So is state that outgrows its memory: the query goes on with it cut into
//! more stretches ([`crate::job::parts`]).

mod pause;
pub(super) mod saved;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use millpond_connectors::format::body::Encoding;
use millpond_proto::limits::JOB_STATE_BYTES_MAX;
use millpond_proto::message::{Epoch, JobId, QueueId, TopicId};
use millpond_proto::remedy::Remedy;
use millpond_proto::task::Spawn;
use millpond_proto::time::{Clock, Timestamp};
use object_store::ObjectStore;
use tokio::sync::{mpsc, watch};

use crate::continuous::{JobState, JobStatus};
use crate::error::SqlError;
use crate::job::crew::{Crew, usual_lanes};
use crate::job::declared::check_declared;
use crate::job::error::JobError;
use crate::job::inputs::{Inputs, Offsets};
use crate::job::pace::{Doing, Stopwatch};
use crate::job::parts::Shelf;
use crate::job::reader::read_range;
use crate::job::region::{Arrived, Effects, Region};
use crate::job::restart::Restarts;
use crate::job::runner::saved::Loaded;
use crate::job::savepoint::{Ask, Written};
use crate::plan::continuous::{ContinuousPlan, plan_with};
use crate::plan::target::plan_into;
use crate::progress::tick_of;
use crate::state::layers::Layers;
use crate::statement::{Numbers, Statement, parse};
use crate::topic::{
    Changelog, EpochCut, JobSpec, Keep, KeyFormat, NewTopic, OutputRow, TICK_MS, TopicInfo, Topics,
};

/// Pause when there is nothing to read.
const IDLE: Duration = Duration::from_millis(TICK_MS.unsigned_abs());
/// State is saved this long after it was saved before,
const CHECKPOINT_MS: i64 = 10_000;
/// or after so many epochs.
const CHECKPOINT_EPOCHS: u64 = 512;

/// What a query looks like from outside.
#[derive(Debug)]
pub struct Shared {
    /// Its status, but for the lag.
    pub status: JobStatus,
    /// The topics that it reads, once it is planned.
    pub sources: Vec<TopicId>,
    /// Committed offsets by topic and queue.
    pub committed: BTreeMap<(TopicId, u32), u64>,
}

impl Shared {
    /// What a query looks like that is not planned yet.
    #[must_use]
    pub fn new(status: JobStatus) -> Self {
        Self {
            status,
            sources: Vec::new(),
            committed: BTreeMap::new(),
        }
    }
}

/// One continuous query.
#[derive(Debug)]
pub struct Runner {
    /// The broker.
    pub topics: Arc<dyn Topics>,
    /// Time, for pauses and checkpoints.
    pub clock: Arc<dyn Clock>,
    /// Threads for its lanes.
    pub spawn: Arc<dyn Spawn>,
    /// Where state is saved.
    pub state: Arc<dyn ObjectStore>,
    /// The query.
    pub spec: JobSpec,
    /// What it looks like from outside.
    pub shared: Arc<Mutex<Shared>>,
    /// Says when to stop.
    pub stopping: watch::Receiver<bool>,
    /// Asks for its state as it stands; held by the attempt that answers.
    pub(crate) asks: tokio::sync::Mutex<mpsc::Receiver<Ask>>,
    /// Memory above which some of the state goes to rest; `None`: as its limit says.
    pub(crate) rests_above: Option<usize>,
    /// Stretches that its state was found to need at least.
    pub(crate) stretches: AtomicUsize,
}

/// The name of the side topic of a view.
#[must_use]
pub fn late_topic_of(view: &str) -> String {
    format!("{view}_late")
}

/// How much memory the state of a query may take.
#[must_use]
pub(crate) fn state_bytes_max(spec: &JobSpec) -> usize {
    let set = spec.settings.state_bytes_max;
    let set = set.and_then(|bytes| usize::try_from(bytes).ok());
    set.unwrap_or(JOB_STATE_BYTES_MAX)
}

/// How much of that is used before some of the state goes to rest; the rest of it is for the step at work.
const fn rests_above(state_bytes_max: usize) -> usize {
    state_bytes_max / 4 * 3
}

/// Plans a remembered statement.
///
/// # Errors
/// [`SqlError`] when it can not be planned.
pub async fn plan_of(spec: &JobSpec, topics: &dyn Topics) -> Result<ContinuousPlan, SqlError> {
    let numbers = match spec.defaults < 3 {
        true => Numbers::Double,
        false => Numbers::Exact,
    };
    match parse(&spec.sql)? {
        Statement::CreateMaterializedView(view) | Statement::AlterMaterializedView { view, .. } => {
            let mut options = view.options.clone();
            if spec.defaults == 0 {
                options.key_format.get_or_insert(KeyFormat::Json);
            }
            options.names_of_old = spec.defaults < 2;
            options.numbers = numbers;
            plan_with(&view.query, view.emit, options, topics).await
        }
        Statement::CreateJob(mut job) => {
            job.options.numbers = numbers;
            let target = topics.topic(&job.target).ok_or_else(|| {
                let known = topics.topics().into_iter().map(|topic| topic.name);
                SqlError::unknown("topic", &job.target, None, known)
            })?;
            plan_into(&job, &target, topics).await
        }
        _ => Err(SqlError::Bug {
            cause: "a job's statement is neither a view nor a job".to_owned(),
        }),
    }
}

impl Runner {
    /// Runs until told to stop, or until the query can not go on; then its status says why.
    pub async fn run(self) {
        let ended = AssertUnwindSafe(self.run_until_stopped())
            .catch_unwind()
            .await;
        let error = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the query panicked; see the server's log, and please report it".to_owned(),
        };
        tracing::error!(job = %self.spec.name, %error, "continuous query failed");
        self.update(|shared| {
            shared.status.state = JobState::Failed;
            shared.status.error = Some(error);
        });
    }

    async fn run_until_stopped(&self) -> Result<(), JobError> {
        let mut restarts = Restarts::new(self.spec.settings.restarts_max, self.epoch());
        loop {
            let error = match self.attempt().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match error {
                JobError::Crowded { stretches } => {
                    self.cut(stretches);
                    continue;
                }
                // No trouble: it is planned anew.
                JobError::Redeclared { .. } => continue,
                _ => {}
            }
            if error.remedy() != Remedy::Retry {
                return Err(error);
            }
            let Some(pause) = restarts.next(self.clock.now(), self.epoch()) else {
                return Err(JobError::GaveUp {
                    restarts: restarts.count(),
                    cause: Box::new(error),
                });
            };
            tracing::warn!(job = %self.spec.name, %error, ?pause, "continuous query starts over");
            self.update(|shared| {
                shared.status.state = JobState::Restarting;
                shared.status.error = Some(error.to_string());
                shared.status.restarts = restarts.count() as u64;
            });
            if self.pause(pause, error.to_string()).await {
                return Ok(());
            }
        }
    }

    async fn attempt(&self) -> Result<(), JobError> {
        let mut turns = self.recovered().await?;
        let mut asks = self.asks.lock().await;
        while !*self.stopping.borrow() {
            // Taken hold of before it looks, so that no row comes unnoticed in between.
            let arrivals = turns.arrivals();
            let ask = if turns.turn().await? {
                asks.try_recv().ok()
            } else {
                tokio::select! {
                    biased;
                    Some(ask) = asks.recv() => Some(ask),
                    stops = self.pause_or(IDLE, arrivals) => if stops { break } else { None },
                }
            };
            if let Some(ask) = ask
                && turns.answer(ask).await
            {
                return Ok(());
            }
        }
        turns.rest().await
    }

    /// Writes the state of a query that rests under a key.
    pub(crate) async fn written(&self, key: &str) -> Result<Written, JobError> {
        self.recovered().await?.write_savepoint(key).await
    }

    /// Goes on from what is recorded, in as many stretches as that takes.
    async fn recovered(&self) -> Result<Turns<'_>, JobError> {
        loop {
            let plan = plan_of(&self.spec, self.topics.as_ref()).await?;
            let sources = plan.inputs.iter().map(|input| input.source.id);
            self.update(|shared| shared.sources = sources.collect());
            match Box::pin(Turns::recover(self, plan)).await {
                Err(JobError::Crowded { stretches }) => self.cut(stretches),
                Err(JobError::Redeclared { .. }) => {}
                recovered => return recovered,
            }
        }
    }

    /// Its state is to have so many stretches from now on; each time they are more, so it comes to an end.
    fn cut(&self, stretches: usize) {
        tracing::info!(job = %self.spec.name, stretches, "state outgrew its memory and goes to rest");
        self.stretches.fetch_max(stretches, Ordering::Relaxed);
    }

    fn epoch(&self) -> u64 {
        self.shared.lock().expect("no holder panics").status.epoch
    }

    fn update(&self, change: impl FnOnce(&mut Shared)) {
        change(&mut self.shared.lock().expect("no holder panics"));
    }

    fn job(&self) -> JobId {
        JobId(self.spec.id)
    }
}

/// A query between two turns.
struct Turns<'a> {
    runner: &'a Runner,
    plan: ContinuousPlan,
    output: TopicInfo,
    region: Region,
    inputs: Inputs,
    stopwatch: Stopwatch,
    /// Last committed epoch and its tick.
    epoch: u64,
    tick_ms: i64,
    saved: Saved,
    /// Where its state lies.
    layers: Layers,
}

/// The last checkpoint.
struct Saved {
    epoch: u64,
    key: Option<String>,
    /// The objects that it names.
    objects: Vec<String>,
    at: Timestamp,
}

impl<'a> Turns<'a> {
    async fn recover(runner: &'a Runner, plan: ContinuousPlan) -> Result<Self, JobError> {
        let output = output_of(runner)?;
        let lanes = runner.spec.settings.parallelism.or(plan.parallelism);
        let lanes = lanes.unwrap_or_else(|| usual_lanes(runner.spawn.as_ref()));
        let crew = Crew::of(lanes, Arc::clone(&runner.spawn)).timed(Arc::clone(&runner.clock));
        let progress = runner.topics.progress(runner.job()).await?;
        let loaded = match progress.checkpoint {
            Some((epoch, key)) => Some(Loaded::read(runner, epoch, key).await?),
            None => None,
        };
        let state_bytes_max = state_bytes_max(&runner.spec);
        let rests_above = rests_above(state_bytes_max);
        let budget = runner.rests_above.unwrap_or(rests_above);
        let stretches = loaded.as_ref().map_or(0, |loaded| loaded.stretches(budget));
        let shelf = Shelf {
            store: Arc::clone(&runner.state),
            job: runner.spec.id,
            budget,
            stretches: stretches.max(runner.stretches.load(Ordering::Relaxed)),
        };
        let encoding = &output.encoding;
        let region = Region::on_shelf(plan.clone(), encoding, crew, state_bytes_max, shelf)?;
        runner.update(|shared| shared.status.parallelism = lanes as u64);
        let reads = (0..plan.inputs.len())
            .map(|input| Arc::new(region.reads(input)))
            .collect();
        let sources = plan.inputs.iter().map(|input| input.source.id).collect();
        let mut turns = Self {
            runner,
            output,
            layers: Layers::new(runner.spec.id, region.cell()),
            region,
            inputs: Inputs::new(&runner.spec.name, sources, reads),
            stopwatch: Stopwatch::started(runner.clock.now()),
            epoch: 0,
            tick_ms: i64::MIN,
            saved: Saved {
                epoch: 0,
                key: None,
                objects: Vec::new(),
                at: runner.clock.now(),
            },
            plan,
        };
        let mut offsets = BTreeMap::new();
        if let Some(loaded) = loaded {
            offsets = turns.load(loaded).await?;
        } else if let Some(savepoint) = runner.spec.savepoint {
            offsets = turns.begin_with(savepoint).await?;
            if progress.cuts.is_empty() {
                // It was looked at when the job was made, and rows may have gone since.
                turns.check_savepoint(savepoint)?;
            }
        }
        let count = progress.cuts.len();
        for (index, cut) in progress.cuts.into_iter().enumerate() {
            let effects = turns.replay(&cut, &mut offsets).await?;
            turns.epoch = cut.epoch;
            turns.tick_ms = cut.tick_ms;
            if index + 1 == count {
                turns.append(effects).await?;
            }
        }
        for ((input, queue), offset) in offsets {
            turns.inputs.reader(input, queue, offset);
        }
        turns.delete_other_checkpoints().await;
        turns.publish();
        Ok(turns)
    }

    /// Where a cut stands in the inputs. State of a topic that was made anew is none of the rows that it has now.
    fn own_offsets(&self, cut: &EpochCut) -> Result<Offsets, JobError> {
        let offsets = cut.offsets.iter().map(|(topic, queue, offset)| {
            let mut ids = self.inputs.topics().iter();
            match ids.position(|id| id.0 == *topic) {
                Some(input) => Ok(((input, *queue), *offset)),
                None => Err(JobError::TopicGone {
                    topic: format!("with the id {topic}"),
                }),
            }
        });
        offsets.collect()
    }

    /// Computes a recorded epoch again.
    async fn replay(&mut self, cut: &EpochCut, offsets: &mut Offsets) -> Result<Effects, JobError> {
        let topics = self.runner.topics.as_ref();
        let mut kept: Offsets = BTreeMap::new();
        for (input, topic) in self.inputs.topics().iter().copied().enumerate() {
            let extents = topics.extents(topic)?.into_iter();
            kept.extend(extents.map(|extent| ((input, extent.queue.0), extent.first.0)));
        }
        let ends = self.own_offsets(cut)?;
        let mut arrived = Vec::new();
        for ((input, queue), end) in ends {
            let source = &self.plan.inputs[input].source;
            let first = kept.get(&(input, queue)).copied().unwrap_or(0);
            let from = match offsets.insert((input, queue), end) {
                Some(from) if from < first && from < end => {
                    return Err(JobError::InputGone {
                        topic: source.name.clone(),
                        queue,
                        from,
                        first,
                    });
                }
                Some(from) => from,
                // The first cut began with what was kept.
                None => first.min(end),
            };
            if from < end {
                let queue = QueueId(queue);
                let reads = self.inputs.reads(input);
                let batches = read_range(topics, source.id, queue, from..end, reads).await?;
                arrived.push(Arrived {
                    input,
                    queue,
                    batches,
                });
            }
        }
        self.region.begin(cut.epoch);
        self.region.epoch(arrived, Timestamp(cut.tick_ms)).await
    }

    /// Ends when there may be more to do before the next tick: never, unless rows just pass through.
    fn arrivals(&self) -> BoxFuture<'static, ()> {
        if self.plan.is_stateless() {
            let sources = self.inputs.topics();
            self.runner.topics.arrivals(self.runner.job(), sources)
        } else {
            futures::future::pending().boxed()
        }
    }

    /// One epoch, if there is anything to compute; answers whether there was.
    async fn turn(&mut self) -> Result<bool, JobError> {
        let topics = &self.runner.topics;
        let now_ms = tick_of(topics.now().as_ms());
        let is_stateless = self.plan.is_stateless();
        if now_ms <= self.tick_ms && !is_stateless {
            return Ok(false);
        }
        for input in &self.plan.inputs {
            let found = topics.topic(&input.source.name);
            if found.is_none_or(|topic| topic.id != input.source.id) {
                let topic = input.source.name.clone();
                return Err(JobError::TopicGone { topic });
            }
        }
        let until_ms = if is_stateless {
            // Which epoch a row belongs to makes no difference to it.
            i64::MAX
        } else {
            let sources = self.inputs.topics();
            topics.close_ticks(sources, Timestamp(now_ms)).await?;
            now_ms
        };
        let read = self.inputs.read_ahead(topics.as_ref(), until_ms).await?;
        // A row of a new version is there only once its declaration is, so this is asked when the rows were read.
        let inputs = self.plan.inputs.iter().map(|input| &input.source);
        let declared = check_declared(topics.as_ref(), inputs.chain([&self.output]));
        if declared.is_err() {
            // What was computed by the old declaration is not computed again by the new one.
            self.save_what_is_new().await?;
        }
        declared?;
        let due = self.region.due();
        let is_due = due.is_some_and(|due| due.as_ms() <= now_ms);
        let Some(tick_ms) = read.or(is_due.then_some(now_ms)) else {
            return Ok(false);
        };
        let arrived = self.inputs.take_before(tick_ms);
        self.spent(Doing::Waiting);
        let does_something = is_due || !arrived.is_empty();
        assert!(does_something, "an epoch has a row, or is due");
        let tick_ms = tick_ms.min(now_ms).max(self.tick_ms);
        self.region.begin(self.epoch + 1);
        let effects = self.region.epoch(arrived, Timestamp(tick_ms)).await?;
        let computed_ms = self.spent(Doing::Computing);
        let cut = self.cut(self.epoch + 1, tick_ms);
        self.runner.topics.commit(self.runner.job(), cut).await?;
        self.epoch += 1;
        self.tick_ms = tick_ms;
        self.append(effects).await?;
        let written_ms = self.spent(Doing::Writing);
        self.stopwatch.epoch(computed_ms + written_ms);
        self.publish();
        self.save_if_due().await?;
        self.spent(Doing::Writing);
        Ok(true)
    }

    fn cut(&self, epoch: u64, tick_ms: i64) -> EpochCut {
        let offsets = self.inputs.taken();
        EpochCut {
            epoch,
            tick_ms,
            offsets: offsets
                .map(|(topic, queue, offset)| (topic.0, queue, offset))
                .collect(),
        }
    }

    /// The effect of the current epoch; doing it again changes nothing.
    async fn append(&mut self, effects: Effects) -> Result<(), JobError> {
        let (job, epoch) = (self.runner.job(), Epoch(self.epoch));
        if !effects.rows.is_empty() {
            // Rows of another version would be taken for ones of the new; the recorded cut leads to them again.
            check_declared(self.runner.topics.as_ref(), [&self.output])?;
            self.runner
                .topics
                .append(job, self.output.id, epoch, effects.rows)
                .await?;
        }
        if !effects.late.is_empty() {
            self.append_late(epoch, effects.late).await?;
        }
        Ok(())
    }

    async fn append_late(&mut self, epoch: Epoch, rows: Vec<OutputRow>) -> Result<(), JobError> {
        let name = &self.runner.spec.name;
        let side = late_topic_of(name);
        let topics = &self.runner.topics;
        let topic = match topics.topic(&side) {
            Some(topic) if topic.written_by.as_deref() == Some(name) => topic,
            Some(_) => return Err(SqlError::invalid(
                format!(
                    "topic {side} exists already, and the query needs that name for its late rows"
                ),
                "drop that topic or the query",
            )
            .into()),
            // An updating view seldom has late rows, so its side topic is made with the first.
            None => topics.create_topic(late_topic(name, &self.plan)).await?,
        };
        Ok(topics
            .append(self.runner.job(), topic.id, epoch, rows)
            .await?)
    }

    async fn save_if_due(&mut self) -> Result<(), JobError> {
        let now = self.runner.clock.now();
        let is_due = self.saved.epoch == 0
            || self.epoch - self.saved.epoch >= CHECKPOINT_EPOCHS
            || now.as_ms() - self.saved.at.as_ms() >= CHECKPOINT_MS;
        if is_due { self.save(now).await } else { Ok(()) }
    }

    fn spent(&mut self, doing: Doing) -> i64 {
        self.stopwatch.spent(doing, self.runner.clock.now())
    }

    fn publish(&self) {
        let counts = self.region.counts();
        let bytes = self.region.state_bytes();
        self.runner.update(|shared| {
            let status = &mut shared.status;
            if status.state == JobState::Restarting {
                status.state = JobState::Running;
            }
            status.pace = self.stopwatch.pace();
            status.operators = self.region.figures(&status.output_topic, &status.pace);
            status.epoch = self.epoch;
            status.watermark = self.region.watermark();
            status.rows_in = counts.rows_in;
            status.rows_out = counts.rows_out;
            status.rows_late = counts.rows_late;
            status.rows_undecodable = counts.rows_undecodable;
            status.rows_without_time = counts.rows_without_time;
            status.state_bytes = bytes as u64;
            status.error = counts
                .first_undecodable
                .as_ref()
                .map(|first| format!("first row that could not be decoded: {first}"));
            let taken = self.inputs.taken();
            shared.committed = taken
                .map(|(topic, queue, offset)| ((topic, queue), offset))
                .collect();
        });
    }
}

/// The side topic of a view: bodies as they came, as columns if they are of one topic.
#[must_use]
pub fn late_topic(view: &str, plan: &ContinuousPlan) -> NewTopic {
    let (columns, encoding) = match plan.inputs.as_slice() {
        [input] => (input.source.columns.clone(), input.source.encoding.clone()),
        _ => (Vec::new(), Encoding::default()),
    };
    NewTopic {
        name: late_topic_of(view),
        queues: None,
        columns,
        watermark: None,
        primary_key: Vec::new(),
        written_by: Some(view.to_owned()),
        encoding,
        changelog: Changelog::default(),
        keep: Keep::default(),
        family: None,
    }
}

fn output_of(runner: &Runner) -> Result<TopicInfo, JobError> {
    let topic = runner
        .shared
        .lock()
        .expect("no holder panics")
        .status
        .output_topic
        .clone();
    let id = runner.spec.outputs.first().copied().map(TopicId);
    match (runner.topics.topic(&topic), id) {
        (Some(found), Some(id)) if found.id == id => Ok(found),
        _ => Err(JobError::TopicGone { topic }),
    }
}
