//! One session per statement: our tables, nothing else, within memory that all statements share.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::CatalogProviderList;
use datafusion::catalog::view::ViewTable;
use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProviderList, SchemaProvider, TableProvider,
};
use datafusion::error::Result as EngineResult;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{self, Query, visit_relations};

use crate::batch::index::KeyIndexes;
use crate::batch::latest::external;
use crate::batch::names::check_tables;
use crate::batch::notices::Notices;
use crate::batch::orders::needs_one_partition;
use crate::batch::provider::TopicTable;
use crate::batch::system::SystemSchema;
use crate::batch::tail::Tail;
use crate::batch::view::{VIEWS_DEEP_MAX, view, views};
use crate::catalog::timestamp;
use crate::continuous::{Continuous, JobStatus};
use crate::error::SqlError;
use crate::plan::as_of::{self, Reading};
use crate::plan::constant::bound;
use crate::plan::exact::{self, Beside};
use crate::plan::in_lists::apart;
use crate::plan::in_query::{self, Alone};
use crate::plan::list_rows;
use crate::plan::located::located;
use crate::plan::marks;
use crate::plan::moments::in_milliseconds;
use crate::plan::named;
use crate::plan::negated;
use crate::plan::recursive;
use crate::plan::star;
use crate::plan::times;
use crate::plan::unnest;
use crate::plan::unnest_written::named_lists;
use crate::plan::window;
use crate::runtime::{self, CATALOG, SYSTEM_SCHEMA, TOPICS_SCHEMA};
use crate::topic::Topics;

/// Most tables that one query may name.
pub const RELATIONS_MAX: usize = 64;

/// What sessions are made of.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// The broker.
    pub topics: Arc<dyn Topics>,
    /// The job runtime, for `millpond.jobs`.
    pub jobs: Arc<dyn Continuous>,
    /// Shared by all statements.
    pub runtime: Arc<RuntimeEnv>,
    /// Shared by all statements.
    pub tail: Arc<Tail>,
    /// Shared by all statements.
    pub indexes: Arc<KeyIndexes>,
    /// Cores that one statement may use.
    pub partitions: usize,
}

impl Sessions {
    /// A bounded query, planned and ready to run.
    ///
    /// # Errors
    /// [`SqlError`] of any kind that names what can not be planned.
    pub async fn plan(&self, query: &Query, notices: &Notices) -> Result<DataFrame, SqlError> {
        check_tables(query, self.topics.as_ref())?;
        let (mut state, plan) = self.logical(query, notices, 0).await?;
        if needs_one_partition(&plan)? {
            state.config_mut().options_mut().execution.target_partitions = 1;
        }
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(|_| {
                SqlError::invalid(
                    "a query may read and not write",
                    "write INSERT INTO topic SELECT …, or COPY (SELECT …) TO 'file.parquet'",
                )
            })?;
        Ok(DataFrame::new(state, plan))
    }

    /// A query as a plan; `depth` counts the views around it.
    async fn logical(
        &self,
        query: &Query,
        notices: &Notices,
        depth: usize,
    ) -> Result<(SessionState, LogicalPlan), SqlError> {
        check_relations(query)?;
        let topics = self.topics.as_ref();
        let mut expanded = query.clone();
        recursive::name_columns(&mut expanded)?;
        named_lists(&mut expanded)?;
        star::expand(&mut expanded, topics)?;
        let (mut rewritten, windows) = window::rewrite_bounded(&expanded, topics)?;
        let has_as_of = as_of::rewrite(&mut rewritten, topics, Reading::Bounded)?;
        named::as_written(&mut rewritten);
        exact::written(&mut rewritten);
        let state = self.state(notices, depth, has_as_of)?;
        let statement = ast::Statement::Query(Box::new(rewritten));
        let plan = state
            .statement_to_plan(EngineStatement::Statement(Box::new(statement)))
            .await
            .map_err(|error| {
                let error = SqlError::from(error);
                // A rewritten window is another text, and so are the places in it.
                let error = match windows.is_empty() && !has_as_of {
                    true => error,
                    false => error.without_position(),
                };
                located(error, query)
            })?;
        let plan = in_milliseconds(exact::compared(unnest::beside(plan)?)?)?;
        let plan = list_rows::plain(negated::plain(times::plain(plan)?)?, &state)?;
        unnest::check_left(&plan)?;
        let plan = match has_as_of {
            true => as_of::plain(plan, topics)?,
            false => plan,
        };
        let plan = in_query::plain(marks::by_exists(plan, &state)?, Alone::Mended)?;
        let plan = marks::joined(plan, &state)?;
        Ok((state, apart(bound(plan)?)?))
    }

    fn state(
        &self,
        notices: &Notices,
        depth: usize,
        has_as_of: bool,
    ) -> Result<SessionState, SqlError> {
        let state =
            runtime::session_state(runtime::config(self.partitions), Arc::clone(&self.runtime));
        let context = SessionContext::new_with_state(state);
        let catalogs = MemoryCatalogProviderList::new();
        catalogs.register_catalog(
            CATALOG.to_owned(),
            Arc::new(Catalog {
                topics: Arc::new(TopicsSchema {
                    sessions: self.clone(),
                    notices: notices.clone(),
                    depth,
                }),
                system: Arc::new(SystemSchema {
                    topics: Arc::clone(&self.topics),
                    jobs: Arc::clone(&self.jobs),
                    notices: notices.clone(),
                }),
            }),
        );
        context.register_catalog_list(Arc::new(catalogs));
        for mark in as_of::marks().filter(|_| has_as_of) {
            context.register_udf(mark);
        }
        let mut state = context.state();
        state.register_expr_planner(Arc::new(Beside))?;
        Ok(state)
    }
}

fn check_relations(query: &Query) -> Result<(), SqlError> {
    let mut relations = 0_usize;
    let _: ControlFlow<()> = visit_relations(query, |_| {
        relations += 1;
        ControlFlow::Continue(())
    });
    if relations > RELATIONS_MAX {
        return Err(SqlError::Limit {
            limit: "RELATIONS_MAX",
            value: format!("{RELATIONS_MAX} tables"),
            advice: "join fewer tables in one query",
        });
    }
    Ok(())
}

#[derive(Debug)]
struct Catalog {
    topics: Arc<TopicsSchema>,
    system: Arc<SystemSchema>,
}

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        vec![TOPICS_SCHEMA.to_owned(), SYSTEM_SCHEMA.to_owned()]
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        match name {
            TOPICS_SCHEMA => Some(Arc::clone(&self.topics) as Arc<dyn SchemaProvider>),
            SYSTEM_SCHEMA => Some(Arc::clone(&self.system) as Arc<dyn SchemaProvider>),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct TopicsSchema {
    sessions: Sessions,
    notices: Notices,
    /// How many views stand around the query that asks.
    depth: usize,
}

#[async_trait]
impl SchemaProvider for TopicsSchema {
    fn table_names(&self) -> Vec<String> {
        let topics = self.sessions.topics.as_ref();
        let views = views(topics).into_iter().map(|view| view.name);
        let mut names: Vec<String> = topics
            .topics()
            .into_iter()
            .map(|topic| topic.name)
            .collect();
        names.extend(views);
        names
    }

    async fn table(&self, name: &str) -> EngineResult<Option<Arc<dyn TableProvider>>> {
        let topics = &self.sessions.topics;
        let versions = || as_of::versions_of(name, topics.as_ref());
        if let Some(topic) = topics.topic(name).or_else(versions) {
            let tail = Arc::clone(&self.sessions.tail);
            let indexes = Arc::clone(&self.sessions.indexes);
            let (topics, notices) = (Arc::clone(topics), self.notices.clone());
            let table = TopicTable::new(topics, topic, tail, indexes, notices);
            return Ok(Some(Arc::new(table.map_err(external)?)));
        }
        let Some(view) = view(topics.as_ref(), name) else {
            let known = self.table_names();
            return Err(external(SqlError::unknown("topic", name, None, known)));
        };
        if self.depth >= VIEWS_DEEP_MAX {
            return Err(external(SqlError::Limit {
                limit: "VIEWS_DEEP_MAX",
                value: format!("{VIEWS_DEEP_MAX} views on views"),
                advice: "write the innermost query out",
            }));
        }
        // A position within the view's text means nothing in the statement that names it.
        let (_, plan) = self
            .sessions
            .logical(&view.query, &self.notices, self.depth + 1)
            .await
            .map_err(|error| external(error.without_position()))?;
        Ok(Some(Arc::new(ViewTable::new(plan, Some(view.sql)))))
    }

    fn table_exist(&self, name: &str) -> bool {
        let topics = self.sessions.topics.as_ref();
        topics.topic(name).is_some()
            || as_of::versions_of(name, topics).is_some()
            || view(topics, name).is_some()
    }
}

fn jobs_schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let number = |name: &str| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![
        text("name"),
        text("state"),
        text("output_topic"),
        number("epoch"),
        Field::new("watermark", timestamp(), true),
        number("rows_in"),
        number("rows_out"),
        number("rows_late"),
        number("rows_undecodable"),
        number("rows_without_time"),
        number("state_bytes"),
        number("lag"),
        Field::new("error", DataType::Utf8, true),
        text("sql"),
        number("epoch_ms"),
        Field::new("waiting_share", DataType::Float64, false),
        Field::new("busy_share", DataType::Float64, false),
        Field::new("held_back_share", DataType::Float64, false),
        number("parallelism"),
        number("state_bytes_max"),
        number("restarts"),
        number("epoch_ms_mean"),
        number("epoch_ms_max"),
    ]))
}

/// Jobs as rows of `millpond.jobs`.
pub(crate) fn jobs_batch(jobs: &[JobStatus]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let text = |value: fn(&JobStatus) -> String| {
        Arc::new(StringArray::from_iter_values(jobs.iter().map(value)))
    };
    let number = |value: fn(&JobStatus) -> u64| {
        Arc::new(Int64Array::from_iter_values(
            jobs.iter()
                .map(|job| i64::try_from(value(job)).unwrap_or(i64::MAX)),
        ))
    };
    let share = |value: fn(&JobStatus) -> u32| {
        let shares = jobs.iter().map(|job| f64::from(value(job)) / 1000.0);
        Arc::new(Float64Array::from_iter_values(shares))
    };
    let watermarks: TimestampMillisecondArray = jobs
        .iter()
        .map(|job| job.watermark.map(|watermark| watermark.as_ms()))
        .collect();
    let errors: StringArray = jobs.iter().map(|job| job.error.as_deref()).collect();
    RecordBatch::try_new(
        jobs_schema(),
        vec![
            text(|job| job.name.clone()),
            text(|job| job.state.to_string()),
            text(|job| job.output_topic.clone()),
            number(|job| job.epoch),
            Arc::new(watermarks),
            number(|job| job.rows_in),
            number(|job| job.rows_out),
            number(|job| job.rows_late),
            number(|job| job.rows_undecodable),
            number(|job| job.rows_without_time),
            number(|job| job.state_bytes),
            number(|job| job.lag),
            Arc::new(errors),
            text(|job| job.sql.clone()),
            number(|job| job.pace.epoch_ms),
            share(|job| job.pace.waiting),
            share(|job| job.pace.busy),
            share(|job| job.pace.held_back),
            number(|job| job.parallelism),
            number(|job| job.state_bytes_max),
            number(|job| job.restarts),
            number(|job| job.pace.epoch_ms_mean),
            number(|job| job.pace.epoch_ms_max),
        ],
    )
}
