//! Changes that were not synced yet, of files and of folders, and what is left of them after a crash.

use std::collections::BTreeMap;

use millpond_proto::chance::Seeded;

use crate::disk::simulated::folder_of;

const SECTOR_BYTES: usize = 512;

#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Clone, Debug)]
pub(super) enum EntryChange {
    Create {
        path: String,
        file: usize,
    },
    Rename {
        from: String,
        to: String,
        file: usize,
    },
    Remove {
        path: String,
    },
}

impl EntryChange {
    /// Makes the change in the entries that are passed in.
    pub(super) fn apply(&self, entries: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create { path, file } => {
                entries.insert(path.clone(), *file);
            }
            Self::Rename { from, to, file } => {
                entries.remove(from);
                entries.insert(to.clone(), *file);
            }
            Self::Remove { path } => {
                entries.remove(path);
            }
        }
    }

    /// Whether a sync of the folder makes it durable.
    pub(super) fn is_in(&self, folder: &str) -> bool {
        match self {
            Self::Create { path, .. } | Self::Remove { path } => folder_of(path) == folder,
            Self::Rename { from, to, .. } => folder_of(from) == folder || folder_of(to) == folder,
        }
    }
}

impl Change {
    /// Makes the change in the bytes that are passed in.
    pub(super) fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write {
                offset,
                bytes: written,
            } => put(bytes, *offset, written),
            Self::Length(length) => bytes.resize(*length, 0),
        }
    }

    /// Makes all of it, none, or some of its sectors.
    pub(super) fn survive(&self, durable: &mut Vec<u8>, chance: &Seeded) {
        match (chance.below(3), self) {
            (0, _) => {}
            (1, _) | (_, Self::Length(_)) => self.apply(durable),
            (_, Self::Write { offset, bytes }) => {
                let mut done = 0;
                while done < bytes.len() {
                    let at = offset + done;
                    let end = (done + SECTOR_BYTES - at % SECTOR_BYTES).min(bytes.len());
                    if chance.percent(50) {
                        put(durable, at, &bytes[done..end]);
                    }
                    done = end;
                }
            }
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(written);
}
