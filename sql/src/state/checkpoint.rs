//! A checkpoint: where a query stood at the end of an epoch, and its state.
//!
//! ```text
//! magic "MPCP" | version u32 | crc32c u32 | facts_bytes u32 | facts (JSON) | state (Arrow IPC stream)
//! ```
//!
//! Numbers are little-endian; the checksum (CRC-32C) covers all that follows it. The facts are the
//! cut, the greatest event time, the counts, and from version 2 on the layers that the state lies in ([`crate::state::layers`]); from
//! version 3 on each part of the state may have layers of its own. In a
//! savepoint, and in what version 1 wrote, the state is one batch behind the facts instead. A query without state has neither.

#![deny(clippy::indexing_slicing)]

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use bytes::{Buf, Bytes};
use millpond_proto::remedy::Remedy;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde::{Deserialize, Serialize};

use crate::state::frame::{covered, damaged, framed, read_rows};
use crate::state::layers::LayerAt;
use crate::topic::EpochCut;

const MAGIC: [u8; 4] = *b"MPCP";
/// The greatest version that is read; what lies in no parts, or in no layers at all, is written as an earlier one.
const VERSION: u32 = 3;
const VERSION_LAYERS: u32 = 2;
const VERSION_WHOLE: u32 = 1;

/// What a query counted since it was created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows read.
    pub rows_in: u64,
    /// Rows and deletions emitted.
    pub rows_out: u64,
    /// Rows that went to the side topic.
    pub rows_late: u64,
    /// Rows whose event time is NULL.
    pub rows_without_time: u64,
    /// Rows whose body could not be decoded.
    pub rows_undecodable: u64,
    /// The first of those: where, and why.
    pub first_undecodable: Option<String>,
}

/// The small part of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The job.
    pub job: u64,
    /// The cut that ends the epoch.
    pub cut: EpochCut,
    /// Greatest event time seen of the first input, in milliseconds.
    pub greatest_ms: Option<i64>,
    /// The same of the inputs after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_greatest_ms: Vec<Option<i64>>,
    /// Counts so far.
    pub counts: Counts,
    /// Where the state lies, the lowest layer first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerAt>,
    /// How many stretches the key groups are cut into, where the state lies in parts; else 0.
    #[serde(default, skip_serializing_if = "is_whole")]
    pub stretches: usize,
    /// Where each part lies that has rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartAt>,
    /// The steps that the state belongs to, in words; none in what earlier versions wrote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
}

/// The state of one step of a query for the keys of one stretch, at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartAt {
    /// The step.
    pub step: usize,
    /// The stretch.
    pub stretch: usize,
    /// Memory that it takes when it is read, about.
    pub memory_bytes: u64,
    /// Its layers, the lowest first.
    pub layers: Vec<LayerAt>,
}

fn is_whole(stretches: &usize) -> bool {
    *stretches == 0
}

impl Facts {
    /// The objects that hold the state.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &LayerAt> {
        let parts = self.parts.iter().flat_map(|part| &part.layers);
        self.layers.iter().chain(parts)
    }
}

/// A checkpoint in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The small part.
    pub facts: Facts,
    /// The operator's state, if it has any and it lies in no layers.
    pub state: Option<RecordBatch>,
}

/// Why a checkpoint could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The bytes are not what was written.
    #[error(
        "the checkpoint {key} is damaged: {detail}; restore the state folder from a copy, or drop the query and create it again, it is rebuilt from the log"
    )]
    Damaged {
        /// The object.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Written by a newer version.
    #[error(
        "the checkpoint {key} is of version {found}, this version reads up to {VERSION}; use the newer Millpond"
    )]
    Newer {
        /// The object.
        key: String,
        /// Version found.
        found: u32,
    },
    /// The object store has no such object.
    #[error(
        "the checkpoint {key} is missing; restore the state folder from a copy, or drop the query and create it again, it is rebuilt from the log"
    )]
    Missing {
        /// The object.
        key: String,
    },
    /// The object store said no.
    #[error("could not {what} in the state store; check it, the query tries again")]
    Store {
        /// What was tried.
        what: String,
        /// What the store said.
        #[source]
        source: object_store::Error,
    },
}

impl CheckpointError {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Damaged { .. } | Self::Newer { .. } | Self::Missing { .. } => Remedy::Operator,
            Self::Store { .. } => Remedy::Retry,
        }
    }
}

/// The key of a job's checkpoint.
#[must_use]
pub fn key_of(job: u64, epoch: u64) -> String {
    format!("{}/{epoch:020}", folder_of(job))
}

/// Where a job's checkpoints lie.
#[must_use]
pub fn folder_of(job: u64) -> String {
    format!("jobs/{job}")
}

impl Checkpoint {
    /// The bytes of the object.
    ///
    /// # Errors
    /// What Arrow says when the state can not be written.
    ///
    /// # Panics
    /// When the facts are larger than 4 GiB.
    pub fn encode(&self) -> Result<Bytes, arrow::error::ArrowError> {
        let facts = serde_json::to_vec(&self.facts)
            .map_err(|error| arrow::error::ArrowError::ExternalError(Box::new(error)))?;
        let facts_bytes = u32::try_from(facts.len()).expect("facts are a few kilobytes");
        let mut covered = Vec::new();
        covered.extend_from_slice(&facts_bytes.to_le_bytes());
        covered.extend_from_slice(&facts);
        if let Some(state) = &self.state {
            let mut writer = StreamWriter::try_new(&mut covered, &state.schema())?;
            writer.write(state)?;
            writer.finish()?;
        }
        let version = match (self.facts.stretches, self.facts.layers.is_empty()) {
            (0, true) => VERSION_WHOLE,
            (0, false) => VERSION_LAYERS,
            _ => VERSION,
        };
        Ok(framed(MAGIC, version, &covered))
    }

    /// Reads an object back; `key` is for the error.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] and [`CheckpointError::Newer`].
    ///
    /// # Panics
    /// On a machine whose addresses are shorter than 32 bits.
    pub fn decode(key: &str, object: &[u8]) -> Result<Self, CheckpointError> {
        let damaged = |detail: &str| damaged(key, detail);
        let covered = covered(key, object, MAGIC, VERSION)?;
        let (mut length, rest) = covered
            .split_at_checked(size_of::<u32>())
            .ok_or_else(|| damaged("its facts are cut off"))?;
        let facts_bytes = usize::try_from(length.get_u32_le()).expect("a u32 fits a usize");
        let (facts, state) = rest
            .split_at_checked(facts_bytes)
            .ok_or_else(|| damaged("its facts are cut off"))?;
        let facts = serde_json::from_slice(facts).map_err(|error| damaged(&error.to_string()))?;
        let state = if state.is_empty() {
            None
        } else {
            Some(read_rows(state).map_err(|error| damaged(&error.to_string()))?)
        };
        Ok(Self { facts, state })
    }
}

/// The bytes of an object of saved state.
///
/// # Errors
/// [`CheckpointError::Missing`] and [`CheckpointError::Store`].
pub(crate) async fn object_at(
    store: &dyn ObjectStore,
    key: &str,
) -> Result<Bytes, CheckpointError> {
    let store_error = |source| CheckpointError::Store {
        what: format!("read {key}"),
        source,
    };
    match store.get(&Path::from(key)).await {
        Ok(object) => object.bytes().await.map_err(store_error),
        Err(object_store::Error::NotFound { .. }) => Err(CheckpointError::Missing {
            key: key.to_owned(),
        }),
        Err(source) => Err(store_error(source)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn checkpoint() -> Checkpoint {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let numbers = Int64Array::from(vec![Some(1), None, Some(3)]);
        Checkpoint {
            facts: Facts {
                job: 7,
                cut: EpochCut {
                    epoch: 3,
                    tick_ms: 1200,
                    offsets: vec![(1, 0, 10), (1, 1, 12)],
                },
                greatest_ms: Some(99),
                more_greatest_ms: vec![None, Some(3)],
                counts: Counts {
                    rows_in: 22,
                    ..Counts::default()
                },
                layers: Vec::new(),
                stretches: 0,
                parts: Vec::new(),
                steps: vec!["scan".to_owned()],
            },
            state: Some(RecordBatch::try_new(schema, vec![Arc::new(numbers)]).unwrap()),
        }
    }

    #[test]
    fn a_checkpoint_reads_back_as_it_was_written() {
        let with_state = checkpoint();
        let without = Checkpoint {
            state: None,
            ..checkpoint()
        };
        let mut in_layers = without.clone();
        in_layers.facts.layers.push(LayerAt {
            key: "jobs/7/layers/3".to_owned(),
            bytes: 12,
        });
        let mut in_parts = without.clone();
        in_parts.facts.stretches = 16;
        in_parts.facts.parts.push(PartAt {
            step: 2,
            stretch: 15,
            memory_bytes: 40,
            layers: in_layers.facts.layers.clone(),
        });
        for written in [with_state, without, in_layers, in_parts] {
            let object = written.encode().unwrap();
            assert_eq!(Checkpoint::decode("k", &object).unwrap(), written);
        }
    }

    #[test]
    #[expect(clippy::indexing_slicing, reason = "the test damages its own bytes")]
    fn every_flipped_byte_and_every_cut_is_found() {
        let object = checkpoint().encode().unwrap();
        for at in 0..object.len() {
            let mut damaged = object.to_vec();
            damaged[at] ^= 0x20;
            assert!(Checkpoint::decode("k", &damaged).is_err(), "byte {at}");
            assert!(Checkpoint::decode("k", &object[..at]).is_err(), "cut {at}");
        }
    }
}
