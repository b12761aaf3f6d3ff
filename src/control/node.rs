//! The control thread itself: drives the authority with the shards' news and the clock, carries its
//! commands to the shards, and runs the HTTP side. Owns the clock and the queues; decides nothing.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use async_channel::{Receiver, Sender};
use time::OffsetDateTime;
use tokio::sync::{Notify, Semaphore, watch};
use tracing::{info, warn};

use super::{
    api,
    authority::{Authority, Output, Rules},
    backlog::Backlog,
    event_log::EventLog,
    http_server,
    spacebar::{self, Order, Tally},
    webhook::{self, Deliveries},
};
use crate::{
    config::{Config, Plaintext},
    driver::queues::{ControlQueues, Rooms, ShardReport, ToControl, ToShard},
    id::ShardId,
};

/// Events taken before the API gets a turn.
const EVENTS_PER_TURN: usize = 256;

/// How soon commands that did not fit are tried again.
const BACKLOG_RETRY: Duration = Duration::from_millis(1);

/// How long a shard may take to answer a question. Its loop turns every few milliseconds; longer
/// means that it is stuck, and whoever asks must not be.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a stopping node waits for its sessions' ends to be reported.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a stopping node tries to deliver its last events.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Followers of the event stream: backends and a person looking.
const FOLLOWERS_MAX: usize = 64;

/// Why the control plane could not run.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The listening socket or the thread could not be set up.
    #[error("control plane: {0}")]
    Setup(#[from] io::Error),
    /// A backend's settings are of no use.
    #[error("{0}")]
    Spacebar(String),
    /// The thread ended by a panic, which it has printed.
    #[error("the control thread died")]
    Died,
}

/// What the control thread shares among its tasks.
pub(crate) struct Node {
    pub(crate) config: Arc<Config>,
    pub(crate) log: EventLog,
    pub(crate) deliveries: Deliveries,
    pub(crate) followers: Arc<Semaphore>,
    pub(super) spacebar: Tally,
    core: Mutex<Core>,
    shards: Vec<Sender<ToShard>>,
    events: Receiver<ToControl>,
    /// What is to be done with Spacebar. Has room for all that the backend orders at once.
    orders: Sender<Order>,
    /// The API has changed something the main loop may have to wake for.
    changed: Notify,
    /// Nothing more will be published.
    finished: watch::Sender<bool>,
}

struct Core {
    authority: Authority,
    backlog: Backlog,
}

/// Numbers about the node that only control knows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NodeReport {
    pub(crate) grants: usize,
    pub(crate) sessions: usize,
    pub(crate) rooms: usize,
    pub(crate) is_draining: bool,
    pub(crate) backlog: usize,
    pub(crate) commands_dropped: u64,
    pub(crate) events_waiting: usize,
    /// Departures that Spacebar's tables do not show yet, and those that were given up.
    pub(crate) departures: (usize, u64),
}

impl Node {
    /// The node, and what it wants done with Spacebar.
    pub(super) fn new(config: Arc<Config>, queues: ControlQueues) -> (Self, Receiver<Order>) {
        let rules = Rules {
            shards: queues.shards.len(),
            backends: config.backends.clone(),
            resume_window: config.resume_window,
            token_key: config.token_key.clone(),
            e2ee: config.e2ee,
            speaking_events: config.control.speaking_events,
            clients_have_addresses: config.gateway.plaintext != Plaintext::Always,
        };
        let authority = Authority::new(rules);
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let first_seq = since_epoch.map_or(1, |time| time.as_micros() as u64);
        let (orders, to_do) = async_channel::bounded(spacebar::ORDERS_MAX);
        let node = Self {
            config,
            log: EventLog::new(first_seq),
            deliveries: Deliveries::default(),
            followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            spacebar: Tally::default(),
            core: Mutex::new(Core { authority, backlog: Backlog::new(&queues.shards) }),
            shards: queues.shards,
            events: queues.events,
            orders,
            changed: Notify::new(),
            finished: watch::Sender::new(false),
        };
        (node, to_do)
    }

    /// Changes something in the authority's hands and does what follows from it.
    pub(crate) fn act<T>(
        &self,
        act: impl FnOnce(&mut Authority, Instant, OffsetDateTime) -> T,
    ) -> T {
        let result = self.turn(act);
        self.changed.notify_one();
        result
    }

    /// Looks something up.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Authority) -> T) -> T {
        look(&self.lock().authority)
    }

    pub(crate) fn report(&self) -> NodeReport {
        let core = self.lock();
        NodeReport {
            grants: core.authority.grants(),
            sessions: core.authority.sessions(),
            rooms: core.authority.rooms(),
            is_draining: core.authority.is_draining(),
            backlog: core.backlog.len(),
            commands_dropped: core.backlog.dropped(),
            events_waiting: self.events.len(),
            departures: core.authority.departures(),
        }
    }

    /// Messages waiting for each shard.
    pub(crate) fn shard_queues(&self) -> impl ExactSizeIterator<Item = usize> {
        self.shards.iter().map(Sender::len)
    }

    /// One shard's copy of its state; `None` if it does not answer in time.
    pub(crate) async fn inspect(&self, shard: ShardId, rooms: Rooms) -> Option<ShardReport> {
        let queue = self.shards.get(shard.index())?;
        let (reply, answer) = async_channel::bounded(1);
        queue.try_send(ToShard::Inspect { rooms, reply }).ok()?;
        tokio::time::timeout(INSPECT_TIMEOUT, answer.recv()).await.ok()?.ok()
    }

    /// Every shard's copy of its state, in shard order.
    pub(crate) async fn inspect_all(&self, rooms: Rooms) -> Vec<Option<ShardReport>> {
        let shards = 0..self.shards.len();
        let asked = shards.filter_map(|index| u16::try_from(index).ok()).map(ShardId);
        futures_util::future::join_all(asked.map(|shard| self.inspect(shard, rooms))).await
    }

    /// Completes when nothing more will be published.
    pub(crate) async fn finished(&self) {
        // The sender is part of self, so it is not gone while this waits.
        let _ = self.finished.subscribe().wait_for(|finished| *finished).await;
    }

    /// Whether nothing more will be published.
    pub(crate) fn is_finished(&self) -> bool {
        *self.finished.borrow()
    }

    fn turn<T>(&self, act: impl FnOnce(&mut Authority, Instant, OffsetDateTime) -> T) -> T {
        let mut core = self.lock();
        let result = act(&mut core.authority, Instant::now(), OffsetDateTime::now_utc());
        while let Some(output) = core.authority.poll_output() {
            match output {
                Output::Command(shard, command) => core.backlog.push(shard, command),
                Output::Published(event) => self.log.publish(&event),
                // Closed when Spacebar's part has ended, after everything else has.
                Output::Order(order) => drop(self.orders.try_send(order)),
            }
        }
        core.backlog.flush();
        result
    }

    /// Serves the shards until `is_over` says so; looked at after every turn. Ends early when
    /// there are no shards any more.
    async fn follow(&self, mut is_over: impl FnMut(&Authority) -> bool) {
        loop {
            self.turn(|authority, now, wall| authority.handle_timeout(now, wall));
            let (wake, has_room) = {
                let core = self.lock();
                if is_over(&core.authority) {
                    return;
                }
                let retry = (core.backlog.len() > 0).then(|| Instant::now() + BACKLOG_RETRY);
                let due = core.authority.poll_timeout();
                (due.into_iter().chain(retry).min(), core.backlog.has_room())
            };
            tokio::select! {
                news = self.events.recv(), if has_room => match news {
                    Ok(news) => self.take(news),
                    Err(_) => return,
                },
                () = sleep_until(wake) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    fn take(&self, first: ToControl) {
        let more = std::iter::from_fn(|| self.events.try_recv().ok());
        let news: Vec<ToControl> =
            std::iter::once(first).chain(more).take(EVENTS_PER_TURN).collect();
        self.turn(|authority, now, wall| {
            for ToControl { shard, news } in news {
                authority.handle_news(now, wall, shard, news);
            }
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Runs the control plane until `shutdown` gives a message or closes, or the shards are gone:
/// answers the shards' admissions and serves API, metrics and webhooks. Stopping, it tells backend
/// and shards, waits a bounded time for the sessions' ends and delivers the last events.
///
/// Wants a current-thread tokio runtime with I/O and time.
pub async fn run(
    config: Arc<Config>,
    queues: ControlQueues,
    listener: TcpListener,
    shutdown: Receiver<()>,
) -> Result<(), ControlError> {
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (node, orders) = Node::new(config.clone(), queues);
    let node = Arc::new(node);
    let http = tokio::spawn(http_server::serve(listener, api::router(node.clone()), node.clone()));
    let posting = config.control.webhook.clone().map(|hook| {
        let first = node.log.next_seq();
        tokio::spawn(webhook::post(node.clone(), hook, first))
    });
    let spacebar = config.spacebar.clone().map(|settings| {
        let running = spacebar::run(node.clone(), settings, orders);
        running.map(tokio::spawn).map_err(ControlError::Spacebar)
    });
    let spacebar = spacebar.transpose()?;
    info!(%address, "control API is up");

    tokio::select! {
        () = node.follow(|_| false) => warn!("all shards are gone"),
        _ = shutdown.recv() => {}
    }
    info!("control plane is stopping");
    node.act(|authority, _, wall| authority.drain(wall));
    let gone = node.follow(|authority| authority.sessions() == 0);
    if tokio::time::timeout(DRAIN_TIMEOUT, gone).await.is_err() {
        warn!(sessions = node.report().sessions, "some sessions have not reported their end");
    }
    node.finished.send_replace(true);
    if let Some(mut posting) = posting
        && tokio::time::timeout(FLUSH_TIMEOUT, &mut posting).await.is_err()
    {
        posting.abort();
        warn!("the last events could not be delivered to the webhook");
    }
    // Both bound themselves once the node is finished.
    if let Some(spacebar) = spacebar {
        let _ = spacebar.await;
    }
    let _ = http.await;
    Ok(())
}

/// Whether what the settings name for the control plane can be used.
///
/// # Errors
/// What cannot.
pub fn check(config: &Config) -> Result<(), ControlError> {
    config.spacebar.as_ref().map_or(Ok(()), spacebar::check).map_err(ControlError::Spacebar)
}

/// The control plane on a thread of its own.
#[derive(Debug)]
pub struct ControlThread {
    address: SocketAddr,
    shutdown: Sender<()>,
    thread: thread::JoinHandle<Result<(), ControlError>>,
}

impl ControlThread {
    /// Starts it on a bound socket. The thread runs at once.
    pub fn start(
        config: Arc<Config>,
        queues: ControlQueues,
        listener: TcpListener,
    ) -> Result<Self, ControlError> {
        let address = listener.local_addr()?;
        let (shutdown, stop) = async_channel::bounded(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || runtime.block_on(run(config, queues, listener, stop));
        let thread = thread::Builder::new().name("control".to_owned()).spawn(run)?;
        Ok(Self { address, shutdown, thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it has ended, by itself or by a panic.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Asks it to stop: shards are told to drain from now on. Does not wait.
    pub fn request_stop(&self) {
        // Full means that it was asked before, closed that it has ended.
        let _ = self.shutdown.try_send(());
    }

    /// Asks it to stop and waits until it has: bounded by its own time limits.
    pub fn stop(self) -> Result<(), ControlError> {
        self.request_stop();
        self.thread.join().map_err(|_| ControlError::Died)?
    }
}
