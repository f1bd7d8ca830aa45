//! Where an emitted row stands among those that other lanes emit at the same step: by bytes that sort as rows leave.
//!
//! Nearly every row has such bytes already, in its message key or in what was made of all rows of a step in one piece; so a place says where
//! they are and copies nothing.

use std::sync::Arc;

use crate::operator::delta::Row;
use crate::operator::key::Encoded;

/// Where a row stands.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// By bytes of its own.
    Own(Row),
    /// By those of a row of several.
    Of(Arc<Encoded>, usize),
    /// By its message key.
    Key,
}

impl Place {
    /// The places of rows by these bytes of all their columns.
    pub(crate) fn all_of(encoded: Encoded, rows: usize) -> Vec<Self> {
        let encoded = Arc::new(encoded);
        let place = |row| Self::Of(Arc::clone(&encoded), row);
        (0..rows).map(place).collect()
    }

    /// The bytes by which the row of a message key is sorted.
    pub(crate) fn bytes<'a>(&'a self, key: Option<&'a [u8]>) -> &'a [u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Of(encoded, row) => encoded.row(*row),
            Self::Key => key.unwrap_or_default(),
        }
    }
}

/// The first of some bytes as a number that sorts as they do: it tells most of them apart, and is at hand.
pub(crate) fn beginning(all: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let count = all.len().min(bytes.len());
    bytes[..count].copy_from_slice(&all[..count]);
    u128::from_be_bytes(bytes)
}
