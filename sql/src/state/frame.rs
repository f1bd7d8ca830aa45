//! What every object of saved state begins with, so that nothing is interpreted that is not what was written.
//!
//! ```text
//! magic (4 bytes) | version u32 | crc32c u32 | what the checksum covers
//! ```
//!
//! Numbers are little-endian.

#![deny(clippy::indexing_slicing)]

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use bytes::{Buf, Bytes};

use crate::state::checkpoint::CheckpointError;

const HEADER_BYTES: usize = 12;

/// Puts the head before what it covers.
pub(super) fn framed(magic: [u8; 4], version: u32, covered: &[u8]) -> Bytes {
    let mut object = Vec::with_capacity(HEADER_BYTES + covered.len());
    object.extend_from_slice(&magic);
    object.extend_from_slice(&version.to_le_bytes());
    object.extend_from_slice(&crc_fast::crc32_iscsi(covered).to_le_bytes());
    object.extend_from_slice(covered);
    Bytes::from(object)
}

/// Checks the head of an object of up to some version; answers what it covers. `key` is for the error.
pub(super) fn covered<'a>(
    key: &str,
    object: &'a [u8],
    magic: [u8; 4],
    version_max: u32,
) -> Result<&'a [u8], CheckpointError> {
    let (mut header, covered) = object
        .split_at_checked(HEADER_BYTES)
        .ok_or_else(|| damaged(key, "it is too short"))?;
    if header.get(..magic.len()) != Some(magic.as_slice()) {
        return Err(damaged(key, "it does not start as saved state"));
    }
    header.advance(magic.len());
    let found = header.get_u32_le();
    if found > version_max {
        return Err(CheckpointError::Newer {
            key: key.to_owned(),
            found,
        });
    }
    if header.get_u32_le() != crc_fast::crc32_iscsi(covered) {
        return Err(damaged(key, "its checksum does not fit"));
    }
    Ok(covered)
}

/// The error of an object that is not what was written.
pub(super) fn damaged(key: &str, detail: &str) -> CheckpointError {
    CheckpointError::Damaged {
        key: key.to_owned(),
        detail: detail.to_owned(),
    }
}

/// Reads the rows of an Arrow IPC stream as one batch.
pub(super) fn read_rows(bytes: &[u8]) -> Result<RecordBatch, ArrowError> {
    let reader = StreamReader::try_new(bytes, None)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    concat_batches(&schema, &batches)
}
