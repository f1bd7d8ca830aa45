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

/// First bytes of every manifest; the digits are the format's version.
pub const MAGIC: &[u8; 8] = b"MPMANI01";

/// Bytes of a file that one checksum covers.
///
/// A read fetches whole blocks, so small blocks cost manifest and large ones cost reading.
pub const BLOCK_BYTES: u64 = 256 * 1024;

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
    /// CRC32C of each [`BLOCK_BYTES`] of it, the last block being shorter.
    #[prost(fixed32, repeated, tag = "5")]
    pub blocks: Vec<u32>,
}

/// Rows of one queue with dense offsets (a message lost before it was moved begins another run): row = `first_row` + offset - `base`.
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
}

impl Run {
    /// Its offsets.
    #[must_use]
    pub fn offsets(&self) -> Range<u64> {
        self.base..self.base.saturating_add(self.count)
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

/// CRC32C (Castagnoli), the checksum of everything that we store.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Checksums of the blocks of a file.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "a block is 256 KiB")]
pub fn block_checksums(file: &[u8]) -> Vec<u32> {
    file.chunks(BLOCK_BYTES as usize).map(crc32c).collect()
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
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc32c(&body).to_le_bytes());
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
        if magic != MAGIC {
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
        if u32::from_le_bytes(*checksum) != crc32c(body) {
            return Err(Damaged("its checksum differs"));
        }
        let manifest = Self::decode_body(body)?;
        manifest.check().map_err(Damaged)?;
        Ok(manifest)
    }

    fn decode_body(body: &[u8]) -> Result<Self, ManifestError> {
        <Self as prost::Message>::decode(body)
            .map_err(|_| ManifestError::Damaged("its fields can not be read"))
    }

    /// Whether runs fill their files and each queue's offsets rise from file to file.
    fn check(&self) -> Result<(), &'static str> {
        let mut ends = BTreeMap::new();
        for file in &self.files {
            if u64::try_from(file.blocks.len()) != Ok(file.bytes.div_ceil(BLOCK_BYTES)) {
                return Err("a file has too few or too many checksums");
            }
            let mut row = 0_u64;
            for run in &file.runs {
                if run.first_row != row || run.count == 0 {
                    return Err("a file's rows are not dense");
                }
                row = row.checked_add(run.count).ok_or("rows overflow")?;
                let end = run.base.checked_add(run.count).ok_or("offsets overflow")?;
                if ends.insert(run.queue, end).is_some_and(|e| e > run.base) {
                    return Err("a queue's offsets do not rise");
                }
            }
            if row != file.rows {
                return Err("a file's rows do not add up");
            }
        }
        Ok(())
    }
}

/// A manifest with its runs in the order of offsets, so that finding one is a binary search.
#[derive(Debug, Default)]
pub struct Index {
    manifest: Manifest,
    /// Runs by queue, each with its file's index.
    queues: BTreeMap<u32, Vec<(usize, Run)>>,
}

impl From<Manifest> for Index {
    fn from(manifest: Manifest) -> Self {
        let mut queues: BTreeMap<u32, Vec<(usize, Run)>> = BTreeMap::new();
        for (index, file) in manifest.files.iter().enumerate() {
            for run in &file.runs {
                queues.entry(run.queue).or_default().push((index, *run));
            }
        }
        Self { manifest, queues }
    }
}

impl Index {
    /// What is indexed.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The offsets of a queue, from its first to one past its last.
    #[must_use]
    pub fn extent(&self, queue: u32) -> Option<Range<u64>> {
        let runs = self.queues.get(&queue)?;
        let ((_, first), (_, last)) = (runs.first()?, runs.last()?);
        Some(first.base..last.offsets().end)
    }

    /// Every queue that has messages, in order.
    pub fn queues(&self) -> impl Iterator<Item = u32> {
        self.queues.keys().copied()
    }

    /// The file and run that hold an offset of a queue.
    #[must_use]
    pub fn find(&self, queue: u32, offset: u64) -> Option<(&File, Run)> {
        let runs = self.queues.get(&queue)?;
        let after = runs.partition_point(|(_, run)| run.base <= offset);
        let (file, run) = runs.get(after.checked_sub(1)?)?;
        let file = self.manifest.files.get(*file)?;
        run.offsets().contains(&offset).then_some((file, *run))
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
        };
        let file = |key: &str, runs: Vec<Run>| File {
            key: key.to_owned(),
            bytes: BLOCK_BYTES + 1,
            rows: runs.iter().map(|r| r.count).sum(),
            runs,
            blocks: vec![1, 2],
        };
        Manifest {
            topic: 7,
            version: 3,
            next_file: 2,
            files: vec![
                file("a", vec![run(0, 5, 0, 10), run(2, 0, 10, 1)]),
                file("b", vec![run(0, 15, 0, 3)]),
            ],
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
                }],
                blocks: vec![0xdead_beef],
            }],
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

    #[test]
    fn no_flipped_bit_is_believed() {
        let bytes = manifest().encode();
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
        assert!(index.queues().eq([0, 2]));
        let found = |queue, offset| index.find(queue, offset).map(|(f, _)| f.key.as_str());
        assert_eq!(found(0, 14), Some("a"));
        assert_eq!(found(0, 15), Some("b"));
        assert_eq!(found(2, 0), Some("a"));
        assert_eq!((found(0, 4), found(0, 18), found(1, 0)), (None, None, None));
    }
}
