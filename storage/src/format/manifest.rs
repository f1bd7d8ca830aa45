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
use crate::format::family::{self, Family};
use crate::format::hole::{self, Hole, LogFirst, Mark};

mod file;
mod index;

pub use crate::format::manifest::file::{BLOCK_BYTES, File, Run, block_checksums, day_of};
pub use crate::format::manifest::index::Index;

/// First bytes of a manifest; the digits are the format's version.
pub const MAGIC: &[u8; 8] = b"MPMANI01";
/// First bytes of one that says what an earlier version would misread: runs and topics with holes.
pub const MAGIC_SPARSE: &[u8; 8] = b"MPMANI02";
/// First bytes of that of a family, whatever else it says.
pub const MAGIC_FAMILY: &[u8; 8] = b"MPMANI03";

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

#[cfg(test)]
mod tests;
