//! Checking everything that is stored, and saying in words what was found.
//!
//! Reads every byte once: checkpoints, WALs, manifests, files. Changes nothing. In an open log, checkpoints wait while the
//! WALs are read, so that nothing is let go under the reader's hands, and what was not durable when that began is no
//! damage. Of the cold tier it reads as any reader does: what it looks at stays, and nothing else waits for it.

use crate::disk::Disk;
use crate::error::OpenError;
use crate::format::block::Kind;
use crate::log::{Storage, checkpoint};
use crate::queue::view::Wal;
use crate::tier::cold;
use crate::wal::recovery::{self, Found};

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What is whole.
    pub whole: Vec<String>,
    /// What is damaged or lost.
    pub damage: Vec<String>,
    /// What is neither, but good to know.
    pub notes: Vec<String>,
}

impl Storage {
    pub(crate) async fn verify_all(&self) -> Result<Findings, OpenError> {
        let mut findings = Findings::default();
        {
            let _no_checkpoint = self.checkpoints.lock().await;
            let settled: Vec<u64> = self.view.wals().iter().map(Wal::durable).collect();
            verify_log(&*self.parts.disk, &settled, &mut findings)?;
        }
        let (objects, cold) = (&self.parts.objects, Some(&*self.cold));
        cold::verify::verify(objects, &*self.meta, cold, &mut findings).await?;
        Ok(findings)
    }
}

/// What is said to be durable of a WAL that nobody writes: whatever its blocks say.
pub(crate) const AT_REST: u64 = u64::MAX;

/// Checks the checkpoints and the WALs of a folder, of each of which everything below a position is durable.
pub(crate) fn verify_log(
    disk: &dyn Disk,
    settled: &[u64],
    findings: &mut Findings,
) -> Result<(), OpenError> {
    let mut checkpoint = checkpoint::load(disk)?;
    findings.damage.append(&mut checkpoint.damage);
    let mut shards = 0;
    for (shard, saved) in &checkpoint.shards {
        if saved.is_whole() {
            shards += 1;
        } else {
            findings.damage.push(format!(
                "the state of shard {shard} in the checkpoint is damaged"
            ));
        }
    }
    findings.whole.push(match checkpoint.shards.len() {
        0 => "no checkpoint yet".to_owned(),
        _ => format!(
            "checkpoint {}: the state of {shards} shards",
            checkpoint.sequence
        ),
    });
    for (wal, &settled) in (0..).zip(settled) {
        let (mut messages, mut changes) = (0_u64, 0_u64);
        let recovery = recovery::recover_settled(disk, wal, settled, |found| {
            if let Found::Record {
                entry,
                payload: Some(_),
                ..
            } = found
            {
                if entry.kind == Kind::Message {
                    messages += 1;
                } else {
                    changes += 1;
                }
            }
        })?;
        findings.damage.extend(recovery.damage);
        findings.whole.push(format!(
            "log {wal}: {} segments up to position {}, {messages} messages and {changes} changes of state",
            recovery.segments.len(),
            recovery.tail
        ));
        // What is being written just now looks the same.
        if recovery.torn_bytes > 0 && settled == AT_REST {
            findings.notes.push(format!(
                "log {wal} ends in {} bytes of a write that was not finished: never acknowledged",
                recovery.torn_bytes
            ));
        }
    }
    Ok(())
}
