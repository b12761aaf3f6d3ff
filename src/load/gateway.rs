//! The thread that gets clients in and keeps them there: a task for each, which moves bytes between
//! its socket and its `Wire`, messages between that and its `Client`, and orders to the media
//! threads. Joins are paced, late ones and goings follow the cast's times.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, mpsc::Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::setpriority_process;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    client::{Browser, Carriage, Client, Profile, Step},
    clock::Clock,
    dtls::Setup,
    endpoint::Endpoint,
    media::{Order, Orders},
    offer::Remote,
    peer::{PathFault, Peer},
    ports::Addressing,
    schedule::{Cast, SECOND_NS},
    tally::Window,
    wire::{Received, Wire},
};
use crate::{
    crypto::Mode,
    grant::Ticket,
    id::Ssrc,
    webrtc::{Credentials, credentials},
};

/// Niceness of the thread: handshakes make way for packets that are due on the same core.
const GATEWAY_NICE: i32 = 5;

/// Time from the start of a connection to where media may flow. A storm of a thousand joins takes a
/// server some seconds.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client that leaves still listens, so that what was on its way counts.
const LEAVE_AFTER: Duration = Duration::from_millis(250);

/// Time to say goodbye in.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes read from a socket at once.
const READ_BYTES: usize = 4_096;

/// Datagrams of a handshake or of checks that may wait for one browser: a server's longest flight
/// twice.
const POST_MAX: usize = 16;

/// How far the run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Clients join; nothing counts.
    Opening,
    /// This time counts.
    Measured(Window),
    /// Everybody leaves.
    End,
}

/// What has become of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Media may flow, so long after its connection was due to begin.
    Joined(Duration),
    /// It hears and, if it has a source, speaks.
    Ready,
    /// It leaves, and will come back.
    Left,
    /// It did not get in.
    Refused(Ending),
    /// It was in, and its session has ended before its time.
    Broken(Ending),
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ending {
    /// The server's close code.
    pub close_code: Option<u16>,
    /// Its reason, or what went wrong.
    pub reason: String,
}

impl Ending {
    fn of(reason: impl ToString) -> Self {
        Self { close_code: None, reason: reason.to_string() }
    }
}

/// What the thread is given.
#[derive(Debug)]
pub struct Part {
    /// Everyone.
    pub cast: Arc<Cast>,
    /// A ticket for each.
    pub tickets: Vec<Ticket>,
    /// Where they connect.
    pub endpoint: Endpoint,
    /// How each is told apart.
    pub addressing: Addressing,
    /// What all have in common.
    pub profile: Profile,
    /// The mode that those on plain UDP select.
    pub mode: Mode,
    /// What browsers have in common.
    pub setup: Arc<Setup>,
    /// How many join each second.
    pub joins_per_second: u32,
    /// Time between a client's heartbeats, if not what the server asks for.
    pub heartbeat: Option<Duration>,
    /// The clock of the run.
    pub clock: Clock,
    /// The media threads; client `n` is played by thread `n` modulo their number.
    pub media: Vec<Orders>,
}

/// Starts the thread. It ends when everyone has left after [`Act::End`], or when `acts` is dropped.
///
/// # Errors
/// The process has no thread or no descriptor left.
pub fn start(
    part: Part,
    acts: watch::Receiver<Act>,
    news: Sender<(u32, News)>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("load-gateway".to_owned()).spawn(move || {
        // On Linux this is of the thread alone, and making way is always allowed.
        let _ = setpriority_process(None, GATEWAY_NICE);
        runtime.block_on(play(Arc::new(part), acts, news));
    })
}

async fn play(part: Arc<Part>, acts: watch::Receiver<Act>, news: Sender<(u32, News)>) {
    let begun_ns = part.clock.now_ns();
    let mut early = 0;
    let mut tasks = JoinSet::new();
    for (client, of) in part.cast.clients.iter().enumerate() {
        let starts_ns = match of.joins_at_ns {
            Some(_) => begun_ns,
            None => {
                let starts_ns = begun_ns + early * SECOND_NS / u64::from(part.joins_per_second);
                early += 1;
                starts_ns
            }
        };
        let life = Life {
            part: part.clone(),
            client: client as u32,
            acts: acts.clone(),
            news: news.clone(),
        };
        tasks.spawn(life.live(starts_ns));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a client's task neither panics nor is cancelled");
    }
}

/// One client from its first connection to its last.
struct Life {
    part: Arc<Part>,
    client: u32,
    acts: watch::Receiver<Act>,
    news: Sender<(u32, News)>,
}

/// An open connection.
struct Line {
    stream: TcpStream,
    wire: Wire,
    out: Vec<u8>,
}

/// A browser's transport, whose datagrams the media thread carries.
struct Path {
    peer: Peer,
    post: mpsc::Receiver<Vec<u8>>,
    server: SocketAddr,
}

impl Path {
    /// Waits for what comes next, and deals with it. Losing the future loses nothing.
    async fn go_on(&mut self) -> Result<(), PathFault> {
        let due = self.peer.poll_timeout().into();
        tokio::select! {
            Some(datagram) = self.post.recv() => {
                self.peer.handle(std::time::Instant::now(), &datagram)
            }
            () = sleep_until(due) => self.peer.handle_timeout(std::time::Instant::now()),
        }
    }
}

/// How a stay ended.
enum End {
    /// It left, to come back.
    Left,
    /// The run is over.
    Over,
    /// Something went wrong.
    Ending(Ending),
}

impl Line {
    async fn connect(part: &Part, client: u32) -> Result<Self, Ending> {
        let Endpoint { authority, address, tls } = &part.endpoint;
        let failed = |error: io::Error| Ending::of(format!("connecting to {address}: {error}"));
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
        let socket = socket.map_err(failed)?;
        // The WebSocket comes from where the media comes from, as any client's does.
        if let Some(own) = part.addressing.address_of(client) {
            socket.bind((IpAddr::V4(own), 0).into()).map_err(failed)?;
        }
        let stream = socket.connect(*address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let wire = Wire::new(tls.clone(), authority, part.profile.version).map_err(Ending::of)?;
        Ok(Self { stream, wire, out: Vec::new() })
    }

    /// Writes what waits. Losing the future loses nothing: what is written is taken off at once.
    async fn write(&mut self) -> Result<(), Ending> {
        self.wire.drain(&mut self.out);
        while !self.out.is_empty() {
            self.stream.writable().await.map_err(Ending::of)?;
            match self.stream.try_write(&self.out) {
                Ok(len) => drop(self.out.drain(..len)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Ending::of(error)),
            }
        }
        // An idle connection keeps no memory for what it has said.
        self.out = Vec::new();
        Ok(())
    }

    /// The next thing that arrives. Losing the future loses nothing.
    async fn receive(&mut self) -> Result<Received, Ending> {
        loop {
            let received = self.wire.receive();
            self.write().await?;
            if let Some(received) = received.map_err(Ending::of)? {
                return Ok(received);
            }
            self.stream.readable().await.map_err(Ending::of)?;
            let mut bytes = [0; READ_BYTES];
            match self.stream.try_read(&mut bytes) {
                Ok(0) => return Err(Ending::of("the server closed without a word")),
                Ok(len) => {
                    let fed = self.wire.feed(&bytes[..len]);
                    if fed.is_err() {
                        // The alert that says why; the fault itself is the news.
                        let _ = self.write().await;
                    }
                    fed.map_err(Ending::of)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Ending::of(error)),
            }
        }
    }

    /// Says goodbye and waits for the server's, a little.
    async fn leave(mut self) {
        self.wire.leave();
        if self.write().await.is_err() {
            return;
        }
        let farewell = async { while self.receive().await.is_ok() {} };
        let _ = timeout(GOODBYE_TIMEOUT, farewell).await;
    }
}

impl Life {
    async fn live(mut self, starts_ns: u64) {
        let part = self.part.clone();
        let of = &part.cast.clients[self.client as usize];
        let starts_ns = match of.joins_at_ns {
            None => starts_ns,
            Some(offset_ns) => match self.measured().await {
                Some(window) => window.from_ns + offset_ns,
                None => return,
            },
        };
        if !self.sleep_until(starts_ns).await {
            return;
        }
        let mut leaves = of.leaves_at_ns.iter().copied();
        // A generator that is behind does not make the server look faster.
        let mut due = Instant::from(part.clock.instant(starts_ns));
        loop {
            match self.stay(due, leaves.next()).await {
                End::Left => {}
                End::Over => return,
                End::Ending(_) if self.is_over() => return,
                End::Ending(ending) => {
                    self.tell(News::Broken(ending));
                    return;
                }
            }
            due = Instant::now();
        }
    }

    /// One connection, which is due to begin at `due`, until its time to leave, if it has one,
    /// comes after the measured time's beginning.
    async fn stay(&mut self, due: Instant, leaves_at_ns: Option<u64>) -> End {
        let mut joined = None;
        let mut acts = self.acts.clone();
        let entered = tokio::select! {
            entered = timeout(JOIN_TIMEOUT, self.enter(due, &mut joined)) => entered
                .unwrap_or_else(|_| Err(Ending::of(format!("no way in for {JOIN_TIMEOUT:?}")))),
            // Whoever is still at it then has not joined, however long he might have had.
            _ = acts.wait_for(|act| *act == Act::End) => {
                Err(Ending::of("no way in before the run was over"))
            }
        };
        let (line, client, path) = match entered {
            Ok(entered) => entered,
            Err(ending) => {
                self.order(Order::Leave { client: self.client });
                if joined.is_some() {
                    return End::Ending(ending);
                }
                self.tell(News::Refused(ending));
                return End::Over;
            }
        };
        self.tell(News::Ready);
        self.remain(line, client, path, leaves_at_ns).await
    }

    /// From the connection to where the server has taken note of us.
    async fn enter(
        &self,
        due: Instant,
        joined: &mut Option<Duration>,
    ) -> Result<(Line, Client, Option<Path>), Ending> {
        let mut line = Line::connect(&self.part, self.client).await?;
        let of = &self.part.cast.clients[self.client as usize];
        let profile =
            Profile { video: of.takes_video, camera: of.video.is_some(), ..self.part.profile };
        let ticket = self.part.tickets[self.client as usize].clone();
        let browser = of.over_webrtc.then(|| self.browser());
        let carriage = match &browser {
            Some(browser) => Carriage::WebRtc(Box::new(browser.clone())),
            None => Carriage::Udp(self.part.mode),
        };
        let mut client = Client::new(profile, carriage, ticket);
        let mut path = None;
        loop {
            match line.receive().await? {
                Received::Opened | Received::SignOfLife => {}
                Received::Text(text) => client.hear(&text).map_err(Ending::of)?,
                Received::Closed(code, reason) => {
                    return Err(Ending { close_code: Some(code), reason });
                }
            }
            while let Some(step) = client.poll_step() {
                match step {
                    Step::Say(text) => line.wire.say(text),
                    Step::Discover { ssrc, server } => {
                        let (found, answer) = oneshot::channel();
                        self.order(Order::Discover { client: self.client, ssrc, server, found });
                        let address = answer.await.map_err(|_| {
                            Ending::of(format!("no answer to IP discovery from {server}"))
                        })?;
                        client.discovered(address);
                    }
                    Step::Connect(remote) => {
                        let Some(browser) = &browser else { continue };
                        let connected =
                            self.connect(&mut line, &mut client, &browser.credentials, remote);
                        path = Some(connected.await?);
                    }
                    Step::Agreed(agreed) => {
                        self.order(Order::Hear { client: self.client, agreed });
                        let took = due.elapsed();
                        if joined.replace(took).is_none() {
                            self.tell(News::Joined(took));
                        }
                    }
                    Step::Speak => {
                        self.order(Order::Speak { client: self.client });
                        line.write().await?;
                        return Ok((line, client, path));
                    }
                }
            }
            line.write().await?;
        }
    }

    /// What a browser chooses for itself.
    fn browser(&self) -> Browser {
        let credentials = Credentials::generate(random::<{ credentials::RANDOM_BYTES }>());
        let ssrcs = [(); 3].map(|()| Ssrc(u32::from_be_bytes(random())));
        Browser { credentials, fingerprint: *self.part.setup.fingerprint(), ssrcs }
    }

    /// From the answer to where there are keys.
    async fn connect(
        &self,
        line: &mut Line,
        client: &mut Client,
        own: &Credentials,
        remote: Remote,
    ) -> Result<Path, Ending> {
        let (deliver, post) = mpsc::channel(POST_MAX);
        self.order(Order::Deliver { client: self.client, post: deliver });
        let (setup, chance) = (self.part.setup.clone(), u64::from_be_bytes(random()));
        let peer = Peer::begin(setup, own, &remote, chance, std::time::Instant::now());
        let mut path = Path { peer, post, server: remote.address };
        loop {
            self.send(&mut path);
            if let Some(srtp) = path.peer.take_keys() {
                client.connected(srtp);
                return Ok(path);
            }
            tokio::select! {
                gone_on = path.go_on() => gone_on.map_err(Ending::of)?,
                received = line.receive() => self.hear(line, client, received)?,
            }
        }
    }

    /// Has sent what a path has to say.
    fn send(&self, path: &mut Path) {
        while let Some(datagram) = path.peer.poll_output() {
            self.order(Order::Send { client: self.client, server: path.server, datagram });
        }
    }

    async fn remain(
        &mut self,
        mut line: Line,
        mut client: Client,
        mut path: Option<Path>,
        leaves_at_ns: Option<u64>,
    ) -> End {
        let mut acts = self.acts.clone();
        let mut beat_at = self.next_beat(&client);
        loop {
            let act = *acts.borrow_and_update();
            let leaves_at = match act {
                Act::End => {
                    self.order(Order::Leave { client: self.client });
                    line.leave().await;
                    return End::Over;
                }
                Act::Measured(window) => leaves_at_ns.map(|offset| window.from_ns + offset),
                Act::Opening => None,
            };
            let leaves_at = leaves_at.map(|ns| self.part.clock.instant(ns).into());
            let said = tokio::select! {
                received = line.receive() => self.hear(&mut line, &mut client, received),
                () = sleep_until(beat_at) => {
                    beat_at = self.next_beat(&client);
                    client.handle_heartbeat_due().map_err(Ending::of)
                }
                gone_on = go_on(&mut path) => {
                    path.iter_mut().for_each(|path| self.send(path));
                    gone_on.map_err(Ending::of)
                }
                () = until(leaves_at) => {
                    self.tell(News::Left);
                    self.order(Order::Leave { client: self.client });
                    sleep(LEAVE_AFTER).await;
                    line.leave().await;
                    return End::Left;
                }
                changed = acts.changed() => match changed {
                    Ok(()) => Ok(()),
                    // Whoever ran this has gone.
                    Err(_) => return End::Over,
                },
            };
            let said = said.map(|()| {
                while let Some(step) = client.poll_step() {
                    if let Step::Say(text) = step {
                        line.wire.say(text);
                    }
                }
            });
            let written = match said {
                Ok(()) => line.write().await,
                Err(ending) => Err(ending),
            };
            if let Err(ending) = written {
                self.order(Order::Leave { client: self.client });
                return End::Ending(ending);
            }
        }
    }

    fn hear(
        &self,
        line: &mut Line,
        client: &mut Client,
        received: Result<Received, Ending>,
    ) -> Result<(), Ending> {
        match received? {
            Received::Opened | Received::SignOfLife => {}
            Received::Text(text) => client.hear(&text).map_err(Ending::of)?,
            Received::Closed(code, reason) => {
                line.wire.leave();
                return Err(Ending { close_code: Some(code), reason });
            }
        }
        Ok(())
    }

    fn next_beat(&self, client: &Client) -> Instant {
        let interval = self.part.heartbeat.or(client.heartbeat_interval());
        // Hello comes first, so there is one.
        Instant::now() + interval.unwrap_or(JOIN_TIMEOUT)
    }

    /// Whoever is told may have gone.
    fn tell(&self, news: News) {
        let _ = self.news.send((self.client, news));
    }

    fn order(&self, order: Order) {
        let media = &self.part.media;
        media[self.client as usize % media.len()].give(order);
    }

    fn is_over(&self) -> bool {
        *self.acts.borrow() == Act::End || self.acts.has_changed().is_err()
    }

    /// Waits for the measured time; `None` if the run ends before.
    async fn measured(&mut self) -> Option<Window> {
        let act = self.acts.wait_for(|act| *act != Act::Opening).await.ok()?;
        match *act {
            Act::Measured(window) => Some(window),
            Act::Opening | Act::End => None,
        }
    }

    /// Sleeps; `false` if the run ends before.
    async fn sleep_until(&mut self, ns: u64) -> bool {
        let at = self.part.clock.instant(ns).into();
        tokio::select! {
            () = sleep_until(at) => true,
            _ = self.acts.wait_for(|act| *act == Act::End) => false,
        }
    }
}

/// Sleeps until then, or for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Goes on with a browser's path, or waits for ever.
async fn go_on(path: &mut Option<Path>) -> Result<(), PathFault> {
    match path {
        Some(path) => path.go_on().await,
        None => std::future::pending().await,
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    bytes
}
