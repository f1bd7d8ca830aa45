//! Putting objects under names that are used once.
//!
//! **Invariants.** A name carries the term of the incarnation and a count of its own, so no two puts ever ask for
//! the same one, and none is asked for again after it was removed (a topic's table, which readers find by its version,
//! is the exception: only what outsiders see hangs on it). What a store does late is therefore
//! harmless: a put that lands after it was given up is an orphan, and a removal that lands late meets a name
//! that nobody will use.
//!
//! Whether a put took place is often unknown: an answer gets lost, and a client that tries again is told that
//! the object exists, which it has made itself. So whatever is not a plain yes is read back, and the same
//! bytes under our name are a yes.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use millpond_proto::message::TopicId;
use object_store::path::Path;
use object_store::{Error, ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions};

use crate::error::TierError;
use crate::format::manifest::{File, Manifest};
use crate::tier::cold::waiting::Parting;
use crate::tier::cold::{Cold, file_folder, manifest_path, objects_failed, parquet_failed};
use crate::tier::parquet::{self as file, CheckedFile, Made};

/// Names tried before giving up: a store may refuse one for reasons of its own (409).
const NAMES_TRIED_MAX: u32 = 4;
/// Versions tried before giving up: each one taken is left from a crash.
const VERSIONS_TRIED_MAX: u32 = 256;

impl Cold {
    /// What no other name has or ever will have.
    fn stamp(&self) -> String {
        let count = self.puts.fetch_add(1, Ordering::Relaxed);
        format!("{:010}-{count:06}", self.term.0)
    }

    /// Puts a file, then reads its footer back.
    pub(super) async fn put_file(
        &self,
        topic: TopicId,
        next_file: &mut u64,
        mut made: Made,
    ) -> Result<File, TierError> {
        let what = format!("write a file of topic {topic}");
        let number = *next_file;
        let path = |stamp: &str| {
            let folder = file_folder(topic);
            Path::from(format!("{folder}/{number:020}-{stamp}.parquet"))
        };
        let (_, path) = self.put_new(path, &made.bytes, &what).await?;
        made.file.key = path.to_string();
        let checked = CheckedFile::new(&self.objects, &made.file);
        let footer = file::footer(checked, &made.file)
            .await
            .map_err(parquet_failed(topic))?;
        self.footers().insert(&made.file.key, footer);
        *next_file = number + 1;
        Ok(made.file)
    }

    /// Puts the manifest that follows, and before it what shows it as a table; answers its name, which is what
    /// points to it.
    pub(super) async fn put_manifest(
        &self,
        topic: TopicId,
        current: &Manifest,
        next: &mut Manifest,
        parting: Parting,
    ) -> Result<String, TierError> {
        let gone_up_to = parting.begin(current, next);
        let is_new: Vec<bool> = next.files.iter().map(|file| file.added == 0).collect();
        let mut tried = 0;
        loop {
            next.version += 1;
            for (file, _) in next.files.iter_mut().zip(&is_new).filter(|(_, new)| **new) {
                file.added = next.version;
            }
            tried += 1;
            match self.put_table(topic, current, next, gone_up_to).await {
                Ok(()) => break,
                // A table's names follow from the version: those of one that a crash left behind are taken.
                Err(Error::AlreadyExists { .. }) if tried < VERSIONS_TRIED_MAX => {}
                Err(source) => {
                    return Err(objects_failed(format!("write the table of topic {topic}"))(
                        source,
                    ));
                }
            }
        }
        parting.finish(topic, current, next);
        let what = format!("write the manifest of topic {topic}");
        let version = next.version;
        let name = |stamp: &str| format!("{version:020}-{stamp}");
        let path = |stamp: &str| manifest_path(topic, &name(stamp));
        let (stamp, _) = self.put_new(path, &next.encode(), &what).await?;
        Ok(name(&stamp))
    }

    async fn put_new(
        &self,
        path: impl Fn(&str) -> Path,
        bytes: &Bytes,
        what: &str,
    ) -> Result<(String, Path), TierError> {
        let mut tried = 0;
        loop {
            let stamp = self.stamp();
            let path = path(&stamp);
            tried += 1;
            match self.put_once(&path, bytes).await {
                Ok(()) => return Ok((stamp, path)),
                Err(Error::AlreadyExists { .. }) if tried < NAMES_TRIED_MAX => {}
                Err(source) => return Err(objects_failed(what)(source)),
            }
        }
    }

    /// Puts an object under a name of its own.
    pub(super) async fn put_once(&self, path: &Path, bytes: &Bytes) -> object_store::Result<()> {
        let options = PutOptions::from(PutMode::Create);
        let put = self.objects.put_opts(path, bytes.clone().into(), options);
        let error = match put.await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let is_no = matches!(
            error,
            Error::PermissionDenied { .. }
                | Error::Unauthenticated { .. }
                | Error::NotSupported { .. }
                | Error::NotImplemented { .. }
        );
        if !is_no && self.holds(path, bytes).await {
            return Ok(());
        }
        Err(error)
    }

    /// Whether an object is there, with these very bytes.
    async fn holds(&self, path: &Path, bytes: &Bytes) -> bool {
        let found = async { self.objects.get(path).await?.bytes().await };
        found.await.is_ok_and(|found| found == *bytes)
    }
}
