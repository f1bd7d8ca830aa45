//! From a query to what a continuous query computes: one chain from a topic to its output.
//!
//! The query engine parses names, checks types and inserts casts; its analysed plan is then walked from
//! the topic up: filters and projections, at most one aggregate, filters and projections. What is not
//! such a chain is refused by the name of the construct, with what to do instead. Only expressions
//! that depend on the row alone are taken, since a replay must compute the same.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion::execution::context::ExecutionProps;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, cast};
use datafusion::sql::sqlparser::ast::Query;

use crate::catalog;
use crate::error::SqlError;
use crate::operator::assign::Windows;
use crate::operator::group::{self, Bound, Grouping, WindowKey};
use crate::operator::project::{Project, Step, Transform};
use crate::operator::session::Session;
use crate::operator::window;
use crate::operator::{Operator, OperatorError};
use crate::plan::chain::{Chain, Origin, Walk, has_marks};
use crate::plan::output::{columns_of, primary_key};
use crate::plan::refuse::{refused, without_watermark, without_window};
use crate::plan::source::{Input, analyse, source_of};
use crate::plan::window::{Window, rewrite};
use crate::statement::Emit;
use crate::topic::{ColumnSpec, TopicInfo, Topics};

/// What a continuous query computes.
#[derive(Clone, Debug)]
pub struct ContinuousPlan {
    /// The topic that it reads.
    pub source: TopicInfo,
    /// Positions in that topic's table that are decoded: first those that the query reads.
    pub decoded: Vec<usize>,
    /// How many of those the query reads.
    pub query_columns: usize,
    /// Where the event time is among the decoded columns, if the topic declares it.
    pub time_column: Option<usize>,
    /// Whether the query itself deals with rows whose body does not parse.
    pub reads_undecodable: bool,
    /// Whether rows belong to windows; then the source declares a watermark.
    pub windowed: bool,
    /// Output columns, as a topic declares them.
    pub columns: Vec<ColumnSpec>,
    /// Output columns that make up the key; empty when every row counts.
    pub primary_key: Vec<String>,
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Shape {
    Rows(Transform),
    Groups(Box<Grouping>),
}

impl ContinuousPlan {
    /// The operator that computes it, without state yet.
    ///
    /// # Errors
    /// [`SqlError`] when a group column's type can not be a key.
    pub fn operator(&self) -> Result<Box<dyn Operator>, SqlError> {
        Ok(match &self.shape {
            Shape::Rows(transform) => Box::new(Project::new(transform.clone())),
            Shape::Groups(grouping) => {
                let grouping = grouping.as_ref().clone();
                let kind = grouping.window.as_ref().map(|window| window.kind);
                let keyed = |error: OperatorError| {
                    SqlError::invalid(error.to_string(), "group by columns of plain types")
                };
                match kind {
                    Some(Windows::Session { gap_ms }) => {
                        Box::new(Session::new(grouping, gap_ms).map_err(keyed)?)
                    }
                    _ => Box::new(window::Window::new(grouping).map_err(keyed)?),
                }
            }
        })
    }

    /// Whether it emits each group once, when its window is over.
    #[must_use]
    pub fn emits_on_close(&self) -> bool {
        matches!(&self.shape, Shape::Groups(grouping) if grouping.emit == group::Emit::OnClose)
    }

    /// Whether it groups rows.
    #[must_use]
    pub fn is_grouped(&self) -> bool {
        matches!(self.shape, Shape::Groups(_))
    }

    /// Brings the output to the columns of a topic that exists already, by position.
    ///
    /// # Errors
    /// [`SqlError`] when their number differs or a column can not be cast.
    pub fn into_target(mut self, target: &TopicInfo) -> Result<Self, SqlError> {
        let Shape::Rows(transform) = &mut self.shape else {
            return Err(SqlError::invalid(
                "a job that inserts into a topic has no aggregates",
                "write CREATE MATERIALIZED VIEW name AS SELECT …, whose result is a topic of its own",
            ));
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
            if !arrow::compute::can_cast_types(field.data_type(), &wanted) {
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
            let value = Arc::new(Column::new(field.name(), index));
            fields.push(Field::new(&column.name, wanted.clone(), true));
            expressions.push(cast(value, &from, wanted)?);
        }
        transform.push(Step::Project {
            expressions,
            schema: Arc::new(Schema::new(fields)),
        });
        Ok(self)
    }
}

/// Plans a query of a view (`emit` as it says) or of a job (`emit` = changes).
///
/// # Errors
/// [`SqlError`] naming the construct that a continuous query does not take, and what to write instead.
pub async fn plan(
    query: &Query,
    emit: Emit,
    topics: &dyn Topics,
) -> Result<ContinuousPlan, SqlError> {
    let (query, windows) = rewrite(query)?;
    let source = source_of(&query, topics)?;
    if !source.primary_key.is_empty() {
        return Err(SqlError::invalid(
            format!(
                "topic {} is updated by key, and a continuous query reads topics whose rows stay",
                source.name
            ),
            "read the topic that it is made of, or a view with EMIT ON WINDOW CLOSE",
        ));
    }
    let source_schema = catalog::table_schema(&source)?;
    let window = match windows.as_slice() {
        [] => None,
        [window] => Some(window.clone()),
        _ => {
            return Err(refused(
                "more than one window function",
                "write one query per window",
            ));
        }
    };
    let logical = analyse(query, &source, &source_schema).await?;
    if window.is_some() && !has_marks(&logical) {
        return Err(refused(
            "a window function whose windows nobody reads",
            "group by window_start, window_end, or read the topic itself",
        ));
    }
    let walk = Walk {
        source_schema: &source_schema,
        window: window.as_ref(),
        properties: ExecutionProps::new(),
    };
    let chain = walk.chain(&logical)?;
    finish(
        chain,
        emit,
        window.as_ref(),
        Input::of(&source, &source_schema, &logical)?,
    )
}

fn finish(
    chain: Chain,
    emit: Emit,
    window: Option<&Window>,
    input: Input,
) -> Result<ContinuousPlan, SqlError> {
    let source = input.source;
    let columns = columns_of(&chain.transform.schema())?;
    let Some(grouped) = chain.aggregate else {
        if emit == Emit::OnWindowClose {
            return Err(without_window());
        }
        if let Some(window) = window
            && matches!(window.kind, Windows::Session { .. })
        {
            return Err(refused(
                "SESSION without GROUP BY",
                "group by its PARTITION BY, window_start and window_end",
            ));
        }
        return Ok(ContinuousPlan {
            source,
            decoded: input.decoded,
            query_columns: input.query_columns,
            time_column: input.time_column,
            reads_undecodable: input.reads_undecodable,
            windowed: false,
            columns,
            primary_key: Vec::new(),
            shape: Shape::Rows(chain.transform),
        });
    };

    let key = grouped.windows.map(|kind| WindowKey {
        kind,
        bounds: (0..)
            .zip(&grouped.origins)
            .filter_map(|(column, origin)| match origin {
                Origin::WindowStart => Some((column, Bound::Start)),
                Origin::WindowEnd => Some((column, Bound::End)),
                _ => None,
            })
            .collect(),
    });
    if let (Some(window), Some(_)) = (window, &key) {
        let declared = source.watermark.as_ref();
        if declared.is_none_or(|declared| declared.column != window.time_column) {
            return Err(without_watermark(&source, window));
        }
    } else if emit == Emit::OnWindowClose {
        return Err(without_window());
    }
    let primary_key = match emit {
        Emit::OnWindowClose => Vec::new(),
        Emit::Changes => primary_key(&grouped, &chain.origins, &columns)?,
    };
    Ok(ContinuousPlan {
        source,
        decoded: input.decoded,
        query_columns: input.query_columns,
        time_column: input.time_column,
        reads_undecodable: input.reads_undecodable,
        windowed: key.is_some(),
        columns,
        primary_key,
        shape: Shape::Groups(Box::new(Grouping {
            input: grouped.input,
            groups: grouped.groups,
            aggregates: grouped.aggregates,
            schema: grouped.schema,
            output: chain.transform,
            window: key,
            emit: match emit {
                Emit::Changes => group::Emit::Changes,
                Emit::OnWindowClose => group::Emit::OnClose,
            },
        })),
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, StringArray, TimestampMillisecondArray};
    use arrow::record_batch::RecordBatch;
    use millpond_proto::remedy::Remedy;
    use millpond_proto::time::{SimulatedClock, Timestamp};

    use super::*;
    use crate::operator::Output;
    use crate::statement::parse_query;
    use crate::testing::MemoryTopics;
    use crate::topic::{NewTopic, WatermarkSpec};

    #[tokio::test]
    async fn state_over_its_bound_is_an_error_that_says_what_to_do() {
        let clock = Arc::new(SimulatedClock::starting_at(Timestamp(0)));
        let topics = MemoryTopics::new(clock);
        let column = |name: &str, sql_type: &str| ColumnSpec {
            name: name.to_owned(),
            sql_type: sql_type.to_owned(),
            expression: None,
        };
        let topic = NewTopic {
            name: "t".to_owned(),
            queues: Some(1),
            columns: vec![column("k", "VARCHAR"), column("at", "TIMESTAMP")],
            watermark: Some(WatermarkSpec {
                column: "at".to_owned(),
                delay_ms: 0,
            }),
            primary_key: Vec::new(),
            written_by: None,
        };
        topics.create_topic(topic).await.unwrap();
        for from in [
            "TUMBLE(TABLE t, DESCRIPTOR(at), INTERVAL '1 second')",
            "SESSION(TABLE t PARTITION BY k, DESCRIPTOR(at), INTERVAL '1 second')",
        ] {
            let query = format!(
                "SELECT k, window_start, window_end, count(*) AS n FROM {from} GROUP BY k, window_start, window_end"
            );
            let query = parse_query(&query).unwrap();
            let planned = plan(&query, Emit::Changes, topics.as_ref()).await.unwrap();
            let Shape::Groups(grouping) = planned.shape.clone() else {
                panic!("it groups");
            };
            let bounded = |bytes: usize| -> Box<dyn Operator> {
                let grouping = grouping.as_ref().clone();
                match grouping.window.as_ref().unwrap().kind {
                    Windows::Session { gap_ms } => Box::new(
                        Session::new(grouping, gap_ms)
                            .unwrap()
                            .with_state_bytes_max(bytes),
                    ),
                    _ => Box::new(
                        window::Window::new(grouping)
                            .unwrap()
                            .with_state_bytes_max(bytes),
                    ),
                }
            };
            let schema = catalog::table_schema(&planned.source).unwrap();
            let columns = &planned.decoded[..planned.query_columns];
            let schema = Arc::new(schema.project(columns).unwrap());
            let keys: ArrayRef = Arc::new(StringArray::from_iter_values(
                (0..100).map(|n| format!("k{n}")),
            ));
            let times: ArrayRef = Arc::new(TimestampMillisecondArray::from_iter_values(0..100));
            let batch = RecordBatch::try_new(schema, vec![keys, times]).unwrap();
            let mut out = Output::default();
            bounded(1 << 20).on_batch(&batch, None, &mut out).unwrap();
            let error = bounded(2000).on_batch(&batch, None, &mut out).unwrap_err();
            assert!(
                matches!(error, OperatorError::StateTooLarge { .. }),
                "{error}"
            );
            assert!(
                error
                    .to_string()
                    .contains("limit 2000; use shorter windows"),
                "{error}"
            );
            assert_eq!(error.remedy(), Remedy::FixRequest);
        }
    }
}
