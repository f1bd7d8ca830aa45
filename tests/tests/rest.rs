//! Google's and Azure's object stores for tests, over the wire: one bucket in memory, exact conditional puts, and
//! faults to order.
//!
//! A small HTTP/1.1 server; what differs between the two ([`google`], [`azure`]) is how a request is read as a
//! [`Call`] and how its [`Outcome`] is written. Everything that changes happens under one lock, so a put that
//! makes an object only if there is none is exact. Listings come in pages of [`PAGE`] keys.
//!
//! It knows what `object_store` asks for and nothing else: no versions, no uploads in parts, no copies.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millpond_proto::task::{Lane, Runtimes, Spawn as _, Task};
use millpond_proto::time::{Clock as _, SystemClock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

mod azure;
mod google;

/// The one bucket, or container.
pub(crate) const BUCKET: &str = "bucket";
/// Keys in a page of a listing: few, so that a short listing has several.
const PAGE: usize = 3;
/// Longest head of a request that is read.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// When everything was made, as HTTP writes it.
const MADE_AT: &str = "Tue, 14 Nov 2023 22:13:20 GMT";

/// Whose way of asking the server understands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dialect {
    Google,
    Azure,
}

/// What goes wrong with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// It takes longer.
    Slow(Duration),
    /// The status, before anything happened.
    Refuse(u16),
    /// The status, after it happened.
    RefuseAfter(u16),
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

/// A request as it came.
#[derive(Debug)]
struct Request {
    method: String,
    /// Without the encoding of a URL.
    path: String,
    query: BTreeMap<String, String>,
    /// Names in lower case.
    headers: BTreeMap<String, String>,
    body: Bytes,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn query(&self, name: &str) -> Option<String> {
        self.query.get(name).cloned()
    }

    /// The part of an object that it asks for.
    fn range(&self) -> Option<(u64, u64)> {
        let (first, last) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((first.parse().ok()?, last.parse().unwrap_or(u64::MAX)))
    }
}

/// What is asked of the bucket.
#[derive(Debug)]
enum Call {
    Put {
        key: String,
        bytes: Bytes,
        only_new: bool,
    },
    Get {
        key: String,
        /// First and last byte.
        range: Option<(u64, u64)>,
    },
    Delete(Vec<String>),
    List {
        prefix: String,
        delimiter: Option<String>,
        after: Option<String>,
    },
}

/// What the bucket answers.
#[derive(Debug)]
enum Outcome {
    Put {
        tag: String,
    },
    Taken,
    Found {
        whole: Bytes,
        first: u64,
        last: u64,
        is_part: bool,
    },
    Missing,
    /// Per key, whether it was there.
    Deleted(Vec<bool>),
    Listed {
        objects: Vec<(String, u64)>,
        folders: Vec<String>,
        next: Option<String>,
    },
    Refused(u16),
}

/// An answer as it leaves.
#[derive(Debug)]
struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Response {
    fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

impl Dialect {
    fn call(self, request: &Request) -> Result<Call, u16> {
        match self {
            Self::Google => google::call(request),
            Self::Azure => azure::call(request),
        }
    }

    fn response(self, outcome: Outcome) -> Response {
        match (self, outcome) {
            (_, Outcome::Refused(status)) => Response::new(status),
            (_, Outcome::Missing) => Response::new(404),
            (
                _,
                Outcome::Found {
                    whole,
                    first,
                    last,
                    is_part,
                },
            ) => {
                let place = |at: u64| usize::try_from(at).unwrap();
                let response = Response::new(if is_part { 206 } else { 200 })
                    .with("etag", tag(&whole))
                    .with("last-modified", MADE_AT)
                    .body(whole.slice(place(first)..place(last + 1)));
                if !is_part {
                    return response;
                }
                let range = format!("bytes {first}-{last}/{}", whole.len());
                response.with("content-range", range)
            }
            (Self::Google, outcome) => google::response(outcome),
            (Self::Azure, outcome) => azure::response(outcome),
        }
    }
}

fn tag(bytes: &Bytes) -> String {
    format!("\"{:016x}\"", millpond_proto::message::stable_hash(bytes))
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

impl Bucket {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes wrong with the request that has come.
    fn fault(&self) -> Fault {
        let mut state = self.state();
        for key in std::mem::take(&mut state.late) {
            state.objects.remove(&key);
        }
        if state.is_down {
            return Fault::Refuse(503);
        }
        state.script.pop_front().unwrap_or(Fault::None)
    }

    async fn answer(&self, call: Call, fault: &Fault) -> Outcome {
        match fault {
            Fault::Refuse(status) => return Outcome::Refused(*status),
            Fault::Slow(pause) => SystemClock.sleep(*pause).await,
            Fault::HangBefore(pause) => {
                SystemClock.sleep(*pause).await;
                return Outcome::Refused(408);
            }
            _ => {}
        }
        let outcome = self.state().answer(call, fault);
        match fault {
            Fault::RefuseAfter(status) => Outcome::Refused(*status),
            Fault::HangAfter(pause) => {
                SystemClock.sleep(*pause).await;
                Outcome::Refused(408)
            }
            _ => outcome,
        }
    }
}

impl State {
    fn answer(&mut self, call: Call, fault: &Fault) -> Outcome {
        match call {
            Call::Put {
                key,
                bytes,
                only_new,
            } => {
                if only_new && self.objects.contains_key(&key) {
                    return Outcome::Taken;
                }
                let tag = tag(&bytes);
                self.objects.insert(key, bytes);
                Outcome::Put { tag }
            }
            Call::Get { key, range } => {
                let Some(whole) = self.objects.get(&key).cloned() else {
                    return Outcome::Missing;
                };
                let size = whole.len() as u64;
                let (first, last) = range.unwrap_or((0, u64::MAX));
                if first >= size {
                    return Outcome::Refused(416);
                }
                let (last, is_part) = (last.min(size - 1), range.is_some());
                Outcome::Found {
                    whole,
                    first,
                    last,
                    is_part,
                }
            }
            Call::Delete(keys) if *fault == Fault::LateDelete => {
                self.late.extend(keys);
                Outcome::Refused(500)
            }
            Call::Delete(keys) => {
                let removed = keys.iter().map(|key| self.objects.remove(key).is_some());
                Outcome::Deleted(removed.collect())
            }
            Call::List {
                prefix,
                delimiter,
                after,
            } => {
                if *fault != Fault::StaleList && after.is_none() {
                    let now = self.objects.iter();
                    self.listed = now.map(|(k, b)| (k.clone(), b.len() as u64)).collect();
                }
                self.list(&prefix, delimiter.as_deref(), after.as_deref())
            }
        }
    }

    fn list(&self, prefix: &str, delimiter: Option<&str>, after: Option<&str>) -> Outcome {
        let (mut objects, mut folders) = (Vec::new(), Vec::<String>::new());
        let mut last: Option<&String> = None;
        for (key, size) in &self.listed {
            let Some(rest) = key.strip_prefix(prefix) else {
                continue;
            };
            if after.is_some_and(|after| key.as_str() <= after) {
                continue;
            }
            if objects.len() == PAGE {
                let next = last.cloned();
                return Outcome::Listed {
                    objects,
                    folders,
                    next,
                };
            }
            last = Some(key);
            match delimiter.and_then(|delimiter| rest.find(delimiter)) {
                Some(at) => {
                    let folder = format!("{prefix}{}", &rest[..=at]);
                    if folders.last() != Some(&folder) {
                        folders.push(folder);
                    }
                }
                None => objects.push((key.clone(), *size)),
            }
        }
        Outcome::Listed {
            objects,
            folders,
            next: None,
        }
    }
}

/// A running server; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct RestServer {
    dialect: Dialect,
    bucket: Bucket,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RestServer {
    /// Starts one with an empty bucket on a free port.
    pub(crate) fn start(dialect: Dialect) -> Self {
        let bucket = Bucket::default();
        let served = bucket.clone();
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
                    () = serve(listener, dialect, served) => {}
                }
            });
        });
        Self {
            dialect,
            bucket,
            address: address.recv().unwrap(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Where the cold tier lies in it.
    pub(crate) fn url(&self) -> &'static str {
        match self.dialect {
            Dialect::Google => "gs://bucket/pond",
            Dialect::Azure => "az://bucket/pond",
        }
    }

    /// The variables that make a client reach it.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        match self.dialect {
            Dialect::Google => google::variables(self.address),
            Dialect::Azure => azure::variables(self.address),
        }
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
}

impl Drop for RestServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, dialect: Dialect, bucket: Bucket) {
    let spawn = Runtimes::single();
    let mut connections: Vec<Task> = Vec::new();
    while let Ok((stream, _)) = listener.accept().await {
        let bucket = bucket.clone();
        let connection = async move {
            // A client may break off whenever it likes.
            let _ = converse(stream, dialect, &bucket).await;
        };
        connections.retain(|task| !task.is_finished());
        connections.push(spawn.spawn(Lane::Service, Box::pin(connection)));
    }
}

/// Answers one request after the other.
async fn converse(mut stream: TcpStream, dialect: Dialect, bucket: &Bucket) -> std::io::Result<()> {
    let mut read = BytesMut::new();
    while let Some(request) = next_request(&mut stream, &mut read).await? {
        let fault = bucket.fault();
        let outcome = match dialect.call(&request) {
            Ok(call) => bucket.answer(call, &fault).await,
            Err(status) => Outcome::Refused(status),
        };
        let response = dialect.response(outcome);
        let mut head = format!("HTTP/1.1 {} -\r\n", response.status);
        for (name, value) in &response.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let length = response.body.len();
        head.push_str(&format!("content-length: {length}\r\n\r\n"));
        stream.write_all(head.as_bytes()).await?;
        if request.method == "HEAD" {
            continue;
        }
        if fault == Fault::Reset && length > 1 {
            return stream.write_all(&response.body[..length / 2]).await;
        }
        stream.write_all(&response.body).await?;
    }
    Ok(())
}

/// The next request; none when the client is done.
async fn next_request(
    stream: &mut TcpStream,
    read: &mut BytesMut,
) -> std::io::Result<Option<Request>> {
    let head = loop {
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break read.split_to(at + 4);
        }
        if read.len() > HEAD_BYTES_MAX || stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let method = first.next().unwrap_or_default().to_owned();
    let (path, query) = split_target(first.next().unwrap_or_default());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|l| l.parse().ok());
    let length: usize = length.unwrap_or(0);
    while read.len() < length {
        if stream.read_buf(read).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(Request {
        method,
        path,
        query,
        headers,
        body: read.split_to(length).freeze(),
    }))
}

/// Path and query of what follows the method.
fn split_target(target: &str) -> (String, BTreeMap<String, String>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = pairs.map(|(name, value)| (decoded(name), decoded(&value.replace('+', " "))));
    (decoded(path), query.collect())
}

/// Text of a URL with its `%` taken back.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) if byte == b'%' => {
                bytes.push(value);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
