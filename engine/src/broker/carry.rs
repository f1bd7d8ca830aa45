//! Carrying out what was begun: the effects of the intents that shards keep for dead letters and redrives.
//!
//! **Invariant.** The effects of one group are done in the order of their numbers, so that the last number tells which
//! are done. So a group whose letters can not be placed now waits as a whole, and none of the others waits for it.

use std::collections::BTreeMap;

use millpond_proto::message::ShardId;

use crate::broker::incarnation::Incarnation;
use crate::broker::record::{Transfer, TransferKind};
use crate::broker::request::{EndTransfers, Reply, Request, TransfersOf};
use crate::broker::topic::accepted;
use crate::broker::{Broker, BrokerError};

/// Transfers that are carried out together.
const TRANSFERS_AT_ONCE: u32 = 64;

/// A dead letter that stays one, and why.
pub(super) type Failed = ((u64, u32, u64), String);

/// What became of the transfers of a shard.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// Letters that stay where they are, by group.
    failed: Vec<(u64, Failed)>,
    /// Groups whose transfers wait for the next turn.
    stuck: BTreeMap<u64, BrokerError>,
}

impl Carried {
    /// What became of one group's.
    pub(super) fn of_group(mut self, group: u64) -> Result<Vec<Failed>, BrokerError> {
        if let Some(error) = self.stuck.remove(&group) {
            return Err(error);
        }
        let failed = self.failed.into_iter().filter(|(of, _)| *of == group);
        Ok(failed.map(|(_, failed)| failed).collect())
    }
}

impl Broker {
    /// Carries out the transfers of every shard; those of an earlier run included.
    ///
    /// # Errors
    /// [`BrokerError`] that keeps some of them waiting; all others were carried out.
    pub(super) async fn finish_transfers(
        &self,
        incarnation: &Incarnation,
    ) -> Result<(), BrokerError> {
        let shards = incarnation.shards();
        let carried = shards.map(|shard| self.carry_out(incarnation, shard));
        for carried in futures::future::join_all(carried).await {
            if let Some((_, error)) = carried?.stuck.pop_first() {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Carries out the transfers that a shard has begun.
    ///
    /// # Errors
    /// [`BrokerError::Append`] when the log takes no more. What keeps one group's from being carried out is in the answer.
    pub(super) async fn carry_out(
        &self,
        incarnation: &Incarnation,
        shard: ShardId,
    ) -> Result<Carried, BrokerError> {
        let mut carried = Carried::default();
        let mut after = 0;
        loop {
            let limit = TRANSFERS_AT_ONCE;
            let request = Request::Transfers(TransfersOf { after, limit });
            let transfers = match incarnation.ask(shard, request).await? {
                Reply::Transfers(found) => found.transfers,
                // A damaged shard keeps its intents until it is mended.
                Reply::Refused(_) => return Ok(carried),
                _ => return Err(BrokerError::Confused("transfers")),
            };
            let Some(last) = transfers.last().map(|last| last.sequence) else {
                return Ok(carried);
            };
            let mut free = transfers
                .into_iter()
                .skip_while(|one| carried.stuck.contains_key(&one.group))
                .peekable();
            let Some(first) = free.peek().cloned() else {
                after = last;
                continue;
            };
            let run: Vec<Transfer> = free
                .take_while(|one| (one.group, one.kind) == (first.group, first.kind))
                .collect();
            match self.carry_run(incarnation, shard, first.kind(), &run).await {
                Ok(failed) => {
                    let failed = failed.into_iter().map(|failed| (first.group, failed));
                    carried.failed.extend(failed);
                }
                Err(error @ BrokerError::Append(_)) => return Err(error),
                Err(error) => {
                    carried.stuck.insert(first.group, error);
                }
            }
        }
    }

    /// Carries out some transfers of one group and kind; answers those that could not be had, with why.
    async fn carry_run(
        &self,
        incarnation: &Incarnation,
        shard: ShardId,
        kind: TransferKind,
        run: &[Transfer],
    ) -> Result<Vec<Failed>, BrokerError> {
        let back = match kind {
            TransferKind::Bury => {
                self.bury(incarnation, shard, run).await?;
                Vec::new()
            }
            TransferKind::Redrive => self.reopen(incarnation, shard, run).await?,
        };
        let is_back = |sequence: &u64| back.iter().any(|(one, _)| one.sequence == *sequence);
        let sequences = run.iter().map(|one| one.sequence);
        let (again, done) = sequences.partition(is_back);
        end(incarnation, shard, done, false).await?;
        end(incarnation, shard, again, true).await?;
        let failed = back.into_iter();
        Ok(failed
            .map(|(one, why)| ((one.topic, one.queue, one.offset), why))
            .collect())
    }
}

async fn end(
    incarnation: &Incarnation,
    shard: ShardId,
    sequences: Vec<u64>,
    back: bool,
) -> Result<(), BrokerError> {
    if sequences.is_empty() {
        return Ok(());
    }
    let request = Request::EndTransfers(EndTransfers { sequences, back });
    accepted(incarnation.ask(shard, request).await?)?;
    Ok(())
}
