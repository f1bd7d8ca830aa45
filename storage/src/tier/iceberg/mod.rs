//! A topic's manifest as an Iceberg table: names and bytes of what outside readers read.
//!
//! Everything here is a function of manifests and of the metadata before: it puts nothing, reads no clock and
//! decides nothing. The `iceberg` crate makes the bytes, in memory, because its own transactions can not
//! replace files and its file access is not ours.
//!
//! **Invariants.** A snapshot's id and sequence number are the version of the manifest that it shows. Field ids
//! are those of the Parquet files. Every data file of a kept snapshot exists: when files go, the snapshots that name
//! them have gone from the metadata. An Iceberg manifest none of whose files has gone is listed by the next snapshot
//! as it is, so a commit costs by what changed; small ones are made one with what is new, so there are few.
//!
//! Reading order: this file, `schema`, `snapshot`. Bytes: `storage/FORMAT.md`, Iceberg table.

use std::collections::HashSet;

use bytes::Bytes;
use iceberg::Result;
use iceberg::io::FileIO;
use millpond_proto::message::TopicId;
use object_store::path::Path;

use crate::format::checksum::crc32c;
use crate::format::manifest::{Manifest, Part, Table as Shown};
use crate::tier::columns::Table;

mod schema;
mod snapshot;
#[cfg(test)]
pub(crate) mod tests;

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
    /// Snapshots up to that of this version must go: their files do.
    pub(crate) gone_up_to: u64,
    /// The metadata that showed `current`, if there is one.
    pub(crate) previous: Option<Bytes>,
    /// The manifest list of its snapshot; without it every file is listed anew.
    pub(crate) previous_list: Option<Bytes>,
}

/// What must be put before `next` is valid.
pub(crate) struct Made {
    /// In this order.
    pub(crate) objects: Vec<(Path, Bytes)>,
    /// Versions whose snapshots the table keeps, oldest first.
    pub(crate) snapshots: Vec<u64>,
    /// The Iceberg manifests that they list.
    pub(crate) parts: Vec<Part>,
    /// Keys of the files that are listed by a new one.
    pub(crate) listed: HashSet<String>,
    /// CRC32C of the metadata and of the manifest list.
    pub(crate) checksums: (u32, u32),
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

    fn of_part(part: &Part) -> Self {
        if part.is_whole {
            Self::Whole
        } else {
            Self::Day
        }
    }

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

/// The manifest list of a version's snapshot.
pub(crate) fn list_path(topic: TopicId, version: u64) -> Path {
    Path::from(format!("{}/snap-{version}.avro", folder(topic)))
}

fn manifest_path(topic: TopicId, version: u64, spec: Spec) -> Path {
    Path::from(format!("{}/{version}-{}.avro", folder(topic), spec.word()))
}

/// Every object of a table as it is kept. A manifest of a kind that a snapshot did not need does not exist, which
/// harms nobody.
pub(crate) fn paths(topic: TopicId, table: &Shown) -> Vec<Path> {
    let mut paths = vec![hint_path(topic)];
    let snapshots = &table.snapshots;
    paths.extend(snapshots.last().map(|&last| metadata_path(topic, last)));
    for &version in snapshots {
        paths.push(list_path(topic, version));
        // Those of earlier versions, which each snapshot had of its own.
        paths.extend(Spec::ALL.map(|spec| manifest_path(topic, version, spec)));
    }
    let parts = table.parts.iter();
    paths.extend(parts.map(|part| manifest_path(topic, part.made, Spec::of_part(part))));
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
    let written = snapshot::write(&draft, &memory, &begun).await?;
    let (snapshots, json) = snapshot::finish(&draft, &memory, begun, written.snapshot).await?;
    let parts = snapshot::parts(&draft, &snapshots, &written.reused, &written.made);
    let mut objects = written.objects;
    let list = objects.last().map_or(0, |(_, list)| crc32c(&[list]));
    let checksums = (crc32c(&[&json]), list);
    objects.push((metadata_path(draft.topic, draft.next.version), json));
    Ok(Made {
        objects,
        snapshots,
        parts,
        listed: written.listed,
        checksums,
    })
}

/// The objects of a table whose bytes its manifest knows, each with its CRC32C.
pub(crate) fn checksums(topic: TopicId, version: u64, table: &Shown) -> Vec<(Path, u32)> {
    let metadata = (metadata_path(topic, version), table.metadata_checksum);
    let list = (list_path(topic, version), table.list_checksum);
    let two = [metadata, list].into_iter();
    let mut known: Vec<_> = two.filter_map(|(path, sum)| Some((path, sum?))).collect();
    known.extend(table.parts.iter().map(|part| {
        let path = manifest_path(topic, part.made, Spec::of_part(part));
        (path, part.checksum)
    }));
    known
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
