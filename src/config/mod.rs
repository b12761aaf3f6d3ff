//! Operator settings: file, environment and flags, parsed once into a checked [`Config`] whose
//! fields cannot be wrong. `settings.rs` lists them and finds their texts, `check.rs` gives the
//! texts their meaning, `state.rs` keeps what a development server makes for itself. Read by
//! `main`, `driver` and `control`.

mod check;
mod log;
mod parse;
mod secret;
mod settings;
mod spacebar;
mod state;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
    time::Duration,
};

pub use secret::{KEY_BYTES_MIN, Secret, hex};
pub use settings::{Flags, Origin, SETTINGS, Setting};
pub use spacebar::{Exchanges, SpacebarBroker, SpacebarDatabase, SpacebarEvents, SpacebarSettings};

use crate::sfu::E2ee;

/// Everything an operator decides, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// WebSockets of clients.
    pub gateway: Gateway,
    /// UDP.
    pub media: Media,
    /// Threads that carry channels; each has a UDP port of its own.
    pub shards: NonZeroU16,
    /// The control API.
    pub control: Control,
    /// Who is asked about an Identify.
    pub backends: Vec<BackendName>,
    /// An unmodified Spacebar, if there is one to work for.
    pub spacebar: Option<SpacebarSettings>,
    /// Key of signed tokens (protocol.md §6.4).
    pub token_key: Secret,
    /// Names of the encryption modes offered, in order of preference (protocol.md §2.4).
    pub modes: Vec<&'static str>,
    /// End-to-end encryption of channels whose grants do not say.
    pub e2ee: E2ee,
    /// How long a session whose WebSocket broke waits for a Resume.
    pub resume_window: Duration,
    /// Whether this is a development server: its operator has given nothing of what leaving
    /// loopback takes. It has a page to talk on, and lets in whoever opens it on this machine.
    pub development: bool,
    /// Log lines.
    pub log: Log,
    /// Where this server keeps what it must find again after a restart.
    pub state_dir: PathBuf,
    /// What an operator should be told at start: allowed, but worth a second thought, and where
    /// things made on first start are.
    pub notices: Vec<String>,
}

/// The backends there are; an operator chooses among them (`backends`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackendName {
    /// Grants pushed through the control API.
    Grants,
    /// Tokens that carry their grant, signed.
    Tokens,
    /// Spacebar's own tables and events.
    Spacebar,
}

/// WebSockets of clients.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// The TCP socket all shards listen on.
    pub listen: SocketAddr,
    /// Certificate and key; `None` only where a proxy terminates TLS.
    pub tls: Option<TlsFiles>,
    /// Who may do without TLS.
    pub plaintext: Plaintext,
    /// What clients are told to connect to.
    pub public_endpoint: Endpoint,
    /// Bound on WebSockets from one address.
    pub connections_per_address: ConnectionsPerAddress,
}

/// Where the certificate is; read by who serves it, again when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// Who may connect without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plaintext {
    /// Connections from this machine.
    Loopback,
    /// Nobody.
    Never,
    /// Everybody: a proxy in front terminates TLS.
    Always,
}

/// `host:port` as clients get it in VOICE_SERVER_UPDATE: no scheme, no path, always a port
/// (protocol.md §1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    text: String,
    colon: usize,
}

impl Endpoint {
    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part before the port.
    pub fn host(&self) -> &str {
        &self.text[..self.colon]
    }

    /// Whether it is a name or an address that every machine has for itself alone.
    pub fn is_loopback(&self) -> bool {
        names_loopback(self.host())
    }
}

/// Whether a host, as it stands before the port in an authority, means this machine to itself.
pub fn names_loopback(host: &str) -> bool {
    let unbracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match unbracketed {
        Some(host) => host.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback()),
        None => {
            host.eq_ignore_ascii_case("localhost")
                || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Bound on WebSockets from one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionsPerAddress {
    /// Most at once.
    pub max: NonZeroU32,
    /// Whether this machine is exempt: its proxies and load generators are one address. Not when
    /// the operator gave a number.
    pub loopback_exempt: bool,
}

/// UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// The address the shards' sockets bind.
    pub listen: IpAddr,
    /// Port of shard 0; `base_port + shards - 1` is a port too.
    pub base_port: u16,
    /// What Ready and SDP name: never unspecified (protocol.md §8, trap 11).
    pub public_ip: IpAddr,
    /// Port of shard 0 as clients see it (protocol.md §8, trap 12).
    pub public_base_port: u16,
    /// Whether equal-sized datagrams to one client leave as one send.
    pub gso: bool,
    /// Whether shards spin instead of sleeping.
    pub busy_poll: bool,
}

/// The control API.
#[derive(Debug, Clone)]
pub struct Control {
    /// The TCP socket of API and metrics.
    pub listen: SocketAddr,
    /// What callers show as bearer.
    pub secret: Secret,
    /// Where events are posted.
    pub webhook: Option<Webhook>,
    /// Whether `speaking` is among the events.
    pub speaking_events: bool,
}

/// Where events are posted.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// `http` or `https`.
    pub url: http::Uri,
    /// Signs each body (protocol.md §6.3).
    pub secret: Secret,
}

/// Log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Their form.
    pub format: LogFormat,
    /// A filter in the language of `tracing-subscriber`, known to parse.
    pub level: String,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Where a running server's control API is and what opens it: all that a client on the same
/// machine needs of the settings.
#[derive(Debug, Clone)]
pub struct ControlAccess {
    /// Where to connect; loopback where the server listens on every address.
    pub address: SocketAddr,
    /// The bearer.
    pub secret: Secret,
}

/// Whether what only development defaults can supply (secrets, a certificate) is made on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Development {
    /// Made where missing, found again later.
    Persist,
    /// Left alone; secrets are random and die with the value.
    Imagine,
}

impl Config {
    /// The settings of a server about to start. Makes secrets and certificate of a development
    /// server on first use.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        check::config(flags, &process_environment, Development::Persist)
    }

    /// The settings as a server would have them, without touching the state directory: the
    /// secrets in it are not those of any server.
    pub fn inspect(flags: &Flags) -> Result<Self, ConfigError> {
        check::config(flags, &process_environment, Development::Imagine)
    }
}

impl ControlAccess {
    /// How to reach the server that runs with the same settings.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        check::control_access(flags, &process_environment)
    }
}

fn process_environment(variable: &str) -> Option<String> {
    std::env::var(variable).ok()
}

/// Why the settings cannot be used. Never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The settings file as a whole.
    #[error("settings file {}: {problem}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// One setting.
    #[error("{key} ({origin}): {problem}; {remedy}")]
    Setting {
        /// Its key.
        key: &'static str,
        /// Where its value came from.
        origin: Origin,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// The state directory.
    #[error("{}: {problem}; {remedy}", path.display())]
    State {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
}
