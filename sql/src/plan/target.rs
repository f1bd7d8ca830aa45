//! A query of a job: brought to the columns, and to the key, of the topic that it writes.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, cast};
use datafusion::sql::sqlparser::ast::Query;

use crate::batch::fit::may_fill;
use crate::catalog;
use crate::error::SqlError;
use crate::operator::graph::{Kind, Leaving, Planned};
use crate::operator::project::{Step, Transform};
use crate::plan::continuous::{ContinuousPlan, Shape, plan_as};
use crate::plan::refuse::refused;
use crate::statement::columns::{named, over};
use crate::statement::{ContinuousJob, Emit, quoted};
use crate::topic::{Changelog, ColumnSpec, TopicInfo, Topics};

/// Plans the query of a job that writes into a topic.
///
/// A topic with a primary key takes rows that change: what a job writes to it tells, key by key, what its row is from now on.
///
/// # Errors
/// As [`plan`](super::continuous::plan), and [`SqlError`] when the topic can not take what the query gives.
///
/// # Panics
/// Never: a query has at least one node.
pub async fn plan_into(
    job: &ContinuousJob,
    target: &TopicInfo,
    topics: &dyn Topics,
) -> Result<ContinuousPlan, SqlError> {
    let is_keyed = !target.primary_key.is_empty();
    if is_keyed && job.emit == Emit::OnWindowClose {
        return Err(refused(
            "EMIT ON WINDOW CLOSE into a topic with a primary key",
            "leave EMIT out, or insert into a topic without a primary key",
        ));
    }
    if job.options.key_format.is_some() {
        return Err(refused(
            "key_format in a job, whose topic says with its primary key how keys are written",
            "leave it out, or CREATE MATERIALIZED VIEW name WITH (key_format = 'json') AS SELECT …",
        ));
    }
    let query = filling(job, target)?;
    let plan = plan_as(&query, job.emit, job.options.clone(), topics, is_keyed).await?;
    let plan = plan.into_target(target)?;
    if is_keyed {
        plan.keyed(target)
    } else {
        Ok(plan)
    }
}

/// The query of a job with a value for each column of its topic: NULL where the job does not name it.
fn filling(job: &ContinuousJob, target: &TopicInfo) -> Result<Query, SqlError> {
    if job.columns.is_empty() {
        return Ok(job.query.clone());
    }
    let stored = target.columns.iter();
    let stored = stored.filter(|column| column.expression.is_none());
    let is_filled = |name: &String| job.columns.contains(name);
    for name in &job.columns {
        if !stored.clone().any(|column| column.name == *name) {
            let known = stored.map(|column| column.name.as_str());
            return Err(SqlError::unknown("stored column", name, None, known));
        }
    }
    if let Some(column) = target.primary_key.iter().find(|name| !is_filled(name)) {
        return Err(SqlError::invalid(
            format!("column {column} is a part of the primary key and is not filled"),
            "fill it",
        ));
    }
    let selected = stored.map(|column| match is_filled(&column.name) {
        true => quoted(&column.name),
        false => format!(
            "CAST(NULL AS {}) AS {}",
            column.sql_type,
            quoted(&column.name)
        ),
    });
    let selected: Vec<String> = selected.collect();
    let query = named(job.query.clone(), &job.name, &job.columns)?;
    over(query, &quoted(&job.name), &selected.join(", "))
}

impl ContinuousPlan {
    /// Brings the output to the columns of a topic that exists already, by position.
    ///
    /// # Errors
    /// [`SqlError`] when their number differs or a column can not be cast.
    ///
    /// # Panics
    /// Never: a query has at least one node.
    pub fn into_target(mut self, target: &TopicInfo) -> Result<Self, SqlError> {
        let tells_rows = match &self.shape {
            Shape::Graph(graph) => match &graph.leaving {
                Leaving::Upsert(columns) => columns.clone(),
                _ => Vec::new(),
            },
            Shape::Rows(_) | Shape::Groups(_) => Vec::new(),
        };
        let mut cast_to_target;
        let transform = match &mut self.shape {
            Shape::Rows(transform) => transform,
            Shape::Graph(graph)
                if graph.leaving == Leaving::Append || !target.primary_key.is_empty() =>
            {
                let last = graph.nodes.last().expect("a query has a node");
                cast_to_target = Transform::over(Arc::clone(&last.schema));
                &mut cast_to_target
            }
            Shape::Groups(grouping) if grouping.emit.is_on_close() => &mut grouping.output,
            Shape::Groups(_) | Shape::Graph(_) => {
                return Err(SqlError::invalid(
                    format!(
                        "the rows of this query change, and topic {} takes rows that stay, because it has no primary key",
                        target.name
                    ),
                    "insert into a topic with PRIMARY KEY, or write EMIT ON WINDOW CLOSE, or CREATE MATERIALIZED VIEW name AS SELECT …",
                ));
            }
        };
        let schema = catalog::table_schema(target)?;
        let body: Vec<&ColumnSpec> = target
            .columns
            .iter()
            .filter(|column| column.expression.is_none())
            .collect();
        if target.columns.is_empty() {
            return Ok(self);
        }
        let from = transform.schema();
        if from.fields().len() != body.len() {
            return Err(SqlError::invalid(
                format!(
                    "the query has {} columns, topic {} takes {}",
                    from.fields().len(),
                    target.name,
                    body.len()
                ),
                "select one expression for each column of the topic, in its order",
            ));
        }
        let mut expressions: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        let mut fields = Vec::new();
        for (index, (column, field)) in body.iter().zip(from.fields()).enumerate() {
            let wanted = schema.field_with_name(&column.name)?.data_type().clone();
            if !may_fill(field.data_type(), &wanted) {
                return Err(SqlError::invalid(
                    format!(
                        "column {} of the query is {}, column {} of topic {} is {}",
                        field.name(),
                        field.data_type(),
                        column.name,
                        target.name,
                        column.sql_type
                    ),
                    "cast it in the query",
                ));
            }
            if tells_rows.contains(&index) && !tells_apart(field.data_type(), &wanted) {
                return Err(SqlError::invalid(
                    format!(
                        "rows of the query are told apart by {}, which is {}, and several of its values are one as {} of column {} of topic {}, so that one row would replace another",
                        field.name(),
                        catalog::sql_type(field.data_type()),
                        column.sql_type,
                        column.name,
                        target.name
                    ),
                    "cast it where the query groups by it",
                ));
            }
            let value = Arc::new(Column::new(field.name(), index));
            fields.push(Field::new(&column.name, wanted.clone(), true));
            expressions.push(cast(value, &from, wanted)?);
        }
        let schema = Arc::new(Schema::new(fields));
        transform.push(Step::Project {
            expressions,
            schema: Arc::clone(&schema),
        });
        let transform = transform.clone();
        if let Shape::Graph(graph) = &mut self.shape {
            let last = graph.nodes.len() - 1;
            graph.nodes.push(Planned {
                kind: Kind::Transform(transform),
                inputs: vec![last],
                schema,
            });
        }
        Ok(self)
    }

    /// Lets rows leave under the primary key of the topic that they are written to.
    fn keyed(mut self, target: &TopicInfo) -> Result<Self, SqlError> {
        let stored = target.columns.iter();
        let stored: Vec<&str> = stored
            .filter(|column| column.expression.is_none())
            .map(|column| column.name.as_str())
            .collect();
        let mut key = Vec::with_capacity(target.primary_key.len());
        for name in &target.primary_key {
            let at = stored.iter().position(|column| column == name);
            key.push(at.ok_or_else(|| SqlError::Bug {
                cause: format!("topic {} has no column {name} of its key", target.name),
            })?);
        }
        let Shape::Graph(graph) = &mut self.shape else {
            return Err(SqlError::Bug {
                cause: "a query into a topic with a key is no graph".to_owned(),
            });
        };
        graph.leaving = match &graph.leaving {
            Leaving::Append | Leaving::Keyed(_) => Leaving::Keyed(key),
            Leaving::Upsert(own) => {
                if let Some(column) = own.iter().find(|column| !key.contains(column)) {
                    return Err(SqlError::invalid(
                        format!(
                            "rows of the query are told apart by {}, which is no part of the primary key of topic {}, so that one would replace another",
                            stored.get(*column).unwrap_or(&"a column"),
                            target.name
                        ),
                        "add it to the primary key of the topic, or aggregate over it in the query",
                    ));
                }
                Leaving::Upsert(key)
            }
            Leaving::Rows => {
                return Err(SqlError::invalid(
                    format!(
                        "rows of the query have no key, so that none of topic {} could be told from another",
                        target.name
                    ),
                    "group by the columns of its primary key",
                ));
            }
        };
        graph.debezium = target.changelog == Changelog::Debezium;
        graph.text_keys = true;
        let form = match graph.debezium {
            true => "changes of Debezium",
            false => "upsert",
        };
        self.explained.insert(
            0,
            format!(
                "write {}: {form} by ({})",
                target.name,
                target.primary_key.join(", ")
            ),
        );
        self.primary_key.clone_from(&target.primary_key);
        Ok(self)
    }
}

/// Whether different values stay different when they are cast, or the cast fails.
fn tells_apart(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (from, to) if from == to => true,
        (from, DataType::Utf8) => !from.is_nested(),
        (DataType::Boolean, to) => to.is_numeric(),
        (from, DataType::Decimal128(..)) if from.is_integer() => true,
        (from, to) if from.is_integer() && to.is_integer() => true,
        (DataType::Int8 | DataType::Int16 | DataType::Int32, DataType::Float64)
        | (DataType::Float32, DataType::Float64)
        | (DataType::Date32 | DataType::Timestamp(..), DataType::Timestamp(..)) => true,
        (DataType::Decimal128(_, from), DataType::Decimal128(_, to)) => from <= to,
        _ => false,
    }
}
