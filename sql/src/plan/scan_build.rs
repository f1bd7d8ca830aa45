//! Topics as nodes: their rows, or of a topic with a key the last row of each.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{LogicalPlan, TableScan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;

use crate::error::SqlError;
use crate::operator::graph::{Kind, Mode};
use crate::operator::latest::LatestSpec;
use crate::operator::moment::{Clock, Horizon};
use crate::operator::project::{Step, Transform};
use crate::plan::bounds::Time;
use crate::plan::graph::{Builder, Edge, named, nullable};
use crate::plan::source::{Input, Source};

impl Builder<'_> {
    pub(super) fn scan(&mut self, scan: &TableScan) -> Result<Edge, SqlError> {
        let name = scan.table_name.table();
        let input = self
            .sources
            .iter()
            .position(|source| source.topic.name == name);
        let input = input.ok_or_else(|| SqlError::Bug {
            cause: format!("the plan reads {name}, which the query does not name"),
        })?;
        let source = &self.sources[input];
        let wanted = match &scan.projection {
            Some(columns) => columns.clone(),
            None => (0..source.schema.fields().len()).collect(),
        };
        let read = &self.inputs[input];
        let place = |column: &usize| {
            let places = read.decoded[..read.query_columns].iter();
            places
                .clone()
                .position(|at| at == column)
                .ok_or_else(|| SqlError::Bug {
                    cause: format!("column {column} of {name} is not decoded"),
                })
        };
        let columns = wanted.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let schema = nullable(named(&source.schema.project(&wanted)?));
        if source.topic.primary_key.is_empty() || self.reads_versions {
            let times = times_of(source, input, &schema);
            let edge = Edge {
                node: self.push(Kind::Scan { input, columns }, Vec::new(), schema),
                mode: Mode::Append,
                unique: None,
                times,
            };
            self.tell(&format!("read {name}"), &edge);
            return Ok(edge);
        }
        let key = source.schema.index_of("_key")?;
        let body = source.schema.index_of("_body")?;
        let with_key: Vec<usize> = wanted.iter().copied().chain([key, body]).collect();
        let all = with_key.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let full = nullable(
            named(&source.schema.project(&with_key)?)
                .into_iter()
                .enumerate()
                .map(|(index, (name, kind))| (format!("{index}_{name}"), kind)),
        );
        let declared = source.topic.columns.iter();
        let declared = declared
            .filter(|column| column.expression.is_none())
            .count();
        // A view without a key of its own names all its columns, and its rows may repeat.
        let has_key = source.topic.primary_key.len() < declared;
        let unique: Option<Vec<usize>> = source
            .topic
            .primary_key
            .iter()
            .map(|column| schema.index_of(column).ok())
            .collect();
        let rows = self.push(
            Kind::Scan {
                input,
                columns: all,
            },
            Vec::new(),
            Arc::clone(&full),
        );
        let latest = LatestSpec {
            key: wanted.len(),
            body: wanted.len() + 1,
            schema: Arc::clone(&full),
        };
        let latest = self.push(Kind::Latest(latest), vec![rows], Arc::clone(&full));
        let mut transform = Transform::over(Arc::clone(&full));
        let expressions = (0..wanted.len()).map(|index| -> Arc<dyn PhysicalExpr> {
            let name = full.field(index).name();
            Arc::new(PhysicalColumn::new(name, index))
        });
        transform.push(Step::Project {
            expressions: expressions.collect(),
            schema: Arc::clone(&schema),
        });
        let edge = Edge {
            node: self.push(Kind::Transform(transform), vec![latest], schema),
            mode: Mode::Retract,
            unique: unique.filter(|_| has_key),
            times: Vec::new(),
        };
        self.tell(&format!("read {name}, the last row of each key"), &edge);
        Ok(edge)
    }
}

/// For each topic the columns that any of its scans reads; of an upsert topic also key and body.
pub(super) fn inputs_of(plan: &LogicalPlan, sources: &[Source]) -> Result<Vec<Input>, SqlError> {
    let mut inputs = Vec::new();
    for source in sources {
        let mut columns: Vec<usize> = Vec::new();
        let mut read = |column: usize| {
            if !columns.contains(&column) {
                columns.push(column);
            }
        };
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && scan.table_name.table() == source.topic.name
            {
                match &scan.projection {
                    Some(columns) => columns.iter().copied().for_each(&mut read),
                    None => (0..source.schema.fields().len()).for_each(&mut read),
                }
            }
            Ok::<_, DataFusionError>(TreeNodeRecursion::Continue)
        })?;
        if !source.topic.primary_key.is_empty() {
            read(source.schema.index_of("_key")?);
            read(source.schema.index_of("_body")?);
        }
        inputs.push(Input::reading(&source.topic, &source.schema, columns)?);
    }
    Ok(inputs)
}

/// The columns of a topic's rows that move on by themselves.
fn times_of(source: &Source, input: usize, schema: &Schema) -> Vec<Time> {
    let watermark = source.topic.watermark.as_ref();
    let declared = watermark.map(|spec| (spec.column.as_str(), Clock::Input(input)));
    let each = declared.into_iter().chain([("_stored_at", Clock::Store)]);
    let each = each.filter_map(|(name, clock)| {
        Some(Time {
            column: schema.index_of(name).ok()?,
            horizon: Horizon::of(clock),
            // No row is late by the time at which it was stored.
            is_strict: clock == Clock::Store,
            is_padded: false,
        })
    });
    each.collect()
}
