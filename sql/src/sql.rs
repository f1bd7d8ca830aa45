//! The way in: one statement in, one answer out.
//!
//! Planning and running happen in the reading lane, so a heavy statement never delays a send; rows
//! come back through a short channel, so a slow reader holds the statement back instead of filling
//! memory. Every statement has `QUERY_MS_MAX` of time, reading included. Continuous statements are handed
//! to [`Continuous`].

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::prelude::DataFrame;
use datafusion::sql::sqlparser::ast::Query;
use futures::StreamExt;
use millpond_proto::limits;
use millpond_proto::task::{Lane, Spawn, Task};
use millpond_proto::time::{Clock, within};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::{mpsc, oneshot};

use crate::answer::Answer;
use crate::batch::copy;
use crate::batch::dependents::{check_not_in_itself, check_not_running, check_unused};
use crate::batch::index::KeyIndexes;
use crate::batch::insert::{Inserted, Target};
use crate::batch::notices::Notices;
use crate::batch::session::{Sessions, jobs_batch};
use crate::batch::tail::Tail;
use crate::batch::view;
use crate::catalog::{self, table_schema};
use crate::continuous::Continuous;
use crate::error::SqlError;
use crate::job::alter::{altered, next_of};
use crate::job::crew::usual_lanes;
use crate::job::runtime::JobParts;
use crate::job::subscribe::Subscriptions;
use crate::plan::continuous::plan_with;
use crate::plan::target::plan_into;
use crate::runtime::locked_runtime;
use crate::sql::drops::{as_it_is, nothing_to_drop};
use crate::statement::{SavepointChange, Shown, Statement, parse, parse_query};
use crate::topic::{TopicInfo, Topics};

mod created;
mod drops;
mod topics;

/// What SQL is made of.
#[derive(Clone, Debug)]
pub struct SqlParts {
    /// The broker.
    pub topics: Arc<dyn Topics>,
    /// Time, for the limit of a statement.
    pub clock: Arc<dyn Clock>,
    /// Where statements run.
    pub spawn: Arc<dyn Spawn>,
    /// The export folder; nothing outside it can be reached through this.
    pub export: Arc<dyn ObjectStore>,
    /// Where continuous queries keep their state.
    pub state: Arc<dyn ObjectStore>,
    /// The job runtime.
    pub jobs: Arc<dyn Continuous>,
}

impl SqlParts {
    /// SQL beside the continuous queries that are made of the same.
    #[must_use]
    pub fn beside(
        jobs: Arc<dyn Continuous>,
        parts: JobParts,
        export: Arc<dyn ObjectStore>,
    ) -> Self {
        let JobParts {
            topics,
            clock,
            spawn,
            state,
        } = parts;
        Self {
            topics,
            clock,
            spawn,
            export,
            state,
            jobs,
        }
    }
}

/// SQL over the topics of one broker.
#[derive(Debug)]
pub struct Sql {
    parts: SqlParts,
    sessions: Sessions,
    subscriptions: Subscriptions,
}

/// Cores that one statement may use, so that two do not starve each other.
pub const PARTITIONS_DEFAULT: usize = 2;

/// Batches that wait for a slow reader.
const BATCHES_WAITING_MAX: usize = 2;

/// What a running statement tells its reader.
enum Event {
    /// It is planned, and these are its columns.
    Planned(SchemaRef),
    Rows(RecordBatch),
}

type Events = mpsc::Sender<Result<Event, SqlError>>;

/// What becomes of a query's rows.
enum Sink {
    Answer,
    Parquet(Path),
    Topic(Box<Target>),
}

impl Sql {
    /// SQL with [`PARTITIONS_DEFAULT`].
    ///
    /// # Errors
    /// [`SqlError::Bug`] when the query engine can not be set up.
    pub fn new(parts: SqlParts) -> Result<Self, SqlError> {
        Self::with_partitions(parts, PARTITIONS_DEFAULT)
    }

    /// SQL whose statements each use up to `partitions` cores.
    ///
    /// # Errors
    /// As [`Sql::new`].
    pub fn with_partitions(parts: SqlParts, partitions: usize) -> Result<Self, SqlError> {
        let runtime = locked_runtime(limits::QUERY_MEMORY_BYTES)?;
        let sessions = Sessions {
            topics: Arc::clone(&parts.topics),
            jobs: Arc::clone(&parts.jobs),
            tail: Arc::new(Tail::new(&runtime.memory_pool)),
            indexes: Arc::new(KeyIndexes::new(&runtime.memory_pool)),
            runtime,
            partitions: partitions.max(1),
        };
        let subscriptions = Subscriptions::new(
            Arc::clone(&parts.topics),
            Arc::clone(&parts.clock),
            Arc::clone(&parts.spawn),
        );
        Ok(Self {
            parts,
            sessions,
            subscriptions,
        })
    }

    /// The job runtime.
    #[must_use]
    pub fn jobs(&self) -> &Arc<dyn Continuous> {
        &self.parts.jobs
    }

    /// Where continuous queries keep their state.
    #[must_use]
    pub fn state(&self) -> &Arc<dyn ObjectStore> {
        &self.parts.state
    }

    /// Does one statement.
    ///
    /// # Errors
    /// [`SqlError`]: of the statement and its planning here, of its rows in [`Answer::batches`].
    pub async fn execute(&self, sql: &str) -> Result<Answer, SqlError> {
        let done = self.perform(parse(sql)?).await;
        done.map_err(|error| error.placed_in(sql).or_meant_as_text(sql))
    }

    async fn perform(&self, statement: Statement) -> Result<Answer, SqlError> {
        match statement {
            Statement::Query(query) => self.run(*query, None, Sink::Answer, "SELECT").await,
            Statement::Explain { analyze, query } => {
                self.run(*query, Some(analyze), Sink::Answer, "EXPLAIN")
                    .await
            }
            Statement::Copy { query, path } => {
                let path = copy::checked_path(&path)?;
                self.run(*query, None, Sink::Parquet(path), "COPY").await
            }
            Statement::Insert {
                topic: name,
                columns,
                source,
            } => {
                let topic = self.parts.topics.topic(&name);
                let topic = topic.ok_or_else(|| self.unknown_topic(&name))?;
                let sink = Sink::Topic(Box::new(Target::new(topic, &columns)?));
                self.run(*source, None, sink, "INSERT").await
            }
            Statement::CreateTopic(topic) => self.create_topic(topic).await,
            Statement::DropTopic { name, if_exists } => self.drop_topic(&name, if_exists).await,
            Statement::CreateMaterializedView(view) => {
                let is_there = self.parts.jobs.describe(&view.name).is_some();
                if view.if_not_exists && is_there {
                    let answer = done("CREATE MATERIALIZED VIEW", &view.name)?;
                    answer.notices.add(as_it_is("view", &view.name));
                    return Ok(answer);
                }
                self.parts.jobs.create_view(&view).await?;
                done("CREATE MATERIALIZED VIEW", &view.name)
            }
            Statement::AlterMaterializedView { view, sql } => {
                self.parts.jobs.alter_view(&view, &sql).await?;
                let answer = done("ALTER MATERIALIZED VIEW", &view.name)?;
                answer.notices.add(format!(
                    "{} is built beside it and takes its place when it has caught up; until then {} answers as before",
                    next_of(&view.name),
                    view.name
                ));
                Ok(answer)
            }
            Statement::CreateJob(job) => {
                self.parts.jobs.create_job(&job).await?;
                done("CREATE JOB", &job.name)
            }
            Statement::DropMaterializedView { name, if_exists } => {
                self.drop_of("DROP MATERIALIZED VIEW", "view", &name, if_exists)
                    .await
            }
            Statement::DropJob { name, if_exists } => {
                self.drop_of("DROP JOB", "job", &name, if_exists).await
            }
            Statement::AlterTopic(change) => self.alter_topic(change).await,
            Statement::CreateView(view) => {
                // Planning it now is how it is known to be a query that can be answered.
                self.columns_of(&view.query).await?;
                if view.or_replace {
                    check_not_in_itself(&view, self.parts.topics.as_ref())?;
                    check_not_running(&view.name, self.parts.topics.as_ref())?;
                }
                view::create(self.parts.topics.as_ref(), &view).await?;
                done("CREATE VIEW", &view.name)
            }
            Statement::AlterJob { name, change } => {
                self.parts.jobs.alter_job(&name, change).await?;
                done("ALTER JOB", &name)
            }
            Statement::PauseJob { name } => {
                self.parts.jobs.pause(&name).await?;
                done("PAUSE JOB", &name)
            }
            Statement::ResumeJob { name } => {
                self.parts.jobs.resume(&name).await?;
                done("RESUME JOB", &name)
            }
            Statement::Savepoint(change) => {
                self.parts.jobs.savepoint(&change).await?;
                match change {
                    SavepointChange::Create { name, .. } => done("CREATE SAVEPOINT", &name),
                    SavepointChange::Stop { job, .. } => done("STOP JOB", &job),
                    SavepointChange::Drop { name, .. } => done("DROP SAVEPOINT", &name),
                }
            }
            Statement::ExplainContinuous(statement) => self.explain_continuous(&statement).await,
            Statement::ExplainJob { name } => {
                if self.parts.jobs.describe(&name).is_none() {
                    return Err(self.unknown_job(&name));
                }
                let text = name.replace('\'', "''");
                self.show(&format!(
                    "SELECT operator, rows_in, rows_out, bytes_in, state_bytes, state_bytes_at_rest, watermark, busy_share, back_pressured_share FROM millpond.job_operators WHERE job = '{text}' ORDER BY position"
                ))
                .await
            }
            Statement::DropView { name, if_exists } => {
                let topics = self.parts.topics.as_ref();
                let is_there = view::view(topics, &name).is_some();
                if is_there {
                    check_unused("view", &name, &[&name], topics)?;
                }
                view::remove(topics, &name, if_exists).await?;
                let answer = done("DROP VIEW", &name)?;
                if !is_there {
                    answer.notices.add(nothing_to_drop("view", &name));
                }
                Ok(answer)
            }
            Statement::Subscribe { query, from } => self.subscriptions.open(&query, from).await,
            Statement::Show(Shown::Table(table)) => {
                self.show(&format!("SELECT * FROM millpond.{table}")).await
            }
            Statement::Show(Shown::Columns(topic)) => {
                let Some(topic) = self.parts.topics.topic(&topic) else {
                    return Err(self.unknown_topic(&topic));
                };
                let text = topic.name.replace('\'', "''");
                self.show(&format!(
                    "SELECT name, type, kind, expression FROM millpond.columns WHERE topic = '{text}' ORDER BY position"
                ))
                .await
            }
            Statement::Show(Shown::Schemas(topic)) => {
                let of = match topic {
                    Some(name) if self.parts.topics.topic(&name).is_none() => {
                        return Err(self.unknown_topic(&name));
                    }
                    Some(name) => format!(" WHERE topic = '{}'", name.replace('\'', "''")),
                    None => String::new(),
                };
                self.show(&format!(
                    "SELECT * FROM millpond.schemas{of} ORDER BY topic, version"
                ))
                .await
            }
            Statement::Show(Shown::Create { name, is_job }) => self.show_create(&name, is_job),
            Statement::Describe { name } => self.describe(&name).await,
        }
    }

    /// One row per step, the last first: what it does and what can happen to its rows.
    async fn explain_continuous(&self, statement: &Statement) -> Result<Answer, SqlError> {
        let topics = self.parts.topics.as_ref();
        let plan = match statement {
            Statement::CreateMaterializedView(view) => {
                plan_with(&view.query, view.emit, view.options.clone(), topics).await?
            }
            Statement::CreateJob(job) => {
                let target = topics
                    .topic(&job.target)
                    .ok_or_else(|| self.unknown_topic(&job.target))?;
                plan_into(job, &target, topics).await?
            }
            Statement::AlterMaterializedView { view, .. } => {
                let Some(before) = topics.topic(&view.name) else {
                    return Err(self.unknown_topic(&view.name));
                };
                // What ALTER would refuse is not explained as if it would not.
                check_not_running(&view.name, topics)?;
                let (emit, options) = (view.emit, view.options.clone());
                let mut plan = plan_with(&view.query, emit, options, topics).await?;
                let mut told = altered(&before, &plan);
                told.append(&mut plan.explained);
                plan.explained = told;
                plan
            }
            _ => {
                return Err(SqlError::Bug {
                    cause: "only a continuous statement is explained so".to_owned(),
                });
            }
        };
        let usual = usual_lanes(self.parts.spawn.as_ref());
        let mut steps = Vec::new();
        // One lane is how anybody thinks of it.
        if plan.parallelism.is_some() || usual > 1 {
            steps.push(plan.explain_lanes(plan.parallelism.unwrap_or(usual))?);
        }
        let rest = plan.explain_rest()?;
        steps.extend(plan.explained);
        steps.extend(rest);
        let steps: ArrayRef = Arc::new(StringArray::from(steps));
        let schema = Arc::new(Schema::new(vec![Field::new("step", DataType::Utf8, false)]));
        let batch = RecordBatch::try_new(schema, vec![steps])?;
        Ok(Answer::ready(batch, "EXPLAIN", Notices::default()))
    }

    async fn show(&self, sql: &str) -> Result<Answer, SqlError> {
        let query = parse_query(sql)?;
        self.run(*query, None, Sink::Answer, "SHOW").await
    }

    /// Starts a query in the reading lane and waits until it is planned.
    async fn run(
        &self,
        query: Query,
        explain: Option<bool>,
        sink: Sink,
        command: &'static str,
    ) -> Result<Answer, SqlError> {
        let notices = Notices::default();
        let inserted = Arc::new(Inserted::default());
        let (events, mut received) = mpsc::channel(BATCHES_WAITING_MAX);
        let work = Work {
            inserted: Arc::clone(&inserted),
            sessions: self.sessions.clone(),
            export: Arc::clone(&self.parts.export),
            topics: Arc::clone(&self.parts.topics),
            notices: notices.clone(),
            query,
            explain,
            sink,
        };
        let clock = Arc::clone(&self.parts.clock);
        let task = self.parts.spawn.spawn(
            Lane::Reading,
            Box::pin(async move {
                let limit = Duration::from_millis(limits::QUERY_MS_MAX.unsigned_abs());
                // Boxed, because the whole of planning lives in it.
                let running = Box::pin(work.run(&events));
                let ended = within(clock.as_ref(), limit, running).await;
                let failed = match ended {
                    Some(Ok(())) => return,
                    Some(Err(error)) => error,
                    None => SqlError::Limit {
                        limit: "QUERY_MS_MAX",
                        value: format!("{} ms", limits::QUERY_MS_MAX),
                        advice: "read less in one statement, or make it a continuous query",
                    },
                };
                // The reader may have left; then nobody needs the error.
                let _ = events.send(Err(inserted.told_in(failed))).await;
            }),
        );
        let schema = match received.recv().await {
            Some(Ok(Event::Planned(schema))) => schema,
            Some(Err(error)) => return Err(error),
            Some(Ok(Event::Rows(_))) | None => return Err(broke_off(task).await),
        };
        let mut answer = Answer {
            schema,
            batches: Box::pin(futures::stream::unfold(
                Some((received, task)),
                |running| async {
                    let (mut received, task) = running?;
                    match received.recv().await {
                        Some(Ok(Event::Rows(batch))) => Some((Ok(batch), Some((received, task)))),
                        Some(Ok(Event::Planned(_))) => Some((Err(twice_planned()), None)),
                        Some(Err(error)) => Some((Err(error), None)),
                        // The channel also closes when the statement panics, which is no end.
                        None => match task.await {
                            Ok(()) => None,
                            Err(panicked) => Some((
                                Err(SqlError::Bug {
                                    cause: panicked.to_string(),
                                }),
                                None,
                            )),
                        },
                    }
                },
            )),
            command: command.to_owned(),
            notices,
        };
        if matches!(command, "COPY" | "INSERT") {
            // These are done when they answer; their one row is the count.
            let mut batches = Vec::new();
            while let Some(batch) = answer.batches.next().await {
                batches.push(batch?);
            }
            let rows = batches
                .first()
                .and_then(|batch| batch.column(0).as_any().downcast_ref::<Int64Array>())
                .map_or(0, |rows| rows.value(0));
            answer.command = format!("{command} {rows}");
            answer.batches = Box::pin(futures::stream::iter(batches.into_iter().map(Ok)));
        }
        Ok(answer)
    }

    /// The columns of a query, which is planned in the reading lane like every other.
    async fn columns_of(&self, query: &Query) -> Result<Schema, SqlError> {
        let (sessions, query) = (self.sessions.clone(), query.clone());
        let (planned, answer) = oneshot::channel();
        let task = self.parts.spawn.spawn(
            Lane::Reading,
            Box::pin(async move {
                let frame = Box::pin(sessions.plan(&query, &Notices::default())).await;
                let columns = frame.map(|frame| frame.schema().as_arrow().clone());
                // Whoever asked may have left.
                let _ = planned.send(columns);
            }),
        );
        match answer.await {
            Ok(columns) => columns,
            Err(_) => Err(broke_off(task).await),
        }
    }

    async fn describe(&self, name: &str) -> Result<Answer, SqlError> {
        if let Some(topic) = self.parts.topics.topic(name) {
            return Ok(Answer::ready(
                describe_topic(&topic)?,
                "DESCRIBE",
                Notices::default(),
            ));
        }
        if let Some(view) = view::view(self.parts.topics.as_ref(), name) {
            let columns = self.columns_of(&view.query).await;
            let described = describe_view(&columns.map_err(SqlError::without_position)?)?;
            return Ok(Answer::ready(described, "DESCRIBE", Notices::default()));
        }
        match self.parts.jobs.describe(name) {
            Some(job) => Ok(Answer::ready(
                jobs_batch(&[job])?,
                "DESCRIBE",
                Notices::default(),
            )),
            None => Err(self.unknown_topic(name)),
        }
    }

    fn unknown_job(&self, name: &str) -> SqlError {
        let known = self.parts.jobs.list();
        let known = known.iter().map(|job| job.name.as_str());
        SqlError::unknown("view or job", name, None, known)
    }

    fn unknown_topic(&self, name: &str) -> SqlError {
        let known = self.parts.topics.topics();
        SqlError::unknown("topic", name, None, known.iter().map(|topic| &topic.name))
    }
}

/// Everything that a query needs while it runs in the background.
struct Work {
    sessions: Sessions,
    export: Arc<dyn ObjectStore>,
    topics: Arc<dyn Topics>,
    notices: Notices,
    query: Query,
    explain: Option<bool>,
    sink: Sink,
    inserted: Arc<Inserted>,
}

impl Work {
    async fn run(self, events: &Events) -> Result<(), SqlError> {
        let mut query = self.query;
        if let Sink::Topic(target) = &self.sink {
            target.read_literals(&mut query)?;
        }
        let mut frame = self.sessions.plan(&query, &self.notices).await?;
        if let Some(analyze) = self.explain {
            frame = frame.explain(false, analyze)?;
        }
        match self.sink {
            Sink::Answer => answer(frame, events).await,
            Sink::Parquet(path) => {
                let rows = frame.execute_stream().await?;
                let count = copy::copy(rows, &self.export, &path).await?;
                counted(count, events).await
            }
            Sink::Topic(target) => {
                let topics = self.topics.as_ref();
                let count = target.insert(frame, topics, &self.inserted).await?;
                counted(count, events).await
            }
        }
    }
}

async fn answer(frame: DataFrame, events: &Events) -> Result<(), SqlError> {
    let mut rows = frame.execute_stream().await?;
    if events
        .send(Ok(Event::Planned(rows.schema())))
        .await
        .is_err()
    {
        return Ok(());
    }
    while let Some(batch) = rows.next().await {
        if events.send(Ok(Event::Rows(batch?))).await.is_err() {
            // The reader left.
            return Ok(());
        }
    }
    Ok(())
}

async fn counted(rows: u64, events: &Events) -> Result<(), SqlError> {
    let schema = Arc::new(Schema::new(vec![Field::new(
        "rows",
        DataType::Int64,
        false,
    )]));
    let count = Int64Array::from(vec![i64::try_from(rows).unwrap_or(i64::MAX)]);
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(count)])?;
    // When the reader left, what was done stays done.
    let _ = events.send(Ok(Event::Planned(schema))).await;
    let _ = events.send(Ok(Event::Rows(batch))).await;
    Ok(())
}

fn describe_topic(topic: &TopicInfo) -> Result<RecordBatch, SqlError> {
    let schema = table_schema(topic)?;
    let fields = schema.fields();
    let declared = |name: &str| topic.columns.iter().find(|column| column.name == name);
    let notes: Vec<Option<String>> = fields
        .iter()
        .map(|field| {
            let name = field.name();
            if topic.primary_key.contains(name) {
                return Some("key".to_owned());
            }
            if let Some(watermark) = topic.watermark.as_ref().filter(|w| w.column == *name) {
                return Some(format!(
                    "event time, watermark {} ms behind",
                    watermark.delay_ms
                ));
            }
            if let Some(expression) = declared(name).and_then(|column| column.expression.as_ref()) {
                return Some(format!("computed: {expression}"));
            }
            catalog::is_system_column(name).then(|| "system column".to_owned())
        })
        .collect();
    let types = fields.iter().map(|field| match declared(field.name()) {
        Some(column) if !column.sql_type.is_empty() => column.sql_type.clone(),
        _ => catalog::sql_type(field.data_type()),
    });
    described(fields, types.collect(), notes)
}

/// The columns that a plain view answers.
fn describe_view(schema: &Schema) -> Result<RecordBatch, SqlError> {
    let fields = schema.fields();
    let types = fields
        .iter()
        .map(|field| catalog::sql_type(field.data_type()));
    described(fields, types.collect(), vec![None; fields.len()])
}

fn described(
    fields: &Fields,
    types: Vec<String>,
    notes: Vec<Option<String>>,
) -> Result<RecordBatch, SqlError> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(
            fields.iter().map(|field| field.name()),
        )),
        Arc::new(StringArray::from(types)),
        Arc::new(BooleanArray::from_iter(
            fields.iter().map(|field| Some(field.is_nullable())),
        )),
        Arc::new(StringArray::from(notes)),
    ];
    let schema = Schema::new(vec![
        Field::new("column", DataType::Utf8, false),
        Field::new("type", DataType::Utf8, false),
        Field::new("nullable", DataType::Boolean, false),
        Field::new("note", DataType::Utf8, true),
    ]);
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

fn done(command: &str, name: &str) -> Result<Answer, SqlError> {
    let schema = Arc::new(Schema::new(vec![Field::new("name", DataType::Utf8, false)]));
    let batch = RecordBatch::try_new(schema, vec![Arc::new(StringArray::from(vec![name]))])?;
    Ok(Answer::ready(batch, command, Notices::default()))
}

fn twice_planned() -> SqlError {
    SqlError::Bug {
        cause: "a statement was planned twice".to_owned(),
    }
}

/// Why a statement ended without a word.
async fn broke_off(task: Task) -> SqlError {
    let cause = match task.await {
        Ok(()) => "a statement ended without an answer".to_owned(),
        Err(panicked) => panicked.to_string(),
    };
    SqlError::Bug { cause }
}

#[cfg(test)]
mod streams;
#[cfg(test)]
mod tests;
