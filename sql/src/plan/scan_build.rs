//! Topics as nodes: their rows, or of a topic with a key the last row of each.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{LogicalPlan, TableScan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column as PhysicalColumn, IsNullExpr};

use crate::catalog::{BODY, DECODE_ERROR, shows_undecodable};
use crate::error::SqlError;
use crate::operator::graph::{Kind, Mode};
use crate::operator::latest::LatestSpec;
use crate::operator::moment::{Clock, Horizon};
use crate::operator::project::{Step, Transform};
use crate::plan::bounds::Time;
use crate::plan::graph::{Builder, Edge, named, nullable};
use crate::plan::source::{Input, Source, Undecodable};

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
        let schema = nullable(named(&source.schema.project(&wanted)?));
        // Another reading of the topic shows rows whose body does not parse, and this one does not.
        let is_filtered = read.undecodable == Undecodable::Shown && !shows(source, &wanted);
        let error = match is_filtered {
            true => Some(source.schema.index_of(DECODE_ERROR)?),
            false => None,
        };
        if source.topic.primary_key.is_empty() || self.reads_versions {
            let times = times_of(source, input, &schema);
            let all: Vec<usize> = wanted.iter().copied().chain(error).collect();
            let columns = all.iter().map(place).collect::<Result<Vec<_>, _>>()?;
            let mut node = match is_filtered {
                false => self.push(
                    Kind::Scan { input, columns },
                    Vec::new(),
                    Arc::clone(&schema),
                ),
                true => {
                    let full = numbered(source, &all)?;
                    self.push(Kind::Scan { input, columns }, Vec::new(), full)
                }
            };
            if is_filtered {
                let transform = self.first_columns(node, &schema, Some(wanted.len()));
                node = self.push(Kind::Transform(transform), vec![node], schema);
            }
            let edge = Edge {
                node,
                mode: Mode::Append,
                unique: None,
                times,
            };
            self.tell(&format!("read {name}"), &edge);
            return Ok(edge);
        }
        let key = source.schema.index_of("_key")?;
        let body = source.schema.index_of(BODY)?;
        let with_key = wanted.iter().copied().chain([key, body]).chain(error);
        let with_key: Vec<usize> = with_key.collect();
        let all = with_key.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let full = numbered(source, &with_key)?;
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
        let error = is_filtered.then_some(wanted.len() + 2);
        let transform = self.first_columns(latest, &schema, error);
        let edge = Edge {
            node: self.push(Kind::Transform(transform), vec![latest], schema),
            mode: Mode::Retract,
            unique: unique.filter(|_| has_key),
            times: Vec::new(),
        };
        self.tell(&format!("read {name}, the last row of each key"), &edge);
        Ok(edge)
    }

    /// The first columns of a node, which have this schema, of rows that have no error in that column.
    fn first_columns(&self, node: usize, schema: &SchemaRef, error: Option<usize>) -> Transform {
        let full = &self.nodes[node].schema;
        let column = |index: usize| -> Arc<dyn PhysicalExpr> {
            let name = full.field(index).name();
            Arc::new(PhysicalColumn::new(name, index))
        };
        let mut transform = Transform::over(Arc::clone(full));
        if let Some(error) = error {
            let is_good = IsNullExpr::new(column(error));
            transform.push(Step::Filter(Arc::new(is_good)));
        }
        transform.push(Step::Project {
            expressions: (0..schema.fields().len()).map(column).collect(),
            schema: Arc::clone(schema),
        });
        transform
    }
}

/// Columns of a topic under names of which none is another's.
fn numbered(source: &Source, columns: &[usize]) -> Result<SchemaRef, SqlError> {
    let columns = named(&source.schema.project(columns)?).into_iter();
    let columns = columns.enumerate();
    Ok(nullable(columns.map(|(index, (name, kind))| {
        (format!("{index}_{name}"), kind)
    })))
}

/// Whether a reading of these columns answers rows whose body does not parse.
fn shows(source: &Source, columns: &[usize]) -> bool {
    shows_undecodable(&source.schema, source.topic.columns.len(), columns)
}

/// For each topic the columns that any of its scans reads; of an upsert topic also key and body.
pub(super) fn inputs_of(plan: &LogicalPlan, sources: &[Source]) -> Result<Vec<Input>, SqlError> {
    let mut inputs = Vec::new();
    for source in sources {
        let mut columns: Vec<usize> = Vec::new();
        let (mut is_shown, mut is_hidden) = (false, false);
        let mut read = |wanted: &[usize]| {
            match shows(source, wanted) {
                true => is_shown = true,
                false => is_hidden = true,
            }
            for column in wanted {
                if !columns.contains(column) {
                    columns.push(*column);
                }
            }
        };
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && scan.table_name.table() == source.topic.name
            {
                match &scan.projection {
                    Some(columns) => read(columns),
                    None => read(&(0..source.schema.fields().len()).collect::<Vec<_>>()),
                }
            }
            Ok::<_, DataFusionError>(TreeNodeRecursion::Continue)
        })?;
        let schema = &source.schema;
        let is_keyed = !source.topic.primary_key.is_empty();
        let of_key = ["_key", BODY].into_iter().filter(|_| is_keyed);
        let of_errors = [DECODE_ERROR].into_iter();
        for name in of_key.chain(of_errors.filter(|_| is_shown && is_hidden)) {
            let column = schema.index_of(name)?;
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        inputs.push(Input {
            undecodable: match is_shown {
                true => Undecodable::Shown,
                false if is_keyed => Undecodable::Deletes,
                false => Undecodable::LeftOut,
            },
            ..Input::reading(&source.topic, schema, columns)?
        });
    }
    Ok(inputs)
}

/// The columns of a topic's rows that move on by themselves.
fn times_of(source: &Source, input: usize, schema: &Schema) -> Vec<Time> {
    let watermark = source.topic.watermark.as_ref();
    let declared = watermark.map(|spec| (spec.column.as_str(), Clock::Input(input), 0));
    let behind = watermark.into_iter().flat_map(|spec| &spec.behind);
    let behind = behind.map(|of| (of.column.as_str(), Clock::Input(input), of.by_ms));
    let each = declared.into_iter().chain(behind);
    let each = each.chain([("_stored_at", Clock::Store, 0)]);
    let each = each.filter_map(|(name, clock, behind_ms)| {
        Some(Time {
            column: schema.index_of(name).ok()?,
            horizon: Horizon::of(clock).lagging(behind_ms),
            // No row is late by the time at which it was stored.
            is_strict: clock == Clock::Store,
            is_padded: false,
        })
    });
    each.collect()
}
