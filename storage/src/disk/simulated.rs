//! A disk in memory that forgets, on a crash, what a real one may forget.
//!
//! Until a sync, each write may be kept, lost or torn at sectors of 512 bytes, independently of the
//! others; entries of folders may be lost from some point on, in order, as a journaling file system
//! does it. A sync that fails loses for good what it was to save, though it is read until the next crash and a
//! later sync does not mind. The same seed gives the same crash. A handle from before a crash fails ever after, so an
//! incarnation that is thought dead can not write. Folders themselves are durable at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millpond_proto::chance::Seeded;

use crate::disk::simulated::change::{Change, EntryChange};
use crate::disk::{Disk, DiskFile};

mod change;

/// Most turns that a durable write waits for others.
const TURNS_MAX: u64 = 8;

/// A handle on a simulated disk; clones share its state.
#[derive(Clone, Debug)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
    generation: u64,
}

#[derive(Debug, Default)]
struct State {
    generation: u64,
    files: Vec<Contents>,
    /// What a reader sees.
    entries: BTreeMap<String, usize>,
    /// What survives a crash for certain.
    durable_entries: BTreeMap<String, usize>,
    /// Changes of entries since their folder was synced, in order.
    pending: Vec<EntryChange>,
    folders: BTreeSet<String>,
    /// Decides which of several durable writes lands first.
    order: Option<Seeded>,
    /// Bytes that all files together may have.
    room_bytes: Option<usize>,
    syncs_to_fail: u32,
    writes_to_fail: u32,
    sync_count: u64,
    write_count: u64,
}

#[derive(Debug, Default)]
struct Contents {
    seen: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimulatedDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Arc::default(),
            generation: 0,
        }
    }

    /// A disk that durably holds `files`, by path.
    #[must_use]
    pub fn holding(files: &BTreeMap<String, Vec<u8>>) -> Self {
        let disk = Self::new();
        {
            let mut state = locked(&disk.state);
            for (path, bytes) in files {
                let file = state.files.len();
                state.files.push(Contents {
                    seen: bytes.clone(),
                    durable: bytes.clone(),
                    pending: Vec::new(),
                });
                state.entries.insert(path.clone(), file);
                state.durable_entries.insert(path.clone(), file);
                state.add_folders(folder_of(path));
            }
        }
        disk
    }

    /// Everything a reader sees now, by path.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<String, Vec<u8>> {
        let state = locked(&self.state);
        let contents = |&file: &usize| state.files[file].seen.clone();
        let entry = |(path, file): (&String, &usize)| (path.clone(), contents(file));
        state.entries.iter().map(entry).collect()
    }

    /// Cuts the power: what was not synced is kept, lost or torn as `chance` has it.
    ///
    /// The answer is the disk after the restart; every handle from before fails from now on.
    #[must_use = "older handles no longer work"]
    pub fn crash(&self, chance: &Seeded) -> Self {
        let mut state = locked(&self.state);
        for file in &mut state.files {
            for change in std::mem::take(&mut file.pending) {
                change.survive(&mut file.durable, chance);
            }
        }
        let pending = std::mem::take(&mut state.pending);
        let kept = usize::try_from(chance.below(pending.len() as u64 + 1)).unwrap_or(0);
        for change in pending.iter().take(kept) {
            change.apply(&mut state.durable_entries);
        }
        state.entries = state.durable_entries.clone();
        let kept: BTreeSet<usize> = state.entries.values().copied().collect();
        for (number, file) in state.files.iter_mut().enumerate() {
            if kept.contains(&number) {
                file.seen.clone_from(&file.durable);
            } else {
                // Nobody can reach it any more.
                *file = Contents::default();
            }
        }
        state.generation += 1;
        state.syncs_to_fail = 0;
        state.writes_to_fail = 0;
        Self {
            state: Arc::clone(&self.state),
            generation: state.generation,
        }
    }

    /// Lets durable writes that are under way at once land in an order that the seed says.
    pub fn reorder(&self, seed: u64) {
        locked(&self.state).order = Some(Seeded::new(seed));
    }

    /// Bounds the bytes of all files together, or lifts the bound.
    pub fn limit_room(&self, bytes: Option<usize>) {
        locked(&self.state).room_bytes = bytes;
    }

    /// Lets the next sync of a file fail.
    pub fn fail_next_sync(&self) {
        locked(&self.state).syncs_to_fail += 1;
    }

    /// Lets the next write to a file fail, half of it done.
    pub fn fail_next_write(&self) {
        locked(&self.state).writes_to_fail += 1;
    }

    /// Flips one bit of a file, in memory and on the platter.
    ///
    /// # Panics
    /// When there is no such file or bit.
    pub fn flip_bit(&self, path: &str, bit: usize) {
        let mut state = locked(&self.state);
        let file = *state.entries.get(path).expect("the file exists");
        let file = &mut state.files[file];
        file.seen[bit / 8] ^= 1 << (bit % 8);
        if let Some(byte) = file.durable.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
    }

    /// Syncs of files so far.
    #[must_use]
    pub fn sync_count(&self) -> u64 {
        locked(&self.state).sync_count
    }

    /// Writes to files so far.
    #[must_use]
    pub fn write_count(&self) -> u64 {
        locked(&self.state).write_count
    }

    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        alive(&self.state, self.generation)
    }

    fn file(&self, file: usize) -> Box<dyn DiskFile> {
        Box::new(SimulatedFile {
            state: Arc::clone(&self.state),
            generation: self.generation,
            file,
        })
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn alive(state: &Mutex<State>, generation: u64) -> io::Result<MutexGuard<'_, State>> {
    let state = locked(state);
    if state.generation == generation {
        Ok(state)
    } else {
        Err(io::Error::other("this handle is from before a crash"))
    }
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {path}"))
}

impl State {
    fn add_folders(&mut self, folder: &str) {
        let mut folder = folder;
        while !folder.is_empty() {
            self.folders.insert(folder.to_owned());
            folder = folder_of(folder);
        }
    }

    fn change(&mut self, change: EntryChange) {
        change.apply(&mut self.entries);
        self.pending.push(change);
    }

    fn used_bytes(&self) -> usize {
        let files: BTreeSet<usize> = self.entries.values().copied().collect();
        files.iter().map(|&file| self.files[file].seen.len()).sum()
    }

    /// Refuses to let a file grow to `len` when the disk has no room for it.
    fn check_room(&self, file: usize, len: usize) -> io::Result<()> {
        let Some(room) = self.room_bytes else {
            return Ok(());
        };
        let used = self.used_bytes();
        let more = len.saturating_sub(self.files[file].seen.len());
        if more > 0 && used + more > room {
            let full = format!("no room for {more} more bytes");
            return Err(io::Error::new(io::ErrorKind::StorageFull, full));
        }
        Ok(())
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state()?;
        if state.entries.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !folder_of(path).is_empty() && !state.folders.contains(folder_of(path)) {
            return Err(not_found(path));
        }
        let file = state.files.len();
        state.files.push(Contents::default());
        state.change(EntryChange::Create {
            path: path.to_owned(),
            file,
        });
        Ok(self.file(file))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state()?;
        let file = *state.entries.get(path).ok_or_else(|| not_found(path))?;
        Ok(self.file(file))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let state = self.state()?;
        if state.entries.contains_key(folder) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let inside = |path: &str| {
            let rest = if folder.is_empty() {
                path
            } else {
                path.strip_prefix(folder)?.strip_prefix('/')?
            };
            rest.split('/').next().map(str::to_owned)
        };
        let files = state.entries.keys();
        let names: BTreeSet<String> = files
            .chain(&state.folders)
            .filter_map(|path| inside(path))
            .collect();
        Ok(names.into_iter().collect())
    }

    fn create_folder(&self, folder: &str) -> io::Result<()> {
        self.state()?.add_folders(folder);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state()?;
        let file = *state.entries.get(from).ok_or_else(|| not_found(from))?;
        state.change(EntryChange::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            file,
        });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state()?;
        if !state.entries.contains_key(path) {
            return Err(not_found(path));
        }
        state.change(EntryChange::Remove {
            path: path.to_owned(),
        });
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        let state = self.state()?;
        let room = state.room_bytes;
        Ok(room.map(|room| room.saturating_sub(state.used_bytes()) as u64))
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let mut state = self.state()?;
        let pending = std::mem::take(&mut state.pending);
        let (synced, mut rest): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|change| change.is_in(folder));
        for change in synced {
            change.apply(&mut state.durable_entries);
            // A file that has durably moved here can not come back under its name in another folder.
            if let EntryChange::Rename { file: moved, .. } = change {
                rest.retain(|r| !matches!(r, EntryChange::Create { file, .. } if *file == moved));
            }
        }
        state.pending = rest;
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedFile {
    state: Arc<Mutex<State>>,
    generation: u64,
    file: usize,
}

impl SimulatedFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        alive(&self.state, self.generation)
    }

    fn change(&self, state: &mut State, change: Change) {
        let file = &mut state.files[self.file];
        change.apply(&mut file.seen);
        file.pending.push(change);
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("simulated files are small")
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.state()?;
        let seen = &state.files[self.file].seen;
        let from = place(offset).min(seen.len());
        let count = buffer.len().min(seen.len() - from);
        buffer[..count].copy_from_slice(&seen[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.write_count += 1;
        let is_failing = state.writes_to_fail > 0;
        let done = if is_failing {
            bytes.len() / 2
        } else {
            bytes.len()
        };
        state.check_room(self.file, place(offset) + done)?;
        let change = Change::Write {
            offset: place(offset),
            bytes: bytes[..done].to_vec(),
        };
        self.change(&mut state, change);
        if is_failing {
            state.writes_to_fail -= 1;
            return Err(io::Error::other("the write was made to fail"));
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state()?;
        state.sync_count += 1;
        if state.syncs_to_fail > 0 {
            state.syncs_to_fail -= 1;
            // As a kernel does it: what could not be written is clean from now on, is still read, and is lost.
            state.files[self.file].pending.clear();
            return Err(io::Error::other("the sync was made to fail"));
        }
        let file = &mut state.files[self.file];
        for change in std::mem::take(&mut file.pending) {
            change.apply(&mut file.durable);
        }
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.check_room(self.file, place(bytes))?;
        let file = &mut state.files[self.file];
        for change in std::mem::take(&mut file.pending) {
            change.apply(&mut file.durable);
        }
        let change = Change::Length(place(bytes));
        change.apply(&mut file.seen);
        change.apply(&mut file.durable);
        Ok(())
    }

    fn turns(&self) -> u32 {
        let state = locked(&self.state);
        let turns = state
            .order
            .as_ref()
            .map_or(0, |chance| chance.below(TURNS_MAX));
        u32::try_from(turns).unwrap_or(0)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.files[self.file].seen.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state()?;
        self.change(&mut state, Change::Length(place(len)));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
