//! One snapshot: the manifests of its files, their list, and the metadata that names it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::str::FromStr as _;
use std::sync::Arc;

use bytes::Bytes;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, FormatVersion, Literal,
    MAIN_BRANCH, ManifestFile, ManifestList, ManifestListWriter, ManifestWriterBuilder, Operation,
    PartitionSpecRef, Snapshot, Struct, Summary, TableMetadata, TableMetadataBuilder, Transform,
    UnboundPartitionSpec,
};
use iceberg::{MetadataLocation, Result};
use millpond_proto::message::stable_hash;
use object_store::path::Path;

use crate::format::checksum::crc32c;
use crate::format::manifest::{File, Manifest, Part};
use crate::tier::iceberg::schema::{self, OFFSET_ID, QUEUE_ID, STORED_AT_ID, unexpected};
use crate::tier::iceberg::{Draft, SNAPSHOTS_MAX, Spec, list_path, manifest_path};

/// Where metadata passes through memory.
const METADATA: &str = "/metadata.json";
/// The same in the form that the library wants to write it under.
const PLACE: &str = "/t/metadata/00000-00000000-0000-8000-8000-000000000000.metadata.json";
/// Spec without partitions, which every table has.
const WHOLE_SPEC: i32 = 0;

/// What a snapshot is added to.
pub(super) struct Begun {
    /// The metadata before, or that of a table without anything.
    before: TableMetadata,
    is_new: bool,
    /// The same with the schema and specs of now, to look them up.
    changed: TableMetadata,
    whole: PartitionSpecRef,
}

impl Begun {
    fn parent(&self) -> Option<i64> {
        self.before.current_snapshot_id()
    }
}

/// The metadata that showed the manifest before; none when there is none that can be gone on from.
pub(super) async fn before(draft: &Draft<'_>, memory: &FileIO) -> Option<TableMetadata> {
    let json = draft.previous.clone()?;
    let metadata = read(memory, json)
        .await
        .inspect_err(|error| tracing::warn!(topic = %draft.topic, %error, "the table begins anew"))
        .ok()?;
    // Manifests and lists name whole paths: where the store has moved, they lead nowhere.
    let is_here = metadata.location() == location(draft);
    let is_last = metadata.current_snapshot_id() == i64::try_from(draft.current.version).ok();
    (is_here && is_last).then_some(metadata)
}

/// Metadata of JSON.
pub(super) async fn read(memory: &FileIO, json: Bytes) -> Result<TableMetadata> {
    memory.new_output(METADATA)?.write(json).await?;
    TableMetadata::read_from(memory, METADATA).await
}

fn location(draft: &Draft<'_>) -> String {
    format!("{}/topics/{}", draft.location, draft.topic)
}

fn url(draft: &Draft<'_>, path: &Path) -> String {
    format!("{}/{path}", draft.location)
}

/// Finds out the schema and specs of now.
pub(super) async fn begin(
    draft: &Draft<'_>,
    memory: &FileIO,
    before: Option<TableMetadata>,
) -> Result<Begun> {
    let is_new = before.is_none();
    let before = match before {
        Some(before) => before,
        None => read(memory, Bytes::from(empty(draft))).await?,
    };
    let changed = change(draft, before.clone(), is_new)?.build()?.metadata;
    let whole = changed
        .partition_spec_by_id(WHOLE_SPEC)
        .map(Arc::clone)
        .ok_or_else(|| unexpected("a table has lost its first spec".to_owned()))?;
    Ok(Begun {
        before,
        is_new,
        changed,
        whole,
    })
}

/// Brings schema, specs and properties up to date.
fn change(draft: &Draft<'_>, before: TableMetadata, is_new: bool) -> Result<TableMetadataBuilder> {
    let schema = schema::schema(draft.table.columns.as_deref(), draft.next.family.is_some())?;
    let properties = HashMap::from([
        ("millpond.topic".to_owned(), draft.table.name.clone()),
        ("millpond.topic-id".to_owned(), draft.topic.to_string()),
    ]);
    let day = UnboundPartitionSpec::builder()
        .add_partition_field(STORED_AT_ID, schema::DAY, Transform::Day)?
        .build();
    let builder = TableMetadataBuilder::new_from_metadata(before, None)
        .add_current_schema(schema)?
        .add_default_partition_spec(day)?
        .set_properties(properties)?;
    if is_new {
        return builder.remove_schemas(&[0]);
    }
    Ok(builder)
}

/// A table without columns, partitions and snapshots: the library's own way to make one would give the columns
/// field ids of its own.
fn empty(draft: &Draft<'_>) -> String {
    let location = location(draft);
    let words = [location.as_bytes(), &draft.current.topic.to_le_bytes()].concat();
    let (high, low) = (stable_hash(&words), stable_hash(location.as_bytes()));
    // A UUID of version 8, which is free for everybody to fill.
    let uuid = format!(
        "{:08x}-{:04x}-8{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        (low >> 48) & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff,
    );
    let location = location.replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        "{{\"format-version\":2,\"table-uuid\":\"{uuid}\",\"location\":\"{location}\",\
         \"last-sequence-number\":0,\"last-updated-ms\":0,\"last-column-id\":0,\
         \"current-schema-id\":0,\"schemas\":[{{\"type\":\"struct\",\"schema-id\":0,\"fields\":[]}}],\
         \"default-spec-id\":0,\"partition-specs\":[{{\"spec-id\":0,\"fields\":[]}}],\
         \"last-partition-id\":999,\"default-sort-order-id\":0,\
         \"sort-orders\":[{{\"order-id\":0,\"fields\":[]}}]}}"
    )
}

/// A snapshot, and what it is made of.
pub(super) struct Written {
    pub(super) snapshot: Snapshot,
    /// Its new manifests and their list.
    pub(super) objects: Vec<(Path, Bytes)>,
    /// Manifests that it takes over: the version that each was made with, and its kind.
    pub(super) reused: Vec<(u64, Spec)>,
    /// Kinds of which it has a new one, with its CRC32C.
    pub(super) made: Vec<(Spec, u32)>,
    /// Keys of the files in those.
    pub(super) listed: HashSet<String>,
}

/// The manifests of the snapshot, their list, and the snapshot itself.
pub(super) async fn write(draft: &Draft<'_>, memory: &FileIO, begun: &Begun) -> Result<Written> {
    let id = snapshot_id(draft.next)?;
    let parent = begun.parent();
    let kept: HashSet<&str> = draft.next.files.iter().map(|f| f.key.as_str()).collect();
    let was_shown = parent.is_some();
    let gone: Vec<&File> = draft
        .current
        .files
        .iter()
        .filter(|file| was_shown && !kept.contains(file.key.as_str()))
        .collect();
    let before = if was_shown {
        before_listed(draft)
    } else {
        HashMap::new()
    };
    let (mut objects, mut manifests) = (Vec::new(), Vec::new());
    let (mut reused, mut made, mut listed) = (Vec::new(), Vec::new(), HashSet::new());
    for spec in Spec::ALL {
        let split = split(draft, &before, spec, &gone);
        for version in split.reused {
            let path = url(draft, &manifest_path(draft.topic, version, spec));
            manifests.extend(before.get(&path).cloned());
            reused.push((version, spec));
        }
        if split.files.is_empty() && split.gone.is_empty() {
            continue;
        }
        listed.extend(split.files.iter().map(|file| file.key.clone()));
        let path = manifest_path(draft.topic, draft.next.version, spec);
        let entries = Entries {
            files: split.files,
            gone: split.gone,
            was_shown,
        };
        let (manifest, bytes) = manifest(draft, memory, begun, spec, &path, entries).await?;
        manifests.push(manifest);
        made.push((spec, crc32c(&[&bytes])));
        objects.push((path, bytes));
    }
    let list = list_path(draft.topic, draft.next.version);
    let place = format!("/{list}");
    let output = memory.new_output(&place)?;
    let mut writer = ManifestListWriter::v2(output.writer().await?, id, parent, id);
    writer.add_manifests(manifests.into_iter())?;
    writer.close().await?;
    let manifest_list = url(draft, &list);
    objects.push((list, memory.new_input(&place)?.read().await?));
    let stored = draft.next.files.iter().filter_map(|f| f.stored_last_ms);
    // The table is as new as the newest message in it: nothing here reads a clock.
    let newest = stored.max().unwrap_or(0);
    let snapshot = Snapshot::builder()
        .with_snapshot_id(id)
        .with_parent_snapshot_id(parent)
        .with_sequence_number(id)
        .with_timestamp_ms(newest.max(begun.before.last_updated_ms()))
        .with_manifest_list(manifest_list)
        .with_summary(summary(draft.next, &gone, was_shown))
        .with_schema_id(begun.changed.current_schema_id())
        .build();
    Ok(Written {
        snapshot,
        objects,
        reused,
        made,
        listed,
    })
}

/// The manifests that the snapshot before lists, by their paths; none when that can not be told.
fn before_listed(draft: &Draft<'_>) -> HashMap<String, ManifestFile> {
    let Some(list) = &draft.previous_list else {
        return HashMap::new();
    };
    match ManifestList::parse_with_version(list, FormatVersion::V2) {
        Ok(list) => list
            .consume_entries()
            .into_iter()
            .map(|entry| (entry.manifest_path.clone(), entry))
            .collect(),
        Err(error) => {
            tracing::warn!(topic = %draft.topic, %error, "every file is listed anew");
            HashMap::new()
        }
    }
}

/// What becomes of the files of one kind.
struct Split<'a> {
    /// Versions whose manifests stay as they are, ascending.
    reused: Vec<u64>,
    /// Files that the new manifest lists.
    files: Vec<&'a File>,
    /// Files that it says are gone.
    gone: Vec<&'a File>,
}

/// Decides which manifests stay. Those with a file that has gone do not, and the newest do not as long as they are no
/// larger than what is written anyway: so a file is written again a few times only, and there are few manifests.
fn split<'a>(
    draft: &Draft<'a>,
    before: &HashMap<String, ManifestFile>,
    spec: Spec,
    gone: &[&'a File],
) -> Split<'a> {
    let is_of = |file: &&&File| spec_of(file) == spec;
    let gone: Vec<&File> = gone.iter().filter(is_of).copied().collect();
    let broken: HashSet<u64> = gone.iter().map(|file| file.listed).collect();
    let can_stay = |version: u64| {
        let path = url(draft, &manifest_path(draft.topic, version, spec));
        version != 0 && !broken.contains(&version) && before.contains_key(&path)
    };
    let mut sizes: BTreeMap<u64, usize> = BTreeMap::new();
    let mut fresh = gone.len();
    for file in draft.next.files.iter().filter(|f| spec_of(f) == spec) {
        if can_stay(file.listed) {
            *sizes.entry(file.listed).or_default() += 1;
        } else {
            fresh += 1;
        }
    }
    while let Some(newest) = sizes.last_entry() {
        if *newest.get() > fresh {
            break;
        }
        fresh += newest.remove();
    }
    let files = draft.next.files.iter();
    Split {
        files: files
            .filter(|f| spec_of(f) == spec && !sizes.contains_key(&f.listed))
            .collect(),
        reused: sizes.into_keys().collect(),
        gone,
    }
}

/// The manifests that the kept snapshots list.
pub(super) fn parts(
    draft: &Draft<'_>,
    snapshots: &[u64],
    reused: &[(u64, Spec)],
    made: &[(Spec, u32)],
) -> Vec<Part> {
    let before = draft.current.table.iter().flat_map(|table| &table.parts);
    let mut parts: Vec<Part> = before.copied().collect();
    for part in parts.iter_mut().filter(|part| part.last == 0) {
        if !reused.contains(&(part.made, Spec::of_part(part))) {
            part.last = draft.current.version;
        }
    }
    parts.extend(made.iter().map(|&(spec, checksum)| Part {
        made: draft.next.version,
        last: 0,
        is_whole: spec == Spec::Whole,
        checksum,
    }));
    parts.retain(|part| snapshots.iter().any(|&kept| part.is_listed_by(kept)));
    parts
}

struct Entries<'a> {
    files: Vec<&'a File>,
    gone: Vec<&'a File>,
    /// Whether a snapshot before had the files that are not new.
    was_shown: bool,
}

async fn manifest(
    draft: &Draft<'_>,
    memory: &FileIO,
    begun: &Begun,
    spec: Spec,
    path: &Path,
    entries: Entries<'_>,
) -> Result<(ManifestFile, Bytes)> {
    let id = snapshot_id(draft.next)?;
    let place = format!("/{path}");
    let schema = Arc::clone(begun.changed.current_schema());
    let bound = match spec {
        Spec::Day => begun.changed.default_partition_spec(),
        Spec::Whole => &begun.whole,
    };
    let output = memory.new_output(&place)?;
    let bound = bound.as_ref().clone();
    let mut writer = ManifestWriterBuilder::new(output, Some(id), schema, bound).build_v2_data();
    for file in entries.files {
        let data = data_file(draft, begun, file)?;
        let added = i64::try_from(file.added).unwrap_or(id);
        if added == id || !entries.was_shown {
            writer.add_file(data, id)?;
        } else {
            writer.add_existing_file(data, added, added, Some(added))?;
        }
    }
    for file in entries.gone {
        let added = i64::try_from(file.added).unwrap_or(id);
        writer.add_delete_file(data_file(draft, begun, file)?, added, Some(added))?;
    }
    let mut manifest = writer.write_manifest_file().await?;
    manifest.manifest_path = url(draft, path);
    Ok((manifest, memory.new_input(&place)?.read().await?))
}

fn spec_of(file: &File) -> Spec {
    match file.day() {
        Some(_) => Spec::Day,
        None => Spec::Whole,
    }
}

fn data_file(draft: &Draft<'_>, begun: &Begun, file: &File) -> Result<DataFile> {
    let (partition, spec) = match file.day().map(i32::try_from) {
        Some(Ok(day)) => (
            Struct::from_iter([Some(Literal::date(day))]),
            begun.changed.default_partition_spec().spec_id(),
        ),
        _ => (Struct::empty(), WHOLE_SPEC),
    };
    let (mut lower, mut upper) = (HashMap::new(), HashMap::new());
    let mut bound = |id: i32, least: Datum, greatest: Datum| {
        lower.insert(id, least);
        upper.insert(id, greatest);
    };
    if let Some((first, last)) = file.stored_first_ms.zip(file.stored_last_ms) {
        let micros = |ms: i64| Datum::timestamptz_micros(ms.saturating_mul(1000));
        bound(STORED_AT_ID, micros(first), micros(last));
    }
    // Of a family, runs are told by lanes, of which outsiders know nothing.
    let runs = file.runs.iter().filter(|_| draft.next.family.is_none());
    let queues = || runs.clone().map(|run| run.queue.cast_signed());
    if let Some((least, greatest)) = queues().min().zip(queues().max()) {
        bound(QUEUE_ID, Datum::int(least), Datum::int(greatest));
    }
    let first = file.runs.iter().map(|run| run.base.cast_signed()).min();
    let last = file
        .runs
        .iter()
        .map(|run| run.offsets().end.cast_signed() - 1);
    if let Some((least, greatest)) = first.zip(last.max()) {
        bound(OFFSET_ID, Datum::long(least), Datum::long(greatest));
    }
    DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(format!("{}/{}", draft.location, file.key))
        .file_format(DataFileFormat::Parquet)
        .partition(partition)
        .partition_spec_id(spec)
        .record_count(file.rows)
        .file_size_in_bytes(file.bytes)
        .lower_bounds(lower)
        .upper_bounds(upper)
        .build()
        .map_err(|error| unexpected(error.to_string()))
}

fn summary(next: &Manifest, gone: &[&File], was_shown: bool) -> Summary {
    let added: Vec<&File> = next
        .files
        .iter()
        .filter(|file| !was_shown || file.added == next.version)
        .collect();
    let rows = |files: &[&File]| files.iter().map(|file| file.rows).sum::<u64>();
    let operation = match (added.is_empty(), gone.is_empty()) {
        (_, true) => Operation::Append,
        (true, false) => Operation::Delete,
        (false, false) if rows(&added) == rows(gone) => Operation::Replace,
        (false, false) => Operation::Overwrite,
    };
    let bytes: u64 = next.files.iter().map(|file| file.bytes).sum();
    let all: u64 = next.files.iter().map(|file| file.rows).sum();
    let facts = [
        ("added-data-files", added.len() as u64),
        ("added-records", rows(&added)),
        ("deleted-data-files", gone.len() as u64),
        ("deleted-records", rows(gone)),
        ("total-data-files", next.files.len() as u64),
        ("total-records", all),
        ("total-files-size", bytes),
        ("total-delete-files", 0),
    ];
    let facts = facts.map(|(name, value)| (name.to_owned(), value.to_string()));
    Summary {
        operation,
        additional_properties: facts.into(),
    }
}

fn snapshot_id(manifest: &Manifest) -> Result<i64> {
    i64::try_from(manifest.version).map_err(|_| unexpected("a version is too large".to_owned()))
}

/// The metadata with the snapshot in it, without those that can not be read any more; which versions it keeps,
/// and its bytes.
pub(super) async fn finish(
    draft: &Draft<'_>,
    memory: &FileIO,
    begun: Begun,
    snapshot: Snapshot,
) -> Result<(Vec<u64>, Bytes)> {
    let id = snapshot.snapshot_id();
    let mut kept: Vec<i64> = begun.before.snapshots().map(|s| s.snapshot_id()).collect();
    kept.sort_unstable();
    let is_gone = |id: &i64| u64::try_from(*id).is_ok_and(|version| version <= draft.gone_up_to);
    let named_gone = kept.iter().take_while(|id| is_gone(id)).count();
    let over = (kept.len() + 1).saturating_sub(SNAPSHOTS_MAX);
    let expired: Vec<i64> = kept.drain(..named_gone.max(over)).collect();
    kept.push(id);
    // In one go: a change without a snapshot would have the time of the library's own clock.
    let metadata = change(draft, begun.before, begun.is_new)?
        .set_branch_snapshot(snapshot, MAIN_BRANCH)?
        .remove_snapshots(&expired)
        .build()?
        .metadata;
    let place = MetadataLocation::from_str(PLACE)?;
    metadata.write_to(memory, &place).await?;
    let json = memory.new_input(place.to_string())?;
    let kept = kept.into_iter().filter_map(|id| u64::try_from(id).ok());
    Ok((kept.collect(), json.read().await?))
}
