//! One core's thread: a pinned glommio executor with the media loop, the listener, the inbox and
//! the clock, all around one `Core`. Decides nothing.

use std::{
    future::Future,
    io,
    net::{TcpListener, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use async_channel::{Receiver, Sender};
use glommio::{
    CpuSet, Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle, io::BufferedFile,
    net::TcpListener as GlommioListener, timer::Timer,
};

use super::{
    clock::Clock,
    core::{Core, Limit, MEDIA_LATENCY},
    queues::{ToControl, ToShard},
    turnstile::Turnstile,
    websocket::Conversation,
    wire::{Terms, Wire},
};
use crate::{
    config::Plaintext,
    control::LinkPage,
    ring::{Ring, RingConfig, fd},
    sfu::ShardConfig,
};

/// How long WebSockets may keep the core before the executor looks for what else has come. Media
/// does not wait for it: between two pieces of work the core sees to what has arrived.
const SIGNALLING_TURN: Duration = Duration::from_millis(5);

/// The media loop's share of a busy core, and everybody else's.
const MEDIA_SHARES: usize = 900;
const SIGNALLING_SHARES: usize = 100;

/// Memory glommio sets aside for file I/O, of which a shard does none but its eventfd's.
const GLOMMIO_IO_MEMORY_BYTES: usize = 256 * 1_024;

/// Pause before a driver that died runs again, so that a lasting defect does not fill the log.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// Pause after the kernel refused to accept, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a shard's thread needs, and needs again should it have to start over.
#[derive(Debug)]
pub struct ShardThread {
    /// Its place in the world.
    pub config: ShardConfig,
    /// Which core it is pinned to; `None` to let the kernel choose.
    pub cpu: Option<usize>,
    /// Its share of the gateway's listener.
    pub listener: TcpListener,
    /// Its UDP socket.
    pub socket: UdpSocket,
    /// How its ring works.
    pub ring: RingConfig,
    /// Spin rather than sleep when there is nothing to do.
    pub busy_poll: bool,
    /// The gateway's certificate, if it has one.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Who may do without TLS.
    pub plaintext: Plaintext,
    /// What those get who ask for the page to talk on.
    pub page: Arc<LinkPage>,
    /// Connections by address, over all shards.
    pub turnstile: Arc<Turnstile>,
    /// [`HANDSHAKES_MAX`](crate::limits::HANDSHAKES_MAX); a field so that a test can reach it.
    pub handshakes_max: usize,
    /// What comes from control and other shards.
    pub inbox: Receiver<ToShard>,
    /// Where reports go.
    pub to_control: Sender<ToControl>,
    /// All shards' inboxes.
    pub shards: Vec<Sender<ToShard>>,
}

/// Why a shard could not start.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The media ring.
    #[error(transparent)]
    Ring(#[from] crate::ring::RingError),
    /// The executor or a descriptor.
    #[error("shard {shard}: {what}: {why}; `stentor doctor` says what this machine lacks")]
    Setup {
        /// Which shard.
        shard: u16,
        /// What was being done.
        what: &'static str,
        /// What the system said.
        why: String,
    },
}

impl ShardThread {
    /// Starts the thread. `started` hears once whether it runs.
    pub fn start(
        self,
        started: Sender<Result<(), ShardError>>,
    ) -> io::Result<thread::JoinHandle<()>> {
        let id = self.config.id;
        let clock = Clock::new(Instant::now());
        if let Some(inbox) = self.shards.get(id.index()).cloned() {
            let (clock, name) = (clock.clone(), format!("clock-{id}"));
            thread::Builder::new().name(name).spawn(move || clock.run(&inbox))?;
        }
        let name = format!("shard-{id}");
        thread::Builder::new().name(name).spawn(move || self.supervise(&clock, &started))
    }

    /// Runs the shard, again if a defect of the driver ends it: a defect of the core does not come
    /// this far (`Core::restart`).
    fn supervise(self, clock: &Arc<Clock>, started: &Sender<Result<(), ShardError>>) {
        let this = Rc::new(self);
        for restarts in 0.. {
            let run =
                AssertUnwindSafe(|| this.clone().run(clock.clone(), started.clone(), restarts));
            match catch_unwind(run) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    tracing::error!(shard = this.config.id.0, "{error}");
                    // Nobody listens when this is not the first start.
                    let _ = started.try_send(Err(error));
                    return;
                }
                Err(_) => {
                    tracing::error!(
                        shard = this.config.id.0,
                        "the shard's driver died; restarting"
                    );
                    thread::sleep(RESTART_PAUSE);
                }
            }
        }
    }

    fn run(
        self: Rc<Self>,
        clock: Arc<Clock>,
        started: Sender<Result<(), ShardError>>,
        restarts: u64,
    ) -> Result<(), ShardError> {
        let placement = self.cpu.map_or(Placement::Unbound, Placement::Fixed);
        let build = |placement| {
            LocalExecutorBuilder::new(placement)
                .io_memory(GLOMMIO_IO_MEMORY_BYTES)
                .preempt_timer(SIGNALLING_TURN)
                .name(&format!("shard-{}", self.config.id))
                .make()
        };
        let executor = build(placement).or_else(|error| {
            // A container's CPU set may not contain the core.
            tracing::warn!(shard = self.config.id.0, %error, "not pinned to a core");
            build(Placement::Unbound)
        });
        let executor = executor.map_err(|error| self.failed("the executor", &error))?;
        executor.run(async move {
            let core = self.core(clock, restarts)?;
            let _ = started.try_send(Ok(()));
            self.work(core).await
        })
    }

    /// Sets up the ring, on this thread, as the kernel wants.
    fn core(&self, clock: Arc<Clock>, restarts: u64) -> Result<Rc<Core>, ShardError> {
        let socket = self.socket.try_clone().map_err(|error| self.failed("the socket", &error))?;
        let port = socket.local_addr().map_or(0, |address| address.port());
        let ring = Ring::new(&self.ring, socket)?;
        let (to_control, shards) = (self.to_control.clone(), self.shards.clone());
        let config = self.config.clone();
        Ok(Rc::new(Core::new(config, ring, port, clock, to_control, shards, restarts)))
    }

    async fn work(self: Rc<Self>, core: Rc<Core>) -> Result<(), ShardError> {
        let executor = glommio::executor();
        let latency = Latency::Matters(MEDIA_LATENCY);
        let media = executor.create_task_queue(Shares::Static(MEDIA_SHARES), latency, "media");
        let shares = Shares::Static(SIGNALLING_SHARES);
        let signalling = executor.create_task_queue(shares, Latency::NotImportant, "signalling");

        let eventfd = core.media_eventfd().map_err(|error| self.failed("the eventfd", &error))?;
        let listener = self.listener.try_clone();
        let listener = listener.map_err(|error| self.failed("the listener", &error))?;
        let listener: GlommioListener = fd::adopt(listener.into());
        let media = glommio::spawn_local_into(
            carry_media(core.clone(), fd::adopt(eventfd), self.busy_poll),
            media,
        );
        let media = media.map_err(spawned_error(&self, "the media task"))?;
        let accepting = accept(self.clone(), core.clone(), listener, signalling);
        let accepting = glommio::spawn_local_into(accepting, signalling);
        let accepting = accepting.map_err(spawned_error(&self, "the listener's task"))?;
        self.read_inbox(&core, signalling).await;
        accepting.cancel().await;
        media.cancel().await;
        Ok(())
    }

    async fn read_inbox(&self, core: &Rc<Core>, signalling: TaskQueueHandle) {
        while let Ok(message) = self.inbox.recv().await {
            match message {
                ToShard::Command(command) => {
                    core.enter(|shard, now, egress| shard.handle_command(now, command, egress));
                }
                ToShard::Arrival(handoff) => {
                    let conversation = Conversation::arrived(core.clone(), *handoff);
                    detach(conversation.run(), signalling);
                }
                ToShard::Inspect { rooms, reply } => {
                    // Who asked may have stopped waiting.
                    let _ = reply.try_send(core.inspect(rooms));
                }
                ToShard::Tick => core.tick(),
                ToShard::Stop => return,
            }
            glommio::executor().yield_if_needed().await;
        }
    }

    fn failed(&self, what: &'static str, why: &dyn std::fmt::Display) -> ShardError {
        ShardError::Setup { shard: self.config.id.0, what, why: why.to_string() }
    }
}

fn spawned_error<'a, E: std::fmt::Display>(
    thread: &'a ShardThread,
    what: &'static str,
) -> impl FnOnce(E) -> ShardError + 'a {
    move |error| thread.failed(what, &error)
}

/// Spawns a connection's task; its queue exists as long as the executor.
fn detach(task: impl Future<Output = ()> + 'static, queue: TaskQueueHandle) {
    if let Ok(task) = glommio::spawn_local_into(task, queue) {
        task.detach();
    }
}

/// The media loop: what has arrived is dealt with before anything else gets the core again.
async fn carry_media(core: Rc<Core>, eventfd: BufferedFile, busy_poll: bool) {
    let mut woken = false;
    loop {
        // What clients have said, and what others are to be told of it, goes first if both are
        // there: it may name a speaker whose first packet has arrived with it, and some clients
        // throw away what they cannot name. This lasts no longer than `MEDIA_LATENCY` and what is
        // then being done.
        if woken || core.take_unsaid() {
            glommio::executor().yield_task_queue_now().await;
            core.take_unsaid();
        }
        woken = false;
        let drained = core.turn();
        if !drained || busy_poll {
            glommio::executor().yield_task_queue_now().await;
            continue;
        }
        // The kernel writes to the eventfd what has come since the ring was found empty.
        if let Err(error) = eventfd.read_at(0, size_of::<u64>()).await {
            tracing::error!(shard = core.id().0, %error, "cannot sleep on the media ring; polling");
            Timer::new(Duration::from_millis(1)).await;
        }
        woken = true;
    }
}

async fn accept(
    thread: Rc<ShardThread>,
    core: Rc<Core>,
    listener: GlommioListener,
    queue: TaskQueueHandle,
) {
    let handshakes = Rc::new(());
    loop {
        // A backlog is accepted, or refused, without waiting once.
        glommio::executor().yield_if_needed().await;
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                core.limit(Limit::Accept);
                tracing::debug!(%error, "cannot accept");
                Timer::new(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(peer) = stream.peer_addr() else { continue };
        let address = peer.ip().to_canonical();
        let Some(permit) = thread.turnstile.enter(address) else {
            core.limit(Limit::ConnectionsPerAddress);
            continue;
        };
        if Rc::strong_count(&handshakes) > thread.handshakes_max {
            core.limit(Limit::Handshakes);
            continue;
        }
        // A client that cannot have it is not worse off.
        let _ = stream.set_nodelay(true);
        let plaintext = match thread.plaintext {
            Plaintext::Always => true,
            Plaintext::Loopback => address.is_loopback(),
            Plaintext::Never => false,
        };
        let page = Some(thread.page.clone());
        let wire = Wire::new(Terms { tls: thread.tls.clone(), plaintext, page });
        let conversation = Conversation::new(core.clone(), stream, wire, address, permit);
        detach(conversation.accept(handshakes.clone()), queue);
    }
}

/// The cores shards are pinned to, in order; `None` where there are more shards than cores.
pub fn placements(shards: usize) -> Vec<Option<usize>> {
    let mut cpus: Vec<usize> = CpuSet::online()
        .map(|set| set.into_iter().map(|location| location.cpu).collect())
        .unwrap_or_default();
    cpus.sort_unstable();
    (0..shards).map(|shard| cpus.get(shard).copied()).collect()
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
