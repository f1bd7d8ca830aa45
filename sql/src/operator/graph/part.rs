//! The state of a graph in parts, a node each: they may lie elsewhere while no row comes for them.
//!
//! Past the last node there is one part more: what is out, and what waits to leave. That one stays. What is saved of a graph is all of
//! its parts in a line.

use arrow::array::RecordBatch;
use millpond_proto::time::Timestamp;

use crate::operator::OperatorError;
use crate::operator::delta::{Entries, Entry, Node, Row, other_state};
use crate::operator::graph::{Graph, Kind, ROW_BYTES, Routed};

impl Graph {
    /// How many parts its state has.
    pub(crate) fn parts(&self) -> usize {
        self.nodes.len() + 1
    }

    fn node(&self, part: usize) -> Option<&dyn Node> {
        self.nodes.get(part)?.as_deref()
    }

    /// Whether a part may rest. What has no key to be cut by is one part however many lanes there are, so it stays.
    pub(crate) fn part_rests(&self, part: usize) -> bool {
        let routers = self.routers.get(part).and_then(Option::as_deref);
        let is_cut = routers.is_some_and(|routers| routers.iter().all(|router| router.spreads()));
        is_cut && self.node(part).is_some_and(|node| node.rests())
    }

    /// Whether a part has anything that rests or is saved.
    pub(crate) fn part_is_kept(&self, part: usize) -> bool {
        part == self.nodes.len() || self.node(part).is_some()
    }

    /// What a step with state is called.
    pub(crate) fn part_name(&self, part: usize) -> Option<&'static str> {
        self.node(part)?;
        let kind = &self.plan.nodes[part].kind;
        (!matches!(kind, Kind::Constant(_))).then(|| kind.name())
    }

    /// Memory of a part, about.
    pub(crate) fn part_bytes(&self, part: usize) -> usize {
        match self.nodes.get(part) {
            Some(_) => self.node(part).map_or(0, |node| node.state_bytes()),
            None => self.leaving_bytes(),
        }
    }

    /// Lets go of a part.
    pub(crate) fn clear_part(&mut self, part: usize) {
        if let Some(Some(node)) = self.nodes.get_mut(part) {
            node.clear();
        }
    }

    /// Whether a row comes for a node in the epoch at hand; `routed` is what lanes sent it, if it was sent.
    pub(crate) fn takes(&self, node: usize, routed: Option<&[Routed]>) -> bool {
        match routed {
            Some(routed) => {
                let mut sent = routed.iter().flatten().flatten();
                sent.any(|sent| !sent.delta.weights.is_empty())
            }
            None => {
                let inputs = self.plan.nodes[node].inputs.iter();
                let mut given = inputs.flat_map(|input| &self.given[*input]);
                given.any(|given| !given.delta.weights.is_empty())
            }
        }
    }

    /// Its part of the state, at the end of what was saved so far.
    pub(crate) fn save(&self, entries: &mut Entries) {
        for part in 0..=self.nodes.len() {
            self.save_part(part, entries);
        }
    }

    /// The state of a node, or past the last one what waits to leave and what is out.
    pub(crate) fn save_part(&self, part: usize, entries: &mut Entries) {
        if let Some(node) = self.nodes.get(part) {
            entries.begin(part);
            if let Some(node) = node {
                node.save(entries);
            }
            return;
        }
        let standing = self.standing.as_ref().filter(|rows| !rows.is_empty());
        let is_told = self.pending.is_empty() && self.changed.is_empty() && standing.is_none();
        let waits = self.beat.is_some() || is_told;
        assert!(waits, "state is saved between epochs");
        entries.begin(self.nodes.len());
        for (row, count) in &self.there {
            entries.push(Entry {
                part: 0,
                key: row,
                value: &[],
                count: *count,
                other: 0,
            });
        }
        entries.begin(self.nodes.len() + 1);
        let due_ms = self.due().map_or(0, Timestamp::as_ms);
        if let Some(standing) = standing {
            standing.save(due_ms, entries);
        }
        let mut pending: Vec<(&Row, &i64)> = self.pending.iter().collect();
        pending.sort_unstable();
        for (row, count) in pending {
            entries.push(Entry {
                part: 0,
                key: row,
                value: &[],
                count: *count,
                other: due_ms,
            });
        }
    }

    /// Takes back what of a saved state belongs to this lane.
    pub(crate) fn restore(
        &mut self,
        state: &RecordBatch,
        lane: usize,
        lanes: usize,
    ) -> Result<(), OperatorError> {
        let last = self.nodes.len();
        Entries::each(state, |node, entry| {
            let router = match self.routers.get(node) {
                Some(routers) => routers.as_ref().and_then(|routers| routers.first()),
                None => self.leaving.as_ref(),
            };
            let router = router.ok_or_else(other_state)?;
            if let (Some(beat), true) = (&mut self.beat, node == last + 1) {
                // Its lane is that of its key, whose further rows go there.
                let row = self.output.decode(std::iter::once(entry.key))?;
                if router.split(&row, lanes)?[lane].is_empty() {
                    return Ok(());
                }
                beat.resume(entry.other);
                match &mut self.standing {
                    Some(standing) => standing.restore(&row, entry)?,
                    None => {
                        self.pending_bytes += ROW_BYTES + entry.key.len();
                        self.pending.insert(Row::from(entry.key), entry.count);
                    }
                }
                return Ok(());
            }
            if router.lane_of_state(entry.key, lanes) != lane {
                return Ok(());
            }
            if node == last {
                self.put_there(Row::from(entry.key), entry.count);
                return Ok(());
            }
            match self.nodes.get_mut(node) {
                Some(Some(node)) => node.restore(entry),
                _ => Err(other_state()),
            }
        })
    }
}
