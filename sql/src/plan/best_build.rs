//! Rows that have the greatest value of their group: a join of a relation with its own maxima.
//!
//! `a JOIN (SELECT k, max(v) AS most FROM a GROUP BY k) b ON a.k = b.k AND a.v = b.most` gives the rows of `a` whose rank by `v` in `k` is the
//! first. As a join it keeps each row of `a` twice, once among the values of its group and once to be met by the greatest; as ranks it keeps it
//! once, and only what changes the greatest goes further. It is seen by the nodes: both sides come from one node by choosing columns, and
//! the join compares all that the aggregate groups by, and its one value.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{JoinType, NullEquality};
use datafusion::logical_expr::{Join, Operator as Sign};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, IsNotNullExpr};

use crate::error::SqlError;
use crate::operator::graph::{Kind, Mode};
use crate::operator::project::{Step, Transform};
use crate::operator::top::{Numbers, TopSpec};
use crate::plan::bounds::Time;
use crate::plan::graph::{Builder, Edge, Told, named, nullable, passed, told};

/// What a join of a relation with its own maxima asks for, in columns of its left.
struct Best {
    partition: Vec<usize>,
    value: usize,
    is_greatest: bool,
    /// For each column of the right the column of the left that it equals.
    right: Vec<usize>,
}

impl Builder<'_> {
    /// A join as the first rank of its left, if it is one; `before` is what was planned before its right.
    pub(super) fn best(
        &mut self,
        join: &Join,
        left: &Edge,
        right: &Edge,
        before: Told,
    ) -> Result<Option<Edge>, SqlError> {
        let Some(best) = self.best_of(join, left, right) else {
            return Ok(None);
        };
        let of_partition = |time: &Time| {
            let place = best.partition.iter().position(|at| *at == time.column)?;
            let horizon = time.horizon.clone();
            Some(Time {
                column: place,
                horizon,
                ..*time
            })
        };
        let times: Vec<Time> = left.times.iter().filter_map(of_partition).collect();
        if times.is_empty() && self.options.state_ttl_ms.is_some() {
            // Rows at rest end each by itself, partitions as a whole.
            return Ok(None);
        }
        let of_right = named(&self.nodes[right.node].schema);
        self.go_back(before);
        let input = Arc::clone(&self.nodes[left.node].schema);
        let met = self.push(
            Kind::Transform(best.comparable(&input)),
            vec![left.node],
            Arc::clone(&input),
        );
        let (ending, times) = self.group_ending(times);
        let what = match best.is_greatest {
            true => "greatest",
            false => "least",
        };
        let what = format!(
            "rows with the {what} of each group{}",
            told(ending.as_ref())
        );
        let numbered = ("rank".to_owned(), DataType::UInt64);
        let ranked = nullable(named(&input).into_iter().chain([numbered]));
        let descending = best.is_greatest;
        let nulls_first = false;
        let options = SortOptions {
            descending,
            nulls_first,
        };
        let spec = TopSpec {
            partition: columns(&best.partition, &input),
            order: vec![(column(best.value, &input), options)],
            count: 1,
            numbers: Numbers::Rank,
            is_append: left.mode == Mode::Append,
            input: Arc::clone(&input),
            schema: Arc::clone(&ranked),
            ending,
        };
        let first = self.push(Kind::Top(spec), vec![met], Arc::clone(&ranked));

        let width = input.fields().len();
        let schema = nullable(named(&input).into_iter().chain(of_right));
        let chosen: Vec<usize> = (0..width).chain(best.right.iter().copied()).collect();
        let expressions = columns(&chosen, &input);
        let mut pairs = Transform::over(ranked);
        pairs.push(Step::Project {
            expressions,
            schema: Arc::clone(&schema),
        });
        let mut moving = Vec::new();
        for time in times {
            let own = best.partition[time.column];
            let equal = chosen.iter().enumerate().filter(|(_, at)| **at == own);
            moving.extend(equal.map(|(place, _)| Time {
                column: place,
                ..time.clone()
            }));
        }
        let edge = Edge {
            node: self.push(Kind::Transform(pairs), vec![first], schema),
            mode: Mode::Retract,
            unique: left.unique.clone(),
            times: moving,
        };
        self.tell(&what, &edge);
        Ok(Some(edge))
    }

    fn best_of(&self, join: &Join, left: &Edge, right: &Edge) -> Option<Best> {
        let is_plain = join.join_type == JoinType::Inner
            && join.filter.is_none()
            && join.null_equality == NullEquality::NullEqualsNothing;
        // A join and an aggregate wait for late rows each in its own way.
        let waits = left.times.iter().any(|time| !time.is_strict);
        if !is_plain || waits || !self.options.side_ttls_ms.is_empty() {
            return None;
        }
        let aggregate = self.chosen_of(right.node);
        let Kind::Aggregate(spec) = &self.nodes[aggregate].kind else {
            return None;
        };
        let ([kernel], false) = (spec.kernels.as_slice(), spec.groups.is_empty()) else {
            return None;
        };
        let is_greatest = match kernel.function.fun().name() {
            "max" => true,
            "min" => false,
            _ => return None,
        };
        let arguments = kernel.function.expressions();
        let ([argument], None) = (arguments.as_slice(), &kernel.filter) else {
            return None;
        };
        if !is_exact(&argument.data_type(&spec.input).ok()?) {
            return None;
        }
        let below = self.nodes[aggregate].inputs[0];
        let base = self.chosen_of(below);
        if base != self.chosen_of(left.node) {
            return None;
        }
        // What the aggregate gives, its groups and then its value, as columns of the base.
        let given = spec.groups.iter().chain([argument]).map(|of| {
            let of = of.downcast_ref::<Column>()?;
            self.chosen_column(below, of.index())
        });
        let given: Vec<usize> = given.collect::<Option<_>>()?;
        let mut of_left: Vec<Option<usize>> = vec![None; given.len()];
        for (over_left, over_right) in &join.on {
            let over_left = passed(over_left, join.left.schema())?;
            let over_right = passed(over_right, join.right.schema())?;
            let place = self.chosen_column(right.node, over_right)?;
            if self.chosen_column(left.node, over_left)? != given[place] {
                return None;
            }
            of_left[place] = Some(over_left);
        }
        let of_left: Vec<usize> = of_left.into_iter().collect::<Option<_>>()?;
        let width = self.nodes[right.node].schema.fields().len();
        let right = (0..width).map(|at| Some(of_left[self.chosen_column(right.node, at)?]));
        let right = right.collect::<Option<_>>()?;
        let (value, partition) = of_left.split_last()?;
        Some(Best {
            partition: partition.to_vec(),
            value: *value,
            is_greatest,
            right,
        })
    }

    /// The node whose rows, one for one, a node gives with other columns.
    fn chosen_of(&self, mut node: usize) -> usize {
        while let Kind::Transform(transform) = &self.nodes[node].kind {
            if !transform.keeps_rows() {
                break;
            }
            node = self.nodes[node].inputs[0];
        }
        node
    }

    /// The column of that node that a column is, if it is one.
    fn chosen_column(&self, mut node: usize, mut column: usize) -> Option<usize> {
        while let Kind::Transform(transform) = &self.nodes[node].kind {
            if !transform.keeps_rows() {
                break;
            }
            column = transform.passed(column)?;
            node = self.nodes[node].inputs[0];
        }
        Some(column)
    }
}

impl Best {
    /// Leaves out rows that are equal to nothing, since something in them is NULL.
    fn comparable(&self, input: &SchemaRef) -> Transform {
        let mut all: Arc<dyn PhysicalExpr> =
            Arc::new(IsNotNullExpr::new(column(self.value, input)));
        for at in &self.partition {
            let one = Arc::new(IsNotNullExpr::new(column(*at, input)));
            all = Arc::new(BinaryExpr::new(all, Sign::And, one));
        }
        let mut transform = Transform::over(Arc::clone(input));
        transform.push(Step::Filter(all));
        transform
    }
}

fn column(at: usize, schema: &SchemaRef) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(schema.field(at).name(), at))
}

fn columns(at: &[usize], schema: &SchemaRef) -> Vec<Arc<dyn PhysicalExpr>> {
    at.iter().map(|at| column(*at, schema)).collect()
}

/// Whether the greatest of values of a type equals just those that are sorted with it.
fn is_exact(kind: &DataType) -> bool {
    kind.is_integer()
        || matches!(
            kind,
            DataType::Utf8
                | DataType::Timestamp(..)
                | DataType::Date32
                | DataType::Date64
                | DataType::Decimal128(..)
        )
}
