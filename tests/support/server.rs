//! A real `stentor serve` in a process of its own, on ports and a state directory of its own, with
//! what a backend does to it: grants, the control API, metrics. Stops when dropped; prints what it
//! has counted and its log when a test fails.

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{WAIT, http, metrics::Metrics};

/// The guild of every test.
pub const GUILD: u64 = 41_771_983_423_143_937;

/// Ports one server may use: a guard, the gateway, control, and one media port per shard.
const PORTS: u16 = 16;
/// Below the range the kernel hands out itself, so that no client's socket is in the way.
const FIRST_PORT: u16 = 16_384;
/// See [`FIRST_PORT`].
const LAST_PORT: u16 = 32_000;

/// A running server.
pub struct Server {
    child: Child,
    ports: Ports,
    state: PathBuf,
    settings: Vec<(String, String)>,
    secret: String,
    _owned_state: Option<TempDir>,
}

/// What a client needs to join: the JSON of `stentor grant`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub endpoint: String,
    pub server: u64,
    pub channel: u64,
    pub user: u64,
    pub session: String,
    pub token: String,
}

impl Server {
    /// Development defaults and one shard.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Development defaults but for these settings, named as in the environment without `STENTOR_`.
    pub fn with(settings: &[(&str, &str)]) -> Self {
        Self::owned(settings, None)
    }

    /// Development defaults, and a process that may have so many open files.
    pub fn with_files(files_max: usize) -> Self {
        Self::owned(&[], Some(files_max))
    }

    fn owned(settings: &[(&str, &str)], files_max: Option<usize>) -> Self {
        let state = TempDir::new().expect("a temporary directory");
        let mut server = Self::launch(state.path(), settings, files_max);
        server._owned_state = Some(state);
        server
    }

    /// The same with a state directory of the caller's.
    pub fn within(state: &Path, settings: &[(&str, &str)]) -> Self {
        Self::launch(state, settings, None)
    }

    fn launch(state: &Path, settings: &[(&str, &str)], files_max: Option<usize>) -> Self {
        let ports = Ports::claim();
        let mut all = vec![
            ("STATE_DIR".to_owned(), state.display().to_string()),
            ("GATEWAY_LISTEN".to_owned(), ports.gateway().to_string()),
            ("CONTROL_LISTEN".to_owned(), ports.control().to_string()),
            ("MEDIA_LISTEN".to_owned(), Ipv4Addr::LOCALHOST.to_string()),
            ("MEDIA_BASE_PORT".to_owned(), ports.media().to_string()),
            ("SHARDS".to_owned(), "1".to_owned()),
        ];
        for (name, value) in settings {
            all.retain(|(known, _)| known != name);
            all.push(((*name).to_owned(), (*value).to_owned()));
        }
        let child = spawn(&all, state, files_max);
        let mut server = Self {
            child,
            ports,
            state: state.to_owned(),
            settings: all,
            secret: String::new(),
            _owned_state: None,
        };
        server.wait_until_healthy();
        server
    }

    /// Where WebSockets connect.
    pub fn gateway(&self) -> SocketAddr {
        self.ports.gateway()
    }

    /// Where the control API listens, and the page to talk on.
    pub fn control(&self) -> SocketAddr {
        self.ports.control()
    }

    /// The first shard's UDP port.
    pub fn media_port(&self) -> u16 {
        self.ports.media()
    }

    /// The development certificate, PEM.
    pub fn certificate(&self) -> PathBuf {
        self.state.join("gateway.crt")
    }

    /// Lets `user` into `channel` through the control API.
    pub fn grant(&self, channel: u64, user: u64) -> Grant {
        self.grant_with(channel, user, json!({}))
    }

    /// The same, with more of the grant's fields.
    pub fn grant_with(&self, channel: u64, user: u64, fields: Value) -> Grant {
        let (session, token) = (random_hex(), random_hex());
        let expires = OffsetDateTime::from(SystemTime::now()) + Duration::from_secs(3_600);
        let mut body = json!({
            "kind": "voice",
            "channel_id": channel.to_string(),
            "guild_id": GUILD.to_string(),
            "session_id": session,
            "token": token,
            "expires_at": expires.format(&Rfc3339).expect("a time has a text"),
        });
        let body_fields = body.as_object_mut().expect("an object");
        body_fields.extend(fields.as_object().expect("an object").clone());
        let (status, answer) = self.api("PUT", &format!("/v1/grants/{GUILD}/{user}"), Some(&body));
        assert!(matches!(status, 200 | 201), "grant refused: {status} {answer}");
        let endpoint = answer["endpoint"].as_str().expect("an endpoint").to_owned();
        Grant { endpoint, server: GUILD, channel, user, session, token }
    }

    /// Lets `users` into `channel` through the command line.
    pub fn grant_by_command(&self, channel: u64, users: &[u64]) -> Vec<Grant> {
        let mut command = self.command();
        command.args(["grant", "--server-id", &GUILD.to_string()]);
        command.args(["--channel", &channel.to_string()]);
        for user in users {
            command.args(["--user", &user.to_string()]);
        }
        let output = command.output().expect("the binary under test starts");
        assert!(output.status.success(), "stentor grant: {output:?}");
        let grants: Vec<Value> = serde_json::from_slice(&output.stdout).expect("a JSON array");
        let id =
            |value: &Value| value.as_str().and_then(|id| id.parse().ok()).expect("a snowflake");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let grants = grants.iter().map(|grant| Grant {
            endpoint: text(&grant["endpoint"]),
            server: id(&grant["guild_id"]),
            channel: id(&grant["channel_id"]),
            user: id(&grant["user_id"]),
            session: text(&grant["session_id"]),
            token: text(&grant["token"]),
        });
        grants.collect()
    }

    /// The binary under test, with this server's settings in its environment.
    pub fn command(&self) -> Command {
        let mut command = Command::new(STENTOR);
        configured(&mut command, &self.settings);
        command
    }

    /// Changes a grant's rules; see protocol.md §6.3.
    pub fn patch(&self, user: u64, fields: Value) {
        let (status, answer) =
            self.api("PATCH", &format!("/v1/grants/{GUILD}/{user}"), Some(&fields));
        assert_eq!(status, 204, "patch refused: {answer}");
    }

    /// One request to the control API: status and body, null if there is none.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(Value::to_string);
        let (status, text) =
            http::request(self.ports.control(), method, path, Some(&self.secret), body.as_deref())
                .expect("control answers");
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// One scrape.
    pub fn metrics(&self) -> Metrics {
        let (status, text) = http::request(self.ports.control(), "GET", "/metrics", None, None)
            .expect("control answers");
        assert_eq!(status, 200);
        Metrics::parse(&text)
    }

    /// Starts it once more after [`Server::terminate`], with the same settings and state.
    pub fn start_again(&mut self) {
        assert!(!self.is_running(), "it was stopped before");
        self.child = spawn(&self.settings, &self.state, None);
        self.wait_until_healthy();
    }

    /// Asks the server to stop, as an operator would, and waits for it.
    pub fn terminate(&mut self) -> ExitStatus {
        self.ask_to_stop();
        wait_for_exit(&mut self.child).expect("the server stops within the wait")
    }

    /// Ends it without asking.
    pub fn kill(mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }

    /// Asks it to read its certificate again, as an operator would.
    pub fn hang_up(&self) {
        self.signal("HUP");
    }

    /// Files it has open.
    pub fn files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.state.join("test.log")).unwrap_or_default()
    }

    /// What it has counted that is not zero; for people, and never a panic.
    fn counters(&self) -> String {
        match http::request(self.ports.control(), "GET", "/metrics", None, None) {
            Ok((200, text)) => {
                let counted = |line: &&str| !line.starts_with('#') && !line.ends_with(" 0");
                let samples = text.lines().filter(counted);
                samples.filter(|line| !line.contains("_bucket{")).collect::<Vec<_>>().join("\n")
            }
            other => format!("none: {other:?}"),
        }
    }

    fn wait_until_healthy(&mut self) {
        let deadline = Instant::now() + WAIT;
        loop {
            let control = self.ports.control();
            if let Ok((200, _)) = http::request(control, "GET", "/healthz", None, None) {
                break;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the server ended at once, {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "the server is not healthy after {WAIT:?}");
            thread::sleep(Duration::from_millis(10));
        }
        let secret = fs::read_to_string(self.state.join("control.secret"));
        self.secret = secret.expect("control.secret").trim().to_owned();
    }

    fn ask_to_stop(&self) {
        self.signal("TERM");
    }

    fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.child.id());
        let _ = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the server's counters ---\n{}", self.counters());
        }
        if self.is_running() {
            self.ask_to_stop();
            if wait_for_exit(&mut self.child).is_none() {
                let _ = (self.child.kill(), self.child.wait());
            }
        }
        if thread::panicking() {
            eprintln!("--- the server's log ---\n{}--- end of the log ---", self.log());
        }
    }
}

/// The binary under test.
const STENTOR: &str = env!("CARGO_BIN_EXE_stentor");

/// Gives the binary under test these settings and no others.
fn configured<'a>(command: &'a mut Command, settings: &[(String, String)]) -> &'a mut Command {
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("STENTOR_") {
            command.env_remove(name);
        }
    }
    command.envs(settings.iter().map(|(name, value)| (format!("STENTOR_{name}"), value)))
}

/// Starts the binary under test; its log goes on where an earlier one's ended.
fn spawn(settings: &[(String, String)], state: &Path, files_max: Option<usize>) -> Child {
    let log = File::options().create(true).append(true).open(state.join("test.log"));
    let log = log.expect("a log file");
    let mut command = match files_max {
        None => Command::new(STENTOR),
        Some(files) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\""), STENTOR]);
            shell
        }
    };
    configured(&mut command, settings)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be cloned"))
        .stderr(log)
        .spawn()
        .expect("the binary under test starts")
}

fn wait_for_exit(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + WAIT;
    while Instant::now() < deadline {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

/// 128 random bits, as text.
pub fn random_hex() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("randomness");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A block of ports that no other test's server uses: shards share ports with `SO_REUSEPORT`, so
/// two servers on one port would not notice each other. The guard is bound without it, for as long
/// as the block is claimed.
struct Ports {
    first: u16,
    _guard: TcpListener,
}

impl Ports {
    fn claim() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let blocks = (LAST_PORT - FIRST_PORT) / PORTS;
        let start = (std::process::id() % u32::from(blocks)) as u16;
        for _ in 0..blocks {
            let block = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % blocks;
            let first = FIRST_PORT + block * PORTS;
            let Ok(guard) = TcpListener::bind(local(first)) else { continue };
            let tcp_free = (1..3).all(|port| TcpListener::bind(local(first + port)).is_ok());
            let udp_free = (3..PORTS).all(|port| UdpSocket::bind(local(first + port)).is_ok());
            if tcp_free && udp_free {
                return Self { first, _guard: guard };
            }
        }
        panic!("no free block of {PORTS} ports in {FIRST_PORT}..{LAST_PORT}");
    }

    fn gateway(&self) -> SocketAddr {
        local(self.first + 1)
    }

    fn control(&self) -> SocketAddr {
        local(self.first + 2)
    }

    fn media(&self) -> u16 {
        self.first + 3
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
