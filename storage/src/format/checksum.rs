//! The one checksum of all formats: CRC32C (Castagnoli), as iSCSI defines it.

use crc_fast::{CrcAlgorithm, Digest};

/// CRC32C of the parts, one after the other.
#[must_use]
pub(crate) fn crc32c(parts: &[&[u8]]) -> u32 {
    #[cfg(test)]
    count::add(parts);
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    u32::try_from(digest.finalize()).expect("a CRC of 32 bits")
}

/// How much a thread has looked at, for tests of what untrusted bytes may cost.
#[cfg(test)]
pub(crate) mod count {
    use std::cell::Cell;

    thread_local! {
        static BYTES: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn add(parts: &[&[u8]]) {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        BYTES.set(BYTES.get() + bytes);
    }

    /// Bytes that this thread has made checksums of so far.
    pub(crate) fn bytes() -> usize {
        BYTES.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_published_checksum() {
        assert_eq!(crc32c(&[b"1234", b"56789"]), 0xe306_9283);
    }
}
