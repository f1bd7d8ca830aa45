//! Which data folder an object store belongs to.
//!
//! The store holds an object `MILLPOND` with an id, and the metadata store remembers the same id and what the
//! store was called. **Invariant.** Nothing is put into or removed from a store before both agree: two data
//! folders over one store would sweep away each other's files, and a folder over another's store would read
//! what it never wrote.
//!
//! The id counts, not the name: a bucket that was copied or is reached by another URL is taken. Only a store that does
//! not answer is taken by its name, when it is that of the last time.
//!
//! Bytes: `storage/FORMAT.md`, Cold tier and Metadata keys.

use std::sync::Arc;

use bytes::Bytes;
use millpond_proto::chance::Chance;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};

use crate::error::OpenError;
use crate::format::checksum::crc32c;
use crate::meta::{MetaError, MetaStore};

const OBJECT: &str = "MILLPOND";
const KEY: &str = "cold/owner";
const TITLE: &str = "Millpond cold tier\nformat 1\n";
/// Times that a fact is tried to be set while someone else changes it.
const SWAPS_MAX: usize = 8;

/// What the metadata store remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    id: String,
    name: String,
}

impl Known {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (id, name) = std::str::from_utf8(bytes).ok()?.split_once(' ')?;
        Some(Self {
            id: id.to_owned(),
            name: name.to_owned(),
        })
    }

    fn encode(&self) -> String {
        format!("{} {}", self.id, self.name)
    }
}

/// What the store was called when it was last opened; `None` when this folder never had one.
///
/// # Errors
/// [`MetaError`] when the metadata store can not be read.
pub fn name_of(meta: &dyn MetaStore) -> Result<Option<String>, MetaError> {
    Ok(known(meta)?.map(|known| known.name))
}

fn known(meta: &dyn MetaStore) -> Result<Option<Known>, MetaError> {
    let Some(found) = meta.get(KEY)? else {
        return Ok(None);
    };
    let known = Known::decode(&found.value).ok_or_else(|| MetaError {
        detail: format!("{KEY} can not be read"),
    })?;
    Ok(Some(known))
}

fn remember(meta: &dyn MetaStore, known: &Known) -> Result<(), MetaError> {
    for _ in 0..SWAPS_MAX {
        let found = meta.get(KEY)?;
        let text = known.encode();
        if found.as_ref().is_some_and(|f| f.value == text.as_bytes()) {
            return Ok(());
        }
        let expected = found.map(|found| found.version);
        if meta.compare_and_swap(KEY, expected, Some(text.as_bytes()))? {
            return Ok(());
        }
    }
    Err(MetaError {
        detail: format!("{KEY} is changed by another process"),
    })
}

fn text(id: &str) -> Bytes {
    let text = format!("{TITLE}owner {id}\n");
    let checksum = crc32c(&[text.as_bytes()]);
    format!("{text}crc32c {checksum:08x}\n").into()
}

/// The id that an object says; `None` when it is none of ours or damaged.
fn id_in(bytes: &[u8]) -> Option<String> {
    let found = std::str::from_utf8(bytes).ok()?;
    let id = found.strip_prefix(TITLE)?.strip_prefix("owner ")?;
    let id = id.lines().next()?;
    (text(id) == bytes).then(|| id.to_owned())
}

/// Makes sure that the store, called `name`, is this folder's own, and makes it so if it is nobody's.
///
/// # Errors
/// [`OpenError::OtherCold`], [`OpenError::ColdMissing`], [`OpenError::ColdTaken`]; [`OpenError::Objects`] when the store does not answer.
pub(crate) async fn claim(
    objects: &Arc<dyn ObjectStore>,
    meta: &dyn MetaStore,
    chance: &dyn Chance,
    name: &str,
) -> Result<(), OpenError> {
    let remembered = known(meta)?;
    let has_files = meta
        .keys("topic/")?
        .iter()
        .any(|k| k.ends_with("/manifest"));
    let ours = match &remembered {
        Some(known) => known.clone(),
        None => Known {
            id: format!("{:016x}{:016x}", chance.next_u64(), chance.next_u64()),
            name: name.to_owned(),
        },
    };
    let other = || {
        let (asked, known) = (name.to_owned(), ours.name.clone());
        if asked == known {
            OpenError::ColdMissing { asked }
        } else {
            OpenError::OtherCold { asked, known }
        }
    };
    let found = match read(objects, name).await {
        // It was ours when it was last asked, and whatever is put there has a name of its own.
        Err(OpenError::Objects { source, .. })
            if is_outage(&source)
                && remembered.as_ref().is_some_and(|known| known.name == name) =>
        {
            tracing::warn!(cold = name, error = %source, "the cold tier does not answer; starting without it");
            return Ok(());
        }
        found => found?,
    };
    match found {
        Some(found) if found == ours.id => {}
        Some(_) if remembered.is_some() && has_files => return Err(other()),
        Some(_) => {
            return Err(OpenError::ColdTaken {
                asked: name.to_owned(),
            });
        }
        None if remembered.is_some() && has_files => return Err(other()),
        None => {
            // Remembered first: an object that a crash left is then known to be ours.
            remember(meta, &ours)?;
            put(objects, &ours.id, name).await?;
        }
    }
    let now = Known {
        name: name.to_owned(),
        ..ours
    };
    Ok(remember(meta, &now)?)
}

/// Whether a store may well answer later, as it is asked now.
#[must_use]
pub fn is_outage(error: &Error) -> bool {
    matches!(error, Error::Generic { .. })
}

async fn read(objects: &Arc<dyn ObjectStore>, name: &str) -> Result<Option<String>, OpenError> {
    let path = Path::from(OBJECT);
    let read = async { objects.get(&path).await?.bytes().await };
    match read.await {
        Ok(bytes) => match id_in(&bytes) {
            Some(id) => Ok(Some(id)),
            None => Err(OpenError::Damaged {
                what: format!("the object {OBJECT} in {name}"),
                detail: "it does not say whose cold tier this is".to_owned(),
            }),
        },
        Err(Error::NotFound { .. }) => Ok(None),
        Err(source) => Err(OpenError::Objects {
            what: format!("read whose cold tier {name} is"),
            source,
        }),
    }
}

async fn put(objects: &Arc<dyn ObjectStore>, id: &str, name: &str) -> Result<(), OpenError> {
    let path = Path::from(OBJECT);
    let options = PutOptions::from(PutMode::Create);
    let Err(source) = objects.put_opts(&path, text(id).into(), options).await else {
        return Ok(());
    };
    // It may have been made all the same, by this very call.
    match read(objects, name).await? {
        Some(found) if found == id => Ok(()),
        Some(_) => Err(OpenError::ColdTaken {
            asked: name.to_owned(),
        }),
        None => Err(OpenError::Objects {
            what: format!("make {name} the cold tier of this data folder"),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use millpond_proto::chance::Seeded;
    use object_store::memory::InMemory;

    use super::*;
    use crate::disk::simulated::SimulatedDisk;
    use crate::meta::embedded::EmbeddedMeta;

    fn folder() -> EmbeddedMeta {
        EmbeddedMeta::open(Arc::new(SimulatedDisk::new()), "facts").unwrap()
    }

    fn store() -> Arc<dyn ObjectStore> {
        Arc::new(InMemory::new())
    }

    async fn claimed(
        objects: &Arc<dyn ObjectStore>,
        meta: &EmbeddedMeta,
        seed: u64,
        name: &str,
    ) -> Result<(), OpenError> {
        claim(objects, meta, &Seeded::new(seed), name).await
    }

    fn has_a_file(meta: &EmbeddedMeta) {
        let set = meta.compare_and_swap("topic/7/manifest", None, Some(b"1"));
        assert!(set.unwrap());
    }

    #[tokio::test]
    async fn a_store_stays_with_the_folder_that_took_it_whatever_it_is_called() {
        let (meta, objects) = (folder(), store());
        claimed(&objects, &meta, 1, "s3://a").await.unwrap();
        has_a_file(&meta);
        claimed(&objects, &meta, 2, "s3://a").await.unwrap();
        claimed(&objects, &meta, 3, "https://a").await.unwrap();
        assert_eq!(name_of(&meta).unwrap().as_deref(), Some("https://a"));
        let error = claimed(&objects, &folder(), 4, "s3://a").await.unwrap_err();
        assert!(matches!(error, OpenError::ColdTaken { .. }), "{error}");
    }

    #[tokio::test]
    async fn another_store_is_refused_once_there_is_something_in_the_first() {
        let (meta, objects) = (folder(), store());
        claimed(&objects, &meta, 1, "s3://a").await.unwrap();
        // Nothing was moved yet: any empty place will do.
        let other = store();
        claimed(&other, &meta, 2, "s3://b").await.unwrap();
        has_a_file(&meta);
        let error = claimed(&store(), &meta, 3, "objects").await.unwrap_err();
        assert!(matches!(error, OpenError::OtherCold { .. }));
        assert!(error.to_string().contains("--cold s3://b"), "{error}");
        let foreign = store();
        claimed(&foreign, &folder(), 5, "s3://c").await.unwrap();
        let error = claimed(&foreign, &meta, 6, "s3://c").await.unwrap_err();
        assert!(matches!(error, OpenError::OtherCold { .. }), "{error}");
        // An empty place under the name of the last time, such as a folder whose disk is not mounted.
        let error = claimed(&store(), &meta, 7, "s3://b").await.unwrap_err();
        assert!(matches!(error, OpenError::ColdMissing { .. }), "{error}");
        claimed(&other, &meta, 8, "s3://b").await.unwrap();
    }

    #[tokio::test]
    async fn a_crash_between_remembering_and_putting_is_made_good() {
        let (meta, objects) = (folder(), store());
        let known = Known {
            id: "0".repeat(32),
            name: "s3://a".to_owned(),
        };
        remember(&meta, &known).unwrap();
        claimed(&objects, &meta, 1, "s3://a").await.unwrap();
        assert_eq!(read(&objects, "a").await.unwrap(), Some(known.id));
    }

    #[tokio::test]
    async fn a_store_that_was_ours_and_is_down_is_no_reason_not_to_start() {
        use crate::tier::simulated::SimulatedStore;
        let (meta, store) = (folder(), SimulatedStore::new(1));
        let objects: Arc<dyn ObjectStore> = Arc::new(store.clone());
        store.set_down(true);
        assert!(claimed(&objects, &meta, 1, "s3://a").await.is_err());
        store.set_down(false);
        claimed(&objects, &meta, 1, "s3://a").await.unwrap();
        store.set_down(true);
        claimed(&objects, &meta, 1, "s3://a").await.unwrap();
        assert!(claimed(&objects, &meta, 1, "s3://b").await.is_err());
    }

    #[tokio::test]
    async fn a_damaged_object_is_named() {
        let (meta, objects) = (folder(), store());
        claimed(&objects, &meta, 1, "s3://a").await.unwrap();
        let path = Path::from(OBJECT);
        let bytes = objects.get(&path).await.unwrap().bytes().await.unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(id_in(&damaged), None, "bit {bit}");
        }
        objects.put(&path, "no".into()).await.unwrap();
        let error = claimed(&objects, &meta, 1, "s3://a").await.unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    }
}
