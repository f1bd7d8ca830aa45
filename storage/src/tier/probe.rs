//! Whether an object store can do what the cold tier needs, found out before anything is entrusted to it.
//!
//! The one thing that stores differ in is the put that makes an object only if there is none: some take it for
//! an ordinary put, and then a late writer could change what a manifest names. The probe also reads back,
//! reads a range, lists and deletes, so that a wrong key or a missing right shows at the start and not
//! hours later.
//!
//! It leaves nothing behind, apart from an object below `probe/` when the store fails halfway.

use bytes::Bytes;
use futures::TryStreamExt as _;
use millpond_proto::chance::Chance;
use millpond_proto::remedy::Remedy;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};

use crate::tier::owner;

const FOLDER: &str = "probe";
/// Long enough for a range that begins and ends inside.
const BODY_BYTES: u64 = 1024;

/// Why a store is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It did not do what it was asked.
    #[error(
        "the cold tier {store} could not {what}; check its URL, credentials, region and endpoint"
    )]
    Failed {
        /// The store.
        store: String,
        /// What was tried.
        what: &'static str,
        /// What it said.
        #[source]
        source: Error,
    },
    /// It did something else.
    #[error("the cold tier {store} {what}; messages would not be safe there, use another store")]
    Unfit {
        /// The store.
        store: String,
        /// What it did.
        what: &'static str,
    },
}

impl ProbeError {
    /// Whether the store may well answer later: it was not reached, or has failed.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Failed { source, .. } if owner::is_outage(source))
    }

    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        Remedy::Operator
    }
}

/// Tries a store, called `name`.
///
/// # Errors
/// [`ProbeError`] says what the store can not do.
pub async fn probe(
    objects: &dyn ObjectStore,
    chance: &dyn Chance,
    name: &str,
) -> Result<(), ProbeError> {
    let failed = |what: &'static str| {
        let store = name.to_owned();
        move |source| ProbeError::Failed {
            store,
            what,
            source,
        }
    };
    let unfit = |what: &'static str| {
        Err(ProbeError::Unfit {
            store: name.to_owned(),
            what,
        })
    };
    let path = Path::from(format!("{FOLDER}/{:016x}", chance.next_u64()));
    let (first, second) = (body(chance), body(chance));
    let read = || async { objects.get(&path).await?.bytes().await };

    if let Err(error) = create(objects, &path, &first).await {
        // A client that asks again after a lost answer is told that the object exists.
        let is_ours = read().await.is_ok_and(|found| found == first);
        if !is_ours {
            return Err(failed("make an object")(error));
        }
    }
    match create(objects, &path, &second).await {
        Err(Error::AlreadyExists { .. }) => {}
        Err(error) => return Err(failed("be asked to make an object that exists")(error)),
        Ok(()) => return unfit("replaces an object that was to be made only if there is none"),
    }
    let found = read().await.map_err(failed("read an object back"))?;
    if found != first {
        return unfit("gives back other bytes than were put");
    }
    let range = 100..BODY_BYTES - 100;
    let found = objects.get_range(&path, range).await;
    let found = found.map_err(failed("read a part of an object"))?;
    if found != first.slice(100..first.len() - 100) {
        return unfit("gives back another part of an object than asked for");
    }
    let listed: Vec<_> = objects
        .list(Some(&Path::from(FOLDER)))
        .try_collect()
        .await
        .map_err(failed("list objects"))?;
    let is_listed = |o: &object_store::ObjectMeta| o.location == path && o.size == BODY_BYTES;
    if !listed.iter().any(is_listed) {
        return unfit("does not list an object that was put");
    }
    let deleted = objects.delete(&path).await;
    deleted.map_err(failed("delete an object"))?;
    match objects.head(&path).await {
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(failed("be asked for an object that was deleted")(error)),
        Ok(_) => unfit("still has an object that was deleted"),
    }
}

async fn create(objects: &dyn ObjectStore, path: &Path, body: &Bytes) -> Result<(), Error> {
    let options = PutOptions::from(PutMode::Create);
    let put = objects.put_opts(path, body.clone().into(), options).await;
    put.map(|_| ())
}

fn body(chance: &dyn Chance) -> Bytes {
    let words = (0..BODY_BYTES / 8).map(|_| chance.next_u64().to_le_bytes());
    words.flatten().collect::<Vec<u8>>().into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millpond_proto::chance::Seeded;
    use object_store::memory::InMemory;

    use super::*;
    use crate::disk::simulated::SimulatedDisk;
    use crate::tier::objects::DiskObjectStore;
    use crate::tier::simulated::{Fault, SimulatedStore};

    async fn probed(objects: &dyn ObjectStore) -> Result<(), ProbeError> {
        probed_as(objects, 1).await
    }

    async fn probed_as(objects: &dyn ObjectStore, seed: u64) -> Result<(), ProbeError> {
        probe(objects, &Seeded::new(seed), "s3://a").await
    }

    #[tokio::test]
    async fn stores_that_keep_their_word_are_taken_and_left_clean() {
        let disk = Arc::new(SimulatedDisk::new());
        let local = DiskObjectStore::new(disk, "objects");
        let memory = InMemory::new();
        let stores: [&dyn ObjectStore; 2] = [&local, &memory];
        for store in stores {
            probed(store).await.unwrap();
            let left: Vec<_> = store.list(None).try_collect().await.unwrap();
            assert_eq!(left, []);
        }
    }

    #[tokio::test]
    async fn a_put_that_was_answered_twice_is_no_reason_to_refuse_a_store() {
        let store = SimulatedStore::new(1);
        store.script([Fault::ExistsOnOwn]);
        probed(&store).await.unwrap();
        store.script([Fault::LostAnswer]);
        probed(&store).await.unwrap();
    }

    #[tokio::test]
    async fn a_store_that_replaces_objects_is_refused_and_told_why() {
        let store = SimulatedStore::new(1);
        store.ignore_create(true);
        let error = probed(&store).await.unwrap_err();
        assert!(matches!(error, ProbeError::Unfit { .. }));
        assert!(error.to_string().contains("replaces an object"), "{error}");
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_refused_with_what_failed() {
        let store = SimulatedStore::new(1);
        // One fault at the first call, the second, and so on: each is told in words of its own.
        let mut told = std::collections::BTreeSet::new();
        for whole in 0..7 {
            let faults = std::iter::repeat_n(Fault::None, whole);
            store.script(faults.chain([Fault::Unavailable, Fault::Unavailable]));
            let error = probed_as(&store, whole as u64).await.unwrap_err();
            assert!(matches!(error, ProbeError::Failed { .. }), "{error}");
            told.insert(error.to_string());
        }
        assert_eq!(told.len(), 7, "{told:#?}");
    }
}
