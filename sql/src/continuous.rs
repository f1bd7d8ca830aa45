//! What bounded SQL asks of the continuous half: start, stop and tell about queries that never end.
//!
//! The job runtime implements [`Continuous`]; a server without one, and many tests, use [`NoJobs`].

use std::fmt;

use async_trait::async_trait;
use millpond_proto::time::Timestamp;

use crate::error::SqlError;
use crate::job::pace::Pace;
use crate::statement::{ContinuousJob, ContinuousView, JobChange, SavepointChange};

/// What a continuous query is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It follows its input.
    Running,
    /// It met trouble that passes, and is about to start over.
    Restarting,
    /// It rests until it is resumed.
    Paused,
    /// It stopped on an error, see [`JobStatus::error`].
    Failed,
    /// It was ended by a user.
    Cancelled,
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Paused => "paused",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        })
    }
}

/// A continuous query as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStatus {
    /// Name.
    pub name: String,
    /// What it is doing.
    pub state: JobState,
    /// The whole statement.
    pub sql: String,
    /// Last committed epoch.
    pub epoch: u64,
    /// No event earlier than this is expected; `None` before the first event.
    pub watermark: Option<Timestamp>,
    /// Rows read.
    pub rows_in: u64,
    /// Rows written.
    pub rows_out: u64,
    /// Rows that came after their window had closed.
    pub rows_late: u64,
    /// Rows whose body did not parse as the topic's columns.
    pub rows_undecodable: u64,
    /// Rows without an event time: they belong to no window.
    pub rows_without_time: u64,
    /// Size of its state.
    pub state_bytes: u64,
    /// Why a failed job stopped, or one that is restarting has to.
    pub error: Option<String>,
    /// Rows of input that are durable and not yet committed.
    pub lag: u64,
    /// Where its rows go.
    pub output_topic: String,
    /// Its steps, from what it reads to what it writes.
    pub operators: Vec<OperatorStatus>,
    /// Where its time goes.
    pub pace: Pace,
    /// In how many lanes it is computed; 0 before it is planned.
    pub parallelism: u64,
    /// How much memory its state may take.
    pub state_bytes_max: u64,
    /// How often it was started over within the last hour of trouble.
    pub restarts: u64,
}

/// A step of a continuous query as it stands; what it counts, it counts since the query was started here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorStatus {
    /// What it does.
    pub operator: String,
    /// Rows, or changes of rows, that it took.
    pub rows_in: u64,
    /// Rows, or changes of rows, that it gave.
    pub rows_out: u64,
    /// Bytes of the bodies that it took; of what reads a topic alone.
    pub bytes_in: Option<u64>,
    /// Size of its state in memory.
    pub state_bytes: u64,
    /// What more of its state would take in memory, which lies at rest in the state store.
    pub rest_bytes: u64,
    /// No event earlier than this is expected; of what reads a topic with a watermark alone.
    pub watermark: Option<Timestamp>,
    /// Its share of the query's time, in thousandths: computing, and of what writes, being held back.
    pub busy: u64,
    /// Share of the query's time, in thousandths, in which it could not go on since the steps behind it computed or wrote.
    pub back_pressured: u64,
}

/// The runtime of continuous queries.
#[async_trait]
pub trait Continuous: Send + Sync + fmt::Debug {
    /// Starts a view; its topic exists when this returns.
    async fn create_view(&self, view: &ContinuousView) -> Result<(), SqlError>;

    /// Builds another query for a view beside it, from the log; when it has caught up it takes the view's place. `sql` is the
    /// whole statement. What the view gave so far is served until then.
    async fn alter_view(&self, view: &ContinuousView, sql: &str) -> Result<(), SqlError> {
        let _ = sql;
        Err(SqlError::invalid(
            format!("view {} can not be altered here", view.name),
            "drop it and create it again",
        ))
    }

    /// Starts a job that writes into a topic.
    async fn create_job(&self, job: &ContinuousJob) -> Result<(), SqlError>;

    /// Ends a job, or a view together with its topic.
    async fn end(&self, name: &str) -> Result<(), SqlError>;

    /// Changes how a query is run; it is stopped between two epochs and goes on, also one that failed.
    async fn alter_job(&self, name: &str, change: JobChange) -> Result<(), SqlError> {
        let _ = change;
        Err(SqlError::invalid(
            format!("{name} can not be altered here"),
            "drop it and create it again",
        ))
    }

    /// Lets a query rest, also over restarts; what it gave so far stays. One that rests already does.
    async fn pause(&self, name: &str) -> Result<(), SqlError>;

    /// Lets a query that rests, or failed, go on where it stopped.
    async fn resume(&self, name: &str) -> Result<(), SqlError>;

    /// Takes, or drops, a savepoint.
    async fn savepoint(&self, change: &SavepointChange) -> Result<(), SqlError> {
        let _ = change;
        Err(no_runtime())
    }

    /// All continuous queries, by name.
    fn list(&self) -> Vec<JobStatus>;

    /// One continuous query.
    fn describe(&self, name: &str) -> Option<JobStatus> {
        self.list().into_iter().find(|job| job.name == name)
    }
}

/// A runtime without continuous queries: it refuses to start any.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoJobs;

fn no_runtime() -> SqlError {
    SqlError::invalid(
        "this server runs no continuous queries",
        "ask a server that was started with them",
    )
}

#[async_trait]
impl Continuous for NoJobs {
    async fn create_view(&self, _view: &ContinuousView) -> Result<(), SqlError> {
        Err(no_runtime())
    }

    async fn create_job(&self, _job: &ContinuousJob) -> Result<(), SqlError> {
        Err(no_runtime())
    }

    async fn end(&self, name: &str) -> Result<(), SqlError> {
        Err(SqlError::unknown("job", name, None, [] as [&str; 0]))
    }

    async fn alter_job(&self, name: &str, _change: JobChange) -> Result<(), SqlError> {
        self.end(name).await
    }

    async fn pause(&self, name: &str) -> Result<(), SqlError> {
        self.end(name).await
    }

    async fn resume(&self, name: &str) -> Result<(), SqlError> {
        self.end(name).await
    }

    fn list(&self) -> Vec<JobStatus> {
        Vec::new()
    }
}
