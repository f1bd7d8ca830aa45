//! An S3 server for tests, over the wire: one bucket in memory, exact conditional writes, and faults to order.
//!
//! Everything that changes happens under one lock, so a put that makes an object only if there is none is as
//! exact as S3's own. It has a thread and a runtime of its own, so that a blocking test can use it as well as a
//! process that the test starts. Signatures are checked.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use millpond_proto::task::{Lane, Runtimes, Spawn as _};
use millpond_proto::time::{Clock as _, SystemClock};
use s3s::auth::SimpleAuth;
use s3s::dto::{
    CommonPrefix, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput,
    DeletedObject, ETag, ETagCondition, GetObjectInput, GetObjectOutput, HeadObjectInput,
    HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, Object, PutObjectInput,
    PutObjectOutput, Range, StreamingBlob, Timestamp,
};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The one bucket.
pub(crate) const BUCKET: &str = "bucket";
const ACCESS_KEY: &str = "pond";
const SECRET_KEY: &str = "a-secret-for-tests";

/// What goes wrong with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// It takes longer.
    Slow(Duration),
    /// The error, before anything happened: 500, 503, 429, 409, 412.
    Refuse(S3ErrorCode),
    /// The error, after it happened.
    RefuseAfter(S3ErrorCode),
    /// No answer for so long, and nothing happens.
    HangBefore(Duration),
    /// It happens, and there is no answer for so long.
    HangAfter(Duration),
    /// The body of the answer breaks off in the middle, and so does the connection.
    Reset,
    /// A listing shows what there was at the listing before.
    StaleList,
    /// A removal is answered with an error and happens with the next request.
    LateDelete,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    listed: BTreeMap<String, u64>,
    late: Vec<String>,
    script: VecDeque<Fault>,
    is_down: bool,
}

/// The bucket behind the server.
#[derive(Clone, Debug, Default)]
struct Bucket(Arc<Mutex<State>>);

/// A running server; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct S3Server {
    bucket: Bucket,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl S3Server {
    /// Starts one with an empty bucket on a free port.
    pub(crate) fn start() -> Self {
        let bucket = Bucket::default();
        let mut builder = S3ServiceBuilder::new(bucket.clone());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let (told, address) = std::sync::mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                told.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    biased;
                    _ = stopped => {}
                    () = serve(listener, service) => {}
                }
            });
        });
        Self {
            bucket,
            address: address.recv().unwrap(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The variables that make a client reach it.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", "eu-central-1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// What goes wrong with the next requests, one after the other.
    pub(crate) fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.bucket.state().script = faults.into_iter().collect();
    }

    /// Whether every request is refused with 503.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.bucket.state().is_down = is_down;
    }

    /// Keys of all objects.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.bucket.state().objects.keys().cloned().collect()
    }

    /// Flips a bit of an object.
    pub(crate) fn flip_bit(&self, key: &str, bit: usize) {
        let mut state = self.bucket.state();
        let object = state.objects.get_mut(key).unwrap();
        let mut bytes = object.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        *object = bytes.into();
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, service: S3Service) {
    let spawn = Runtimes::single();
    let mut connections = Vec::new();
    while let Ok((stream, _)) = listener.accept().await {
        let service = service.clone();
        let connection = async move {
            // A client may break off whenever it likes.
            let _ = Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        };
        connections.retain(|task: &millpond_proto::task::Task| !task.is_finished());
        connections.push(spawn.spawn(Lane::Service, Box::pin(connection)));
    }
}

/// What a request is to do once the fault before it is over.
struct Turn {
    fault: Fault,
}

impl Bucket {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of a fault that comes before anything happens.
    async fn before(&self) -> S3Result<Turn> {
        let fault = {
            let mut state = self.state();
            for key in std::mem::take(&mut state.late) {
                state.objects.remove(&key);
            }
            if state.is_down {
                Fault::Refuse(S3ErrorCode::ServiceUnavailable)
            } else {
                state.script.pop_front().unwrap_or(Fault::None)
            }
        };
        match &fault {
            Fault::Refuse(code) => return Err(S3Error::new(code.clone())),
            Fault::Slow(pause) => SystemClock.sleep(*pause).await,
            Fault::HangBefore(pause) => {
                SystemClock.sleep(*pause).await;
                return Err(S3Error::new(S3ErrorCode::RequestTimeout));
            }
            _ => {}
        }
        Ok(Turn { fault })
    }
}

impl Turn {
    /// The part of a fault that comes after it happened.
    async fn after<T>(self, output: T) -> S3Result<S3Response<T>> {
        match self.fault {
            Fault::RefuseAfter(code) => Err(S3Error::new(code)),
            Fault::HangAfter(pause) => {
                SystemClock.sleep(pause).await;
                Err(S3Error::new(S3ErrorCode::RequestTimeout))
            }
            _ => Ok(S3Response::new(output)),
        }
    }
}

fn tag(bytes: &Bytes) -> ETag {
    let hash = millpond_proto::message::stable_hash(bytes);
    ETag::Strong(format!("{hash:016x}"))
}

fn made_at() -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
}

fn missing<T>(found: Option<T>) -> S3Result<T> {
    found.ok_or_else(|| S3Error::new(S3ErrorCode::NoSuchKey))
}

fn check_bucket(name: &str) -> S3Result<()> {
    if name == BUCKET {
        return Ok(());
    }
    Err(S3Error::new(S3ErrorCode::NoSuchBucket))
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = S3Result<S3Response<T>>> + Send + 'a>>;

impl S3 for Bucket {
    fn put_object<'a, 'b>(
        &'a self,
        request: S3Request<PutObjectInput>,
    ) -> Answer<'b, PutObjectOutput>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let input = request.input;
            check_bucket(&input.bucket)?;
            let mut bytes = BytesMut::new();
            if let Some(mut body) = input.body {
                while let Some(part) = body.next().await {
                    let broken = |_| S3Error::new(S3ErrorCode::IncompleteBody);
                    bytes.extend_from_slice(&part.map_err(broken)?);
                }
            }
            let bytes = bytes.freeze();
            let turn = self.before().await?;
            let e_tag = Some(tag(&bytes));
            {
                let mut state = self.state();
                let found = state.objects.get(&input.key);
                let is_allowed = match (&input.if_none_match, &input.if_match, found) {
                    (Some(ETagCondition::Any), _, Some(_)) => false,
                    (Some(ETagCondition::ETag(known)), _, Some(found)) => *known != tag(found),
                    (_, Some(ETagCondition::ETag(known)), Some(found)) => *known == tag(found),
                    (_, Some(_), None) => false,
                    _ => true,
                };
                if !is_allowed {
                    return Err(S3Error::new(S3ErrorCode::PreconditionFailed));
                }
                state.objects.insert(input.key, bytes);
            }
            let output = PutObjectOutput {
                e_tag,
                ..PutObjectOutput::default()
            };
            turn.after(output).await
        })
    }

    fn get_object<'a, 'b>(
        &'a self,
        request: S3Request<GetObjectInput>,
    ) -> Answer<'b, GetObjectOutput>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let input = request.input;
            check_bucket(&input.bucket)?;
            let turn = self.before().await?;
            let whole = missing(self.state().objects.get(&input.key).cloned())?;
            let size = whole.len() as u64;
            let range = match input.range {
                None => None,
                Some(Range::Int { first, last }) => {
                    Some(first..last.map_or(size, |last| (last + 1).min(size)))
                }
                Some(Range::Suffix { length }) => Some(size.saturating_sub(length)..size),
            };
            if range.as_ref().is_some_and(|range| range.start >= size) {
                return Err(S3Error::new(S3ErrorCode::InvalidRange));
            }
            let place = |at: u64| usize::try_from(at).unwrap();
            let asked = range.clone().unwrap_or(0..size);
            let bytes = whole.slice(place(asked.start)..place(asked.end));
            let length = i64::try_from(bytes.len()).unwrap();
            let body = if turn.fault == Fault::Reset {
                let half = bytes.slice(..bytes.len() / 2);
                let parts = [Ok(half), Err(io::Error::other("reset"))];
                StreamingBlob::wrap(stream::iter(parts))
            } else {
                StreamingBlob::from(Body::from(bytes))
            };
            let output = GetObjectOutput {
                accept_ranges: Some("bytes".to_owned()),
                body: Some(body),
                content_length: Some(length),
                content_range: range
                    .map(|range| format!("bytes {}-{}/{size}", range.start, range.end - 1)),
                e_tag: Some(tag(&whole)),
                last_modified: Some(made_at()),
                ..GetObjectOutput::default()
            };
            turn.after(output).await
        })
    }

    fn head_object<'a, 'b>(
        &'a self,
        request: S3Request<HeadObjectInput>,
    ) -> Answer<'b, HeadObjectOutput>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let input = request.input;
            check_bucket(&input.bucket)?;
            let turn = self.before().await?;
            let whole = missing(self.state().objects.get(&input.key).cloned())?;
            let output = HeadObjectOutput {
                content_length: Some(i64::try_from(whole.len()).unwrap()),
                e_tag: Some(tag(&whole)),
                last_modified: Some(made_at()),
                ..HeadObjectOutput::default()
            };
            turn.after(output).await
        })
    }

    fn delete_object<'a, 'b>(
        &'a self,
        request: S3Request<DeleteObjectInput>,
    ) -> Answer<'b, DeleteObjectOutput>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            check_bucket(&request.input.bucket)?;
            let turn = self.before().await?;
            if turn.fault == Fault::LateDelete {
                self.state().late.push(request.input.key);
                return Err(S3Error::new(S3ErrorCode::RequestTimeout));
            }
            self.state().objects.remove(&request.input.key);
            turn.after(DeleteObjectOutput::default()).await
        })
    }

    fn delete_objects<'a, 'b>(
        &'a self,
        request: S3Request<DeleteObjectsInput>,
    ) -> Answer<'b, DeleteObjectsOutput>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            check_bucket(&request.input.bucket)?;
            let turn = self.before().await?;
            let keys = request.input.delete.objects.into_iter().map(|o| o.key);
            let keys: Vec<String> = keys.collect();
            if turn.fault == Fault::LateDelete {
                self.state().late.extend(keys);
                return Err(S3Error::new(S3ErrorCode::RequestTimeout));
            }
            let mut deleted = Vec::new();
            for key in keys {
                self.state().objects.remove(&key);
                deleted.push(DeletedObject {
                    key: Some(key),
                    ..DeletedObject::default()
                });
            }
            let output = DeleteObjectsOutput {
                deleted: Some(deleted),
                ..DeleteObjectsOutput::default()
            };
            turn.after(output).await
        })
    }

    fn list_objects_v2<'a, 'b>(
        &'a self,
        request: S3Request<ListObjectsV2Input>,
    ) -> Answer<'b, ListObjectsV2Output>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let input = request.input;
            check_bucket(&input.bucket)?;
            let turn = self.before().await?;
            let listed = {
                let mut state = self.state();
                if turn.fault != Fault::StaleList {
                    let now = state.objects.iter();
                    state.listed = now.map(|(k, b)| (k.clone(), b.len() as u64)).collect();
                }
                state.listed.clone()
            };
            let prefix = input.prefix.unwrap_or_default();
            let (mut contents, mut folders) = (Vec::new(), Vec::new());
            for (key, size) in listed {
                let Some(rest) = key.strip_prefix(&prefix) else {
                    continue;
                };
                let delimiter = input.delimiter.as_deref();
                if let Some(at) = delimiter.and_then(|delimiter| rest.find(delimiter)) {
                    let folder = format!("{prefix}{}", &rest[..=at]);
                    if folders.last() != Some(&folder) {
                        folders.push(folder);
                    }
                    continue;
                }
                contents.push(Object {
                    key: Some(key),
                    size: Some(i64::try_from(size).unwrap()),
                    last_modified: Some(made_at()),
                    ..Object::default()
                });
            }
            let folders = folders.into_iter().map(|prefix| CommonPrefix {
                prefix: Some(prefix),
            });
            let output = ListObjectsV2Output {
                name: Some(input.bucket),
                key_count: Some(i32::try_from(contents.len()).unwrap()),
                contents: Some(contents),
                common_prefixes: Some(folders.collect()),
                is_truncated: Some(false),
                prefix: Some(prefix),
                ..ListObjectsV2Output::default()
            };
            turn.after(output).await
        })
    }
}
