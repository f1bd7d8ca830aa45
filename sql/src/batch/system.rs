//! The schema `millpond`: what the broker, the jobs and SQL know, as tables that can be joined.
//!
//! | table | what it holds | filled by |
//! |---|---|---|
//! | `topics` | every topic | broker |
//! | `queues` | every queue that holds or held messages: its offsets | broker |
//! | `groups` | every consumer group | broker |
//! | `group_progress` | where each group stands in each queue that it polled | broker, asking the shards |
//! | `delayed` | messages that wait for their time | broker, asking the shards |
//! | `transactions` | transactions that nobody has ended, and those rolled back for that | broker, asking the shards |
//! | `in_flight` | messages that consumers hold | broker, asking the shards |
//! | `dead_letters` | dead letters of every group | broker, asking the shards |
//! | `jobs` | every continuous query: state, watermark, rows, lag | job runtime |
//! | `job_operators` | every step of every continuous query: rows, bytes, state | job runtime, `operators.rs` |
//! | `savepoints` | every savepoint: its job, when it was taken, its size | `savepoints.rs` |
//! | `views` | every plain view | here |
//! | `columns` | every column of every topic | here |
//! | `schemas` | every version of every topic's schema | `schemas.rs` |
//! | `limits` | every bound of a statement | here |
//! | `functions` | every function that a statement can call | `functions.rs` |
//!
//! A table is filled when a statement that names it is planned. Of those of the broker, rows of one group or topic are asked for
//! alone where a condition says so (`facts.rs`), and a notice tells when not all rows are there.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use async_trait::async_trait;
use datafusion::catalog::{MemTable, SchemaProvider, TableProvider};
use datafusion::error::Result as EngineResult;
use millpond_proto::limits;

use crate::batch::facts::FactsTable;
use crate::batch::functions::functions_batch;
use crate::batch::latest::external;
use crate::batch::names::TABLES_MAX;
use crate::batch::notices::Notices;
use crate::batch::operators::operators_batch;
use crate::batch::savepoints::savepoints_batch;
use crate::batch::schemas::schemas_batch;
use crate::batch::session::{RELATIONS_MAX, jobs_batch};
use crate::batch::view::{VIEWS_DEEP_MAX, views};
use crate::catalog;
use crate::continuous::Continuous;
use crate::error::SqlError;
use crate::statement::{CHAIN_TOKENS_MAX, DEPTH_MAX, SET_OPERATIONS_MAX};
use crate::topic::{FACTS, Topics};

const JOBS: &str = "jobs";
const JOB_OPERATORS: &str = "job_operators";
const SAVEPOINTS: &str = "savepoints";
const VIEWS: &str = "views";
const COLUMNS: &str = "columns";
const SCHEMAS: &str = "schemas";
const LIMITS: &str = "limits";
const FUNCTIONS: &str = "functions";

/// The tables that are not the broker's.
const OURS: [&str; 8] = [
    JOBS,
    JOB_OPERATORS,
    SAVEPOINTS,
    VIEWS,
    COLUMNS,
    SCHEMAS,
    LIMITS,
    FUNCTIONS,
];

/// The schema `millpond`.
#[derive(Debug)]
pub(crate) struct SystemSchema {
    pub(crate) topics: Arc<dyn Topics>,
    pub(crate) jobs: Arc<dyn Continuous>,
    pub(crate) notices: Notices,
}

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        let names = FACTS.iter().chain(&OURS);
        names.map(|name| (*name).to_owned()).collect()
    }

    async fn table(&self, name: &str) -> EngineResult<Option<Arc<dyn TableProvider>>> {
        let batch = match name {
            JOBS => jobs_batch(&self.jobs.list())?,
            JOB_OPERATORS => operators_batch(&self.jobs.list())?,
            SAVEPOINTS => savepoints_batch(&self.topics.savepoints())?,
            VIEWS => views_batch(self.topics.as_ref())?,
            COLUMNS => columns_batch(self.topics.as_ref()).map_err(external)?,
            SCHEMAS => schemas_batch(self.topics.as_ref())?,
            LIMITS => limits_batch()?,
            FUNCTIONS => functions_batch()?,
            name if FACTS.contains(&name) => {
                let (topics, notices) = (Arc::clone(&self.topics), self.notices.clone());
                return Ok(Some(Arc::new(FactsTable::new(name, topics, notices))));
            }
            _ => {
                let known = self.table_names();
                return Err(external(SqlError::unknown(
                    "system table",
                    name,
                    None,
                    known,
                )));
            }
        };
        let table = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
        Ok(Some(Arc::new(table)))
    }

    fn table_exist(&self, name: &str) -> bool {
        FACTS.contains(&name) || OURS.contains(&name)
    }
}

type Built = Result<RecordBatch, arrow::error::ArrowError>;

fn texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn views_batch(topics: &dyn Topics) -> Built {
    let views = views(topics);
    RecordBatch::try_from_iter_with_nullable([
        (
            "name",
            texts(views.iter().map(|view| Some(view.name.as_str()))),
            false,
        ),
        (
            "sql",
            texts(views.iter().map(|view| Some(view.sql.as_str()))),
            false,
        ),
    ])
}

/// Declared columns in order, then the system columns that every topic has.
fn columns_batch(topics: &dyn Topics) -> Result<RecordBatch, SqlError> {
    let mut topic_names = Vec::new();
    let mut positions = Vec::new();
    let mut names = Vec::new();
    let mut types = Vec::new();
    let mut kinds = Vec::new();
    let mut expressions = Vec::new();
    let mut keys = Vec::new();
    let mut times = Vec::new();
    for topic in topics.topics() {
        let schema = catalog::table_schema(&topic)?;
        for (at, field) in schema.fields().iter().enumerate() {
            let declared = topic.columns.get(at);
            let expression = declared.and_then(|column| column.expression.clone());
            let written = declared.map(|column| column.sql_type.clone());
            topic_names.push(topic.name.clone());
            positions.push(i64::try_from(at).unwrap_or(i64::MAX));
            types.push(
                written
                    .filter(|written| !written.is_empty())
                    .unwrap_or_else(|| catalog::sql_type(field.data_type())),
            );
            kinds.push(match (declared, &expression) {
                (None, _) => "system",
                (Some(_), Some(_)) => "computed",
                (Some(_), None) => "stored",
            });
            expressions.push(expression);
            keys.push(topic.primary_key.contains(field.name()));
            let watermark = topic.watermark.as_ref();
            times.push(watermark.is_some_and(|watermark| watermark.column == *field.name()));
            names.push(field.name().clone());
        }
    }
    let text = |values: Vec<String>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("topic", text(topic_names), false),
        (
            "position",
            Arc::new(Int64Array::from(positions)) as ArrayRef,
            false,
        ),
        ("name", text(names), false),
        ("type", text(types), false),
        (
            "kind",
            Arc::new(StringArray::from(kinds)) as ArrayRef,
            false,
        ),
        (
            "expression",
            Arc::new(StringArray::from(expressions)) as ArrayRef,
            true,
        ),
        (
            "primary_key",
            Arc::new(BooleanArray::from(keys)) as ArrayRef,
            false,
        ),
        (
            "event_time",
            Arc::new(BooleanArray::from(times)) as ArrayRef,
            false,
        ),
    ])?)
}

/// Bounds that a statement can meet, by the names that refusals give them.
fn limits_batch() -> Built {
    let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    let all: [(&str, i64, &str); 15] = [
        (
            "CHAIN_TOKENS_MAX",
            number(CHAIN_TOKENS_MAX),
            "words between two commas",
        ),
        (
            "COLUMNS_MAX",
            number(limits::COLUMNS_MAX),
            "columns of a topic",
        ),
        (
            "DEPTH_MAX",
            number(DEPTH_MAX),
            "levels of nesting in a statement",
        ),
        (
            "FACT_ROWS_MAX",
            number(limits::FACT_ROWS_MAX),
            "rows of delayed, transactions, in_flight or dead_letters",
        ),
        ("GROUPS_MAX", number(limits::GROUPS_MAX), "consumer groups"),
        (
            "JOBS_MAX",
            number(limits::JOBS_MAX),
            "continuous queries and views",
        ),
        (
            "QUERY_MEMORY_BYTES",
            number(limits::QUERY_MEMORY_BYTES),
            "bytes of all statements together",
        ),
        (
            "QUERY_MS_MAX",
            limits::QUERY_MS_MAX,
            "milliseconds of a statement",
        ),
        (
            "QUEUES_MAX",
            i64::from(limits::QUEUES_MAX),
            "queues of a topic",
        ),
        ("RELATIONS_MAX", number(RELATIONS_MAX), "tables of a query"),
        (
            "SAVEPOINTS_MAX",
            number(limits::SAVEPOINTS_MAX),
            "savepoints of continuous queries",
        ),
        (
            "SET_OPERATIONS_MAX",
            number(SET_OPERATIONS_MAX),
            "queries side by side of UNION, EXCEPT and INTERSECT",
        ),
        (
            "SQL_BYTES_MAX",
            number(limits::SQL_BYTES_MAX),
            "bytes of a statement",
        ),
        (
            "TABLES_MAX",
            i64::try_from(TABLES_MAX).unwrap_or(i64::MAX),
            "tables of a query with views and WITH written out",
        ),
        ("VIEWS_DEEP_MAX", number(VIEWS_DEEP_MAX), "views on views"),
    ];
    RecordBatch::try_from_iter([
        ("name", texts(all.iter().map(|(name, ..)| Some(*name)))),
        (
            "value",
            Arc::new(
                all.iter()
                    .map(|(_, value, _)| Some(*value))
                    .collect::<Int64Array>(),
            ) as ArrayRef,
        ),
        (
            "meaning",
            texts(all.iter().map(|(.., meaning)| Some(*meaning))),
        ),
    ])
}
