//! One core's thread: its loop around one `Core`, which sleeps in the media ring and has the
//! executor work the connections when there is something for them. Decides nothing.

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    ops::ControlFlow,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use async_channel::{Receiver, Sender};
use futures_util::Stream;
use glommio::CpuSet;
use rustix::event::{EventfdFlags, eventfd};

use super::{
    core::{Core, Limit},
    executor::Executor,
    handoff::Handoff,
    queues::{ToControl, ToShard},
    turnstile::{Permit, Turnstile},
    websocket::Conversation,
    wire::{Terms, Wire},
};
use crate::{
    config::Plaintext,
    control::LinkPage,
    ring::{Ring, RingConfig, Watch, fd},
    sfu::ShardConfig,
};

/// Messages read in one turn, and connections accepted: what is left waits for media and for the
/// connections there are.
const MESSAGES_PER_TURN: usize = 64;
const ACCEPTS_PER_TURN: usize = 32;

/// Longest time without a round. Only requests that glommio could not hand over for want of memory
/// depend on it.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Longest sleep while a connection has a deadline, which only the executor sees pass: how late
/// such a deadline can be, at the price of twenty rounds a second.
const DEADLINE_SLEEP_MAX: Duration = Duration::from_millis(50);

/// Longest sleep where glommio's ring could not be found and has to be looked at.
const BLIND_SLEEP_MAX: Duration = Duration::from_millis(2);

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
        let name = format!("shard-{}", self.config.id);
        thread::Builder::new().name(name).spawn(move || self.supervise(&started))
    }

    /// Runs the shard, again if a defect of the driver ends it: a defect of the core does not come
    /// this far (`Core::restart`).
    fn supervise(self, started: &Sender<Result<(), ShardError>>) {
        for restarts in 0.. {
            let run = AssertUnwindSafe(|| self.run(started, restarts));
            match catch_unwind(run) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    tracing::error!(shard = self.config.id.0, "{error}");
                    // Nobody listens when this is not the first start.
                    let _ = started.try_send(Err(error));
                    return;
                }
                Err(_) => {
                    tracing::error!(
                        shard = self.config.id.0,
                        "the shard's driver died; restarting"
                    );
                    thread::sleep(RESTART_PAUSE);
                }
            }
        }
    }

    fn run(
        &self,
        started: &Sender<Result<(), ShardError>>,
        restarts: u64,
    ) -> Result<(), ShardError> {
        let name = format!("shard-{}", self.config.id);
        let executor = Executor::new(&name, self.cpu).or_else(|error| {
            // A container's CPU set may not contain the core.
            tracing::warn!(shard = self.config.id.0, %error, "not pinned to a core");
            Executor::new(&name, None)
        });
        let executor = executor.map_err(|error| self.failed("the executor", &error))?;
        let core = self.core(&executor, restarts)?;
        let mut work = Work::new(self, &executor, &core)?;
        // Nobody listens when this is not the first start.
        let _ = started.try_send(Ok(()));
        while work.turn().is_continue() {}
        Ok(())
    }

    /// Sets up the ring, on this thread, as the kernel wants.
    fn core(&self, executor: &Executor, restarts: u64) -> Result<Rc<Core>, ShardError> {
        let socket = self.socket.try_clone().map_err(|error| self.failed("the socket", &error))?;
        let port = socket.local_addr().map_or(0, |address| address.port());
        let ring = Ring::new(&self.ring, socket)?;
        let (to_control, shards) = (self.to_control.clone(), self.shards.clone());
        let (config, tasks) = (self.config.clone(), executor.tasks().clone());
        Ok(Rc::new(Core::new(config, ring, port, tasks, to_control, shards, restarts)))
    }

    /// What a connection from `address` is offered.
    fn terms(&self, address: IpAddr) -> Terms {
        let plaintext = match self.plaintext {
            Plaintext::Always => true,
            Plaintext::Loopback => address.is_loopback(),
            Plaintext::Never => false,
        };
        Terms { tls: self.tls.clone(), plaintext, page: Some(self.page.clone()) }
    }

    fn failed(&self, what: &'static str, why: &dyn std::fmt::Display) -> ShardError {
        ShardError::Setup { shard: self.config.id.0, what, why: why.to_string() }
    }
}

/// Rings when something is put into an empty inbox.
#[derive(Debug)]
struct Doorbell(fs::File);

impl Wake for Doorbell {
    fn wake(self: Arc<Self>) {
        // An eventfd counts what is written to it, and is full at 2^64.
        let _ = (&self.0).write_all(&1_u64.to_ne_bytes());
    }
}

/// A connection that has no task yet.
enum Newcomer {
    Accepted(TcpStream, IpAddr, Permit),
    Moved(Box<Handoff>),
}

/// A shard's loop, between two turns.
struct Work<'a> {
    thread: &'a ShardThread,
    executor: &'a Executor,
    core: &'a Rc<Core>,
    inbox: Pin<Box<Receiver<ToShard>>>,
    bell: Arc<Doorbell>,
    waker: Waker,
    /// Whether the inbox may have more.
    inbox_open: bool,
    newcomers: Vec<Newcomer>,
    /// One reference more than there are handshakes.
    handshakes: Rc<()>,
    bell_rang: Watch,
    listener_has: Watch,
    /// `None` where glommio's ring could not be found.
    executor_has: Option<Watch>,
    accept_again_at: Option<Instant>,
    last_round: Instant,
}

impl<'a> Work<'a> {
    fn new(
        thread: &'a ShardThread,
        executor: &'a Executor,
        core: &'a Rc<Core>,
    ) -> Result<Self, ShardError> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bell = bell.map_err(|error| thread.failed("an eventfd", &error))?;
        let bell = Arc::new(Doorbell(bell.into()));
        let duplicated = |fd: io::Result<OwnedFd>| {
            fd.map_err(|error| thread.failed("a second descriptor", &error))
        };
        let bell_rang = core.watch(duplicated(fd::duplicate(&bell.0))?);
        let listener_has = core.watch(duplicated(fd::duplicate(&thread.listener))?);
        let executor_has = executor.find_ring().map(|ring| core.watch(ring));
        if executor_has.is_none() {
            tracing::warn!(
                shard = thread.config.id.0,
                "cannot tell the executor's ring from others; looking every {} ms instead",
                BLIND_SLEEP_MAX.as_millis()
            );
        }
        Ok(Self {
            inbox: Box::pin(thread.inbox.clone()),
            waker: bell.clone().into(),
            bell,
            inbox_open: true,
            newcomers: Vec::new(),
            handshakes: Rc::default(),
            bell_rang,
            listener_has,
            executor_has,
            accept_again_at: None,
            last_round: Instant::now(),
            thread,
            executor,
            core,
        })
    }

    /// Does what there is to do, each kind of work once, and sleeps if nothing is left.
    ///
    /// What clients have said, and what others are to be told of it, goes before media if both are
    /// there: it may name a speaker whose first packet has arrived with it, and some clients throw
    /// away what they cannot name. It does not last, since the core sees to media in between.
    fn turn(&mut self) -> ControlFlow<()> {
        self.core.look();
        self.read_inbox()?;
        let now = Instant::now();
        self.core.tick(now);
        self.accept(now);
        if self.wants_round(now) {
            self.last_round = now;
            self.round();
        }
        let drained = self.core.turn();
        let idle =
            drained && !self.inbox_open && !self.core.is_stirred() && !self.executor.wants_round();
        if idle && !self.thread.busy_poll {
            self.core.sleep(self.sleep_until());
        }
        ControlFlow::Continue(())
    }

    fn wants_round(&self, now: Instant) -> bool {
        let has = self.executor_has.is_some_and(|watch| self.core.take_readable(watch));
        let stirred = self.core.take_stirred();
        has || stirred
            || !self.newcomers.is_empty()
            || self.executor.wants_round()
            || self.next_round() <= now
    }

    /// When there is to be a round though nothing says that there is something for one.
    fn next_round(&self) -> Instant {
        self.last_round
            + match self.executor_has {
                None => BLIND_SLEEP_MAX,
                Some(_) if self.core.tasks().have_deadlines() => DEADLINE_SLEEP_MAX,
                Some(_) => SLEEP_MAX,
            }
    }

    fn sleep_until(&self) -> Instant {
        let others = [self.core.next_tick(), self.accept_again_at];
        others.into_iter().flatten().fold(self.next_round(), Instant::min)
    }

    /// Has the connections go on that can, and gives new ones their tasks.
    fn round(&mut self) {
        let Self { thread, executor, core, newcomers, handshakes, .. } = self;
        executor.round(|| {
            for newcomer in newcomers.drain(..) {
                match newcomer {
                    Newcomer::Accepted(stream, address, permit) => {
                        let wire = Wire::new(thread.terms(address));
                        let stream = fd::adopt(stream.into());
                        let conversation =
                            Conversation::new(core.clone(), stream, wire, address, permit);
                        core.tasks().spawn(conversation.accept(handshakes.clone()));
                    }
                    Newcomer::Moved(handoff) => {
                        let conversation = Conversation::arrived(core.clone(), *handoff);
                        core.tasks().spawn(conversation.run());
                    }
                }
            }
        });
    }

    /// Breaks off when the shard is to end.
    fn read_inbox(&mut self) -> ControlFlow<()> {
        if self.core.take_readable(self.bell_rang) {
            // Before it is looked into: what comes later rings again.
            let _ = (&self.bell.0).read(&mut [0; size_of::<u64>()]);
            self.inbox_open = true;
        }
        if !self.inbox_open {
            return ControlFlow::Continue(());
        }
        let mut context = Context::from_waker(&self.waker);
        for _ in 0..MESSAGES_PER_TURN {
            let Poll::Ready(message) = self.inbox.as_mut().poll_next(&mut context) else {
                self.inbox_open = false;
                break;
            };
            match message {
                Some(ToShard::Command(command)) => {
                    self.core.enter(|shard, now, egress| {
                        shard.handle_command(now, command, egress);
                    });
                }
                Some(ToShard::Arrival(handoff)) => self.newcomers.push(Newcomer::Moved(handoff)),
                Some(ToShard::Inspect { rooms, reply }) => {
                    // Who asked may have stopped waiting.
                    let _ = reply.try_send(self.core.inspect(rooms));
                }
                Some(ToShard::Stop) | None => return ControlFlow::Break(()),
            }
            self.core.relieve();
        }
        ControlFlow::Continue(())
    }

    /// Accepts those who wait, or refuses them.
    fn accept(&mut self, now: Instant) {
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept_again_at = None;
            self.core.pause(self.listener_has, false);
        }
        if self.accept_again_at.is_some() || !self.core.take_readable(self.listener_has) {
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            match self.thread.listener.accept() {
                Ok((stream, peer)) => self.admit(stream, peer.ip().to_canonical()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.core.limit(Limit::Accept);
                    tracing::debug!(%error, "cannot accept");
                    self.core.pause(self.listener_has, true);
                    self.accept_again_at = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, address: IpAddr) {
        let Some(permit) = self.thread.turnstile.enter(address) else {
            return self.core.limit(Limit::ConnectionsPerAddress);
        };
        let waiting = self.newcomers.iter().filter(|it| matches!(it, Newcomer::Accepted(..)));
        if Rc::strong_count(&self.handshakes) + waiting.count() > self.thread.handshakes_max {
            return self.core.limit(Limit::Handshakes);
        }
        // A client that cannot have it is not worse off.
        let _ = stream.set_nodelay(true);
        self.newcomers.push(Newcomer::Accepted(stream, address, permit));
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
