//! A disk in memory for the tests of this folder and of [`crate::meta`]: what was not synced is lost when it crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use crate::disk::{Disk, DiskFile};

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
}

type Node = Arc<Mutex<Content>>;

#[derive(Debug, Default)]
struct Tree {
    now: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    folders: BTreeSet<String>,
    durable_folders: BTreeSet<String>,
}

/// A disk in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryDisk(Mutex<Tree>);

#[derive(Debug)]
struct MemoryFile(Node);

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl MemoryDisk {
    /// Loses whatever was not synced.
    pub(crate) fn crash(&self) {
        let mut tree = self.0.lock().unwrap();
        let reachable = |path: &str, folders: &BTreeSet<String>| {
            let mut folder = folder_of(path);
            while !folder.is_empty() {
                if !folders.contains(folder) {
                    return false;
                }
                folder = folder_of(folder);
            }
            true
        };
        let folders = tree.durable_folders.clone();
        tree.durable.retain(|path, _| reachable(path, &folders));
        tree.now = tree.durable.clone();
        tree.folders = folders;
        for node in tree.now.values() {
            let mut content = node.lock().unwrap();
            content.now = content.durable.clone();
        }
    }

    /// The bytes of a file, to damage them.
    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let tree = self.0.lock().unwrap();
        change(&mut tree.now[path].lock().unwrap().now);
    }

    /// Paths of all files that lie below a folder.
    pub(crate) fn paths(&self, folder: &str) -> Vec<String> {
        let tree = self.0.lock().unwrap();
        let below = format!("{folder}/");
        tree.now
            .keys()
            .filter(|p| p.starts_with(&below))
            .cloned()
            .collect()
    }
}

impl Disk for MemoryDisk {
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut tree = self.0.lock().unwrap();
        let folder = folder_of(path);
        if !folder.is_empty() && !tree.folders.contains(folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if tree.now.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = Node::default();
        tree.now.insert(path.to_owned(), Arc::clone(&node));
        Ok(Box::new(MemoryFile(node)))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let tree = self.0.lock().unwrap();
        if tree.folders.contains(path) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let node = tree.now.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(MemoryFile(Arc::clone(node))))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let tree = self.0.lock().unwrap();
        let names: BTreeSet<String> = tree
            .now
            .keys()
            .chain(&tree.folders)
            .filter(|path| folder_of(path) == folder && !path.is_empty())
            .map(|path| path.rsplit('/').next().unwrap_or_default().to_owned())
            .collect();
        Ok(names.into_iter().collect())
    }

    fn create_folder(&self, folder: &str) -> io::Result<()> {
        let mut tree = self.0.lock().unwrap();
        let mut folder = folder;
        while !folder.is_empty() {
            tree.folders.insert(folder.to_owned());
            folder = folder_of(folder);
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut tree = self.0.lock().unwrap();
        let node = tree.now.remove(from).ok_or(io::ErrorKind::NotFound)?;
        tree.now.insert(to.to_owned(), node);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut tree = self.0.lock().unwrap();
        tree.now.remove(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let tree = &mut *self.0.lock().unwrap();
        tree.durable.retain(|path, _| folder_of(path) != folder);
        let here = |path: &&String| folder_of(path) == folder;
        for path in tree.now.keys().filter(here) {
            tree.durable
                .insert(path.clone(), Arc::clone(&tree.now[path]));
        }
        for path in tree.folders.iter().filter(here) {
            tree.durable_folders.insert(path.clone());
        }
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.0.lock().unwrap();
        let from = usize::try_from(offset).unwrap().min(content.now.len());
        let count = buffer.len().min(content.now.len() - from);
        buffer[..count].copy_from_slice(&content.now[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut content = self.0.lock().unwrap();
        let from = usize::try_from(offset).unwrap();
        if content.now.len() < from + bytes.len() {
            content.now.resize(from + bytes.len(), 0);
        }
        content.now[from..from + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut content = self.0.lock().unwrap();
        content.durable = content.now.clone();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().now.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut content = self.0.lock().unwrap();
        content.now.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }
}
