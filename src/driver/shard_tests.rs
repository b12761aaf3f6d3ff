//! One shard's thread on real sockets, with control and the other shards played by the test: what
//! the driver answers at each of its bounds, and what it counts. No claim is about time.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    num::NonZeroU32,
    time::Instant,
};

use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};
use tungstenite::{Message, WebSocket, client::IntoClientRequest};

use super::*;
use crate::{
    config::ConnectionsPerAddress,
    crypto::Mode,
    driver::queues::{News, Rooms, ShardReport},
    id::{ChannelId, ConnectionId, Serial, ShardId, UserId},
    limits::{HANDSHAKES_MAX, OUTBOX_BYTES_MAX},
    ring::socket::{self, SocketBuffers},
    sfu::{Admission, AdmissionRequest, Command, Event, Kind, Policy, Verdict},
    webrtc::Identity,
};

/// Longest wait for anything that must happen.
const WAIT: Duration = Duration::from_secs(60);

/// Of the kernel's buffers on either side of a connection: little, so that what the server keeps is
/// what counts.
const KERNEL_BYTES: usize = 64 * 1_024;

/// What control's queue holds here.
const CONTROL_QUEUE: usize = 8;

/// Shard 0 of two, the other of which is only a queue.
struct Played {
    gateway: SocketAddr,
    inbox: Sender<ToShard>,
    to_control: Sender<ToControl>,
    control: Receiver<ToControl>,
    elsewhere: Sender<ToShard>,
    elsewhere_inbox: Receiver<ToShard>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Played {
    fn start(change: impl FnOnce(&mut ShardThread)) -> Self {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = TcpListener::bind(local).expect("a port");
        listener.set_nonblocking(true).expect("a socket option");
        let gateway = listener.local_addr().expect("its number");
        // What is accepted inherits them.
        SockRef::from(&listener).set_recv_buffer_size(KERNEL_BYTES).expect("a socket option");
        SockRef::from(&listener).set_send_buffer_size(KERNEL_BYTES).expect("a socket option");
        let (inbox, shard_inbox) = async_channel::bounded(64);
        let (elsewhere, elsewhere_inbox) = async_channel::bounded(1);
        let (to_control, control) = async_channel::bounded(CONTROL_QUEUE);
        let unlimited =
            ConnectionsPerAddress { max: NonZeroU32::new(1).expect("1"), loopback_exempt: true };
        let mut thread = ShardThread {
            config: ShardConfig {
                id: ShardId(0),
                modes: Mode::ALL.to_vec(),
                public_ip: local.ip(),
                public_port: 50_000,
                resume_window: Duration::from_secs(3_600),
                speaking_events: false,
                identity: Identity::generate().expect("a certificate"),
            },
            cpu: None,
            listener,
            socket: socket::open(local, SocketBuffers::default()).expect("a socket"),
            ring: RingConfig { eventfd: false, ..RingConfig::default() },
            busy_poll: false,
            tls: None,
            plaintext: Plaintext::Always,
            page: Arc::new(LinkPage::new("localhost:8443")),
            turnstile: Turnstile::new(unlimited),
            handshakes_max: HANDSHAKES_MAX,
            inbox: shard_inbox,
            to_control: to_control.clone(),
            shards: vec![inbox.clone(), elsewhere.clone()],
        };
        change(&mut thread);
        let (started, starting) = async_channel::bounded(1);
        let thread = Some(thread.start(started).expect("a thread"));
        starting.recv_blocking().expect("an answer").expect("a fit machine");
        Self { gateway, inbox, to_control, control, elsewhere, elsewhere_inbox, thread }
    }

    fn tell(&self, message: ToShard) {
        self.inbox.send_blocking(message).expect("the shard runs");
    }

    fn report(&self) -> ShardReport {
        let (reply, answer) = async_channel::bounded(1);
        self.tell(ToShard::Inspect { rooms: Rooms::None, reply });
        answer.recv_blocking().expect("the shard answers")
    }

    fn limited(&self, limit: &str) -> u64 {
        let report = self.report();
        let found = report.limited.iter().find(|(label, _)| *label == limit);
        found.expect("a limit of this name").1
    }

    /// The next thing control is told.
    fn hear(&self) -> Event {
        let mut heard = None;
        wait_until("control is told something", || {
            heard = self.control.try_recv().ok();
            heard.is_some()
        });
        match heard.expect("waited for").news {
            News::Event(event) => event,
            News::Restarted => panic!("the shard had a defect"),
        }
    }

    /// Who asks to be let in.
    fn asked(&self) -> (ConnectionId, Box<Admission>) {
        let Event::Admission { connection, request: AdmissionRequest::Identify(identify), .. } =
            self.hear()
        else {
            panic!("nobody asks")
        };
        let admission = Admission {
            serial: Serial(identify.user.0),
            kind: Kind::Voice,
            server: identify.server,
            channel: ChannelId(1),
            user: identify.user,
            session: identify.session,
            token: identify.token,
            policy: Policy::default(),
        };
        (connection, Box::new(admission))
    }

    fn decide(&self, connection: ConnectionId, shard: u16, admission: Box<Admission>) {
        let verdict = Verdict::Join { shard: ShardId(shard), admission };
        self.tell(ToShard::Command(Command::Decide { connection, verdict }));
    }

    /// A client in the channel.
    fn joined(&self, user: u64) -> Client {
        let mut client = Client::open(self.gateway);
        client.identify(user);
        let (connection, admission) = self.asked();
        self.decide(connection, 0, admission);
        client.expect(2);
        assert!(matches!(self.hear(), Event::Identified { serial } if serial.0 == user));
        client
    }

    /// Has everyone else in the channel told 4,096 times of a change of this session; gives a
    /// lower bound of the bytes that makes for each of them.
    fn chatter(&self, serial: u64) -> usize {
        for flags in 1..=4_096 {
            let policy = Box::new(Policy { flags, ..Policy::default() });
            self.tell(ToShard::Command(Command::Update { serial: Serial(serial), policy }));
        }
        4_096 * br#"{"op":18,"d":{"user_id":"10","flags":1}}"#.len()
    }

    /// Whether a WebSocket can be opened.
    fn is_open(&self) -> bool {
        Client::try_open(connect(self.gateway)).is_some()
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        let _ = self.inbox.send_blocking(ToShard::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A connection that has said nothing, with small buffers.
fn connect(to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(KERNEL_BYTES).expect("a socket option");
    socket.set_send_buffer_size(KERNEL_BYTES).expect("a socket option");
    socket.connect(&to.into()).expect("the gateway listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(WAIT)).expect("a socket option");
    stream.set_write_timeout(Some(WAIT)).expect("a socket option");
    stream
}

/// Whether the server ends the connection, without a word.
fn is_refused(mut stream: TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !done() {
        assert!(Instant::now() < deadline, "waited {WAIT:?} in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A client whose WebSocket is open.
struct Client(WebSocket<TcpStream>);

impl Client {
    fn try_open(stream: TcpStream) -> Option<Self> {
        let request = "ws://voice.test/?v=8".into_client_request().expect("a request");
        tungstenite::client(request, stream).ok().map(|(socket, _)| Self(socket))
    }

    fn open(gateway: SocketAddr) -> Self {
        Self::try_open(connect(gateway)).expect("an upgrade")
    }

    fn send(&mut self, op: u64, d: Value) {
        let message = json!({ "op": op, "d": d }).to_string();
        self.0.send(Message::text(message)).expect("the gateway reads");
    }

    fn identify(&mut self, user: u64) {
        let user = UserId(user).to_string();
        self.send(0, json!({ "server_id": "1", "user_id": user, "session_id": "s", "token": "t" }));
    }

    fn expect(&mut self, op: u64) -> Value {
        loop {
            let message = self.0.read().expect("the gateway answers");
            let text = message.to_text().expect("text");
            let message: Value = serde_json::from_str(text).expect("JSON");
            if message["op"] == op {
                return message;
            }
        }
    }

    fn close_code(&mut self) -> u16 {
        loop {
            if let Message::Close(frame) = self.0.read().expect("a close frame") {
                return frame.expect("a code").code.into();
            }
        }
    }
}

#[test]
fn half_open_connections_are_bounded_and_open_ones_are_none_of_them() {
    let shard = Played::start(|thread| thread.handshakes_max = 4);
    let mut half_open: Vec<TcpStream> = (0..4).map(|_| connect(shard.gateway)).collect();
    assert!(is_refused(connect(shard.gateway)));
    assert_eq!(shard.limited("handshakes"), 1);

    half_open.pop();
    wait_until("a place is free again", || shard.is_open());
    let refused = shard.limited("handshakes");
    let _open: Vec<Client> = (0..8).map(|_| Client::open(shard.gateway)).collect();
    assert_eq!(shard.limited("handshakes"), refused);
    assert_eq!(shard.report().connections, 8);
}

#[test]
fn who_asks_while_controls_queue_is_full_is_told_to_come_back() {
    let shard = Played::start(|_| {});
    let filler = || ToControl { shard: ShardId(1), news: News::Restarted };
    let fillers = (0..).take_while(|_| shard.to_control.try_send(filler()).is_ok()).count();
    assert_eq!(fillers, CONTROL_QUEUE);
    let mut early = Client::open(shard.gateway);
    early.identify(10);
    assert_eq!(early.close_code(), 4015);
    assert_eq!(shard.limited("queue_full"), 1);

    for _ in 0..fillers {
        shard.control.try_recv().expect("what was put there");
    }
    shard.joined(10);
    assert_eq!(shard.limited("queue_full"), 1);
}

#[test]
fn who_must_move_to_a_shard_whose_queue_is_full_is_told_to_come_back() {
    let shard = Played::start(|_| {});
    shard.elsewhere.try_send(ToShard::Stop).expect("room for one");
    let mut early = Client::open(shard.gateway);
    early.identify(10);
    let (connection, admission) = shard.asked();
    shard.decide(connection, 1, admission);
    assert_eq!(early.close_code(), 4015);
    assert_eq!(shard.limited("queue_full"), 1);
    let told = shard.hear();
    assert!(
        matches!(told, Event::Disconnected { serial: Serial(10), close_code: 1006, .. }),
        "control counts it no more: {told:?}"
    );

    shard.elsewhere_inbox.try_recv().expect("what was put there");
    let mut later = Client::open(shard.gateway);
    later.identify(11);
    let (connection, admission) = shard.asked();
    shard.decide(connection, 1, admission);
    let arrived = shard.elsewhere_inbox.recv_blocking();
    assert!(matches!(arrived, Ok(ToShard::Arrival(_))), "{arrived:?}");
    assert_eq!(shard.limited("queue_full"), 1);
}

#[test]
fn who_does_not_read_is_waited_for_up_to_the_outbox_and_then_cut() {
    let shard = Played::start(|_| {});
    let _talker = shard.joined(10);
    let mut slow = shard.joined(11);
    let mut told = 0;
    wait_until("the slow reader is cut", || {
        told += shard.chatter(10);
        shard.limited("slow_reader") > 0
    });
    assert!(told > OUTBOX_BYTES_MAX / 2, "cut after {told} bytes");
    let report = shard.report();
    assert_eq!((report.connections, report.sessions), (1, 2), "its session may resume");
    let mut rest = Vec::new();
    let ended = slow.0.get_mut().read_to_end(&mut rest);
    assert!(ended.is_ok_and(|read| read < OUTBOX_BYTES_MAX), "what was kept for it is gone");
    assert_eq!(shard.limited("slow_reader"), 1);
}

#[test]
fn who_does_not_read_for_the_time_of_a_write_is_cut_however_little_waits() {
    let shard = Played::start(|_| {});
    let _talker = shard.joined(10);
    let _slow = shard.joined(11);
    // More than the kernel takes, and far less than the outbox.
    let told: usize = (0..4).map(|_| shard.chatter(10)).sum();
    assert!((8 * KERNEL_BYTES..OUTBOX_BYTES_MAX / 2).contains(&told), "{told} bytes");
    wait_until("the slow reader is cut", || shard.limited("slow_reader") == 1);
    wait_until("it is gone", || shard.report().connections == 1);
    assert_eq!(shard.report().sessions, 2, "its session may resume");
}

#[test]
fn who_was_told_to_go_and_does_not_hang_up_is_hung_up_on() {
    let max = NonZeroU32::new(1).expect("1");
    let alone = ConnectionsPerAddress { max, loopback_exempt: false };
    let shard = Played::start(|thread| thread.turnstile = Turnstile::new(alone));
    let mut lingering = Client::open(shard.gateway);
    lingering.send(99, json!(null));
    assert_eq!(lingering.close_code(), 4001);
    wait_until("its place is given to another", || shard.is_open());
    drop(lingering);
}

#[test]
fn who_was_told_to_go_and_talks_on_is_not_listened_to_for_long() {
    let shard = Played::start(|_| {});
    let mut talker = Client::open(shard.gateway);
    talker.send(99, json!(null));
    assert_eq!(talker.close_code(), 4001);
    let stream = talker.0.get_mut();
    let chunk = [0; 4_096];
    let mut sent = 0;
    let ended = loop {
        match stream.write(&chunk) {
            Ok(len) => sent += len,
            Err(error) => break error.kind(),
        }
        // A megabyte is read, and the kernel's buffers are small.
        assert!(sent < 4 * 1_024 * 1_024, "it is still listened to");
    };
    assert!(matches!(ended, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{ended:?}");
}

#[test]
fn a_shard_that_never_sleeps_hears_of_everything_too() {
    let played = Played::start(|thread| thread.busy_poll = true);
    let _clients: Vec<_> = (10..30).map(|user| played.joined(user)).collect();
    assert_eq!(played.report().connections, 20);
    assert_eq!(played.report().sessions, 20);
}
