//! The manifest: which Parquet files hold which offsets of one topic.
//!
//! **Invariants.** A manifest is written once and never changed; the next one has another name. It is
//! believed only when its CRC32C and every relation inside it hold. It carries checksums of the
//! files' bytes, so that nothing read from a file is believed unchecked either.
//!
//! Bytes: `storage/FORMAT.md`, Manifest.

#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use prost::Message as _;

use crate::format::checksum::crc32c;
use crate::format::family::{self, Family, Lanes};
use crate::format::hole::{self, Hole, LogFirst, Mark};

/// First bytes of a manifest; the digits are the format's version.
pub const MAGIC: &[u8; 8] = b"MPMANI01";
/// First bytes of one that says what an earlier version would misread: runs and topics with holes.
pub const MAGIC_SPARSE: &[u8; 8] = b"MPMANI02";
/// First bytes of that of a family, whatever else it says.
pub const MAGIC_FAMILY: &[u8; 8] = b"MPMANI03";

/// Bytes of a file that one checksum covers.
///
/// A read fetches whole blocks, so small blocks cost manifest and large ones cost reading.
pub const BLOCK_BYTES: u64 = 128 * 1024;
/// The same for files that do not say how many.
const BLOCK_BYTES_UNSAID: u64 = 256 * 1024;

/// Magic, length, checksum.
const HEADER_BYTES: usize = 16;

/// Everything that lies in the cold tier of one topic.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Manifest {
    /// The topic's id.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Number of this manifest; the next one has a higher number.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// Number that no file of the topic has yet.
    #[prost(uint64, tag = "3")]
    pub next_file: u64,
    /// The files, oldest first.
    #[prost(message, repeated, tag = "4")]
    pub files: Vec<File>,
    /// Queues of which more or less is kept than the runs say, by queue.
    #[prost(message, repeated, tag = "5")]
    pub bounds: Vec<Bounds>,
    /// The Iceberg table that shows the files, when there is one.
    #[prost(message, optional, tag = "30")]
    pub table: Option<Table>,
    /// Offsets that a key compaction took away and no run covers, by queue and offset.
    #[prost(message, repeated, tag = "45")]
    pub holes: Vec<Hole>,
    /// How far a key compaction came, and when.
    #[prost(message, optional, tag = "46")]
    pub mark: Option<Mark>,
    /// Queues whose log begins later than what is kept of them, by queue.
    #[prost(message, repeated, tag = "47")]
    pub log_firsts: Vec<LogFirst>,
    /// The topics whose messages lie in the files, when it is the manifest of a family: what is said by queue is by lane then.
    #[prost(message, optional, tag = "48")]
    pub family: Option<Family>,
    /// What is not named any more and waits for outside readers to be done with it, oldest first.
    #[prost(message, repeated, tag = "40")]
    pub waiting: Vec<Waiting>,
}

/// Objects that outside readers may still read, because they planned before the objects were let go of.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Waiting {
    /// Last version of the manifest that named one of them.
    #[prost(uint64, tag = "1")]
    pub version: u64,
    /// When they go, ms since the epoch.
    #[prost(sint64, tag = "2")]
    pub until_ms: i64,
    /// Their keys, without the topic's folder.
    #[prost(string, repeated, tag = "3")]
    pub keys: Vec<String>,
}

impl Waiting {
    /// Whether a Parquet file is among them.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.keys.iter().any(|key| key.ends_with(".parquet"))
    }
}

/// What was written of the Iceberg table with a manifest.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Table {
    /// Where the object store lies, as outside readers write it; no slash at the end.
    #[prost(string, tag = "1")]
    pub location: String,
    /// The declaration whose columns it has; 0 for none.
    #[prost(fixed64, tag = "2")]
    pub columns: u64,
    /// Versions of the manifests whose snapshots it has, oldest first; the last one is this manifest's.
    #[prost(uint64, repeated, tag = "3")]
    pub snapshots: Vec<u64>,
    /// The Iceberg manifests that its snapshots list, oldest first. A snapshot of an earlier version has one of its
    /// own and none here.
    #[prost(message, repeated, tag = "42")]
    pub parts: Vec<Part>,
    /// CRC32C of the table's metadata; none in earlier versions.
    #[prost(fixed32, optional, tag = "43")]
    pub metadata_checksum: Option<u32>,
    /// CRC32C of the newest snapshot's manifest list; none in earlier versions.
    #[prost(fixed32, optional, tag = "44")]
    pub list_checksum: Option<u32>,
}

/// An Iceberg manifest, which several snapshots may list.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Part {
    /// The version that it was made with.
    #[prost(uint64, tag = "1")]
    pub made: u64,
    /// The last version whose snapshot lists it; 0 while the newest does.
    #[prost(uint64, tag = "2")]
    pub last: u64,
    /// Whether its files hold more than one day each.
    #[prost(bool, tag = "3")]
    pub is_whole: bool,
    /// CRC32C of its bytes.
    #[prost(fixed32, tag = "4")]
    pub checksum: u32,
}

impl Part {
    /// Whether the snapshot of a version lists it.
    #[must_use]
    pub fn is_listed_by(&self, version: u64) -> bool {
        self.made <= version && (self.last == 0 || version <= self.last)
    }
}

/// What is kept of a queue, where the runs alone do not say it: offsets were deleted at its beginning, or
/// messages at its ends were damaged before they could be moved.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Bounds {
    /// The queue.
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    /// First offset kept; what the runs hold below it is deleted.
    #[prost(uint64, tag = "2")]
    pub first: u64,
    /// One past the last offset that was ever here.
    #[prost(uint64, tag = "3")]
    pub end: u64,
}

/// A Parquet file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct File {
    /// Its key in the object store.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its length.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// Its rows.
    #[prost(uint64, tag = "3")]
    pub rows: u64,
    /// What lies in it, by queue; together they are all its rows, in order.
    #[prost(message, repeated, tag = "4")]
    pub runs: Vec<Run>,
    /// CRC32C of each [`File::bytes_of_a_block`] of it, the last block being shorter.
    #[prost(fixed32, repeated, tag = "5")]
    pub blocks: Vec<u32>,
    /// Least store time of its messages, ms since the epoch.
    #[prost(sint64, optional, tag = "6")]
    pub stored_first_ms: Option<i64>,
    /// Greatest store time of its messages; a file without one never grows too old.
    #[prost(sint64, optional, tag = "7")]
    pub stored_last_ms: Option<i64>,
    /// Bytes that one checksum covers; 0 for 256 KiB.
    #[prost(uint64, tag = "20")]
    pub block_bytes: u64,
    /// Version of the manifest that first named it; 0 while no manifest did.
    #[prost(uint64, tag = "30")]
    pub added: u64,
    /// The declaration that its typed columns are of; 0 when it has none.
    #[prost(fixed64, tag = "31")]
    pub columns: u64,
    /// Version with which the Iceberg manifest was made that lists it; 0 when it is not known.
    #[prost(uint64, tag = "41")]
    pub listed: u64,
    /// Whether a key compaction has looked at all of it: of all such files no two messages of a queue have one key.
    #[prost(bool, tag = "45")]
    pub compacted: bool,
    /// Messages without a body; none: nobody counted.
    #[prost(uint64, optional, tag = "46")]
    pub bodiless: Option<u64>,
    /// Whether it is no part of the topic's table any more, and kept for readers of the log alone.
    #[prost(bool, tag = "47")]
    pub hidden: bool,
}

/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The day of a time, counted from the epoch.
#[must_use]
pub fn day_of(stored_at_ms: i64) -> i64 {
    stored_at_ms.div_euclid(DAY_MS)
}

impl File {
    /// Bytes that one checksum covers.
    #[must_use]
    pub fn bytes_of_a_block(&self) -> u64 {
        match self.block_bytes {
            0 => BLOCK_BYTES_UNSAID,
            bytes => bytes,
        }
    }

    /// The one day in which all its messages were stored, if it is one.
    #[must_use]
    pub fn day(&self) -> Option<i64> {
        let (first, last) = (self.stored_first_ms?, self.stored_last_ms?);
        (day_of(first) == day_of(last)).then(|| day_of(first))
    }
}

/// Rows of one queue. Offsets are dense (a message lost before it was moved begins another run): row = `first_row` + offset -
/// `base`. In a sparse run some are missing, superseded: the column `offset` tells which are there.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Run {
    /// The queue.
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    /// First offset.
    #[prost(uint64, tag = "2")]
    pub base: u64,
    /// Row of the first offset.
    #[prost(uint64, tag = "3")]
    pub first_row: u64,
    /// How many messages, at least one.
    #[prost(uint64, tag = "4")]
    pub count: u64,
    /// How many offsets a sparse run covers, more than it has messages; 0: it is dense.
    #[prost(uint64, tag = "45")]
    pub span: u64,
}

impl Run {
    /// The run of `count` messages that covers these offsets.
    #[must_use]
    pub fn covering(queue: u32, offsets: Range<u64>, first_row: u64, count: u64) -> Self {
        let span = offsets.end.saturating_sub(offsets.start);
        Self {
            queue,
            base: offsets.start,
            first_row,
            count,
            span: if span == count { 0 } else { span },
        }
    }

    /// The offsets that it covers.
    #[must_use]
    pub fn offsets(&self) -> Range<u64> {
        self.base..self.base.saturating_add(self.length())
    }

    /// Its rows.
    #[must_use]
    pub fn rows(&self) -> Range<u64> {
        self.first_row..self.first_row.saturating_add(self.count)
    }

    /// Whether offsets may be missing in it.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        self.span != 0
    }

    fn length(&self) -> u64 {
        if self.is_sparse() {
            self.span
        } else {
            self.count
        }
    }
}

/// Why bytes are not a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not the bytes that were written.
    #[error("the manifest is damaged: {0}; restore it from a copy")]
    Damaged(&'static str),
    /// Written by a newer version.
    #[error("the manifest has a newer format; use the newer Millpond")]
    Newer,
}

/// Checksums of the blocks of a file.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "a block is 256 KiB")]
pub fn block_checksums(file: &[u8]) -> Vec<u32> {
    file.chunks(BLOCK_BYTES as usize)
        .map(|block| crc32c(&[block]))
        .collect()
}

impl Manifest {
    /// The manifest as bytes.
    ///
    /// # Panics
    /// When it outgrows 4 GiB, which is some petabytes of files.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let body = self.encode_to_vec();
        let length = u32::try_from(body.len()).expect("a manifest is below 4 GiB");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(self.magic());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc32c(&[&body]).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes.into()
    }

    /// Reads a manifest, believing nothing.
    ///
    /// # Errors
    /// [`ManifestError`] when a checksum or a relation between its numbers does not hold.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        use ManifestError::Damaged;
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(Damaged("too short"))?;
        if ![MAGIC, MAGIC_SPARSE, MAGIC_FAMILY].contains(&magic) {
            let ours = magic.starts_with(b"MPMANI") && magic.iter().skip(6).all(u8::is_ascii_digit);
            // A flip in the version's digits looks newer too; either way nothing is believed.
            return Err(if ours {
                ManifestError::Newer
            } else {
                Damaged("not a manifest")
            });
        }
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(Damaged("too short"))?;
        let (checksum, body) = rest.split_first_chunk::<4>().ok_or(Damaged("too short"))?;
        if usize::try_from(u32::from_le_bytes(*length)) != Ok(body.len()) {
            return Err(Damaged("its length differs"));
        }
        if u32::from_le_bytes(*checksum) != crc32c(&[body]) {
            return Err(Damaged("its checksum differs"));
        }
        let manifest = Self::decode_body(body)?;
        if manifest.magic() != magic {
            return Err(Damaged("its version is not that of what it says"));
        }
        manifest.check().map_err(Damaged)?;
        Ok(manifest)
    }

    /// The oldest version that understands it.
    fn magic(&self) -> &'static [u8; 8] {
        if self.family.is_some() {
            MAGIC_FAMILY
        } else if self.is_sparse() {
            MAGIC_SPARSE
        } else {
            MAGIC
        }
    }

    /// Whether it says what the first version can not read.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        let mut runs = self.files.iter().flat_map(|file| &file.runs);
        !self.holes.is_empty() || self.mark.is_some() || runs.any(Run::is_sparse)
    }

    fn decode_body(body: &[u8]) -> Result<Self, ManifestError> {
        <Self as prost::Message>::decode(body)
            .map_err(|_| ManifestError::Damaged("its fields can not be read"))
    }

    /// Whether runs fill their files and each queue's offsets rise from file to file.
    fn check(&self) -> Result<(), &'static str> {
        let mut ends = BTreeMap::new();
        for file in &self.files {
            if u64::try_from(file.blocks.len()) != Ok(file.bytes.div_ceil(file.bytes_of_a_block()))
            {
                return Err("a file has too few or too many checksums");
            }
            let mut row = 0_u64;
            for run in &file.runs {
                if run.first_row != row || run.count == 0 {
                    return Err("a file's rows are not dense");
                }
                if run.is_sparse() && run.span <= run.count {
                    return Err("a sparse run covers too little");
                }
                row = row.checked_add(run.count).ok_or("rows overflow")?;
                let end = run
                    .base
                    .checked_add(run.length())
                    .ok_or("offsets overflow")?;
                if ends.insert(run.queue, end).is_some_and(|e| e > run.base) {
                    return Err("a queue's offsets do not rise");
                }
            }
            if row != file.rows {
                return Err("a file's rows do not add up");
            }
        }
        let mut last = None;
        for bounds in &self.bounds {
            if last.is_some_and(|last| last >= bounds.queue) {
                return Err("the bounds of queues are not in order");
            }
            last = Some(bounds.queue);
            let end = ends.get(&bounds.queue).copied().unwrap_or(0);
            if bounds.first > bounds.end || end > bounds.end {
                return Err("a queue ends before what is kept of it");
            }
        }
        family::check(self)?;
        hole::check(&self.holes, &self.files)
    }

    /// What is kept of every queue, by queue.
    #[must_use]
    pub fn extents(&self) -> BTreeMap<u32, Range<u64>> {
        let mut extents: BTreeMap<u32, Range<u64>> = BTreeMap::new();
        for run in self.files.iter().flat_map(|file| &file.runs) {
            let offsets = run.offsets();
            let extent = extents.entry(run.queue).or_insert_with(|| offsets.clone());
            extent.end = offsets.end;
        }
        for hole in &self.holes {
            let extent = extents
                .entry(hole.queue)
                .or_insert_with(|| hole.first..hole.end);
            extent.start = extent.start.min(hole.first);
            extent.end = extent.end.max(hole.end);
        }
        for bounds in &self.bounds {
            extents.insert(bounds.queue, bounds.first..bounds.end);
        }
        extents
    }

    /// Says which offsets are kept. What the runs alone say is left out of [`Manifest::bounds`].
    pub fn set_extents(&mut self, kept: &BTreeMap<u32, Range<u64>>) {
        self.bounds.clear();
        self.holes = hole::arranged(std::mem::take(&mut self.holes), &self.files, kept);
        let by_runs = self.extents();
        let differing = kept
            .iter()
            .filter(|(queue, kept)| by_runs.get(queue) != Some(kept));
        self.bounds = differing
            .map(|(&queue, kept)| Bounds {
                queue,
                first: kept.start,
                end: kept.end,
            })
            .collect();
    }

    /// What the topic's table shows of it.
    #[must_use]
    pub fn shown(&self) -> Self {
        let mut shown = self.clone();
        shown.files.retain(|file| !file.hidden);
        shown
    }

    /// Lets the log of queues begin at these offsets, unless it begins later already.
    pub fn raise_log_firsts(&mut self, firsts: &BTreeMap<u32, u64>) {
        let known = self.log_firsts.iter().map(|one| (one.queue, one.first));
        let mut all: BTreeMap<u32, u64> = known.collect();
        for (&queue, &first) in firsts {
            let known = all.entry(queue).or_default();
            *known = first.max(*known);
        }
        let all = all.into_iter();
        self.log_firsts = all
            .map(|(queue, first)| LogFirst { queue, first })
            .collect();
    }

    /// Offsets that are kept, lie in no file and are no holes: messages that were lost before they could be moved.
    #[must_use]
    pub fn gaps(&self) -> Vec<(u32, Range<u64>)> {
        let mut next: BTreeMap<u32, Range<u64>> = self.extents();
        let mut gaps = Vec::new();
        let runs = self.files.iter().flat_map(|file| &file.runs);
        let runs = runs.map(|run| (run.queue, run.offsets()));
        let holes = self.holes.iter();
        let holes = holes.map(|hole| (hole.queue, hole.first..hole.end));
        let mut known: Vec<(u32, Range<u64>)> = runs.chain(holes).collect();
        known.sort_by_key(|(queue, offsets)| (*queue, offsets.start));
        for (queue, offsets) in known {
            let Some(left) = next.get_mut(&queue).filter(|l| l.start < offsets.end) else {
                continue; // Deleted.
            };
            if left.start < offsets.start {
                gaps.push((queue, left.start..offsets.start));
            }
            left.start = offsets.end;
        }
        let behind = next.into_iter().filter(|(_, left)| left.start < left.end);
        gaps.extend(behind);
        gaps.sort_by_key(|(queue, gap)| (*queue, gap.start));
        gaps
    }
}

/// A manifest with its runs in the order of offsets, so that finding one is a binary search.
#[derive(Debug, Default)]
pub struct Index {
    manifest: Manifest,
    extents: BTreeMap<u32, Range<u64>>,
    /// Where the runs lie, by queue and offset. A topic may have very many queues of one run each.
    runs: Box<[RunAt]>,
    /// Whether a message may be missing although its offset is kept and not damaged.
    has_holes: bool,
    /// By which numbers the queues of a family's topics go; none: it is of one topic.
    lanes: Option<Lanes>,
}

/// Where a run lies in its manifest.
#[derive(Clone, Copy, Debug)]
struct RunAt {
    queue: u32,
    /// Index of its file.
    file: u32,
    /// Its own index there.
    run: u32,
}

impl From<Manifest> for Index {
    fn from(manifest: Manifest) -> Self {
        let files = (0_u32..).zip(&manifest.files);
        let runs = files.flat_map(|(file, of)| {
            (0_u32..).zip(&of.runs).map(move |(run, one)| RunAt {
                queue: one.queue,
                file,
                run,
            })
        });
        let mut runs: Box<[RunAt]> = runs.collect();
        // Stable: files, and runs in them, are in the order of a queue's offsets.
        runs.sort_by_key(|at| at.queue);
        let mut all = manifest.files.iter().flat_map(|file| &file.runs);
        Self {
            has_holes: !manifest.holes.is_empty() || all.any(Run::is_sparse),
            extents: manifest.extents(),
            lanes: manifest.family.clone().map(Lanes::from),
            manifest,
            runs,
        }
    }
}

impl Index {
    /// The lanes of a family; none when it is of one topic.
    #[must_use]
    pub fn lanes(&self) -> Option<&Lanes> {
        self.lanes.as_ref()
    }

    /// What is indexed.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The offsets of a queue, from the first one kept to one past the last that was ever here.
    #[must_use]
    pub fn extent(&self, queue: u32) -> Option<Range<u64>> {
        self.extents.get(&queue).cloned()
    }

    /// The first offset that readers of a queue as a log see; 0 where nothing sets it apart from what is kept.
    #[must_use]
    pub fn log_first(&self, queue: u32) -> u64 {
        let firsts = &self.manifest.log_firsts;
        let found = firsts.binary_search_by_key(&queue, |one| one.queue);
        found
            .ok()
            .and_then(|at| firsts.get(at))
            .map_or(0, |one| one.first)
    }

    /// Every queue that has or had messages, in order.
    pub fn queues(&self) -> impl Iterator<Item = u32> {
        self.extents.keys().copied()
    }

    /// Whether key compaction took messages away of what is kept.
    #[must_use]
    pub fn has_holes(&self) -> bool {
        self.has_holes
    }

    /// Runs of a queue in the order of offsets, each with its file.
    pub fn runs(&self, queue: u32) -> impl Iterator<Item = (&File, Run)> {
        self.runs_of(queue).iter().filter_map(|at| self.at(*at))
    }

    /// Runs of a queue in the order of offsets, each with its file's place among the files.
    pub fn runs_by_file(&self, queue: u32) -> impl Iterator<Item = (usize, Run)> {
        let runs = self.runs_of(queue).iter();
        runs.filter_map(|at| Some((at.file as usize, self.at(*at)?.1)))
    }

    /// One past the hole that an offset lies in.
    #[must_use]
    pub fn behind_hole(&self, queue: u32, offset: u64) -> Option<u64> {
        let holes = &self.manifest.holes;
        let after = holes.partition_point(|hole| (hole.queue, hole.first) <= (queue, offset));
        let hole = holes.get(after.checked_sub(1)?)?;
        (hole.queue == queue && offset < hole.end).then_some(hole.end)
    }

    /// The file and run that cover an offset of a queue.
    #[must_use]
    pub fn find(&self, queue: u32, offset: u64) -> Option<(&File, Run)> {
        let runs = self.runs_of(queue);
        let begins = |at: &RunAt| self.at(*at).is_some_and(|(_, run)| run.base <= offset);
        let after = runs.partition_point(begins);
        let (file, run) = self.at(*runs.get(after.checked_sub(1)?)?)?;
        run.offsets().contains(&offset).then_some((file, run))
    }

    fn runs_of(&self, queue: u32) -> &[RunAt] {
        let from = self.runs.partition_point(|at| at.queue < queue);
        let to = self.runs.partition_point(|at| at.queue <= queue);
        self.runs.get(from..to).unwrap_or_default()
    }

    fn at(&self, at: RunAt) -> Option<(&File, Run)> {
        let file = self.manifest.files.get(at.file as usize)?;
        Some((file, *file.runs.get(at.run as usize)?))
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "the bytes are the test's own")]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let run = |queue, base, first_row, count| Run {
            queue,
            base,
            first_row,
            count,
            span: 0,
        };
        let file = |key: &str, runs: Vec<Run>| File {
            key: key.to_owned(),
            bytes: BLOCK_BYTES_UNSAID + 1,
            rows: runs.iter().map(|r| r.count).sum(),
            runs,
            blocks: vec![1, 2],
            stored_first_ms: Some(-5),
            stored_last_ms: Some(9),
            block_bytes: 0,
            added: 2,
            columns: 99,
            listed: 3,
            compacted: true,
            bodiless: Some(3),
            hidden: true,
        };
        Manifest {
            topic: 7,
            version: 3,
            next_file: 2,
            files: vec![
                file("a", vec![run(0, 5, 0, 10), run(2, 0, 10, 1)]),
                file("b", vec![run(0, 15, 0, 3)]),
            ],
            bounds: vec![Bounds {
                queue: 9,
                first: 4,
                end: 4,
            }],
            table: Some(Table {
                location: "file:///x".to_owned(),
                columns: 99,
                snapshots: vec![2, 3],
                parts: vec![Part {
                    made: 3,
                    last: 0,
                    is_whole: true,
                    checksum: 7,
                }],
                metadata_checksum: Some(1),
                list_checksum: Some(2),
            }),
            waiting: vec![Waiting {
                version: 2,
                until_ms: 60_000,
                keys: vec!["data/a.parquet".to_owned()],
            }],
            holes: Vec::new(),
            mark: None,
            family: None,
            log_firsts: vec![LogFirst { queue: 0, first: 7 }],
        }
    }

    #[test]
    fn a_manifest_comes_back_as_it_was() {
        assert_eq!(Manifest::decode(&manifest().encode()), Ok(manifest()));
    }

    #[test]
    fn the_worked_example_of_the_format_holds() {
        let example = Manifest {
            topic: 7,
            version: 1,
            next_file: 1,
            files: vec![File {
                key: "a".to_owned(),
                bytes: 200,
                rows: 2,
                runs: vec![Run {
                    queue: 0,
                    base: 5,
                    first_row: 0,
                    count: 2,
                    span: 0,
                }],
                blocks: vec![0xdead_beef],
                ..File::default()
            }],
            ..Manifest::default()
        };
        let bytes: String = example
            .encode()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(
            bytes,
            "4d504d414e4930312300000024cc3bd0\
             0907000000000000001001180122140a016110c80118022204100520022a04efbeadde"
        );
    }

    /// Offsets 5 to 14 of queue 0 in a run of ten messages that covers twenty, a hole behind it, and another in queue 4.
    fn sparse() -> Manifest {
        let mut sparse = manifest();
        sparse.files[0].runs[0].span = 20;
        sparse.files[1].runs[0].base = 30;
        let hole = |queue, first, end| Hole { queue, first, end };
        sparse.holes = vec![hole(0, 25, 30), hole(4, 0, 7)];
        sparse.mark = Some(Mark {
            at_ms: 77,
            ends: vec![hole::QueueEnd { queue: 0, end: 30 }],
        });
        sparse
    }

    #[test]
    fn holes_are_of_another_version_and_are_no_damage() {
        let sparse = sparse();
        let bytes = sparse.encode();
        assert_eq!(&bytes[..8], MAGIC_SPARSE);
        assert_eq!(Manifest::decode(&bytes), Ok(sparse.clone()));
        assert_eq!(sparse.gaps(), []);
        let mut early = bytes.to_vec();
        early[..8].copy_from_slice(MAGIC);
        assert!(
            Manifest::decode(&early).is_err(),
            "the first version has none"
        );
        let index = Index::from(sparse);
        assert!(index.has_holes());
        assert_eq!(
            (index.extent(0), index.extent(4)),
            (Some(5..33), Some(0..7))
        );
        assert_eq!(index.find(0, 24).map(|(_, run)| run.count), Some(10));
        assert_eq!(index.find(0, 25), None);
        let behind = |queue, offset| index.behind_hole(queue, offset);
        assert_eq!(
            (behind(0, 25), behind(0, 29), behind(4, 0)),
            (Some(30), Some(30), Some(7))
        );
        assert_eq!(
            (behind(0, 24), behind(0, 30), behind(5, 0)),
            (None, None, None)
        );
    }

    #[test]
    fn a_sparse_run_that_covers_no_more_than_its_messages_is_damage() {
        let mut small = sparse();
        small.files[0].runs[0].span = 10;
        assert!(Manifest::decode(&small.encode()).is_err());
        small.files[0].runs[0].span = 26;
        assert!(
            Manifest::decode(&small.encode()).is_err(),
            "it lies in the next one"
        );
    }

    #[test]
    fn no_flipped_bit_is_believed() {
        for manifest in [manifest(), sparse()] {
            assert_no_flip_is_believed(&manifest);
        }
    }

    fn assert_no_flip_is_believed(manifest: &Manifest) {
        let bytes = manifest.encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn offsets_that_lie_in_two_files_are_damage() {
        let mut twice = manifest();
        twice.files[1].runs[0].base = 14;
        assert!(Manifest::decode(&twice.encode()).is_err());
    }

    #[test]
    fn offsets_are_found_in_their_files() {
        let index = Index::from(manifest());
        assert_eq!(index.extent(0), Some(5..18));
        assert_eq!(index.extent(1), None);
        assert_eq!((index.log_first(0), index.log_first(2)), (7, 0));
        assert!(index.queues().eq([0, 2, 9]));
        assert_eq!(index.extent(9), Some(4..4), "all of it was deleted");
        let found = |queue, offset| index.find(queue, offset).map(|(f, _)| f.key.as_str());
        assert_eq!(found(0, 14), Some("a"));
        assert_eq!(found(0, 15), Some("b"));
        assert_eq!(found(2, 0), Some("a"));
        assert_eq!((found(0, 4), found(0, 18), found(1, 0)), (None, None, None));
    }

    #[test]
    fn what_is_kept_is_said_only_where_the_runs_do_not_say_it() {
        let mut manifest = manifest();
        let mut kept = manifest.extents();
        assert_eq!(kept[&0], 5..18);
        manifest.set_extents(&kept);
        assert_eq!(manifest.bounds.len(), 1);
        kept.insert(0, 7..20);
        manifest.set_extents(&kept);
        assert_eq!(manifest.bounds.len(), 2);
        assert_eq!(manifest.extents(), kept);
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest.clone()));
        manifest.bounds[0].end = 17;
        assert!(Manifest::decode(&manifest.encode()).is_err());
    }

    #[test]
    fn gaps_are_what_is_kept_and_lies_in_no_file() {
        let mut manifest = manifest();
        assert_eq!(manifest.gaps(), []);
        manifest.files[1].runs[0].base = 16;
        let kept = [(0, 3..21), (2, 0..1)].into();
        manifest.set_extents(&kept);
        assert_eq!(manifest.gaps(), [(0, 3..5), (0, 15..16), (0, 19..21)]);
        manifest.set_extents(&[(0, 16..21), (2, 1..1)].into());
        assert_eq!(manifest.gaps(), [(0, 19..21)]);
    }
}
