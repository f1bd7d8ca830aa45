//! A topic's manifest as an Iceberg table: names and bytes of what outside readers read.
//!
//! Everything here is a function of manifests and of the metadata before: it puts nothing, reads no clock and
//! decides nothing. The `iceberg` crate makes the bytes, in memory, because its own transactions can not
//! replace files and its file access is not ours.
//!
//! **Invariants.** A snapshot's id and sequence number are the version of the manifest that it shows. Field ids
//! are those of the Parquet files. Every data file of a kept snapshot exists: a change that lets go of files lets
//! go of the snapshots before it.
//!
//! Reading order: this file, `schema`, `snapshot`. Bytes: `storage/FORMAT.md`, Iceberg table.

use bytes::Bytes;
use iceberg::Result;
use iceberg::io::FileIO;
use millpond_proto::message::TopicId;
use object_store::path::Path;

use crate::format::manifest::Manifest;
use crate::tier::columns::Table;

mod schema;
mod snapshot;
#[cfg(test)]
mod tests;

/// Snapshots that a table keeps at most.
pub(crate) const SNAPSHOTS_MAX: usize = 32;

/// What a table is made of.
pub(crate) struct Draft<'a> {
    pub(crate) topic: TopicId,
    /// Where the object store lies, as outside readers write it.
    pub(crate) location: &'a str,
    pub(crate) table: &'a Table,
    /// What was valid before.
    pub(crate) current: &'a Manifest,
    /// What is shown.
    pub(crate) next: &'a Manifest,
    /// The metadata that showed `current`, if there is one.
    pub(crate) previous: Option<Bytes>,
}

/// What must be put before `next` is valid.
pub(crate) struct Made {
    /// In this order.
    pub(crate) objects: Vec<(Path, Bytes)>,
    /// Versions whose snapshots the table keeps, oldest first.
    pub(crate) snapshots: Vec<u64>,
}

/// How the files of a snapshot are split over Iceberg manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spec {
    /// Files of one day of store time each.
    Day,
    /// Files that hold more than one day: their store times fell, or an older version made them.
    Whole,
}

impl Spec {
    const ALL: [Self; 2] = [Self::Day, Self::Whole];

    fn word(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Whole => "whole",
        }
    }
}

fn folder(topic: TopicId) -> String {
    format!("topics/{topic}/metadata")
}

/// The table's metadata as of a version.
pub(crate) fn metadata_path(topic: TopicId, version: u64) -> Path {
    Path::from(format!("{}/v{version}.metadata.json", folder(topic)))
}

/// What names the valid version to readers of the folder.
pub(crate) fn hint_path(topic: TopicId) -> Path {
    Path::from(format!("{}/version-hint.text", folder(topic)))
}

fn list_path(topic: TopicId, version: u64) -> Path {
    Path::from(format!("{}/snap-{version}.avro", folder(topic)))
}

fn manifest_path(topic: TopicId, version: u64, spec: Spec) -> Path {
    Path::from(format!("{}/{version}-{}.avro", folder(topic), spec.word()))
}

/// Every object of a table that keeps these snapshots. A manifest of a kind that a snapshot did not need does
/// not exist, which harms nobody.
pub(crate) fn paths(topic: TopicId, snapshots: &[u64]) -> Vec<Path> {
    let mut paths = vec![hint_path(topic)];
    paths.extend(snapshots.last().map(|&last| metadata_path(topic, last)));
    for &version in snapshots {
        paths.push(list_path(topic, version));
        paths.extend(Spec::ALL.map(|spec| manifest_path(topic, version, spec)));
    }
    paths
}

/// Makes the table that shows a manifest.
///
/// # Errors
/// What the library says: a declaration that it does not take, or a bug here.
pub(crate) async fn make(draft: Draft<'_>) -> Result<Made> {
    let memory = FileIO::new_with_memory();
    let before = snapshot::before(&draft, &memory).await;
    let begun = snapshot::begin(&draft, &memory, before).await?;
    let (snapshot, mut objects) = snapshot::write(&draft, &memory, &begun).await?;
    let (snapshots, json) = snapshot::finish(&draft, &memory, begun, snapshot).await?;
    objects.push((metadata_path(draft.topic, draft.next.version), json));
    Ok(Made { objects, snapshots })
}

/// Whether bytes are the metadata of a table as of a version.
///
/// # Errors
/// Why not.
pub(crate) async fn check(json: Bytes, version: u64) -> Result<()> {
    let memory = FileIO::new_with_memory();
    let metadata = snapshot::read(&memory, json).await?;
    if metadata.current_snapshot_id() != i64::try_from(version).ok() {
        return Err(schema::unexpected("it names another snapshot".to_owned()));
    }
    Ok(())
}
