//! `SUBSCRIBE`: a query whose snapshot and changes go to one reader and are kept nowhere.
//!
//! Output: `_op` (`insert` a row that stays, `upsert` what a key's row is from now on, `delete` a key whose row is no more), `_cursor`,
//! `_key` (NULL for rows that stay), then the query's columns, NULL where a row is no more.
//!
//! **Invariant.** What comes after a cursor is a function of the log alone: a cursor is a tick, and the state at a tick is computed from
//! the log. So a reader that lost its connection goes on behind the cursor of the last row that it saw all of, on any server over the same
//! log, with no change twice or lost. It costs reading the topics again, and what retention deleted meanwhile is missing from the state.
//!
//! A slow reader holds back its own query and nothing else: at most [`BATCHES_WAITING_MAX`] batches wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast::Query;
use millpond_connectors::format::body::Encoding;
use millpond_connectors::format::json::JsonDecoder;
use millpond_proto::limits::{JOB_STATE_BYTES_MAX, SUBSCRIPTIONS_MAX};
use millpond_proto::message::stable_hash;
use millpond_proto::task::{Lane, Spawn};
use millpond_proto::time::{Clock, Timestamp};
use tokio::sync::mpsc;

use crate::answer::Answer;
use crate::batch::notices::Notices;
use crate::catalog::Table;
use crate::error::SqlError;
use crate::job::crew::Crew;
use crate::job::declared::check_declared;
use crate::job::error::JobError;
use crate::job::inputs::Inputs;
use crate::job::region::{Effects, Region};
use crate::plan::continuous::{ContinuousPlan, plan};
use crate::progress::tick_of;
use crate::statement::{Begin, Emit};
use crate::topic::{OutputRow, TICK_MS, Topics, TopicsError};

/// Batches that wait for a slow reader.
pub const BATCHES_WAITING_MAX: usize = 2;
/// Most rows of a batch.
const BATCH_ROWS_MAX: usize = 4096;
/// Pause when there is nothing to read.
const IDLE: Duration = Duration::from_millis(TICK_MS.unsigned_abs());

/// What subscriptions run on.
#[derive(Clone, Debug)]
pub struct Subscriptions {
    topics: Arc<dyn Topics>,
    clock: Arc<dyn Clock>,
    spawn: Arc<dyn Spawn>,
    open: Arc<AtomicUsize>,
}

type Events = mpsc::Sender<Result<RecordBatch, SqlError>>;

impl Subscriptions {
    /// Subscriptions of which none is open.
    #[must_use]
    pub fn new(topics: Arc<dyn Topics>, clock: Arc<dyn Clock>, spawn: Arc<dyn Spawn>) -> Self {
        Self {
            topics,
            clock,
            spawn,
            open: Arc::default(),
        }
    }

    /// Starts one; it ends when its answer is dropped.
    ///
    /// # Errors
    /// [`SqlError`] when the query is none that goes on, the cursor is not one of it, or too many are open.
    pub async fn open(&self, query: &Query, from: Begin) -> Result<Answer, SqlError> {
        let place = Place::taken(&self.open)?;
        let watch = self.watch(query).await?;
        let until = match from {
            Begin::Snapshot => None,
            Begin::Now => Some(tick_of(self.topics.now().as_ms())),
            Begin::Cursor(text) => Some(watch.cursors.tick(&text, self.topics.now())?),
        };
        let schema = Arc::clone(&watch.shape.schema);
        let (events, received) = mpsc::channel(BATCHES_WAITING_MAX);
        let (me, query) = (self.clone(), query.clone());
        let task = self.spawn.spawn(
            Lane::Background,
            Box::pin(async move {
                let _place = place;
                let ended = tokio::select! {
                    biased;
                    // The reader left.
                    () = events.closed() => return,
                    ended = Box::pin(me.watched(query, watch, until, &events)) => ended,
                };
                if let Err(error) = ended {
                    let _ = events.send(Err(told(error))).await;
                }
            }),
        );
        let batches = futures::stream::unfold(Some((received, task)), |running| async {
            let (mut received, task) = running?;
            match received.recv().await {
                Some(Ok(batch)) => Some((Ok(batch), Some((received, task)))),
                Some(Err(error)) => Some((Err(error), None)),
                None => match task.await {
                    Ok(()) => None,
                    Err(panicked) => {
                        let cause = panicked.to_string();
                        Some((Err(SqlError::Bug { cause }), None))
                    }
                },
            }
        });
        Ok(Answer {
            schema,
            batches: Box::pin(batches),
            command: "SUBSCRIBE".to_owned(),
            notices: Notices::default(),
        })
    }
}

impl Subscriptions {
    /// A query of which nothing was read.
    async fn watch(&self, query: &Query) -> Result<Watch, SqlError> {
        let plan = plan(query, Emit::Changes, self.topics.as_ref()).await?;
        let ids: Vec<u64> = plan.inputs.iter().map(|input| input.source.id.0).collect();
        let region = Region::new(
            plan.clone(),
            &Encoding::default(),
            Crew::alone(),
            JOB_STATE_BYTES_MAX,
        )?;
        let reads = (0..plan.inputs.len()).map(|input| Arc::new(region.reads(input)));
        Ok(Watch {
            inputs: Inputs::new(
                "subscription",
                plan.inputs.iter().map(|input| input.source.id).collect(),
                reads.collect(),
            ),
            topics: Arc::clone(&self.topics),
            clock: Arc::clone(&self.clock),
            shape: Shape::of(&plan)?,
            plan,
            region,
            cursors: Cursors::of(&ids),
            told_ms: None,
        })
    }

    /// Runs until nobody reads. Where a topic is declared anew the query is planned anew, and goes on behind what was told.
    async fn watched(
        &self,
        query: Query,
        mut watch: Watch,
        mut silent_until: Option<i64>,
        events: &Events,
    ) -> Result<(), JobError> {
        loop {
            let error = match watch.run(silent_until, events).await {
                Err(error @ JobError::Redeclared { .. }) => error,
                ended => return ended,
            };
            silent_until = watch.told_ms.or(silent_until);
            let anew = self.watch(&query).await?;
            if anew.shape.schema != watch.shape.schema {
                // It reads the topic by `*`, and its reader was told other columns.
                return Err(error);
            }
            watch = anew;
        }
    }
}

/// One of the places that subscriptions take.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn taken(open: &Arc<AtomicUsize>) -> Result<Self, SqlError> {
        let place = Self(Arc::clone(open));
        if open.fetch_add(1, Ordering::Relaxed) >= SUBSCRIPTIONS_MAX {
            return Err(SqlError::Limit {
                limit: "SUBSCRIPTIONS_MAX",
                value: format!("{SUBSCRIPTIONS_MAX} open subscriptions"),
                advice: "end one first",
            });
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Cursors of one query: a tick, and a mark of the topics that it reads.
#[derive(Clone, Copy, Debug)]
struct Cursors {
    mark: u64,
}

impl Cursors {
    fn of(ids: &[u64]) -> Self {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        Self {
            mark: stable_hash(&bytes),
        }
    }

    fn text(self, tick_ms: i64) -> String {
        format!("{tick_ms}-{:016x}", self.mark)
    }

    fn tick(self, text: &str, now: Timestamp) -> Result<i64, SqlError> {
        let parsed = text.rsplit_once('-').and_then(|(tick, mark)| {
            let mark = u64::from_str_radix(mark, 16).ok()?;
            Some((tick.parse::<i64>().ok()?, mark))
        });
        let Some((tick_ms, mark)) = parsed else {
            return Err(SqlError::invalid(
                format!("{text:?} is no cursor"),
                "give the _cursor of a row that a subscription answered",
            ));
        };
        if mark != self.mark {
            return Err(SqlError::invalid(
                "the cursor is of other topics, or of one that was made anew",
                "begin with a snapshot: leave FROM out",
            ));
        }
        if tick_of(tick_ms) != tick_ms || tick_ms > now.as_ms() {
            return Err(SqlError::invalid(
                format!("the cursor {text} is ahead of the log"),
                "give the _cursor of a row that a subscription answered",
            ));
        }
        Ok(tick_ms)
    }
}

/// The columns of the answer.
struct Shape {
    schema: SchemaRef,
    decoder: JsonDecoder,
}

impl Shape {
    fn of(plan: &ContinuousPlan) -> Result<Self, SqlError> {
        let rows = Arc::clone(&Table::of(&plan.columns)?.body);
        let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
        let mut fields = vec![
            text("_op", false),
            text("_cursor", false),
            text("_key", true),
        ];
        fields.extend(rows.fields().iter().map(|field| field.as_ref().clone()));
        Ok(Self {
            schema: Arc::new(Schema::new(fields)),
            decoder: JsonDecoder::new(rows),
        })
    }

    fn batch(&self, rows: &[OutputRow], cursor: &str) -> Result<RecordBatch, SqlError> {
        let what = rows.iter().map(|row| match (&row.key, &row.body) {
            (_, None) => "delete",
            (Some(_), Some(_)) => "upsert",
            (None, Some(_)) => "insert",
        });
        let keys = rows.iter().map(|row| row.key.as_ref());
        let keys = keys.map(|key| key.map(|key| String::from_utf8_lossy(key).into_owned()));
        let bodies: BinaryArray = rows.iter().map(|row| row.body.as_deref()).collect();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(what)),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|_| cursor))),
            Arc::new(StringArray::from_iter(keys)),
        ];
        columns.extend_from_slice(self.decoder.decode(&bodies)?.batch.columns());
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// A query being watched.
struct Watch {
    topics: Arc<dyn Topics>,
    clock: Arc<dyn Clock>,
    plan: ContinuousPlan,
    region: Region,
    inputs: Inputs,
    shape: Shape,
    cursors: Cursors,
    /// Up to where its reader was told everything.
    told_ms: Option<i64>,
}

impl Watch {
    /// Computes what came before `silent_until` without a word, and tells what comes after it.
    async fn run(&mut self, silent_until: Option<i64>, events: &Events) -> Result<(), JobError> {
        let is_snapshot = silent_until.is_none();
        let start_ms = match silent_until {
            Some(tick_ms) => tick_ms,
            None => tick_of(self.topics.now().as_ms()),
        };
        self.close(start_ms).await?;
        self.check_declared()?;
        // Everything up to here is one change, however many rows it takes to compute it.
        let mut told_ms = start_ms;
        while let Some(tick_ms) = self
            .inputs
            .read_ahead(self.topics.as_ref(), start_ms)
            .await?
        {
            let mut effects = self.region.ticks(self.inputs.take_before(tick_ms)).await?;
            if is_snapshot && !self.tell(&mut effects, start_ms, events).await? {
                return Ok(());
            }
        }
        let mut effects = Effects::default();
        let start = Timestamp(start_ms);
        self.region.give_first(start, &mut effects).await?;
        self.region.barrier(&mut effects).await?;
        if is_snapshot && !self.tell(&mut effects, start_ms, events).await? {
            return Ok(());
        }
        self.told_ms = Some(told_ms);
        loop {
            let until_ms = tick_of(self.topics.now().as_ms());
            let mut is_idle = true;
            if until_ms > told_ms {
                self.check_inputs()?;
                self.close(until_ms).await?;
                self.check_declared()?;
                let read = self
                    .inputs
                    .read_ahead(self.topics.as_ref(), until_ms)
                    .await?;
                if let Some(tick_ms) = read {
                    let mut effects = self
                        .region
                        .epoch(self.inputs.take_before(tick_ms), Timestamp(tick_ms))
                        .await?;
                    told_ms = tick_ms;
                    is_idle = false;
                    if !self.tell(&mut effects, tick_ms, events).await? {
                        return Ok(());
                    }
                    self.told_ms = Some(told_ms);
                }
            }
            if is_idle {
                self.clock.sleep(IDLE).await;
            }
        }
    }

    // Readers are handed from thread to thread and never shared, so whoever waits holds all of it.
    async fn close(&mut self, tick_ms: i64) -> Result<(), JobError> {
        let sources = self.inputs.topics();
        Ok(self.topics.close_ticks(sources, Timestamp(tick_ms)).await?)
    }

    fn check_inputs(&self) -> Result<(), JobError> {
        for input in &self.plan.inputs {
            let found = self.topics.topic(&input.source.name);
            if found.is_none_or(|topic| topic.id != input.source.id) {
                let topic = input.source.name.clone();
                return Err(JobError::TopicGone { topic });
            }
        }
        Ok(())
    }

    fn check_declared(&self) -> Result<(), JobError> {
        let inputs = self.plan.inputs.iter().map(|input| &input.source);
        check_declared(self.topics.as_ref(), inputs)
    }

    /// Hands rows over; answers whether somebody still reads.
    async fn tell(
        &mut self,
        effects: &mut Effects,
        tick_ms: i64,
        events: &Events,
    ) -> Result<bool, JobError> {
        let cursor = self.cursors.text(tick_ms);
        let rows = std::mem::take(&mut effects.rows);
        for rows in rows.chunks(BATCH_ROWS_MAX) {
            let batch = self.shape.batch(rows, &cursor)?;
            if events.send(Ok(batch)).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn told(error: JobError) -> SqlError {
    match error {
        JobError::Sql(error) => error,
        JobError::Topics(error) => error.into(),
        other => TopicsError {
            remedy: other.remedy(),
            message: other.to_string(),
        }
        .into(),
    }
}
