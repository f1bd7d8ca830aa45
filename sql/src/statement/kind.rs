//! What a user may ask, as trees.

use datafusion::sql::sqlparser::ast::Query;

use crate::statement::options::TopicOptions;
use crate::statement::savepoint::SavepointChange;
use crate::statement::subscribe::Begin;
use crate::topic::{ColumnSpec, JobSettings, KeyFormat, WatermarkSpec};

/// When a view's rows leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// After every epoch, what changed.
    Changes,
    /// At whole multiples of a length of store time, what changed.
    Every {
        /// The length, in whole ticks.
        every_ms: i64,
        /// Whether a window's row also leaves as soon as the watermark has passed it.
        on_close: bool,
    },
    /// Once per window, when the watermark has passed it.
    OnWindowClose,
}

/// `WITH (…)` of a continuous query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryOptions {
    /// How long a row, group or partition that time does not bound may rest before it is forgotten, in
    /// store time; `None`: it is kept.
    pub state_ttl_ms: Option<i64>,
    /// The same for a side of a join, by the name that the query gives to it.
    pub side_ttls_ms: Vec<(String, i64)>,
    /// How long after the watermark rows are still taken; `None`: as each operator does by itself.
    pub allowed_lateness_ms: Option<i64>,
    /// What becomes of rows that come after their window is over; `None`: as `EMIT` says.
    pub late: Option<LateRows>,
    /// In how many lanes it is computed; `None`: as the server sees fit.
    pub parallelism: Option<usize>,
    /// The savepoint whose state it begins with; `None`: it begins with the first messages kept.
    pub savepoint: Option<String>,
    /// How the key of a view's row is written; `None`: raw.
    pub key_format: Option<KeyFormat>,
    /// Whether columns without a name are called as the engine calls them; no option, but what an older statement meant.
    pub names_of_old: bool,
    /// What numbers beside a DECIMAL and casts of times mean; no option either.
    pub numbers: Numbers,
}

/// What a number with a point is where a DECIMAL meets it, and what a time is as a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numbers {
    /// A DECIMAL with the digits that were written; milliseconds.
    #[default]
    Exact,
    /// A DOUBLE, as it is everywhere else, and whatever unit the time has: what older statements meant.
    Double,
}

/// `ALTER JOB … SET (…)`: what is set anew; `Some(None)`: as it is by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobChange {
    /// In how many lanes it is computed.
    pub parallelism: Option<Option<usize>>,
    /// How much memory its state may take.
    pub state_bytes_max: Option<Option<u64>>,
    /// How often an hour it is started over after trouble that passes.
    pub restarts_max: Option<Option<u32>>,
}

impl JobChange {
    /// The settings that it makes of others.
    #[must_use]
    pub fn applied(self, to: JobSettings) -> JobSettings {
        JobSettings {
            parallelism: self.parallelism.unwrap_or(to.parallelism),
            state_bytes_max: self.state_bytes_max.unwrap_or(to.state_bytes_max),
            restarts_max: self.restarts_max.unwrap_or(to.restarts_max),
        }
    }
}

/// What becomes of rows that come after their window is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateRows {
    /// They are counted and left out.
    Drop,
    /// They are counted and go to the side topic, with the reason.
    Topic,
    /// They still change the window.
    Update,
}

/// `CREATE TOPIC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTopic {
    /// Name.
    pub name: String,
    /// Whether an existing topic of that name is no error.
    pub if_not_exists: bool,
    /// Declared columns.
    pub columns: Vec<ColumnSpec>,
    /// Event time.
    pub watermark: Option<WatermarkSpec>,
    /// Columns of the primary key: the last row per key counts; empty: every row does.
    pub primary_key: Vec<String>,
    /// What `WITH` says.
    pub options: TopicOptions,
}

/// `CREATE MATERIALIZED VIEW`.
#[derive(Clone, Debug, PartialEq)]
pub struct ContinuousView {
    /// Whether one that is there is left as it is.
    pub if_not_exists: bool,
    /// Name of the view, and of the topic that holds it.
    pub name: String,
    /// What it keeps computing; window functions not yet rewritten.
    pub query: Query,
    /// When rows leave.
    pub emit: Emit,
    /// How long it keeps state.
    pub options: QueryOptions,
    /// The whole statement.
    pub sql: String,
}

/// `CREATE JOB … AS INSERT INTO …`, `CREATE SINK … INTO … AS …`.
#[derive(Clone, Debug, PartialEq)]
pub struct ContinuousJob {
    /// Name.
    pub name: String,
    /// The topic that it writes.
    pub target: String,
    /// Those of its columns that the query fills, in the query's order; empty: all, in theirs.
    pub columns: Vec<String>,
    /// What it keeps computing.
    pub query: Query,
    /// How long it keeps state.
    pub options: QueryOptions,
    /// When rows leave.
    pub emit: Emit,
    /// The whole statement.
    pub sql: String,
}

/// `CREATE VIEW`: a name for a query, which is planned anew wherever the name is used.
#[derive(Clone, Debug, PartialEq)]
pub struct PlainView {
    /// Name.
    pub name: String,
    /// Whether an existing view of that name is replaced.
    pub or_replace: bool,
    /// What the name stands for.
    pub query: Query,
    /// The whole statement.
    pub sql: String,
}

/// `ALTER TOPIC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterTopic {
    /// Name.
    pub name: String,
    /// Columns that are added behind the declared ones.
    pub add_columns: Vec<ColumnSpec>,
    /// What is set anew; the number of queues only grows.
    pub options: TopicOptions,
}

impl AlterTopic {
    /// A change that changes nothing.
    #[must_use]
    pub fn nothing(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            add_columns: Vec::new(),
            options: TopicOptions::default(),
        }
    }
}

/// What `SHOW` lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// A system table, as it is.
    Table(&'static str),
    /// The columns of one topic.
    Columns(String),
    /// The versions of a topic's schema; of every topic that has some.
    Schemas(Option<String>),
    /// The statements that make a topic, view or job of this name again.
    Create {
        /// Its name.
        name: String,
        /// Whether a job is asked for, whose name a topic may have as well.
        is_job: bool,
    },
}

/// Everything that a user may ask.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `SELECT`, `WITH`, `VALUES`: reads up to now and ends.
    Query(Box<Query>),
    /// `EXPLAIN [ANALYZE] query`.
    Explain {
        /// Whether the query is run as well.
        analyze: bool,
        /// The query.
        query: Box<Query>,
    },
    /// Makes a topic.
    CreateTopic(CreateTopic),
    /// Deletes a topic.
    DropTopic {
        /// Name.
        name: String,
        /// Whether its absence is no error.
        if_exists: bool,
    },
    /// Adds columns or queues to a topic.
    AlterTopic(AlterTopic),
    /// Names a query.
    CreateView(Box<PlainView>),
    /// Forgets the name of a query.
    DropView {
        /// Name.
        name: String,
        /// Whether its absence is no error.
        if_exists: bool,
    },
    /// Starts a continuous query whose result is a topic of its own.
    CreateMaterializedView(Box<ContinuousView>),
    /// `ALTER MATERIALIZED VIEW name AS …`: another query under the same name, built beside the old one.
    AlterMaterializedView {
        /// The view as it will be; its statement is the one that would create it.
        view: Box<ContinuousView>,
        /// The whole statement.
        sql: String,
    },
    /// Ends a view and deletes its topic.
    DropMaterializedView {
        /// Name.
        name: String,
        /// Whether its absence is no error.
        if_exists: bool,
    },
    /// Starts a continuous query that writes into a topic.
    CreateJob(Box<ContinuousJob>),
    /// `DROP JOB`, `DROP SINK`, `CANCEL JOB`.
    DropJob {
        /// Name.
        name: String,
        /// Whether its absence is no error.
        if_exists: bool,
    },
    /// `ALTER JOB name SET (…)`: how it is run from now on. Takes a view as well.
    AlterJob {
        /// Name.
        name: String,
        /// What is set.
        change: JobChange,
    },
    /// `PAUSE JOB name`: it rests until it is resumed. Takes a view as well.
    PauseJob {
        /// Name.
        name: String,
    },
    /// `RESUME JOB name`.
    ResumeJob {
        /// Name.
        name: String,
    },
    /// What is done with a savepoint.
    Savepoint(SavepointChange),
    /// `EXPLAIN CREATE MATERIALIZED VIEW …` or `CREATE JOB …`: how it would be computed.
    ExplainContinuous(Box<Statement>),
    /// `EXPLAIN JOB name`: what the steps of a continuous query did so far. Takes a view as well.
    ExplainJob {
        /// Name.
        name: String,
    },
    /// Writes the rows of a query to a Parquet file of the export folder.
    Copy {
        /// What is written.
        query: Box<Query>,
        /// The path as the user wrote it; not yet checked.
        path: String,
    },
    /// Sends the rows of a query as messages.
    Insert {
        /// The topic.
        topic: String,
        /// Columns that the rows fill, in order; empty: all declared ones.
        columns: Vec<String>,
        /// The rows.
        source: Box<Query>,
    },
    /// `SUBSCRIBE …`: the rows of a query and how they change, until the reader leaves.
    Subscribe {
        /// The query.
        query: Box<Query>,
        /// Where it begins.
        from: Begin,
    },
    /// `SHOW …`.
    Show(Shown),
    /// `DESCRIBE name`: a topic, a view or a job.
    Describe {
        /// Name.
        name: String,
    },
}
