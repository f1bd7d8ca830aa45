//! A query that is no single chain: nodes that give deltas to each other, tick by tick; here one lane of it.
//!
//! The rows of a tick go in together, one delta per input, and each node steps once, in the order in
//! which they are listed; what the last one gives is the query's. An epoch goes through the graph node by
//! node: a node takes all its steps before the next one begins, since what it gives at a step depends on
//! nothing later. In between, rows find the lane of their key ([`Router`]); a lane has its own part of every
//! node's state. What leaves depends on what can happen
//! to a row ([`Mode`]): rows that stay leave at once; rows with a key leave at the end of the epoch, the
//! last per key, with a deletion for a key that is no more; rows that go and have no key are written under
//! a key made of the whole row and, for the second equal row on, its number.

mod changed;
mod leave;
mod part;
mod plan;
mod standing;
mod transform;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use millpond_proto::limits::JOB_STATE_BYTES_MAX;
use millpond_proto::time::Timestamp;

use crate::operator::aggregate::Aggregate;
use crate::operator::as_of::AsOf;
use crate::operator::beat::Beat;
use crate::operator::close::Close;
use crate::operator::constant::Constant;
use crate::operator::delta::{Delta, Node, Row, RowCodec, other_state, rows_at};
use crate::operator::hash::Fixed;
use crate::operator::join;
use crate::operator::latest::Latest;
use crate::operator::moment::Moment;
use crate::operator::origin::{Came, LateRows, Message};
use crate::operator::over::Over;
use crate::operator::session_rows::SessionRows;
use crate::operator::spread::{Router, lane_of};
use crate::operator::top::Top;
use crate::operator::{OperatorError, Output, StepFigures};

use changed::Changed;
pub(crate) use plan::{GraphPlan, GraphStep, Kind, Leaving, Mode, Planned};
use standing::Standing;

/// What a node gave at a step.
#[derive(Clone, Debug)]
struct Given {
    delta: Delta,
    /// Where its rows stand among those of other lanes; none: nothing is known.
    places: Vec<Row>,
    /// The messages that its rows are; none: they are none, or no row can be late.
    origins: Vec<Message>,
}

impl Given {
    fn unplaced(delta: Delta) -> Self {
        Self {
            delta,
            places: Vec::new(),
            origins: Vec::new(),
        }
    }
}

/// What a node gave at a step, on its way to a lane.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    delta: Delta,
    origins: Vec<Message>,
}

/// What leaves at a step; the rows of the late ones are these messages.
pub(crate) type LeftAt = (usize, Output, Vec<Message>);

/// Rows on their way to a lane, by input of a node and step.
pub(crate) type Routed = Vec<Vec<Sent>>;

/// One lane.
#[derive(Debug)]
pub(crate) struct Graph {
    plan: Arc<GraphPlan>,
    nodes: Vec<Option<Box<dyn Node>>>,
    /// How rows come to the lane of each node's state; `None` for a node without.
    routers: Vec<Option<Vec<Router>>>,
    /// How changes come to the lane that tells them; `None` for rows that stay.
    leaving: Option<Router>,
    steps: Arc<[GraphStep]>,
    /// Rows of the inputs by step.
    arrived: Vec<BTreeMap<usize, Came>>,
    /// By node and step, in this epoch.
    given: Vec<Vec<Given>>,
    output: RowCodec,
    /// Changes of rows with a key that leave with the epoch.
    changed: Changed,
    /// Changes of rows with a key that may get another row without its last one going.
    standing: Option<Standing>,
    /// What else changed and did not leave yet.
    pending: HashMap<Row, i64, Fixed>,
    pending_bytes: usize,
    beat: Option<Beat>,
    judges_time: bool,
    /// How often each row is there; kept for [`Leaving::Rows`].
    there: BTreeMap<Row, i64>,
    there_bytes: usize,
    /// Changes that each node gave.
    counts: Vec<u64>,
    /// Milliseconds that each took.
    busy_ms: Vec<u64>,
    late: LateRows,
    state_bytes_max: usize,
    /// Whether it is the lane of state without a key.
    owns_what_has_no_key: bool,
}

const ROW_BYTES: usize = 64;

impl Graph {
    pub(crate) fn new(plan: Arc<GraphPlan>) -> Result<Self, OperatorError> {
        let mut nodes: Vec<Option<Box<dyn Node>>> = Vec::new();
        for node in &plan.nodes {
            nodes.push(match &node.kind {
                Kind::Scan { .. } | Kind::Transform(_) | Kind::Union => None,
                Kind::Latest(spec) => Some(Box::new(Latest::new(spec.clone())?)),
                Kind::Aggregate(spec) => Some(Box::new(Aggregate::new(spec.clone())?)),
                Kind::Join(spec) => Some(join::node(spec.clone())?),
                Kind::Top(spec) => Some(Box::new(Top::new(spec.clone())?)),
                Kind::Over(spec) => Some(Box::new(Over::new(spec.as_ref().clone())?)),
                Kind::Close(spec) => Some(Box::new(Close::new(spec.clone())?)),
                Kind::AsOf(spec) => Some(Box::new(AsOf::new(spec.as_ref().clone())?)),
                Kind::SessionRows(spec) => Some(Box::new(SessionRows::new(spec.as_ref().clone())?)),
                Kind::Constant(rows) => Some(Box::new(Constant::new(rows.clone()))),
            });
        }
        let routers = plan.nodes.iter().map(|node| Router::of(&node.kind));
        let last = plan.nodes.last().expect("a query has a node");
        let schema = Arc::clone(&last.schema);
        let plan_nodes = plan.nodes.len();
        let standing = match &plan.leaving {
            Leaving::Upsert(key) if plan.supersedes() => Some(Standing::new(key, &schema)?),
            _ => None,
        };
        Ok(Self {
            output: RowCodec::new(&schema)?,
            routers: routers.collect::<Result<_, _>>()?,
            leaving: match &plan.leaving {
                Leaving::Append | Leaving::Keyed(_) => None,
                Leaving::Upsert(key) => Some(Router::by_columns(key.iter().copied(), &schema)?),
                Leaving::Rows => Some(Router::by_columns(0..schema.fields().len(), &schema)?),
            },
            nodes,
            beat: plan.every_ms.map(Beat::every),
            judges_time: plan.judges_time(),
            plan,
            steps: Arc::from([]),
            arrived: Vec::new(),
            given: vec![Vec::new(); plan_nodes],
            changed: Changed::default(),
            standing,
            pending: HashMap::default(),
            pending_bytes: 0,
            there: BTreeMap::new(),
            there_bytes: 0,
            counts: vec![0; plan_nodes],
            busy_ms: vec![0; plan_nodes],
            late: LateRows::default(),
            state_bytes_max: JOB_STATE_BYTES_MAX,
            owns_what_has_no_key: true,
        })
    }

    /// Makes it one of several lanes.
    pub(crate) fn into_lane(mut self, lane: usize, lanes: usize) -> Self {
        self.owns_what_has_no_key = lane == lane_of(&[], lanes);
        self
    }

    /// Bounds the state by `bytes` instead of the usual limit.
    pub(crate) fn with_state_bytes_max(mut self, bytes: usize) -> Self {
        self.state_bytes_max = bytes;
        self
    }

    /// How many nodes it has.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Whether any node has state by key.
    pub(crate) fn is_keyed(&self) -> bool {
        self.routers.iter().any(Option::is_some)
    }

    /// The nodes whose state has no key to be cut by.
    pub(crate) fn in_one_lane(&self) -> Vec<&'static str> {
        let nodes = self.plan.nodes.iter().zip(&self.routers);
        let whole = nodes.filter(|(node, routers)| {
            let mut routers = routers.iter().flatten();
            // That they were given is no state to speak of.
            let is_state = !matches!(node.kind, Kind::Constant(_));
            is_state && routers.any(|router| !router.spreads())
        });
        whole.map(|(node, _)| node.kind.name()).collect()
    }

    /// Whether a node has state by key, so that its rows must find their lane.
    pub(crate) fn is_routed(&self, node: usize) -> bool {
        self.routers[node].is_some()
    }

    /// Whether what leaves must find its lane.
    pub(crate) fn leaves_routed(&self) -> bool {
        self.leaving.is_some()
    }

    /// Whether it has something to give before any row comes: the row of an aggregate without GROUP BY.
    pub(crate) fn waits(&self) -> bool {
        let mut nodes = self.nodes.iter().flatten();
        self.owns_what_has_no_key && nodes.any(|node| node.waits())
    }

    /// Whether time alone makes it do something.
    pub(crate) fn is_timed(&self) -> bool {
        self.nodes.iter().flatten().any(|node| node.is_timed())
    }

    /// Whether rows leave a node because time passes; where time only makes state end, it may pass in the step of the rows before it.
    pub(crate) fn gives_by_time(&self) -> bool {
        let mut kinds = self.plan.nodes.iter().map(|node| &node.kind);
        kinds.any(|kind| matches!(kind, Kind::AsOf(_) | Kind::Close(_) | Kind::Over(_)))
    }

    /// Whether ticks of an epoch may be one step, those with rows that came behind a watermark left aside.
    pub(crate) fn folds(&self) -> bool {
        self.plan.is_told_at_the_end() && !self.gives_by_time()
    }

    /// Whether rows may come too late.
    pub(crate) fn judges_time(&self) -> bool {
        self.judges_time
    }

    /// Takes what arrived in an epoch; nothing is computed yet.
    pub(crate) fn begin(&mut self, steps: Arc<[GraphStep]>, arrived: Vec<BTreeMap<usize, Came>>) {
        assert_eq!(steps.len(), arrived.len(), "each step has its rows");
        self.steps = steps;
        self.arrived = arrived;
        self.given.iter_mut().for_each(Vec::clear);
    }

    /// Splits what a node takes by the lanes that have its state; past the last node, what leaves.
    pub(crate) fn route(&self, node: usize, lanes: usize) -> Result<Vec<Routed>, OperatorError> {
        let last = self.nodes.len() - 1;
        let (inputs, routers) = match self.plan.nodes.get(node) {
            Some(planned) => (planned.inputs.as_slice(), self.routers[node].as_deref()),
            None => (&[last][..], self.leaving.as_ref().map(std::slice::from_ref)),
        };
        let mut routed = vec![Routed::new(); lanes];
        for (input, router) in inputs.iter().zip(routers.into_iter().flatten()) {
            let mut split = vec![Vec::with_capacity(self.steps.len()); lanes];
            for Given { delta, origins, .. } in &self.given[*input] {
                let rows = match delta.weights.is_empty() {
                    true => vec![Vec::new(); lanes],
                    false => router.split(&delta.rows, lanes)?,
                };
                for (steps, rows) in split.iter_mut().zip(rows) {
                    let origin = |row: &u32| origins.get(*row as usize).copied();
                    steps.push(Sent {
                        origins: rows.iter().filter_map(origin).collect(),
                        delta: picked(delta, rows)?,
                    });
                }
            }
            for (routed, steps) in routed.iter_mut().zip(split) {
                routed.push(steps);
            }
        }
        Ok(routed)
    }

    /// Puts together what all lanes routed to this one, in their order.
    pub(crate) fn merge(&self, from: &[Routed]) -> Result<Routed, OperatorError> {
        let inputs = from.first().map_or(0, Vec::len);
        let mut merged = Vec::with_capacity(inputs);
        for input in 0..inputs {
            let mut steps = Vec::with_capacity(self.steps.len());
            for step in 0..self.steps.len() {
                let sent = from.iter().map(|routed| &routed[input][step]);
                let some: Vec<&Sent> = sent.filter(|sent| !sent.delta.weights.is_empty()).collect();
                steps.push(match some.as_slice() {
                    [] => from[0][input][step].clone(),
                    [one] => (*one).clone(),
                    many => Sent {
                        delta: Delta {
                            rows: concat_batches(
                                many[0].delta.rows.schema_ref(),
                                many.iter().map(|sent| &sent.delta.rows),
                            )?,
                            weights: many
                                .iter()
                                .flat_map(|sent| &sent.delta.weights)
                                .copied()
                                .collect(),
                        },
                        origins: many
                            .iter()
                            .flat_map(|sent| &sent.origins)
                            .copied()
                            .collect(),
                    },
                });
            }
            merged.push(steps);
        }
        Ok(merged)
    }

    /// Takes a node through all steps of the epoch; `routed` is what it takes when that came from other lanes.
    pub(crate) fn run(
        &mut self,
        index: usize,
        routed: Option<&Routed>,
    ) -> Result<(), OperatorError> {
        let planned = &self.plan.nodes[index];
        let mut node = self.nodes[index].take();
        let mut all = Vec::with_capacity(self.steps.len());
        for (at, step) in self.steps.iter().enumerate() {
            let before: Vec<&Given> = planned
                .inputs
                .iter()
                .map(|input| &self.given[*input][at])
                .collect();
            let inputs: Vec<&Delta> = match routed {
                Some(routed) => routed.iter().map(|steps| &steps[at].delta).collect(),
                None => before.iter().map(|given| &given.delta).collect(),
            };
            let origins: Vec<&[Message]> = match routed {
                Some(routed) => routed.iter().map(|steps| &steps[at].origins[..]).collect(),
                None => before.iter().map(|given| &given.origins[..]).collect(),
            };
            let given = match (&planned.kind, &mut node) {
                (Kind::Scan { input, columns }, _) => match self.arrived[at].get(input) {
                    Some(came) => Given {
                        origins: match self.judges_time {
                            true => came.messages.clone(),
                            false => Vec::new(),
                        },
                        ..Given::unplaced(Delta::inserted(came.rows.project(columns)?))
                    },
                    None => Given::unplaced(Delta::empty(&planned.schema)),
                },
                (Kind::Transform(_), _) if inputs[0].weights.is_empty() => {
                    Given::unplaced(Delta::empty(&planned.schema))
                }
                (Kind::Transform(transform), _) => {
                    self.transformed(index, transform, inputs[0], before[0], origins[0], step)?
                }
                (Kind::Union, _) => {
                    let mut each = inputs.iter().zip(&origins);
                    let are_known = each.all(|(delta, of)| delta.weights.len() == of.len());
                    Given {
                        origins: match are_known {
                            true => origins.concat(),
                            false => Vec::new(),
                        },
                        ..Given::unplaced(union(&inputs, &planned.schema)?)
                    }
                }
                (_, Some(node)) => {
                    let is_still = inputs.iter().all(|input| input.weights.is_empty());
                    let begins = self.owns_what_has_no_key && node.waits();
                    if is_still && !node.is_timed() && !begins {
                        Given::unplaced(Delta::empty(&planned.schema))
                    } else {
                        let moment = Moment::new(&step.before, &step.after);
                        let delta = node.step(&inputs, &moment)?;
                        self.late.leave_out(at, &origins, moment.take_late());
                        Given {
                            places: node.take_places(),
                            ..Given::unplaced(delta)
                        }
                    }
                }
                (_, None) => return Err(other_state()),
            };
            self.counts[index] += given.delta.rows.num_rows() as u64;
            all.push(given);
        }
        self.nodes[index] = node;
        self.given[index] = all;
        let size_bytes = self.state_bytes();
        if size_bytes > self.state_bytes_max {
            return Err(OperatorError::StateTooLarge {
                size_bytes,
                limit_bytes: self.state_bytes_max,
            });
        }
        Ok(())
    }

    /// Ends what [`Graph::begin`] began: rows that stay leave, by step; changes wait for [`Graph::on_barrier`].
    /// `routed` are the changes when they came from other lanes.
    pub(crate) fn finish(&mut self, routed: Option<Routed>) -> Result<Vec<LeftAt>, OperatorError> {
        let last = self.given.len() - 1;
        let given = std::mem::take(&mut self.given[last]);
        self.given.iter_mut().for_each(Vec::clear);
        self.arrived.clear();
        let mut left = Vec::new();
        match self.plan.leaving.clone() {
            Leaving::Append | Leaving::Keyed(_) => {
                for (step, given) in given.into_iter().enumerate() {
                    let mut out = Output::default();
                    self.append(&given, &mut out)?;
                    left.push((step, out, Vec::new()));
                }
            }
            Leaving::Upsert(_) | Leaving::Rows => {
                let deltas: Vec<Delta> = match routed {
                    Some(mut routed) => {
                        let sent = routed.pop().unwrap_or_default().into_iter();
                        sent.map(|sent| sent.delta).collect()
                    }
                    None => given.into_iter().map(|given| given.delta).collect(),
                };
                let steps = Arc::clone(&self.steps);
                for (at, delta) in deltas.into_iter().enumerate() {
                    let now_ms = steps[at].before.stored_ms;
                    let mut out = Output::default();
                    self.on_time(Timestamp(now_ms), &mut out)?;
                    left.push((at, out, Vec::new()));
                    self.change(delta, now_ms)?;
                }
            }
        }
        let late = self.late.take().into_iter();
        left.extend(late.map(|late| (late.step, late.out, late.messages)));
        Ok(left)
    }
}

/// The rows of all inputs, in a line.
fn union(inputs: &[&Delta], schema: &SchemaRef) -> Result<Delta, OperatorError> {
    let mut batches = Vec::with_capacity(inputs.len());
    for input in inputs {
        let columns = input.rows.columns().to_vec();
        let options = RecordBatchOptions::new().with_row_count(Some(input.rows.num_rows()));
        let schema = Arc::clone(schema);
        batches.push(RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?);
    }
    Ok(Delta {
        rows: concat_batches(schema, &batches)?,
        weights: inputs
            .iter()
            .flat_map(|input| &input.weights)
            .copied()
            .collect(),
    })
}

/// Some rows of a delta.
fn picked(delta: &Delta, rows: Vec<u32>) -> Result<Delta, OperatorError> {
    if rows.len() == delta.weights.len() {
        return Ok(delta.clone());
    }
    let weights = rows
        .iter()
        .map(|row| delta.weights[*row as usize])
        .collect();
    Ok(Delta {
        rows: match rows.is_empty() {
            true => RecordBatch::new_empty(delta.rows.schema()),
            false => rows_at(&delta.rows, rows)?,
        },
        weights,
    })
}

impl Graph {
    /// Ends an epoch: what changed in it leaves, unless it waits for a beat.
    pub(crate) fn on_barrier(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        match self.beat {
            Some(_) => Ok(()),
            None => self.leave(out),
        }
    }

    /// Learns that all rows from before a time were given: what waits for it leaves.
    pub(crate) fn on_time(
        &mut self,
        now: Timestamp,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let is_over = self.beat.as_mut().is_some_and(|beat| beat.is_over(now));
        if is_over { self.leave(out) } else { Ok(()) }
    }

    /// The time for which something waits.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.beat.and_then(|beat| beat.due())
    }

    /// Memory of its state, about.
    pub(crate) fn state_bytes(&self) -> usize {
        let nodes = self.nodes.iter().flatten();
        nodes.map(|node| node.state_bytes()).sum::<usize>() + self.leaving_bytes()
    }

    fn leaving_bytes(&self) -> usize {
        let standing = self.standing.as_ref().map_or(0, Standing::bytes);
        let waiting = match self.beat {
            Some(_) => self.pending_bytes,
            None => self.changed.bytes() + self.pending_bytes,
        };
        self.there_bytes + standing + waiting
    }

    /// Notes how long a node took.
    pub(crate) fn spent(&mut self, node: usize, busy_ms: u64) {
        self.busy_ms[node] += busy_ms;
    }

    /// What each node did since it was made.
    pub(crate) fn figures(&self) -> Vec<StepFigures> {
        let nodes = self.plan.nodes.iter().zip(&self.nodes).enumerate();
        nodes
            .map(|(index, (planned, node))| {
                let given = self.counts[index];
                let taken = planned.inputs.iter().map(|input| self.counts[*input]);
                let reads = match planned.kind {
                    Kind::Scan { input, .. } => Some(input),
                    _ => None,
                };
                StepFigures {
                    name: planned.kind.name(),
                    reads,
                    takes: planned.inputs.clone(),
                    rows_in: match planned.kind {
                        Kind::Scan { .. } => given,
                        _ => taken.sum(),
                    },
                    rows_out: given,
                    busy_ms: self.busy_ms[index],
                    state_bytes: node.as_ref().map_or(0, |node| node.state_bytes() as u64),
                    rest_bytes: 0,
                }
            })
            .collect()
    }
}
