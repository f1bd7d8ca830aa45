//! An object store in memory that misbehaves as real ones do: by a script, by a seed, or for a while altogether.
//!
//! Objects themselves are never lost and never changed: they survive every crash of whoever uses the store, as
//! a bucket does. What goes wrong is what is answered and when: see [`Fault`]. The same seed and calls give
//! the same faults.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use millpond_proto::chance::Seeded;
use millpond_proto::time::Clock;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};

const NAME: &str = "SimulatedStore";
/// Calls until a removal that was given up takes place, at most.
const LATE_CALLS_MAX: u64 = 40;
/// How long a slow call takes, at most.
const SLOW_MS_MAX: u64 = 30_000;

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Nothing happens, and the answer is an error (500, 503, 429, a reset connection).
    Unavailable,
    /// It happens, and the answer is an error.
    LostAnswer,
    /// A put that makes an object happens, and is told that the object exists (412 on one's own write).
    ExistsOnOwn,
    /// A put that makes an object does not happen, and is told that the object exists (409).
    Conflict,
    /// A read answers fewer bytes than asked for.
    Truncated,
    /// A bit of what is read is flipped on the way.
    Flipped,
    /// A listing shows what there was some time ago.
    StaleList,
    /// A removal is answered with an error and takes place later, perhaps twice.
    LateDelete,
    /// It takes up to 30 s, by the clock that was passed in.
    Slow,
}

impl Fault {
    /// All that can go wrong.
    pub const ALL: [Self; 9] = [
        Self::Unavailable,
        Self::LostAnswer,
        Self::ExistsOnOwn,
        Self::Conflict,
        Self::Truncated,
        Self::Flipped,
        Self::StaleList,
        Self::LateDelete,
        Self::Slow,
    ];
}

/// A handle on a simulated store; clones share its state.
#[derive(Clone, Debug)]
pub struct SimulatedStore {
    state: Arc<Mutex<State>>,
    clock: Option<Arc<dyn Clock>>,
}

#[derive(Debug)]
struct State {
    objects: BTreeMap<Path, Bytes>,
    /// What a stale listing shows.
    listed: BTreeMap<Path, u64>,
    /// Removals under way, with the calls until they take place.
    late: Vec<(u64, Path)>,
    chance: Seeded,
    script: VecDeque<Fault>,
    percent: u64,
    kinds: Vec<Fault>,
    is_down: bool,
    ignores_create: bool,
    /// How long every call takes.
    latency: Duration,
    calls: u64,
    bytes_read: u64,
    /// Names that were ever put, to see that none is put twice.
    used: BTreeSet<Path>,
    reused: Vec<Path>,
}

impl SimulatedStore {
    /// An empty store without faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            listed: BTreeMap::new(),
            late: Vec::new(),
            chance: Seeded::new(seed),
            script: VecDeque::new(),
            percent: 0,
            kinds: Vec::new(),
            is_down: false,
            ignores_create: false,
            latency: Duration::ZERO,
            calls: 0,
            bytes_read: 0,
            used: BTreeSet::new(),
            reused: Vec::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            clock: None,
        }
    }

    /// The same store, whose slow calls take their time by `clock`.
    #[must_use]
    pub fn by(&self, clock: Arc<dyn Clock>) -> Self {
        Self {
            state: Arc::clone(&self.state),
            clock: Some(clock),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes wrong with the next calls, one after the other.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().script = faults.into_iter().collect();
    }

    /// Lets so many of a hundred calls go wrong, in one of these ways.
    pub fn misbehave(&self, percent: u64, kinds: &[Fault]) {
        let mut state = self.state();
        state.percent = percent;
        state.kinds = kinds.to_vec();
    }

    /// Whether nothing is answered at all.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// Takes a put that makes an object for one that replaces it, as some stores do.
    pub fn ignore_create(&self, ignores: bool) {
        self.state().ignores_create = ignores;
    }

    /// Lets every call take so long, by the clock that was passed in.
    pub fn set_latency(&self, latency: Duration) {
        self.state().latency = latency;
    }

    /// Bytes of objects read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.state().bytes_read
    }

    /// Calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Paths of all objects.
    #[must_use]
    pub fn paths(&self) -> Vec<Path> {
        self.state().objects.keys().cloned().collect()
    }

    /// Names that were put again after they had been used.
    #[must_use]
    pub fn reused(&self) -> Vec<Path> {
        self.state().reused.clone()
    }

    /// Counts a call, lets late removals happen, and says what goes wrong with this one.
    async fn call(&self, can: &[Fault]) -> Result<Fault> {
        let (fault, pause) = {
            let mut state = self.state();
            state.calls += 1;
            state.remove_late();
            let mut fault = state.script.pop_front().unwrap_or(Fault::None);
            if state.percent > 0 && state.chance.percent(state.percent) {
                let kind = state.chance.below(state.kinds.len().max(1) as u64);
                let kind = usize::try_from(kind).unwrap_or(0);
                fault = state.kinds.get(kind).copied().unwrap_or(Fault::None);
            }
            if state.is_down {
                fault = Fault::Unavailable;
            }
            let pause = match fault {
                Fault::Slow => Duration::from_millis(state.chance.below(SLOW_MS_MAX)),
                _ => Duration::ZERO,
            };
            (fault, pause + state.latency)
        };
        if !pause.is_zero()
            && let Some(clock) = &self.clock
        {
            clock.sleep(pause).await;
        }
        match fault {
            Fault::Unavailable => Err(broken("503 Slow Down")),
            fault if can.contains(&fault) => Ok(fault),
            _ => Ok(Fault::None),
        }
    }

    fn read(&self, location: &Path) -> Result<Bytes> {
        let state = self.state();
        let found = state.objects.get(location).cloned();
        found.ok_or_else(|| Error::NotFound {
            path: location.to_string(),
            source: "no such object".into(),
        })
    }

    async fn remove(&self, location: Path) -> Result<Path> {
        let fault = self.call(&[Fault::LostAnswer, Fault::LateDelete]).await?;
        let mut state = self.state();
        if fault == Fault::LateDelete {
            for _ in 0..=state.chance.below(2) {
                let calls = state.chance.below(LATE_CALLS_MAX);
                state.late.push((calls, location.clone()));
            }
            return Err(broken("the connection was reset"));
        }
        state.remove(&location);
        match fault {
            Fault::LostAnswer => Err(broken("the answer was lost")),
            _ => Ok(location),
        }
    }

    async fn listing(&self, prefix: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let fault = self.call(&[Fault::StaleList, Fault::LostAnswer]).await?;
        if fault == Fault::LostAnswer {
            return Err(broken("the answer was lost"));
        }
        let mut state = self.state();
        if fault != Fault::StaleList {
            let sizes = state.objects.iter();
            state.listed = sizes.map(|(p, b)| (p.clone(), b.len() as u64)).collect();
        }
        let is_below = |path: &Path| prefix.is_none_or(|prefix| path.prefix_matches(prefix));
        let listed = state.listed.iter().filter(|(path, _)| is_below(path));
        Ok(listed.map(|(path, size)| meta(path, *size)).collect())
    }
}

impl State {
    fn remove(&mut self, location: &Path) {
        self.objects.remove(location);
    }

    fn remove_late(&mut self) {
        let mut due = Vec::new();
        self.late.retain_mut(|(calls, path)| {
            if *calls == 0 {
                due.push(path.clone());
                return false;
            }
            *calls -= 1;
            true
        });
        for path in due {
            self.remove(&path);
        }
    }
}

fn broken(what: &'static str) -> Error {
    Error::Generic {
        store: NAME,
        source: what.into(),
    }
}

fn exists(location: &Path) -> Error {
    Error::AlreadyExists {
        path: location.to_string(),
        source: "412 Precondition Failed".into(),
    }
}

fn meta(location: &Path, size: u64) -> ObjectMeta {
    ObjectMeta {
        location: location.clone(),
        last_modified: Default::default(),
        size,
        e_tag: None,
        version: None,
    }
}

fn range_of(range: Option<&GetRange>, size: u64) -> Result<Range<u64>> {
    let range = range.map_or(Ok(0..size), |range| range.as_range(size));
    range.map_err(|source| Error::Generic {
        store: NAME,
        source: source.into(),
    })
}

fn part(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(index(range.start)..index(range.end))
}

impl fmt::Display for SimulatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME)
    }
}

#[async_trait]
impl ObjectStore for SimulatedStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let can = [Fault::LostAnswer, Fault::ExistsOnOwn, Fault::Conflict];
        let fault = self.call(&can).await?;
        let mut state = self.state();
        let creates = matches!(options.mode, PutMode::Create) && !state.ignores_create;
        if creates && (fault == Fault::Conflict || state.objects.contains_key(location)) {
            return Err(exists(location));
        }
        if !state.used.insert(location.clone()) {
            state.reused.push(location.clone());
        }
        state.objects.insert(location.clone(), payload.into());
        match fault {
            Fault::LostAnswer => Err(broken("the answer was lost")),
            Fault::ExistsOnOwn if creates => Err(exists(location)),
            _ => Ok(PutResult {
                e_tag: None,
                version: None,
            }),
        }
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(broken("no multipart uploads"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let can = [Fault::LostAnswer, Fault::Truncated, Fault::Flipped];
        let fault = self.call(&can).await?;
        if fault == Fault::LostAnswer {
            return Err(broken("the answer was lost"));
        }
        let whole = self.read(location)?;
        let meta = meta(location, whole.len() as u64);
        let range = range_of(options.range.as_ref(), meta.size)?;
        let mut bytes = part(&whole, &range);
        if options.head {
            bytes = Bytes::new();
        }
        self.state().bytes_read += bytes.len() as u64;
        if !bytes.is_empty() {
            let at = self.state().chance.below(bytes.len() as u64 * 8);
            let at = usize::try_from(at).unwrap_or(0);
            match fault {
                Fault::Truncated => bytes.truncate(at / 8),
                Fault::Flipped => {
                    let mut flipped = bytes.to_vec();
                    flipped[at / 8] ^= 1 << (at % 8);
                    bytes = flipped.into();
                }
                _ => {}
            }
        }
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed()),
            meta,
            range,
            attributes: Attributes::default(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move { store.remove(location?).await }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listing = async move { store.listing(prefix.as_ref()).await };
        stream::once(listing)
            .flat_map(|listed| match listed {
                Ok(found) => stream::iter(found.into_iter().map(Ok)).boxed(),
                Err(error) => stream::once(async { Err(error) }).boxed(),
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let listed = self.listing(prefix).await?;
        let depth = prefix.map_or(0, |prefix| prefix.parts().count());
        let mut found = ListResult {
            common_prefixes: Vec::new(),
            objects: Vec::new(),
        };
        for object in listed {
            let parts: Vec<_> = object.location.parts().collect();
            if parts.len() <= depth + 1 {
                found.objects.push(object);
                continue;
            }
            let folder: Path = parts.into_iter().take(depth + 1).collect();
            if found.common_prefixes.last() != Some(&folder) {
                found.common_prefixes.push(folder);
            }
        }
        Ok(found)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, _: CopyOptions) -> Result<()> {
        self.call(&[]).await?;
        let bytes = self.read(from)?;
        self.state().objects.insert(to.clone(), bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;
    use object_store::ObjectStoreExt as _;

    use super::*;

    async fn create(store: &SimulatedStore, path: &str) -> Result<PutResult> {
        let options = PutOptions::from(PutMode::Create);
        store.put_opts(&path.into(), "abc".into(), options).await
    }

    #[tokio::test]
    async fn without_faults_it_is_a_store_like_any_other() {
        let store = SimulatedStore::new(1);
        create(&store, "a/b").await.unwrap();
        let again = create(&store, "a/b").await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })));
        create(&store, "c").await.unwrap();
        let read = store.get_range(&"a/b".into(), 1..3).await.unwrap();
        assert_eq!(read, "bc");
        let folders = store.list_with_delimiter(None).await.unwrap();
        assert_eq!(folders.common_prefixes, ["a".into()]);
        assert_eq!(folders.objects.len(), 1);
        store.delete(&"a/b".into()).await.unwrap();
        assert!(store.head(&"a/b".into()).await.is_err());
        assert_eq!(store.paths(), ["c".into()]);
    }

    #[tokio::test]
    async fn each_fault_shows_as_it_does_over_the_wire() {
        let store = SimulatedStore::new(1);
        store.script([Fault::LostAnswer, Fault::ExistsOnOwn, Fault::Conflict]);
        for path in ["lost", "own", "conflict"] {
            assert!(create(&store, path).await.is_err());
        }
        assert_eq!(store.paths(), ["lost".into(), "own".into()]);
        let whole = store.list(None).try_collect::<Vec<_>>().await.unwrap();
        store.script([Fault::LateDelete, Fault::StaleList, Fault::Truncated]);
        assert!(store.delete(&"own".into()).await.is_err());
        let stale = store.list(None).try_collect::<Vec<_>>().await.unwrap();
        assert_eq!(stale, whole);
        let cut = store.get(&"lost".into()).await.unwrap().bytes().await;
        assert!(cut.unwrap().len() < 3);
        for _ in 0..=LATE_CALLS_MAX {
            let _ = store.head(&"lost".into()).await;
        }
        assert_eq!(store.paths(), ["lost".into()]);
        store.set_down(true);
        assert!(create(&store, "x").await.is_err());
    }
}
