//! Joins as nodes: what they compare, when rows of each side end, and what tells their rows apart.

use std::sync::Arc;

use datafusion::common::{JoinType, NullEquality};
use datafusion::logical_expr::{Join, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;

use crate::error::SqlError;
use crate::operator::graph::{Kind, Mode, Planned};
use crate::operator::group::STATE_TTL_MS;
use crate::operator::join::JoinSpec;
use crate::operator::moment::Ending;
use crate::plan::bounds::{Bounded, Time, bounded, distance};
use crate::plan::graph::{Builder, Edge, named, nullable, passed, told};
use crate::plan::refuse::{refused, unknown_side};
use crate::statement::LateRows;

impl Builder<'_> {
    pub(super) fn join(&mut self, join: &Join) -> Result<Edge, SqlError> {
        if matches!(join.join_type, JoinType::LeftMark | JoinType::RightMark) {
            return Err(refused(
                "EXISTS or IN beside OR",
                "write the subquery as a condition of its own, or as a join",
            ));
        }
        let left = self.relation(&join.left)?;
        let right = self.relation(&join.right)?;
        let inputs = [left.node, right.node].map(|node| Arc::clone(&self.nodes[node].schema));
        let mut on: [Vec<Arc<dyn PhysicalExpr>>; 2] = [Vec::new(), Vec::new()];
        let mut on_columns: [Vec<usize>; 2] = [Vec::new(), Vec::new()];
        for (over_left, over_right) in &join.on {
            for (side, expr, input) in [(0, over_left, &join.left), (1, over_right, &join.right)] {
                on[side].push(self.physical(expr, input.schema())?);
                on_columns[side].extend(passed(expr, input.schema()));
            }
        }
        let both = join.left.schema().join(join.right.schema())?;
        let filter = match &join.filter {
            Some(filter) => Some(self.physical(filter, &both)?),
            None => None,
        };
        let pairs = nullable(named(&inputs[0]).into_iter().chain(named(&inputs[1])));
        let schema = match join.join_type {
            JoinType::LeftSemi | JoinType::LeftAnti => Arc::clone(&inputs[0]),
            JoinType::RightSemi | JoinType::RightAnti => Arc::clone(&inputs[1]),
            _ => Arc::clone(&pairs),
        };
        let stays = matches!(
            join.join_type,
            JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi
        );
        let append = left.mode == Mode::Append && right.mode == Mode::Append && stays;
        let width = inputs[0].fields().len();
        let equal: Vec<(usize, usize)> = join
            .on
            .iter()
            .filter_map(|(left, right)| {
                let left = passed(left, join.left.schema())?;
                Some((left, width + passed(right, join.right.schema())?))
            })
            .collect();
        // Where NULL is equal to NULL, rows without time may meet.
        let null_is_equal = join.null_equality == NullEquality::NullEqualsNull;
        let bounded = if null_is_equal {
            None
        } else {
            bounded(
                [&left.times, &right.times],
                [left.mode, right.mode].map(|mode| mode == Mode::Retract),
                self.join_lateness_ms(),
                |left, right| distance(join.filter.as_ref(), &equal, &both, left, width + right),
            )
        };
        let (endings, times) = match bounded {
            Some(Bounded { endings, times }) => (endings.map(Some), times),
            None => {
                let mut ends = [self.at_rest(&join.left), self.at_rest(&join.right)];
                let mut times = [Vec::new(), Vec::new()];
                for (side, edge, other) in [(0, &left, &right), (1, &right, &left)] {
                    if !self.is_constant(other.node) {
                        continue;
                    }
                    // Beside rows that are there from the first step on, those to come are all that matters.
                    times[side].clone_from(&edge.times);
                    if edge.mode == Mode::Append && is_once(side, join.join_type) {
                        ends[side] = Some(Ending::Idle { ttl_ms: 0 });
                    }
                }
                (ends, times)
            }
        };
        let [of_left, of_right] = times;
        let of_right = of_right.into_iter().map(|time| Time {
            column: match join.join_type {
                JoinType::RightSemi | JoinType::RightAnti => time.column,
                _ => width + time.column,
            },
            ..time
        });
        let times: Vec<Time> = match join.join_type {
            JoinType::LeftSemi | JoinType::LeftAnti => of_left,
            JoinType::RightSemi | JoinType::RightAnti => of_right.collect(),
            kind => {
                let pads = [
                    matches!(kind, JoinType::Right | JoinType::Full),
                    matches!(kind, JoinType::Left | JoinType::Full),
                ];
                let padded = |time: Time, pads: bool| Time {
                    is_padded: time.is_padded || pads,
                    ..time
                };
                let left = of_left.into_iter().map(|time| padded(time, pads[0]));
                let right = of_right.map(|time| padded(time, pads[1]));
                left.chain(right).collect()
            }
        };
        let told = told_of_sides(&endings);
        let unique = match (join.join_type, left.unique, right.unique) {
            (JoinType::LeftSemi | JoinType::LeftAnti, left, _) => left,
            (JoinType::RightSemi | JoinType::RightAnti, _, right) => right,
            // Each left row meets at most one right row.
            (JoinType::Inner | JoinType::Left, Some(left), Some(right))
                if right.iter().all(|column| on_columns[1].contains(column)) =>
            {
                Some(left)
            }
            // A row of each side that meets nothing may have NULL in all of these, and both are there.
            (JoinType::Full, ..) => None,
            (_, Some(left), Some(right)) => {
                let right = right.into_iter().map(|column| width + column);
                Some(left.into_iter().chain(right).collect())
            }
            _ => None,
        };
        let spec = JoinSpec {
            kind: join.join_type,
            on,
            filter,
            inputs,
            pairs,
            schema: Arc::clone(&schema),
            null_is_equal,
            appends: [left.mode, right.mode].map(|mode| mode == Mode::Append),
            endings,
        };
        let edge = Edge {
            node: self.push(Kind::Join(spec), vec![left.node, right.node], schema),
            mode: if append { Mode::Append } else { Mode::Retract },
            unique,
            times,
        };
        self.tell(&format!("{} join{told}", join.join_type), &edge);
        Ok(edge)
    }

    /// Whether a node gives rows of the query itself alone.
    fn is_constant(&self, node: usize) -> bool {
        let Planned { kind, inputs, .. } = &self.nodes[node];
        !matches!(kind, Kind::Scan { .. }) && inputs.iter().all(|input| self.is_constant(*input))
    }

    /// How long after the watermark a join by time takes rows.
    fn join_lateness_ms(&self) -> i64 {
        let usual_ms = match self.options.late {
            Some(LateRows::Update) => STATE_TTL_MS,
            Some(LateRows::Drop | LateRows::Topic) | None => 0,
        };
        self.options.allowed_lateness_ms.unwrap_or(usual_ms)
    }

    /// When rows of a side end that time does not bound: after resting as long as is said of the side, or of all.
    fn at_rest(&mut self, side: &LogicalPlan) -> Option<Ending> {
        let name = name_of_side(side);
        self.joined_sides.extend(name.clone());
        let mut sides = self.options.side_ttls_ms.iter();
        let own = sides.find(|(known, _)| Some(known) == name.as_ref());
        let ttl_ms = own.map(|(_, ttl_ms)| *ttl_ms).or(self.options.state_ttl_ms);
        ttl_ms.map(|ttl_ms| Ending::Idle { ttl_ms })
    }

    /// Refuses a time to live for a side that there is not.
    pub(super) fn check_side_ttls(&mut self) -> Result<(), SqlError> {
        let known = &mut self.joined_sides;
        known.sort();
        known.dedup();
        let mut named = self.options.side_ttls_ms.iter();
        match named.find(|(side, _)| !known.contains(side)) {
            Some((side, _)) => Err(unknown_side(side, known)),
            None => Ok(()),
        }
    }
}

/// Whether a row of a side is of no use any more once it has met all rows of the other one.
fn is_once(side: usize, kind: JoinType) -> bool {
    use JoinType::{Inner, Left, LeftAnti, LeftSemi, Right, RightAnti, RightSemi};
    match side {
        0 => matches!(kind, Inner | Left | LeftSemi | LeftAnti),
        _ => matches!(kind, Inner | Right | RightSemi | RightAnti),
    }
}

/// The name by which the query calls a side, if it is one relation.
fn name_of_side(side: &LogicalPlan) -> Option<String> {
    let mut names = side.schema().iter().map(|(qualifier, _)| qualifier);
    let first = names.next()??.table().to_owned();
    let is_one = names.all(|name| name.is_some_and(|name| name.table() == first));
    is_one.then_some(first)
}

/// How it is told when the rows of the sides end.
fn told_of_sides(endings: &[Option<Ending>; 2]) -> String {
    match endings {
        [left, right] if left == right => told(left.as_ref()),
        [Some(Ending::Time { .. }), Some(Ending::Time { .. })] => told(endings[0].as_ref()),
        sides => {
            let each = ["left", "right"].iter().zip(sides).map(|(name, ending)| {
                let told = told(ending.as_ref());
                match told.strip_prefix(", state ") {
                    Some(ends) => format!("{name} {ends}"),
                    None => format!("{name} is kept"),
                }
            });
            format!(
                ", state of the {}",
                each.collect::<Vec<_>>().join(", of the ")
            )
        }
    }
}
