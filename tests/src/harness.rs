//! A real server for a test: the built binary on free ports over a folder that goes away, to be killed at will.
//!
//! The binary is the one beside the test's own folder; `cargo test --workspace` builds it first, because a
//! test of the engine names it. Waiting is always for a condition, with a limit that fails the test.

use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use millpond_proto::client::{Admin, Client, ClientError};
use millpond_proto::remedy::Remedy;
use millpond_proto::time::{Clock as _, SystemClock, within};
use tempfile::TempDir;

/// How long a server may take to say where it listens; generous, as recovery of a large log counts.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long a server may take to stop when it is asked to.
const STOP_LIMIT: Duration = Duration::from_secs(120);
/// How long clients may take for what a server is killed after.
const KILL_LIMIT: Duration = Duration::from_secs(300);

/// The binary `millpond` of the profile that the test was built in.
#[must_use]
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/debug/deps/suite-… stands two levels below target/debug/millpond.
    let folder = test.parent().and_then(Path::parent).unwrap();
    let binary = folder.join(format!("millpond{}", std::env::consts::EXE_SUFFIX));
    assert!(
        binary.exists(),
        "{} is not built; run: cargo test --workspace",
        binary.display()
    );
    binary
}

/// The root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap().to_owned()
}

/// Waits until `condition` holds, looking every few milliseconds; fails the test after `limit`.
pub async fn eventually(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let clock = SystemClock;
    let waiting = async {
        while !condition().await {
            clock.sleep(Duration::from_millis(20)).await;
        }
    };
    let held = within(&clock, limit, waiting).await;
    assert!(held.is_some(), "{what}: not within {limit:?}");
}

/// A data folder that outlives the servers run on it.
#[derive(Debug)]
pub struct Folder {
    /// Everything of one test.
    home: TempDir,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where gRPC listens.
    pub grpc: SocketAddr,
    /// Where HTTP listens.
    pub http: SocketAddr,
}

/// The end of a server with -9 while clients are at work, and what they may see before it.
#[derive(Debug)]
pub struct Kill<'a> {
    server: &'a Server,
    is_sent: AtomicBool,
}

impl<'a> Kill<'a> {
    /// Of this server, later.
    #[must_use]
    pub fn of(server: &'a Server) -> Self {
        let is_sent = AtomicBool::new(false);
        Self { server, is_sent }
    }

    /// Kills once `is_time` says so; fails the test when that takes too long.
    pub async fn when(&self, is_time: impl Fn() -> bool) {
        let waiting = async {
            while !is_time() {
                SystemClock.sleep(Duration::from_millis(1)).await;
            }
        };
        let came = within(&SystemClock, KILL_LIMIT, waiting).await;
        assert!(came.is_some(), "nobody gets on: {KILL_LIMIT:?} and no kill");
        self.is_sent.store(true, Ordering::SeqCst);
        let pid = self.server.id().to_string();
        let killed = Command::new("kill").args(["-9", &pid]).status();
        assert!(killed.unwrap().success());
    }

    /// Whether a client's error is the end. A server that lives may only ask it to come again, which
    /// is `false`, after a pause; everything else fails the test.
    pub async fn is_over(&self, error: &ClientError) -> bool {
        if self.is_sent.load(Ordering::SeqCst) {
            return true;
        }
        let is_later = error.remedy() == Remedy::Retry;
        assert!(is_later, "a server that lives says: {error}");
        SystemClock.sleep(Duration::from_millis(10)).await;
        false
    }
}

/// A server that did not come up: its exit code and what it said.
#[derive(Debug)]
pub struct NotStarted {
    /// What it printed on both streams.
    pub said: String,
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server did not start:\n{}", self.said)
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Folder {
    /// A new, empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            home: TempDir::new().unwrap(),
        }
    }

    /// The data folder itself; it may not exist yet.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// A path beside the data folder, for files of the test.
    #[must_use]
    pub fn beside(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Starts a server on it; fails the test when it does not come up.
    #[must_use]
    pub fn serve(&self) -> Server {
        let free = "127.0.0.1:0";
        self.try_serve(free, free)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts a server on given addresses.
    ///
    /// # Errors
    /// [`NotStarted`] when it ended before it listened.
    pub fn try_serve(&self, grpc: &str, http: &str) -> Result<Server, NotStarted> {
        self.try_serve_with(&["--grpc", grpc, "--http", http], &[])
    }

    /// Starts a server on free ports with more arguments and variables.
    ///
    /// # Errors
    /// [`NotStarted`] when it ended before it listened.
    pub fn serve_with(
        &self,
        arguments: &[&str],
        variables: &[(String, String)],
    ) -> Result<Server, NotStarted> {
        let free = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        self.try_serve_with(&[&free, arguments].concat(), variables)
    }

    fn try_serve_with(
        &self,
        arguments: &[&str],
        variables: &[(String, String)],
    ) -> Result<Server, NotStarted> {
        let errors = self.beside("server.log");
        let mut child = Command::new(binary())
            .arg("serve")
            .args(arguments)
            .arg("--data")
            .arg(self.data())
            .env_remove("MILLPOND_SERVER")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        let (addresses, said) = addresses(&mut child);
        if let Some((grpc, http)) = addresses
            && is_ready(&mut child, http)
        {
            return Ok(Server { child, grpc, http });
        }
        let _ = child.kill();
        let status = child.wait().unwrap();
        let errors = std::fs::read_to_string(errors).unwrap_or_default();
        Err(NotStarted {
            said: format!("{status}\n{said}{errors}"),
        })
    }
}

/// Reads what the server prints until both addresses are known or it ends.
fn addresses(child: &mut Child) -> (Option<(SocketAddr, SocketAddr)>, String) {
    let output = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = mpsc::sync_channel(1024);
    // The thread reads on for ever, so that the server never waits for its reader.
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let _ = sender.try_send(line);
        }
    });
    let (mut grpc, mut http, mut said) = (None, None, String::new());
    while grpc.is_none() || http.is_none() {
        let Ok(line) = lines.recv_timeout(START_LIMIT) else {
            break;
        };
        let address = |prefix: &str| line.strip_prefix(prefix)?.trim().parse().ok();
        grpc = grpc.or_else(|| address("grpc listening on "));
        http = http.or_else(|| address("http listening on "));
        said.push_str(&line);
        said.push('\n');
    }
    (grpc.zip(http), said)
}

/// Waits until `/readyz` says yes; false when the server ended or the limit passed.
fn is_ready(child: &mut Child, http: SocketAddr) -> bool {
    let pause = Duration::from_millis(10);
    for _ in 0..START_LIMIT.as_millis() / pause.as_millis() {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if get(http, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            return true;
        }
        std::thread::sleep(pause);
    }
    false
}

/// The whole answer to a GET, or nothing when nobody answers.
#[must_use]
pub fn get(http: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(http).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

impl Server {
    /// A client of it.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::connect(&self.url()).unwrap()
    }

    /// Its administration.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(&self.client())
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its address as the command line takes it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// Ends it as a crash would: SIGKILL, no word of warning.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop and waits; whether it ended well.
    #[must_use]
    pub fn stop(mut self) -> bool {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(asked.success(), "the server is there to be asked");
        let pause = Duration::from_millis(5);
        for _ in 0..STOP_LIMIT.as_millis() / pause.as_millis() {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            std::thread::sleep(pause);
        }
        panic!("the server does not stop within {STOP_LIMIT:?}");
    }

    /// Runs the command line against it; fails the test when the command fails.
    ///
    /// Answers its standard output.
    #[must_use]
    pub fn millpond(&self, arguments: &[&str]) -> String {
        let output = self.try_millpond(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "millpond {arguments:?}: {}\n{said}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }

    /// Runs the command line against it.
    #[must_use]
    pub fn try_millpond(&self, arguments: &[&str]) -> Output {
        Command::new(binary())
            .args(arguments)
            .env("MILLPOND_SERVER", self.url())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs one statement and answers its rows as text, the header left out.
    ///
    /// Values may not contain commas or line breaks.
    #[must_use]
    pub fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let csv = self.millpond(&["sql", "-c", sql, "-o", "csv"]);
        csv.lines()
            .skip(1)
            .map(|line| line.split(',').map(str::to_owned).collect())
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
