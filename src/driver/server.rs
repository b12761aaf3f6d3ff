//! The whole server: sockets, shard threads, the control thread; start, stop and what an operator
//! is told of it.

use std::{
    fs::File,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use async_channel::Sender;
use rustix::{
    io::fcntl_dupfd_cloexec,
    process::{Resource, getrlimit},
    thread::{sched_getaffinity, sched_setaffinity},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    queues::{CONTROL_QUEUE_MAX, ControlQueues, SHARD_QUEUE_MAX, ToShard},
    shard::{ShardError, ShardThread, placements},
    tls::{Certificate, TlsError},
    turnstile::Turnstile,
};
use crate::{
    config::{Config, TlsFiles},
    control::{self, ControlError, ControlThread, LinkPage},
    crypto::Mode,
    id::ShardId,
    limits::HANDSHAKES_MAX,
    ring::{RingConfig, RingError, socket},
    sfu::ShardConfig,
    webrtc::{Identity, identity::IdentityError},
};

/// Connections that may wait for a shard to accept them; a join storm comes within one turn.
const LISTEN_BACKLOG: i32 = 4_096;

/// Descriptors for which room is made beforehand, eight bytes of the kernel's memory each: four
/// full shards. A host with more of them stands still once in each doubling from there.
const DESCRIPTORS_RESERVED_MAX: u64 = 1 << 18;

/// How long shards get to start.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How long shards get to stop after that.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// How long shards get to write their last close frames.
const STOP_GRACE: Duration = Duration::from_millis(300);

/// Why the server did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A listening socket.
    #[error("cannot listen on {setting} = {address}: {source}; is another server running there?")]
    Listen {
        /// The setting that names it.
        setting: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A media socket or ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A shard.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The certificate shown to browsers.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The control thread.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A thread or a signal handler.
    #[error("cannot {what}: {source}")]
    Setup {
        /// What.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A thread ended that must not.
    #[error("a thread died and the server cannot go on; the log above says why")]
    Died,
    /// A shard did not say in time that it runs.
    #[error("a shard did not start within {} s; see the log", START_TIMEOUT.as_secs())]
    Late,
    /// A name in `modes` is unknown.
    #[error("modes: {0} is no encryption mode")]
    Mode(&'static str),
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    control: ControlThread,
    shards: Vec<Sender<ToShard>>,
    threads: Vec<JoinHandle<()>>,
    gateway: SocketAddr,
    media_ports: Vec<u16>,
    certificate: Option<Arc<Certificate>>,
}

/// Whether a server with these settings would find all that they name. Listens nowhere.
///
/// # Errors
/// What is wrong with the settings.
pub fn check(config: &Config) -> Result<(), ServeError> {
    let made_at_start = |files: &TlsFiles| {
        files.certificate.starts_with(&config.state_dir) && !files.certificate.exists()
    };
    if let Some(files) = config.gateway.tls.as_ref().filter(|files| !made_at_start(files)) {
        Certificate::load(files)?;
    }
    modes(config)?;
    Ok(control::check(config)?)
}

/// Keeps the calling thread, and those it starts from now on, off the cores of so many shards, if
/// there are others: a shard that wakes while control is on its core may wait for the rest of
/// control's time slice, some milliseconds.
pub fn keep_off(shards: usize) {
    let Ok(mut cores) = sched_getaffinity(None) else { return };
    for core in placements(shards).into_iter().flatten() {
        cores.unset(core);
    }
    if cores.count() > 0 {
        // Without it the kernel chooses, which is slower at times and not wrong.
        let _ = sched_setaffinity(None, &cores);
    }
}

/// Has the kernel make the table of open files as large as it may get, while nobody waits. Else it
/// doubles with the 256th connection, the 512th and so on, and the thread that opens that one, a
/// shard, stands still for some milliseconds: in a process of several threads the kernel waits for
/// all processors to have left the old table.
pub fn reserve_descriptors() {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return };
    let last = limit.min(DESCRIPTORS_RESERVED_MAX).saturating_sub(1);
    let (Ok(null), Ok(last)) = (File::open("/dev/null"), i32::try_from(last)) else { return };
    // Closed at once; the table stays as large. Without it the server works all the same.
    let _ = fcntl_dupfd_cloexec(&null, last);
}

impl Server {
    /// Starts everything. When this returns the server accepts clients.
    ///
    /// # Errors
    /// What is wrong with the settings or the machine, and what to do about it.
    pub fn start(config: Arc<Config>) -> Result<Self, ServeError> {
        let certificate = config.gateway.tls.as_ref().map(Certificate::load).transpose()?;
        let tls = certificate.as_ref().map(Certificate::server_config).transpose()?;
        let page = Arc::new(LinkPage::new(config.gateway.public_endpoint.as_str()));
        let identity = Identity::generate()?;
        let control_listener = TcpListener::bind(config.control.listen).map_err(|source| {
            let address = config.control.listen;
            ServeError::Listen { setting: "control.listen", address, source }
        })?;
        let count = config.shards.get();
        let (to_control, events) = async_channel::bounded(CONTROL_QUEUE_MAX);
        let (senders, inboxes): (Vec<_>, Vec<_>) =
            (0..count).map(|_| async_channel::bounded(SHARD_QUEUE_MAX)).unzip();
        let refused = |source| ServeError::Listen {
            setting: "gateway.listen",
            address: config.gateway.listen,
            source,
        };
        check_free(config.gateway.listen).map_err(refused)?;
        let turnstile = Turnstile::new(config.gateway.connections_per_address);
        let mut listen = config.gateway.listen;
        let (started, starting) = async_channel::bounded(usize::from(count));
        let mut threads = Vec::new();
        let mut media_ports = Vec::new();
        let cpus = placements(usize::from(count));
        for ((shard, inbox), cpu) in (0..count).zip(inboxes).zip(cpus) {
            let listener = listen_shared(listen).map_err(refused)?;
            // With port 0 the first share decides and the others join it.
            listen = listener.local_addr().unwrap_or(listen);
            let address = SocketAddr::new(config.media.listen, config.media.base_port + shard);
            let media = socket::open(address, socket::SocketBuffers::default())?;
            media_ports.push(media.local_addr().map_or(address.port(), |bound| bound.port()));
            let thread = ShardThread {
                config: shard_config(&config, ShardId(shard), identity.clone())?,
                cpu,
                listener,
                socket: media,
                ring: RingConfig { gso: config.media.gso, eventfd: false, ..RingConfig::default() },
                busy_poll: config.media.busy_poll,
                tls: tls.clone(),
                plaintext: config.gateway.plaintext,
                page: page.clone(),
                turnstile: turnstile.clone(),
                handshakes_max: HANDSHAKES_MAX,
                inbox,
                to_control: to_control.clone(),
                shards: senders.clone(),
            };
            let thread = thread.start(started.clone());
            threads.push(
                thread.map_err(|source| ServeError::Setup { what: "start a thread", source })?,
            );
        }
        drop((started, to_control));
        let deadline = Instant::now() + START_TIMEOUT;
        for _ in 0..count {
            wait_for(&starting, deadline)??;
        }
        let queues = ControlQueues { shards: senders.clone(), events };
        let control = ControlThread::start(config, queues, control_listener)?;
        let gateway = listen;
        Ok(Self { control, shards: senders, threads, gateway, media_ports, certificate })
    }

    /// Where clients connect.
    pub fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    /// Where the control API is.
    pub fn control(&self) -> SocketAddr {
        self.control.address()
    }

    /// The shards' UDP ports.
    pub fn media_ports(&self) -> &[u16] {
        &self.media_ports
    }

    /// Whether the control thread has ended, without which nobody can join, or a shard's for good.
    pub fn has_failed(&self) -> bool {
        self.control.is_finished() || self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Reads the gateway's certificate again; tells whether there is one.
    ///
    /// # Errors
    /// What is wrong with it. The old one stays in use.
    pub fn reload_certificate(&self) -> Result<bool, TlsError> {
        self.certificate.as_ref().map_or(Ok(false), |it| it.reload().map(|()| true))
    }

    /// Tells every client to come back elsewhere or later, reports to the backend, and ends.
    ///
    /// # Errors
    /// The control thread had died.
    pub fn stop(self) -> Result<(), ServeError> {
        let stopped = self.control.stop();
        std::thread::sleep(STOP_GRACE);
        let deadline = Instant::now() + STOP_TIMEOUT;
        let mut told = vec![false; self.shards.len()];
        while !self.threads.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
            // A full queue may have room the next time.
            for (shard, told) in self.shards.iter().zip(&mut told).filter(|(_, told)| !**told) {
                *told = shard.try_send(ToShard::Stop).is_ok();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let stuck = self.threads.iter().filter(|thread| !thread.is_finished()).count();
        if stuck > 0 {
            tracing::error!(stuck, "shards did not stop in time; they end with the process");
        }
        Ok(stopped?)
    }
}

fn modes(config: &Config) -> Result<Vec<Mode>, ServeError> {
    let modes = config.modes.iter();
    modes.map(|name| Mode::from_name(name).ok_or(ServeError::Mode(name))).collect()
}

fn shard_config(
    config: &Config,
    id: ShardId,
    identity: Identity,
) -> Result<ShardConfig, ServeError> {
    Ok(ShardConfig {
        id,
        modes: modes(config)?,
        public_ip: config.media.public_ip,
        public_port: config.media.public_base_port + id.0,
        resume_window: config.resume_window,
        speaking_events: config.control.speaking_events,
        identity,
    })
}

/// One shard's share of the gateway's listener.
fn listen_shared(address: SocketAddr) -> io::Result<TcpListener> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// Whether nobody listens there: a second server would else quietly share the first one's port.
fn check_free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn wait_for<T>(queue: &async_channel::Receiver<T>, deadline: Instant) -> Result<T, ServeError> {
    loop {
        match queue.try_recv() {
            Ok(value) => return Ok(value),
            Err(_) if Instant::now() >= deadline => return Err(ServeError::Late),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
