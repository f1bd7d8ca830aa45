//! The lanes of a graph go through its nodes, an epoch at a time; [`crate::job::lanes`] tells what a lane is.
//!
//! Before a node with state its rows find their lanes, and the parts of the state that they meet are read if they rest
//! ([`crate::job::parts`]): then not all lanes go at once, but as many as may be in memory together.

use std::collections::BTreeMap;
use std::iter;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use millpond_connectors::format::body::BodyEncoder;

use crate::job::crew::Crew;
use crate::job::error::JobError;
use crate::job::intake::Taken;
use crate::job::lanes::{Tick, each, rows_of};
use crate::job::parts::Parts;
use crate::job::written::{Left, in_order, written};
use crate::operator::graph::{Graph, GraphStep, Routed};
use crate::operator::moment::Marks;
use crate::operator::origin::{Came, Message};

/// The lanes of a graph go through the nodes.
pub(super) async fn graph(
    crew: &Crew,
    encoder: &Arc<BodyEncoder>,
    taken: &[Taken],
    ticks: &[Tick],
    lanes: &mut Vec<Graph>,
    mut parts: Option<&mut Parts>,
) -> Result<Vec<Left>, JobError> {
    let count = lanes.len();
    let rows = rows_of(taken);
    let judges_time = lanes[0].judges_time();
    let folded = lanes[0].folds().then(|| folded(ticks, judges_time));
    let ticks = folded.as_deref().unwrap_or(ticks);
    let begins = lanes.iter().any(Graph::waits);
    let steps = steps(taken, ticks, &lanes[0], begins);
    // More lanes than hands are there for the state; what has none goes no faster in them.
    let hands = crew.lanes().min(count);
    let mut arrived = arrived(taken, &steps, hands)?.into_iter();
    let steps: Arc<[GraphStep]> = steps.into_iter().map(|(step, _)| step).collect();
    for lane in lanes.iter_mut() {
        let none = || vec![BTreeMap::new(); steps.len()];
        let arrived = arrived.next().unwrap_or_else(none);
        lane.begin(Arc::clone(&steps), arrived);
    }
    let nodes = lanes[0].nodes();
    let mut routed: Vec<Option<Vec<Routed>>> = vec![None; count];
    let mut from = 0;
    while from < nodes {
        let to = (from + 1..nodes).find(|node| lanes[0].is_routed(*node));
        let routes = match to {
            Some(_) => count > 1,
            None => count > 1 && lanes[0].leaves_routed(),
        };
        let to = to.unwrap_or(nodes);
        let mut given = std::mem::replace(&mut routed, vec![None; count]);
        let waves = match &mut parts {
            Some(parts) => {
                let takes = lanes.iter().zip(&given);
                let takes = takes.map(|(lane, given)| lane.takes(from, given.as_deref()));
                parts.waves(from, &takes.collect::<Vec<_>>(), hands)
            }
            None => iter::once(0..count).collect(),
        };
        let mut done = Vec::with_capacity(count);
        for wave in waves {
            if let Some(parts) = &mut parts {
                parts.wake(lanes, from, wave.clone(), None).await?;
            }
            let work = each(crew, rows, lanes, wave, |lane| {
                let given = given[lane].take();
                stretch(given, from..to, routes.then_some(count), crew.clone())
            });
            done.extend(work.await?);
            if let Some(parts) = &mut parts {
                parts.settle(lanes).await?;
            }
        }
        for (target, from) in exchanged(done).into_iter().enumerate() {
            routed[target] = Some(from);
        }
        from = to;
    }
    let left = each(crew, rows, lanes, 0..count, |lane| {
        let (encoder, given) = (Arc::clone(encoder), routed[lane].take());
        move |graph: &mut Graph| {
            let merged = given.map(|given| graph.merge(&given)).transpose()?;
            let left = graph.finish(merged)?.into_iter();
            left.map(|(step, out, late)| written(&encoder, step, out, &late))
                .collect()
        }
    });
    Ok(in_order(left.await?))
}

/// Nodes that rows go through without leaving their lane; the first takes what was routed to it.
fn stretch(
    given: Option<Vec<Routed>>,
    nodes: Range<usize>,
    lanes: Option<usize>,
    crew: Crew,
) -> impl FnOnce(&mut Graph) -> Result<Vec<Routed>, JobError> + Send + 'static {
    move |graph| {
        let mut laps = crew.laps();
        let merged = given.map(|given| graph.merge(&given)).transpose()?;
        for node in nodes.clone() {
            let routed = merged.as_ref().filter(|_| node == nodes.start);
            graph.run(node, routed)?;
            graph.spent(node, laps.lap());
        }
        match lanes {
            Some(lanes) => Ok(graph.route(nodes.end, lanes)?),
            None => Ok(Vec::new()),
        }
    }
}

/// From what each lane gives to all, to what each takes from all.
fn exchanged(given: Vec<Vec<Routed>>) -> Vec<Vec<Routed>> {
    let mut taken: Vec<Vec<Routed>> = Vec::new();
    for lane in given {
        taken.resize_with(lane.len(), Vec::new);
        for (taken, routed) in taken.iter_mut().zip(lane) {
            taken.push(routed);
        }
    }
    taken
}

/// Ticks that follow each other as one, each with late rows by itself where these are judged. The rows of one that was several are judged by
/// where the clocks stood before the first.
fn folded(ticks: &[Tick], judges_time: bool) -> Vec<Tick> {
    let is_apart = |tick: &Tick| judges_time && tick.has_late;
    let runs = ticks.chunk_by(|tick, next| !is_apart(tick) && !is_apart(next));
    let folded = runs.map(|run| {
        let mut all = run[0].clone();
        for tick in &run[1..] {
            (all.until, all.after) = (tick.until, tick.after.clone());
            all.has_late |= tick.has_late;
            all.parts.extend_from_slice(&tick.parts);
        }
        all
    });
    folded.collect()
}

/// The steps of a graph: the rows of each tick that has some, then time, by itself where rows leave because it passes; with the tick
/// whose rows it takes. What begins takes a tick without rows as well.
fn steps<'a>(
    taken: &[Taken],
    ticks: &'a [Tick],
    graph: &Graph,
    begins: bool,
) -> Vec<(GraphStep, Option<&'a Tick>)> {
    let has_rows = |tick: &Tick| tick.parts.iter().any(|(_, rows)| !rows.is_empty());
    debug_assert!(taken.iter().all(|taken| taken.by_lane.is_empty()));
    let is_apart = graph.gives_by_time();
    let mut steps = Vec::with_capacity(2 * ticks.len());
    for tick in ticks {
        let before = Marks {
            stored_ms: tick.at.as_ms(),
            watermarks: tick.before.clone(),
        };
        let after = Marks {
            stored_ms: tick.until.as_ms(),
            watermarks: tick.after.clone(),
        };
        let takes_rows = has_rows(tick) || begins;
        if takes_rows {
            let after = if is_apart { &before } else { &after };
            let (before, after) = (before.clone(), after.clone());
            steps.push((GraphStep { before, after }, Some(tick)));
        }
        if graph.is_timed() && (is_apart || !takes_rows) {
            steps.push((GraphStep { before, after }, None));
        }
    }
    steps
}

type Arrived = Vec<BTreeMap<usize, Came>>;

/// What each lane begins with: stretches of what was taken in, about equally many rows each, so that lanes in a line
/// have the rows in the order of the log.
fn arrived(
    taken: &[Taken],
    steps: &[(GraphStep, Option<&Tick>)],
    lanes: usize,
) -> Result<Vec<Arrived>, JobError> {
    let all = rows_of(taken).max(1);
    let mut before = 0;
    let owners = taken.iter().map(|taken| {
        let lane = before * lanes / all;
        before += taken.table.num_rows();
        lane
    });
    let owners: Vec<usize> = owners.collect();
    let mut arrived: Vec<Arrived> = vec![vec![BTreeMap::new(); steps.len()]; lanes];
    for (step, (_, tick)) in steps.iter().enumerate() {
        let mut slices: BTreeMap<(usize, usize), (Vec<RecordBatch>, Vec<Message>)> =
            BTreeMap::new();
        for (index, rows) in tick.iter().flat_map(|tick| &tick.parts) {
            if !rows.is_empty() {
                let own = slices.entry((owners[*index], taken[*index].input));
                let slice = taken[*index].table.slice(rows.start, rows.len());
                let own = own.or_default();
                own.0.push(slice);
                own.1.extend(rows.clone().map(|row| (*index, row)));
            }
        }
        for ((lane, input), (slices, messages)) in slices {
            let rows = match slices.as_slice() {
                [one] => one.clone(),
                many => concat_batches(many[0].schema_ref(), many)?,
            };
            arrived[lane][step].insert(input, Came { rows, messages });
        }
    }
    Ok(arrived)
}
