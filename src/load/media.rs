//! The thread that plays: packets of the agenda leave at their time, sealed; what arrives is opened
//! and tallied. It waits for neither the server nor anybody else. Orders come from the gateway's
//! thread and from the run, reports go to the run.

use std::{
    net::SocketAddr,
    num::NonZeroU64,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender, SyncSender, TryRecvError},
    },
    thread,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    process::setpriority_process,
    thread::{CpuSet, sched_setaffinity, set_current_timer_slack},
};
use tokio::sync::{mpsc::Sender as Post, oneshot};

use super::{
    clock::Clock,
    payload::{Kind, Mark},
    ports::{self, Addressing, Ports},
    result::{Hearing, ReceiveTime},
    schedule::{Agenda, Cast, Departure},
    searches::Searches,
    tally::{Seconds, Stay, Tally, Target, Window},
    voice::{Agreed, Outgoing, Voice},
};
use crate::{
    id::Ssrc,
    ring::{Received, RingError},
    rtp::{Packet, demux, packet::HEADER_BYTES},
};

/// Niceness of the thread: a packet that is due is more urgent than what else runs on its core.
const MEDIA_NICE: i32 = -10;

/// Orders that may wait for the thread. A storm of joins brings a few thousand at once.
const ORDERS_MAX: usize = 65_536;

/// Orders carried out before packets are looked at again.
const ORDERS_PER_TURN: usize = 16;

/// The thread does not sleep when the next packet is due sooner than this: waking up takes about as
/// long.
const SPIN_NS: u64 = 40_000;

/// Longest sleep: how often the account is handed over.
const REPORT_EVERY_NS: u64 = 250_000_000;

/// What the thread is told.
#[derive(Debug)]
pub enum Order {
    /// Find out a client's address.
    Discover {
        /// Whose.
        client: u32,
        /// Its SSRC.
        ssrc: Ssrc,
        /// Whom to ask.
        server: SocketAddr,
        /// Who waits for it.
        found: oneshot::Sender<SocketAddr>,
    },
    /// A browser begins: what comes to it and is no media goes there, and is lost where nobody
    /// takes it away.
    Deliver {
        /// Whose.
        client: u32,
        /// To whom.
        post: Post<Vec<u8>>,
    },
    /// A browser sends something that is no media.
    Send {
        /// Which.
        client: u32,
        /// Where to.
        server: SocketAddr,
        /// What.
        datagram: Vec<u8>,
    },
    /// A client has its key: it hears from now on.
    Hear {
        /// Which.
        client: u32,
        /// Its key and SSRCs.
        agreed: Agreed,
    },
    /// A client may speak from now on.
    Speak {
        /// Which.
        client: u32,
    },
    /// A client is about to leave, or is gone: it speaks no more, and what is due from now on is
    /// not due to it.
    Leave {
        /// Which.
        client: u32,
    },
    /// There is a bare loop.
    Bound(SocketAddr),
    /// This is the time that counts.
    Measure(Window),
    /// Nobody speaks any more.
    Hush,
    /// It is over.
    Finish,
}

/// What the thread tells.
#[derive(Debug)]
pub enum Report {
    /// It runs, on these ports.
    Started(Vec<u16>),
    /// It could not.
    Failed(RingError),
    /// Some of the account.
    Seconds(Seconds),
    /// The rest of it; the last report.
    Finished(Box<Account>),
}

/// What is told at the end.
#[derive(Debug)]
pub struct Account {
    /// When clients were there to hear.
    pub present: Vec<Stay>,
    /// When sources spoke.
    pub speaking: Vec<Stay>,
    /// What its clients heard: with the server, with the bare loop.
    pub hearing: Vec<(u32, [Hearing; 2])>,
    /// The clock of arrivals.
    pub receive_time: ReceiveTime,
}

/// What the thread is given.
#[derive(Debug, Clone)]
pub struct Part {
    /// Everyone.
    pub cast: Arc<Cast>,
    /// Those this thread plays, ascending.
    pub clients: Vec<u32>,
    /// The number in every packet of this run.
    pub run: u32,
    /// How clients are told apart.
    pub addressing: Addressing,
    /// The clock of the run.
    pub clock: Clock,
    /// The core to stay on.
    pub core: Option<usize>,
}

/// The way to a media thread.
#[derive(Debug, Clone)]
pub struct Orders {
    queue: SyncSender<Order>,
    wake: Arc<OwnedFd>,
}

impl Orders {
    /// Gives an order. Waits while the queue is full; an order to a thread that has ended is lost.
    pub fn give(&self, order: Order) {
        let _ = self.queue.send(order);
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// Starts a media thread.
///
/// # Errors
/// The process has no descriptor or no thread left.
pub fn start(part: Part, reports: Sender<Report>) -> std::io::Result<Orders> {
    let (queue, orders) = mpsc::sync_channel(ORDERS_MAX);
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
    let handle = Orders { queue, wake: wake.clone() };
    thread::Builder::new().name("load-media".to_owned()).spawn(move || {
        if let Some(core) = part.core {
            pin(core);
        }
        // Wake when asked, not up to 50 µs later; refused only by odd sandboxes. And before others
        // on this core, which only root may: those without go on as they are.
        let _ = set_current_timer_slack(NonZeroU64::new(1));
        let _ = setpriority_process(None, MEDIA_NICE);
        match Ports::open(part.addressing, part.clients.clone(), part.cast.clients.len()) {
            Ok(ports) => {
                let _ = reports.send(Report::Started(ports.numbers()));
                Player::new(part, ports, orders, reports).play(&wake);
            }
            Err(error) => {
                let _ = reports.send(Report::Failed(error));
            }
        }
    })?;
    Ok(handle)
}

/// Keeps the calling thread on one core, if it may choose.
pub fn pin(core: usize) {
    let mut cores = CpuSet::new();
    if core < CpuSet::MAX_CPU {
        cores.set(core);
        let _ = sched_setaffinity(None, &cores);
    }
}

struct Player {
    part: Part,
    ports: Ports,
    orders: Receiver<Order>,
    reports: Sender<Report>,
    bound: Option<SocketAddr>,
    agenda: Agenda,
    tally: Tally,
    voices: Vec<Option<Voice>>,
    /// Where what is no media goes, of browsers.
    posts: Vec<Option<Post<Vec<u8>>>>,
    searches: Searches,
    present: Vec<Stay>,
    speaking: Vec<Stay>,
    /// Since when each source speaks.
    since: Vec<Option<u64>>,
    /// Times at which the packets now in the ports were due.
    departing: Vec<u64>,
    realtime_start_ns: u64,
    stamped: bool,
    unstamped: bool,
    over: bool,
}

impl Player {
    fn new(part: Part, ports: Ports, orders: Receiver<Order>, reports: Sender<Report>) -> Self {
        let (clients, sources) = (part.cast.clients.len(), part.cast.sources.len());
        Self {
            bound: None,
            agenda: Agenda::new(sources),
            tally: Tally::new(&part.cast, part.run),
            voices: (0..clients).map(|_| None).collect(),
            posts: vec![None; clients],
            searches: Searches::default(),
            present: Vec::new(),
            speaking: Vec::new(),
            since: vec![None; sources],
            departing: Vec::new(),
            realtime_start_ns: part.clock.realtime_start_ns(),
            stamped: false,
            unstamped: false,
            over: false,
            part,
            ports,
            orders,
            reports,
        }
    }

    fn play(mut self, wake: &OwnedFd) {
        let mut report_at_ns = 0;
        while !self.over {
            self.obey();
            let now_ns = self.part.clock.now_ns();
            self.depart(now_ns);
            self.search(now_ns);
            let drained = self.arrive();
            if now_ns >= report_at_ns {
                report_at_ns = now_ns + REPORT_EVERY_NS;
                let seconds = self.tally.take_seconds();
                if self.reports.send(Report::Seconds(seconds)).is_err() {
                    return;
                }
            }
            if drained {
                self.rest(wake, report_at_ns);
            }
        }
        self.finish();
    }

    /// Waits until something arrives, is ordered or is nearly due.
    fn rest(&mut self, wake: &OwnedFd, latest_ns: u64) {
        let due_ns = self.agenda.next_due_ns().unwrap_or(u64::MAX);
        let until_ns = due_ns.saturating_sub(SPIN_NS).min(latest_ns);
        let Some(ns) = until_ns.checked_sub(self.part.clock.now_ns()).filter(|ns| *ns > 0) else {
            return;
        };
        let wait = Timespec::try_from(Duration::from_nanos(ns)).ok();
        let fds: Vec<BorrowedFd<'_>> = self.ports.eventfds().chain([wake.as_fd()]).collect();
        let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        // A signal is as good a reason to look around as any.
        if poll(&mut polled, wait.as_ref()).is_err() {
            return;
        }
        for (fd, polled) in fds.iter().zip(&polled) {
            if polled.revents().contains(PollFlags::IN) {
                let _ = ports::reset(*fd);
            }
        }
    }

    fn obey(&mut self) {
        for _ in 0..ORDERS_PER_TURN {
            let order = match self.orders.try_recv() {
                Ok(order) => order,
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => Order::Finish,
            };
            let now_ns = self.part.clock.now_ns();
            match order {
                Order::Discover { client, ssrc, server, found } => {
                    self.begin(client);
                    self.searches.begin(client, ssrc, server, found);
                }
                Order::Deliver { client, post } => {
                    self.begin(client);
                    self.posts[client as usize] = Some(post);
                }
                Order::Send { client, server, datagram } => self.send(client, server, &datagram),
                Order::Hear { client, agreed } => self.hear_from_now(client, agreed, now_ns),
                Order::Speak { client } => self.speak_from_now(client, now_ns),
                Order::Leave { client } => {
                    // What was due before is due to those who stay.
                    self.depart(now_ns);
                    self.leave(client, now_ns);
                }
                Order::Bound(address) => self.bound = Some(address),
                Order::Measure(window) => self.tally.measure(window),
                Order::Hush => {
                    for client in self.part.clients.clone() {
                        self.hush(client, now_ns);
                    }
                }
                Order::Finish => {
                    self.over = true;
                    return;
                }
            }
        }
    }

    /// A client comes, perhaps again: what comes to it before it has its new key, which the server
    /// may already use, is not what the old one opens.
    fn begin(&mut self, client: u32) {
        self.voices[client as usize] = None;
    }

    fn hear_from_now(&mut self, client: u32, agreed: Agreed, now_ns: u64) {
        self.voices[client as usize] = Some(Voice::new(agreed));
        self.leave_stay(client, now_ns);
        self.tally.arrive(&self.part.cast, client, now_ns);
    }

    fn speak_from_now(&mut self, client: u32, now_ns: u64) {
        let cast = self.part.cast.clone();
        let of = &cast.clients[client as usize];
        for source in [of.audio, of.video].into_iter().flatten() {
            self.agenda.start(source, &cast.sources[source as usize].pace, now_ns);
            self.since[source as usize].get_or_insert(now_ns);
        }
    }

    fn hush(&mut self, client: u32, now_ns: u64) {
        let of = &self.part.cast.clients[client as usize];
        for source in [of.audio, of.video].into_iter().flatten() {
            self.agenda.stop(source);
            if let Some(from_ns) = self.since[source as usize].take() {
                self.speaking.push(Stay { who: source, from_ns, to_ns: now_ns });
            }
        }
    }

    fn leave(&mut self, client: u32, now_ns: u64) {
        self.hush(client, now_ns);
        self.leave_stay(client, now_ns);
        self.posts[client as usize] = None;
    }

    fn leave_stay(&mut self, client: u32, now_ns: u64) {
        self.present.extend(self.tally.leave(client, now_ns));
    }

    /// Sends what is due.
    fn depart(&mut self, now_ns: u64) {
        while let Some(departure) = self.agenda.pop_due(&self.part.cast.sources, now_ns) {
            if !self.pack(&departure) {
                self.flush();
                if !self.pack(&departure) {
                    continue;
                }
            }
            self.departing.push(departure.due_ns);
        }
        self.flush();
    }

    /// Puts a packet into its port; `false` if there is no room.
    fn pack(&mut self, departure: &Departure) -> bool {
        let Departure { source: index, number, due_ns } = *departure;
        let source = &self.part.cast.sources[index as usize];
        let Some(voice) = &mut self.voices[source.client as usize] else { return true };
        let Some(ssrc) = voice.ssrc(source.kind) else { return true };
        let payload_bytes = source.pace.payload_bytes(number);
        let len = voice.sealed_bytes(payload_bytes);
        let target = self.tally.window().map_or(Target::Server, |window| window.target_at(due_ns));
        let to = match (target, self.bound) {
            (Target::Bound, Some(bound)) => bound,
            _ => voice.server,
        };
        let Some(mut slot) = self.ports.slot(source.client, to, len) else { return false };
        let mark = Mark {
            kind: source.kind,
            run: self.part.run,
            channel: source.channel,
            source: index,
            number,
            intended_ns: due_ns,
        };
        let packet = Outgoing {
            mark,
            marker: source.kind == Kind::Video && source.pace.is_last(number),
            timestamp: source.pace.timestamp(number),
            payload_bytes,
        };
        voice.write(&packet, ssrc, slot.bytes());
        if target == Target::Server {
            voice.seal(&packet, slot.bytes());
        }
        slot.commit(len);
        true
    }

    fn flush(&mut self) {
        let sent = self.ports.flush();
        if self.departing.is_empty() {
            return;
        }
        let left_ns = self.part.clock.now_ns();
        for due_ns in &self.departing {
            self.tally.sent(*due_ns, left_ns);
        }
        let refused = sent.socket_full + sent.failed;
        if refused > 0 {
            self.tally.refused(self.departing[0], refused);
        }
        self.departing.clear();
    }

    /// Sends a browser's check or a part of its handshake. There is always room: each goes by
    /// itself, which is rare enough.
    fn send(&mut self, client: u32, server: SocketAddr, datagram: &[u8]) {
        if let Some(mut slot) = self.ports.slot(client, server, datagram.len()) {
            slot.bytes().copy_from_slice(datagram);
            slot.commit(datagram.len());
        }
        self.flush();
    }

    /// Asks for addresses, again if need be.
    fn search(&mut self, now_ns: u64) {
        let Self { searches, ports, .. } = self;
        searches.ask(now_ns, |client, server, request| {
            // No room: the next turn has some.
            let Some(mut slot) = ports.slot(client, server, request.len()) else { return false };
            slot.bytes().copy_from_slice(request);
            slot.commit(request.len());
            true
        });
        self.flush();
    }

    /// Takes what has arrived; whether that was all.
    fn arrive(&mut self) -> bool {
        let turn_ns = self.part.clock.now_ns();
        let Self { ports, part, tally, voices, posts, searches, bound, .. } = self;
        let (mut stamped, mut unstamped) = (self.stamped, self.unstamped);
        let realtime_start_ns = self.realtime_start_ns;
        let drained = ports.receive(|client, received| {
            let at_ns = match received.received_at_ns {
                Some(wall_ns) => {
                    stamped = true;
                    wall_ns.saturating_sub(realtime_start_ns)
                }
                None => {
                    unstamped = true;
                    turn_ns
                }
            };
            if client as usize >= voices.len() {
                return;
            }
            if searches.answered(client, received.bytes) {
                return;
            }
            let voice = voices[client as usize].as_mut();
            let from_bound = *bound == Some(received.path.remote);
            let is_browser = part.cast.clients[client as usize].over_webrtc;
            match (demux::classify(received.bytes), is_browser) {
                (demux::Kind::Stun | demux::Kind::Dtls, true) => {
                    // One that does not keep up loses it, as from a socket that is full; so does
                    // one that has just left.
                    if let Some(post) = &posts[client as usize] {
                        let _ = post.try_send(received.bytes.to_vec());
                    }
                    return;
                }
                (demux::Kind::Rtcp, _) => return,
                _ if received.bytes.len() < HEADER_BYTES => return,
                _ => {}
            }
            hear(part, tally, client, voice, from_bound, received, at_ns);
        });
        (self.stamped, self.unstamped) = (stamped, unstamped);
        drained
    }

    fn finish(mut self) {
        let now_ns = self.part.clock.now_ns();
        for client in self.part.clients.clone() {
            self.leave(client, now_ns);
        }
        let hearing = self.part.clients.iter().map(|&client| (client, self.tally.hearing(client)));
        let receive_time = if self.stamped && !self.unstamped {
            let drift = self.part.clock.realtime_start_ns() as i64 - self.realtime_start_ns as i64;
            ReceiveTime::Kernel { drift_ns: drift }
        } else {
            ReceiveTime::Turn
        };
        let account = Account {
            hearing: hearing.collect(),
            present: self.present,
            speaking: self.speaking,
            receive_time,
        };
        // Whoever is told may have given up.
        let _ = self.reports.send(Report::Seconds(self.tally.take_seconds()));
        let _ = self.reports.send(Report::Finished(Box::new(account)));
    }
}

/// Opens a datagram and tells the tally what it is.
fn hear(
    part: &Part,
    tally: &mut Tally,
    client: u32,
    voice: Option<&mut Voice>,
    from_bound: bool,
    received: Received<'_>,
    at_ns: u64,
) {
    // Nobody's yet: it came before the key did.
    let Some(voice) = voice else { return };
    // The bare loop sends what it got, which was not sealed.
    let plain = if from_bound {
        &*received.bytes
    } else {
        match voice.open(received.bytes) {
            Some(range) => &received.bytes[range],
            None => return tally.undecryptable(client, at_ns),
        }
    };
    let payload = Packet::new(plain).and_then(|packet| packet.payload());
    match payload.and_then(Mark::parse) {
        Some(mark) => tally.hear(&part.cast, client, &mark, at_ns),
        None => tally.foreign(client, at_ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::scenario::Scenario;

    #[test]
    fn what_was_due_before_a_speaker_leaves_is_sent() {
        let cast = Arc::new(Cast::new(&Scenario::simple(1, 1).unwrap()));
        let (addressing, clock) = (Addressing::Loopback, Clock::start());
        let ports = Ports::open(addressing, vec![0, 1], 2).unwrap();
        let part = Part { cast, clients: vec![0, 1], run: 1, addressing, clock, core: None };
        let (give, orders) = mpsc::sync_channel(1);
        let mut player = Player::new(part, ports, orders, mpsc::channel().0);
        player.tally.measure(Window { from_ns: 0, seconds: 600, slice_s: None });
        player.speak_from_now(0, 0);
        thread::sleep(Duration::from_millis(50));
        give.send(Order::Leave { client: 0 }).unwrap();
        player.obey();
        let Stay { who, from_ns, to_ns } = player.speaking[0];
        let due = player.part.cast.sources[who as usize].pace.count_between(from_ns, to_ns);
        let sent: u64 = player.tally.take_seconds().values().map(|it| it.sending.sent).sum();
        assert!(due >= 2 && sent == due, "{sent} of {due}");
    }
}
