//! Making checkpoints, finding the last one, and letting go of what it and the cold tier replace.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;
use millpond_proto::message::ShardId;

use crate::disk::Disk;
use crate::error::{OpenError, TierError};
use crate::format::checkpoint::{self, Saved};
use crate::log::identity::{UNFINISHED, read_file, replace_file};
use crate::log::{ShardSnapshot, Storage};
use crate::queue::view::Wal;

/// Folder of the checkpoints.
pub(crate) const FOLDER: &str = "checkpoint";

/// The last checkpoint, as it was found.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) sequence: u64,
    pub(crate) shards: BTreeMap<ShardId, Saved>,
    /// There was one, and none can be read.
    pub(crate) is_missing: bool,
    pub(crate) damage: Vec<String>,
}

/// What the next checkpoint must go on from.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    sequence: u64,
    last: BTreeMap<ShardId, Saved>,
    closed: BTreeSet<ShardId>,
    /// The log was closed: its successor makes the checkpoints now.
    is_over: bool,
}

impl Checkpoints {
    pub(crate) fn new(sequence: u64) -> Self {
        Self {
            sequence,
            last: BTreeMap::new(),
            closed: BTreeSet::new(),
            is_over: false,
        }
    }

    /// Allows no further checkpoint.
    pub(crate) fn end(&mut self) {
        self.is_over = true;
    }

    /// Keeps a shard's last snapshot. That of a closed shard is carried along unchanged, so that
    /// nothing is trimmed away which a repair may need.
    pub(crate) fn keep(&mut self, shard: ShardId, saved: Option<Saved>, is_closed: bool) {
        if let Some(saved) = saved {
            self.last.insert(shard, saved);
        }
        if is_closed {
            self.closed.insert(shard);
        }
    }
}

fn path(sequence: u64) -> String {
    format!("{FOLDER}/{sequence:020}")
}

fn sequences(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let names = disk.list(FOLDER)?;
    let mut found: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
    found.sort_unstable();
    Ok(found)
}

/// The newest checkpoint that can be read.
///
/// An older one only exists when the newer one was not finished cleaning up behind itself, and then the
/// WAL still reaches back to it.
pub(crate) fn load(disk: &dyn Disk) -> Result<Loaded, OpenError> {
    let failed = |source| OpenError::Disk {
        what: "read the checkpoint".to_owned(),
        source,
    };
    let mut loaded = Loaded::default();
    for sequence in sequences(disk).map_err(failed)?.into_iter().rev() {
        loaded.sequence = loaded.sequence.max(sequence);
        let path = path(sequence);
        let bytes = Bytes::from(read_file(disk, &path).map_err(failed)?);
        if let Some(shards) = checkpoint::decode(&bytes) {
            loaded.shards = shards
                .into_iter()
                .map(|saved| (saved.shard, saved))
                .collect();
            loaded.is_missing = false;
            return Ok(loaded);
        }
        loaded.is_missing = true;
        loaded
            .damage
            .push(format!("{path} is damaged and was passed over"));
    }
    Ok(loaded)
}

impl Storage {
    pub(crate) async fn make_checkpoint(
        &self,
        snapshots: Vec<ShardSnapshot>,
    ) -> Result<(), TierError> {
        let mut checkpoints = self.checkpoints.lock().await;
        if checkpoints.is_over {
            let source = io::Error::other("the log was closed");
            let what = "write a checkpoint".to_owned();
            return Err(TierError::Disk { what, source });
        }
        let mut shards = checkpoints.last.clone();
        for snapshot in snapshots {
            // Two may be made at once: the log before the newer one may be gone.
            let last = shards.get(&snapshot.shard);
            let is_overtaken = last.is_some_and(|last| snapshot.position.0 < last.position);
            if !is_overtaken && !checkpoints.closed.contains(&snapshot.shard) {
                let saved = Saved::new(snapshot.shard, snapshot.position.0, snapshot.state);
                shards.insert(snapshot.shard, saved);
            }
        }
        let sequence = checkpoints.sequence + 1;
        let rows: Vec<Saved> = shards.values().cloned().collect();
        let bytes = checkpoint::encode(sequence, &rows);
        let disk = &*self.parts.disk;
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| TierError::Disk { what, source }
        };
        // A failed attempt may have left its file: the next one must not take the same name.
        checkpoints.sequence = sequence;
        replace_file(disk, FOLDER, &path(sequence), &bytes)
            .map_err(failed("write a checkpoint"))?;
        checkpoints.last = shards;
        remove_older(disk, sequence).map_err(failed("remove the checkpoint before"))?;
        self.trim(&checkpoints.last)
            .map_err(failed("let go of segments that are no longer needed"))?;
        let wals = self.view.wals().iter();
        let (durable, begins): (Vec<u64>, Vec<u64>) = wals
            .map(|wal| {
                let durable = wal.durable();
                (durable, durable - wal.segments.bytes_up_to(durable))
            })
            .unzip();
        self.look();
        self.cold.unbury(&durable, &begins)
    }

    /// Lets go of the segments that neither a shard's state nor a hot message needs.
    fn trim(&self, saved: &BTreeMap<ShardId, Saved>) -> io::Result<()> {
        // First the durable tails, then the index: a message that comes between lies above them.
        let durable: Vec<u64> = self.view.wals().iter().map(Wal::durable).collect();
        let hot = self.view.index().lowest_positions(durable.len());
        for (wal, (durable, hot)) in (0..).zip(durable.into_iter().zip(hot)) {
            let shards = (wal..self.settings.shards).step_by(usize::from(self.settings.wals));
            let positions =
                shards.map(|shard| saved.get(&ShardId(shard)).map_or(0, |s| s.position));
            let keep_from = positions.chain(hot).min().unwrap_or(0).min(durable);
            let view = self.view.wal(wal);
            let segments = view.segments.take_below(keep_from);
            if !segments.is_empty() {
                view.spares.keep(segments)?;
            }
        }
        Ok(())
    }
}

/// Removes the checkpoints before the newest one, and what a crash left of one that was not finished.
fn remove_older(disk: &dyn Disk, newest: u64) -> io::Result<()> {
    for name in disk.list(FOLDER)? {
        if name.ends_with(UNFINISHED) {
            disk.remove(&format!("{FOLDER}/{name}"))?;
        }
    }
    for sequence in sequences(disk)? {
        if sequence < newest {
            disk.remove(&path(sequence))?;
        }
    }
    disk.sync_folder(FOLDER)
}
