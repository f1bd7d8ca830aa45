//! Checking everything that is stored, and saying in words what was found.
//!
//! Reads every byte once: checkpoints, WALs, manifests, files. Changes nothing. In an open log, checkpoints and
//! tiering wait meanwhile, so that nothing is let go under the reader's hands; sends do not.

use crate::disk::Disk;
use crate::error::OpenError;
use crate::format::block::Kind;
use crate::log::{Storage, checkpoint};
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
        let _no_checkpoint = self.checkpoints.lock().await;
        let _no_tiering = self.tiering.lock().await;
        let mut findings = Findings::default();
        verify_log(&*self.parts.disk, self.settings.wals, &mut findings)?;
        cold::verify::verify(&self.parts.objects, &*self.meta, &mut findings).await?;
        Ok(findings)
    }
}

/// Checks the checkpoints and the WALs of a folder.
pub(crate) fn verify_log(
    disk: &dyn Disk,
    wals: u16,
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
    for wal in 0..wals {
        let (mut messages, mut changes) = (0_u64, 0_u64);
        let recovery = recovery::recover(disk, wal, |found| {
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
        if recovery.torn_bytes > 0 {
            findings.notes.push(format!(
                "log {wal} ends in {} bytes of a write that was not finished: never acknowledged",
                recovery.torn_bytes
            ));
        }
    }
    Ok(())
}
