//! Checking the cold tier: every manifest, every byte of every file, every gap.
//!
//! Believes only the metadata store's pointers. Changes nothing, and goes on behind whatever it finds.
//!
//! Beside a running server it is a reader like others: it holds the manifest that is valid when it comes to a topic, so what
//! that names stays, whatever replaces it meanwhile. Only deleting the topic waits for nobody.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use millpond_proto::message::TopicId;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::errors::ParquetError;

use crate::error::OpenError;
use crate::format::checksum::crc32c;
use crate::format::family::Lanes;
use crate::format::manifest::{File, Manifest};
use crate::log::Findings;
use crate::meta::MetaStore;
use crate::tier::cold::sparse::Walk;
use crate::tier::cold::{Cold, LoadError, Pointer, load, named, topic_of_pointer};
use crate::tier::family::Rows;
use crate::tier::iceberg;
use crate::tier::mirror;
use crate::tier::parquet::{self as file, CheckedFile, Merge};

/// Checks all topics; `running` is the cold tier of the server that has them open, if one does.
///
/// # Errors
/// [`OpenError`] when a store does not answer; damage is a finding.
pub(crate) async fn verify(
    objects: &Arc<dyn ObjectStore>,
    meta: &dyn MetaStore,
    running: Option<&Cold>,
    findings: &mut Findings,
) -> Result<(), OpenError> {
    // Before the manifests, so that what is put from now on is no orphan.
    let listed: Vec<_> = objects
        .list(Some(&Path::from("topics")))
        .try_collect()
        .await
        .map_err(|source| OpenError::Objects {
            what: "list the files of topics".to_owned(),
            source,
        })?;
    let mut needed: HashSet<Path> = HashSet::new();
    let (mut files, mut bytes, mut messages) = (0_u64, 0_u64, 0_u64);
    let (mut topics, mut tables) = (0_u64, 0_u64);
    let mut is_known = true;
    for key in meta.keys("topic/")? {
        let Some(topic) = topic_of_pointer(&key) else {
            continue;
        };
        // First this, then the pointer: what a later manifest names is not removed before this is let go of either.
        let _held = running.and_then(|cold| cold.manifest(topic));
        let Some(pointer) = meta.get(&key)? else {
            continue;
        };
        let damage_before = findings.damage.len();
        topics += 1;
        let loaded = load(&**objects, topic, &pointer, mirror::without_copies());
        let manifest = match loaded.await {
            Ok(manifest) => manifest,
            Err(LoadError::Objects(place, source))
                if !matches!(source, object_store::Error::NotFound { .. }) =>
            {
                return Err(LoadError::Objects(place, source).into());
            }
            Err(error) => {
                let error = OpenError::from(error);
                if !is_deleted(running, topic) {
                    findings.damage.push(format!("topic {topic}: {error}"));
                    is_known = false;
                }
                continue;
            }
        };
        needed.extend(Pointer::of(&pointer).map(|pointer| pointer.path(topic)));
        needed.extend(named(topic, &manifest));
        tables += u64::from(manifest.table.is_some());
        check_table(objects, topic, &manifest, findings).await?;
        let lanes = manifest.family.clone().map(Lanes::from);
        for file in &manifest.files {
            match check(objects, topic, file, lanes.as_ref()).await? {
                Ok(()) => {
                    files += 1;
                    bytes += file.bytes;
                    messages += file.rows;
                }
                Err(why) => findings.damage.push(format!(
                    "{} is damaged ({why}): up to {} messages of {} can not be read, {}",
                    file.key,
                    file.rows,
                    called(topic, lanes.as_ref()),
                    offsets(file, lanes.as_ref())
                )),
            }
        }
        report_gaps(topic, &manifest, lanes.as_ref(), findings);
        if is_deleted(running, topic) {
            // Its files went while they were looked at.
            findings.damage.truncate(damage_before);
        }
    }
    findings.whole.push(format!(
        "cold tier: {topics} topics, {files} files with {messages} messages and {bytes} bytes, {tables} shown as Iceberg tables"
    ));
    let orphans = listed.iter().filter(|o| !needed.contains(&o.location));
    let count = orphans.count();
    if is_known && count > 0 {
        findings.notes.push(format!(
            "{count} objects belong to no topic: a reader still holds them, a change is on its way, or the next start removes them"
        ));
    }
    Ok(())
}

fn is_deleted(running: Option<&Cold>, topic: TopicId) -> bool {
    running.is_some_and(|cold| cold.is_gone(topic))
}

/// Whether what shows a topic as a table is there and can be read; what it names is checked with the manifest.
async fn check_table(
    objects: &Arc<dyn ObjectStore>,
    topic: TopicId,
    manifest: &Manifest,
    findings: &mut Findings,
) -> Result<(), OpenError> {
    let Some(table) = &manifest.table else {
        return Ok(());
    };
    let current = iceberg::metadata_path(topic, manifest.version);
    let mut known = iceberg::checksums(topic, manifest.version, table);
    if table.metadata_checksum.is_none() {
        known.clear();
    }
    let expected = |path: &Path| known.iter().find(|(of, _)| of == path).map(|(_, sum)| *sum);
    let mut paths: Vec<Path> = known.iter().map(|(path, _)| path.clone()).collect();
    if !paths.contains(&current) {
        paths.push(current.clone());
    }
    for path in paths {
        let read = async { objects.get(&path).await?.bytes().await };
        let why = match read.await {
            Ok(bytes) if expected(&path).is_some_and(|sum| sum != crc32c(&[&bytes])) => {
                "its checksum differs".to_owned()
            }
            Ok(json) if path == current => match iceberg::check(json, manifest.version).await {
                Ok(()) => continue,
                Err(error) => error.to_string(),
            },
            Ok(_) => continue,
            Err(object_store::Error::NotFound { .. }) => "it is missing".to_owned(),
            Err(source) => {
                return Err(OpenError::Objects {
                    what: format!("read {path}"),
                    source,
                });
            }
        };
        findings.damage.push(format!(
            "{path} is damaged ({why}): outside readers do not see topic {topic} as it is, until all its files \
             are merged or let go of; no message is lost"
        ));
    }
    Ok(())
}

fn called(topic: TopicId, lanes: Option<&Lanes>) -> String {
    match lanes {
        Some(_) => format!("family {topic}"),
        None => format!("topic {topic}"),
    }
}

fn queue_called(queue: u32, lanes: Option<&Lanes>) -> String {
    match lanes.and_then(|lanes| lanes.get(queue)) {
        Some(lane) => format!("queue {} of topic {}", lane.queue, lane.topic),
        None => format!("queue {queue}"),
    }
}

fn report_gaps(
    topic: TopicId,
    manifest: &Manifest,
    lanes: Option<&Lanes>,
    findings: &mut Findings,
) {
    for (queue, gap) in manifest.gaps() {
        let (of, queue) = (called(topic, lanes), queue_called(queue, lanes));
        findings.damage.push(format!(
            "{of}, {queue}: offsets {} to {} were damaged before they could be moved",
            gap.start,
            gap.end - 1
        ));
    }
}

fn offsets(file: &File, lanes: Option<&Lanes>) -> String {
    let runs: Vec<String> = file
        .runs
        .iter()
        .take(3)
        .map(|run| {
            let offsets = run.offsets();
            format!(
                "offsets {} to {} of {}",
                offsets.start,
                offsets.end - 1,
                queue_called(run.queue, lanes)
            )
        })
        .collect();
    let more = if file.runs.len() > runs.len() {
        " and more"
    } else {
        ""
    };
    format!("{}{more}", runs.join(", "))
}

/// Whether every byte of a file is what was written and every row what the manifest names; else why not.
async fn check(
    objects: &Arc<dyn ObjectStore>,
    topic: TopicId,
    known: &File,
    lanes: Option<&Lanes>,
) -> Result<Result<(), String>, OpenError> {
    let bytes = match CheckedFile::new(objects, known).all().await {
        Ok(bytes) => bytes,
        Err(error) => {
            return match file::store_error(error) {
                Ok(object_store::Error::NotFound { .. }) => Ok(Err("it is missing".to_owned())),
                Ok(source) => Err(OpenError::Objects {
                    what: format!("read {}", known.key),
                    source,
                }),
                Err(error) => Ok(Err(error.to_string())),
            };
        }
    };
    let rows = async {
        let copy: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let path = Path::from(known.key.as_str());
        copy.put(&path, PutPayload::from(bytes))
            .await
            .map_err(|error| ParquetError::External(Box::new(error)))?;
        let copy = CheckedFile::new(&copy, known);
        let footer = file::footer(copy.clone(), known).await?;
        if let Some(lanes) = lanes {
            return check_shared(copy, footer, known, lanes).await;
        }
        for run in &known.runs {
            let columns = file::column_names();
            let mut batches = file::batches(copy.clone(), footer.clone(), run.rows(), &columns)?;
            let mut walk = Walk::new(*run);
            while let Some(batch) = batches.next().await {
                let batch = batch?;
                Merge::check(run.queue, &walk.next(&batch)?, &batch)?;
                crate::format::columns::from_batch(&batch, topic)
                    .map_err(|error| ParquetError::General(error.to_string()))?;
            }
            if !walk.is_over() {
                let ends = "its rows end early".to_owned();
                return Err(ParquetError::General(ends));
            }
        }
        Ok(())
    };
    Ok(rows.await.map_err(|error| error.to_string()))
}

/// Whether the rows of a file that topics of a family share are those that the manifest names.
async fn check_shared(
    copy: CheckedFile,
    footer: ArrowReaderMetadata,
    known: &File,
    lanes: &Lanes,
) -> Result<(), ParquetError> {
    let mut rows = Rows::open(copy, footer)?;
    for run in &known.runs {
        let unknown = || ParquetError::General(format!("lane {} is not known", run.queue));
        let lane = lanes.get(run.queue).ok_or_else(unknown)?;
        for (_, batch) in rows.take(*run, lane).await? {
            crate::format::columns::from_batch(&batch, TopicId(lane.topic))
                .map_err(|error| ParquetError::General(error.to_string()))?;
        }
    }
    Ok(())
}
