//! Black box over the control plane: a real listener on loopback, shards played by a thread that
//! answers questions and keeps commands. Each endpoint, each error, the event stream, webhooks,
//! hostile bodies, and the `grant` command.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::{Command as Process, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use async_channel::{Receiver, Sender};
use serde_json::{Value, json};
use stentor::{
    config::{Config, ControlAccess, Flags, Secret, Webhook},
    control::ControlThread,
    driver::queues::{ControlQueues, News, Rooms, ShardReport, ToControl, ToShard},
    grant::{self, GrantError, GrantRequest},
    id::{ChannelId, ConnectionId, Serial, ServerId, SessionId, ShardId, Ssrc, Token, UserId},
    metrics::{Counters, Latency},
    sfu::{
        AdmissionRequest, Command, DisconnectReason, Event, Kind, RoomReport, SessionReport,
        Verdict,
    },
    signalling::Identify,
};

const SECRET: &str = "0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(10);

/// A control thread with two fake shards.
struct Node {
    control: Option<ControlThread>,
    address: SocketAddr,
    events: Sender<ToControl>,
    commands: mpsc::Receiver<(u16, Command)>,
    rooms: Arc<Mutex<Vec<RoomReport>>>,
    /// While set, shards take nothing from their queues.
    stuck: Arc<AtomicBool>,
    _state: tempfile::TempDir,
}

impl Node {
    fn start() -> Self {
        Self::start_with(1_024, |_| {})
    }

    fn start_with(queue_max: usize, change: impl FnOnce(&mut Config)) -> Self {
        let state = tempfile::tempdir().unwrap();
        let flags = [
            ("state_dir", state.path().to_str().unwrap()),
            ("control.secret", SECRET),
            ("gateway.public_endpoint", "voice1.example.org:443"),
        ];
        let mut config = Config::inspect(&Flags::of(None, &flags)).unwrap();
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (event_sender, events) = async_channel::bounded(1_024);
        let (command_sender, commands) = mpsc::channel();
        let rooms = Arc::new(Mutex::new(Vec::new()));
        let stuck = Arc::new(AtomicBool::new(false));
        let shards = (0..2).map(|index| {
            let (queue, receiver) = async_channel::bounded(queue_max);
            let shard = FakeShard {
                index,
                queue: receiver,
                commands: command_sender.clone(),
                rooms: rooms.clone(),
                stuck: stuck.clone(),
            };
            thread::spawn(move || shard.run());
            queue
        });
        let queues = ControlQueues { shards: shards.collect(), events };
        let control = ControlThread::start(Arc::new(config), queues, listener).unwrap();
        let address = control.address();
        let control = Some(control);
        Self { control, address, events: event_sender, commands, rooms, stuck, _state: state }
    }

    fn access(&self) -> ControlAccess {
        ControlAccess { address: self.address, secret: Secret::new(SECRET) }
    }

    fn call(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let authorization = format!("Authorization: Bearer {SECRET}\r\n");
        self.call_with(method, path, &authorization, body.map(|body| body.to_string()))
    }

    fn call_with(&self, method: &str, path: &str, headers: &str, body: Option<String>) -> Answer {
        let body = match body {
            Some(body) => format!("Content-Length: {}\r\n\r\n{body}", body.len()),
            None => "\r\n".to_owned(),
        };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}");
        self.send(format!("{head}{body}").as_bytes())
    }

    fn send(&self, bytes: &[u8]) -> Answer {
        let mut socket = self.connect();
        // A server that has heard enough may answer and close before all is sent.
        let _ = socket.write_all(bytes);
        Answer::read(socket)
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn tell(&self, shard: u16, event: Event) {
        let news = ToControl { shard: ShardId(shard), news: News::Event(event) };
        self.events.send_blocking(news).unwrap();
    }

    /// The next command and the shard it went to.
    fn command(&self) -> (u16, Command) {
        self.commands.recv_timeout(PATIENCE).expect("a command is due")
    }

    /// Grants, identifies and arrives.
    fn join(&self, user: u64, channel: u64) -> (u16, Serial) {
        let put =
            self.call("PUT", &format!("/v1/grants/1/{user}"), Some(grant_body(user, channel)));
        assert!(put.status == 201 || put.status == 200, "{put:?}");
        self.tell(0, admission(user));
        let (_, command) = self.command();
        let Command::Decide { verdict: Verdict::Join { shard, admission }, .. } = command else {
            panic!("{command:?}");
        };
        self.tell(shard.0, Event::Identified { serial: admission.serial });
        (shard.0, admission.serial)
    }

    fn leave(&self, serial: Serial) {
        let reason = DisconnectReason::ClientLeft;
        self.tell(0, Event::Disconnected { serial, reason, close_code: 1000 });
    }

    fn follow(&self, headers: &str) -> EventStream {
        let mut socket = self.connect();
        let head = "GET /v1/events HTTP/1.1\r\nHost: x\r\n";
        write!(socket, "{head}Authorization: Bearer {SECRET}\r\n{headers}\r\n").unwrap();
        let mut lines = BufReader::new(socket);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        while line != "\r\n" {
            line.clear();
            lines.read_line(&mut line).unwrap();
        }
        EventStream { status, lines }
    }
}

struct FakeShard {
    index: u16,
    queue: Receiver<ToShard>,
    commands: mpsc::Sender<(u16, Command)>,
    rooms: Arc<Mutex<Vec<RoomReport>>>,
    stuck: Arc<AtomicBool>,
}

impl FakeShard {
    /// Until control has gone.
    fn run(self) {
        loop {
            if self.stuck.load(Ordering::Relaxed) && !self.queue.is_closed() {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            match self.queue.recv_blocking() {
                Ok(ToShard::Command(command)) => {
                    let _ = self.commands.send((self.index, command));
                }
                Ok(ToShard::Inspect { rooms, reply }) => {
                    let _ = reply.try_send(self.report(rooms));
                }
                Ok(ToShard::Arrival(_)) => panic!("not from control"),
                Ok(ToShard::Stop) | Err(_) => return,
            }
        }
    }

    fn report(&self, wanted: Rooms) -> ShardReport {
        let all = self.rooms.lock().unwrap();
        let wanted = |room: &&RoomReport| match wanted {
            Rooms::None => false,
            Rooms::One(channel) => room.room_id == channel,
            Rooms::All => true,
        };
        ShardReport {
            shard: ShardId(self.index),
            port: 50_000 + self.index,
            counters: Counters { packets_in: 42, ..Counters::default() },
            sessions: 1,
            channels: 1,
            connections: 1,
            limited: vec![("handshake", 0)],
            closes: Vec::new(),
            restarts: 0,
            loop_time: Latency::default(),
            forwarding: Latency::default(),
            rooms: all.iter().filter(|_| self.index == 0).filter(wanted).cloned().collect(),
        }
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn read(mut socket: TcpStream) -> Self {
        let mut bytes = Vec::new();
        // A reset after the answer loses nothing of it.
        let _ = socket.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Self { status: status.unwrap_or(0), head: head.to_lowercase(), body: body.to_owned() }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Status and error code, after checking the shape of errors.
    fn error(&self) -> (u16, String) {
        let json = self.json();
        assert!(json["error"]["message"].is_string(), "{json}");
        assert_eq!(json.as_object().unwrap().len(), 1);
        (self.status, json["error"]["code"].as_str().unwrap().to_owned())
    }
}

struct EventStream {
    status: u16,
    lines: BufReader<TcpStream>,
}

#[derive(Debug)]
struct StreamedEvent {
    id: Option<u64>,
    name: Option<String>,
    data: Value,
}

impl EventStream {
    /// The next event; `None` at the end of the stream.
    fn next(&mut self) -> Option<StreamedEvent> {
        let mut event = StreamedEvent { id: None, name: None, data: Value::Null };
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // Lines of the chunked encoding fit none of these.
            match line.trim_end().split_once(": ") {
                Some(("id", id)) => event.id = Some(id.parse().unwrap()),
                Some(("event", name)) => event.name = Some(name.to_owned()),
                Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                _ if !event.data.is_null() => return Some(event),
                _ => {}
            }
        }
    }

    fn types(&mut self, count: usize) -> Vec<String> {
        let mut next = || self.next().expect("the stream goes on").data["type"].clone();
        (0..count).map(|_| next().as_str().unwrap().to_owned()).collect()
    }
}

fn grant_body(user: u64, channel: u64) -> Value {
    json!({
        "channel_id": channel.to_string(),
        "session_id": format!("session{user}"),
        "token": format!("token{user}"),
    })
}

fn admission(user: u64) -> Event {
    let identify = Identify {
        server: ServerId(1),
        channel: None,
        user: UserId(user),
        session: SessionId(format!("session{user}").into()),
        token: Token::new(format!("token{user}")),
        video: false,
        streams: Vec::new(),
        dave_max: 0,
    };
    Event::Admission {
        connection: ConnectionId(user),
        address: IpAddr::from([10, 0, 0, user as u8]),
        request: AdmissionRequest::Identify(identify),
    }
}

fn room_report(room: u64, user: u64) -> RoomReport {
    RoomReport {
        room_id: ChannelId(room),
        kind: Kind::Voice,
        dave_version: 1,
        epoch: 3,
        sessions: vec![SessionReport {
            user_id: UserId(user),
            server_id: ServerId(1),
            state: "ready",
            transport: Some("udp"),
            mode: Some("aead_aes256_gcm_rtpsize"),
            gateway_version: 8,
            dave_max: 1,
            audio_ssrc: Ssrc(51_234),
            video: false,
            connected_at: String::new(),
            rtt_ms: None,
        }],
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_grant_is_given_changed_and_taken_away() {
    let node = Node::start();
    let path = "/v1/grants/1/7";
    let put = node.call("PUT", path, Some(grant_body(7, 50)));
    assert_eq!(put.status, 201);
    assert_eq!(
        put.json(),
        json!({"endpoint": "voice1.example.org:443", "region": "default", "replaced": false})
    );
    let again = node.call("PUT", path, Some(grant_body(7, 50)));
    assert_eq!((again.status, &again.json()["replaced"]), (200, &json!(true)));

    let (shard, serial) = node.join(7, 50);
    let muted = json!({"state": {"mute": true}});
    assert_eq!(node.call("PATCH", path, Some(muted)).status, 204);
    match node.command() {
        (at, Command::Update { serial: which, policy }) => {
            assert_eq!((at, which), (shard, serial));
            assert!(policy.state.mute && policy.permissions.speak);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(node.call("DELETE", &format!("{path}?close=4022"), None).status, 204);
    match node.command() {
        (_, Command::Close { serial: which, code, reason }) => {
            assert_eq!((which, code.code()), (serial, 4022));
            assert_eq!(reason, DisconnectReason::Kicked);
        }
        other => panic!("{other:?}"),
    }
    node.leave(serial);
    eventually("the grant is gone", || node.call("DELETE", path, None).status == 404);
    assert_eq!(node.call("PATCH", path, Some(json!({}))).status, 404);
}

#[test]
fn rooms_are_listed_shown_closed_and_migrated() {
    let node = Node::start();
    assert_eq!(node.call("GET", "/v1/rooms", None).json(), json!({"rooms": []}));
    assert_eq!(node.call("GET", "/v1/rooms/50", None).error().0, 404);

    node.join(7, 50);
    node.rooms.lock().unwrap().push(room_report(50, 7));
    let show = || node.call("GET", "/v1/rooms/50", None).json();
    eventually("the session has arrived", || show()["sessions"][0]["connected_at"] != "");
    let room = show();
    assert_eq!((&room["room_id"], &room["kind"]), (&json!("50"), &json!("voice")));
    let session = &room["sessions"][0];
    assert_eq!(session["user_id"], "7");
    assert!(session["connected_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(node.call("GET", "/v1/rooms", None).json(), json!({"rooms": [room]}));

    let closed = |node: &Node| match node.command() {
        (_, Command::CloseChannel { channel, code, reason }) => (channel.0, code.code(), reason),
        other => panic!("{other:?}"),
    };
    let migrate = |body| node.call("POST", "/v1/rooms/50/migrate", body).status;
    assert_eq!(migrate(None), 204);
    assert!(matches!(node.command(), (_, Command::Reconnect { channel: ChannelId(50) })));
    assert_eq!(migrate(Some(json!({"close": 4014}))), 204);
    assert_eq!(closed(&node), (50, 4014, DisconnectReason::Shutdown));
    for wrong in [json!({"close": 1}), json!({"close": "x"}), json!([4015])] {
        assert_eq!(migrate(Some(wrong)), 400);
    }
    assert_eq!(node.call("POST", "/v1/rooms/51/migrate", None).status, 404);

    assert_eq!(node.call("DELETE", "/v1/rooms/50", None).status, 204);
    assert_eq!(closed(&node), (50, 4022, DisconnectReason::RoomClosed));
    assert_eq!(node.call("DELETE", "/v1/rooms/51", None).error().0, 404);
    assert_eq!(node.call("PATCH", "/v1/grants/1/7", Some(json!({}))).status, 204, "still leaving");
}

#[test]
fn a_shard_that_does_not_answer_is_an_error_and_not_a_wait() {
    let node = Node::start();
    node.join(7, 50);
    node.stuck.store(true, Ordering::Relaxed);
    thread::sleep(Duration::from_millis(20));
    // Each fake shard takes one more message before it sees that it is stuck.
    node.call("GET", "/v1/rooms", None);
    for path in ["/v1/rooms", "/v1/rooms/50"] {
        let answer = node.call("GET", path, None);
        assert_eq!(answer.error(), (503, "shard_unresponsive".to_owned()));
    }
    let page = node.call_with("GET", "/metrics", "", None);
    assert!(page.body.contains("stentor_shard_up{shard=\"0\"} 0"), "{}", page.body);
    node.stuck.store(false, Ordering::Relaxed);
}

#[test]
fn the_secret_is_needed_everywhere_but_for_health() {
    let node = Node::start();
    let wrong = [
        "",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Bearer 0123456789abcdeX\r\n",
        "Authorization: Bearer 0123456789abcdef0\r\n",
        "Authorization: Basic 0123456789abcdef\r\n",
        "Authorization: \u{e9}\r\n",
        "X-Authorization: Bearer 0123456789abcdef\r\n",
    ];
    for headers in wrong {
        for (method, path) in [
            ("PUT", "/v1/grants/1/7"),
            ("DELETE", "/v1/rooms/50"),
            ("GET", "/v1/events"),
            ("GET", "/v1/healthz"),
            ("GET", "/v1/nothing"),
        ] {
            let answer = node.call_with(method, path, headers, None);
            assert_eq!(answer.error(), (401, "unauthorized".to_owned()), "{headers:?} {path}");
            assert!(answer.head.contains("www-authenticate: bearer"));
        }
    }
    let lower = format!("authorization: bearer {SECRET}\r\n");
    assert_eq!(node.call_with("GET", "/v1/healthz", &lower, None).status, 200);
    assert_eq!(node.call_with("GET", "/healthz", "", None).json(), json!({"status": "ok"}));
    assert_eq!(node.call_with("GET", "/metrics", "", None).status, 200);

    let public = Node::start_with(1_024, |config| {
        config.control.listen = "0.0.0.0:8080".parse().unwrap();
    });
    assert_eq!(public.call_with("GET", "/metrics", "", None).error().0, 401);
    assert_eq!(public.call("GET", "/metrics", None).status, 200);
    assert_eq!(public.call_with("GET", "/healthz", "", None).status, 200);
}

#[test]
fn every_mistake_has_its_status_and_code() {
    let node = Node::start();
    let check = |method, path: &str, body, status: u16, code: &str| {
        let answer = node.call(method, path, body);
        assert_eq!(answer.error(), (status, code.to_owned()), "{method} {path}");
    };
    let body = || Some(grant_body(7, 50));
    for path in [
        "/v1/grants/x/7",
        "/v1/grants/1/-7",
        "/v1/grants/1/99999999999999999999",
        "/v1/grants/%ff/7",
    ] {
        check("PUT", path, body(), 400, "invalid");
    }
    check("PUT", "/v1/grants/1/7", Some(json!({"channel_id": "50"})), 400, "invalid");
    check("PUT", "/v1/grants/1/7", Some(json!([1])), 400, "invalid");
    check("PATCH", "/v1/grants/1/7", Some(json!({"mute": true})), 400, "invalid");
    for close in ["x", "1", "70000", "-4014"] {
        check("DELETE", &format!("/v1/grants/1/7?close={close}"), None, 400, "invalid");
    }
    check("GET", "/v1/rooms/x", None, 400, "invalid");
    check("GET", "/v1/rooms/50", None, 404, "not_found");
    check("GET", "/v1/grants", None, 404, "not_found");
    check("GET", "/nothing", None, 404, "not_found");
    check("GET", "/v1/grants/1/7", None, 405, "method_not_allowed");
    check("POST", "/v1/rooms", None, 405, "method_not_allowed");
    check("POST", "/healthz", None, 405, "method_not_allowed");
    check("POST", "/metrics", None, 405, "method_not_allowed");

    node.join(7, 1);
    let mut stream = grant_body(8, 50);
    stream["kind"] = json!("stream");
    stream["stream"] = json!({"stream_key": "guild:1:2:3", "owner_id": "3"});
    check("PUT", "/v1/grants/1/8", Some(stream), 409, "kind_conflict");

    let authorization = format!("Authorization: Bearer {SECRET}\r\n");
    let typed = |kind: &str, body: &str| {
        let headers = format!("{authorization}{kind}");
        node.call_with("PUT", "/v1/grants/1/7", &headers, Some(body.to_owned()))
    };
    let text = grant_body(7, 1).to_string();
    let answer = typed("Content-Type: text/plain\r\n", &text);
    assert_eq!(answer.error(), (415, "unsupported_media_type".to_owned()));
    assert_eq!(typed("Content-Type: Application/JSON; charset=utf-8\r\n", &text).status, 200);
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(64 * 1_024));
    assert_eq!(typed("", &large).error(), (413, "too_large".to_owned()));
}

#[test]
fn hostile_bodies_and_broken_requests_leave_the_api_standing() {
    let node = Node::start();
    let head =
        format!("PUT /v1/grants/1/7 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n");
    let with_body = |body: &[u8]| {
        let head = format!("{head}Connection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        node.send(&[head.as_bytes(), body].concat())
    };
    let deep = "{\"a\":".repeat(12_000);
    let bodies: [&[u8]; 8] = [
        b"",
        b"{",
        b"nul",
        b"\xff\xfe\x00",
        deep.as_bytes(),
        b"{\"channel_id\": 1e400}",
        b"{} {}",
        b"{\"a\":\"\\ud800\"}",
    ];
    for body in bodies {
        let (status, code) = with_body(body).error();
        assert_eq!((status, code.as_str()), (400, "malformed_json"), "{:?}", body.get(..20));
    }

    let chunked = format!("{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let endless = format!("{chunked}{}", chunk.repeat(4));
    assert_eq!(node.send(endless.as_bytes()).status, 413);
    let announced = format!("{head}Content-Length: 99999999999\r\nConnection: close\r\n\r\n");
    assert_eq!(node.send(announced.as_bytes()).status, 413);

    let noise: Vec<u8> = (0..4_096_u32).map(|index| (index * 7 + index / 13) as u8).collect();
    assert!(matches!(node.send(&noise).status, 0 | 400));
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(1_000_000));
    assert!(matches!(node.send(long.as_bytes()).status, 0 | 404 | 414 | 431));
    let silent: Vec<TcpStream> = (0..50).map(|_| node.connect()).collect();
    assert_eq!(node.call("GET", "/v1/healthz", None).status, 200);
    drop(silent);
}

#[test]
fn the_event_stream_tells_what_happens_and_resumes_where_it_was_left() {
    let node = Node::start();
    let mut stream = node.follow("");
    assert_eq!(stream.status, 200);
    let (_, serial) = node.join(7, 50);
    let opened = stream.next().unwrap();
    assert_eq!(opened.data["type"], "room.opened");
    assert_eq!(opened.id, opened.data["seq"].as_u64());
    let identified = stream.next().unwrap();
    assert_eq!(identified.id, opened.id.map(|id| id + 1));
    assert_eq!(
        (&identified.data["user_id"], &identified.data["kind"]),
        (&json!("7"), &json!("voice"))
    );
    assert_eq!(identified.data["session_id"], "session7");
    drop(stream);

    node.tell(0, Event::Connected { serial, transport: "webrtc" });
    node.tell(0, Event::Video { serial, active: true });
    node.leave(serial);
    let seen = identified.id.unwrap();
    let mut stream = node.follow(&format!("Last-Event-ID: {seen}\r\n"));
    let connected = stream.next().unwrap();
    assert_eq!((connected.id, &connected.data["transport"]), (Some(seen + 1), &json!("webrtc")));
    assert_eq!(stream.types(3), ["video", "session.disconnected", "room.empty"]);

    for (id, note) in [("3", "long gone"), ("99999999999999999", "of another time")] {
        let mut stream = node.follow(&format!("Last-Event-ID: {id}\r\n"));
        let lagged = stream.next().unwrap();
        assert_eq!((lagged.id, lagged.name.as_deref()), (None, Some("lagged")), "{note}");
        assert_eq!(lagged.data["resume_at"], json!(opened.id));
        assert_eq!(stream.next().unwrap().id, opened.id, "{note}");
    }
    let answer = node.call_with(
        "GET",
        "/v1/events",
        &format!("Authorization: Bearer {SECRET}\r\nLast-Event-ID: x\r\n"),
        None,
    );
    assert_eq!(answer.error(), (400, "invalid".to_owned()));
}

#[test]
fn followers_are_counted_and_limited() {
    let node = Node::start();
    let mut streams: Vec<EventStream> = (0..64).map(|_| node.follow("")).collect();
    assert!(streams.iter().all(|stream| stream.status == 200));
    let answer = node.call("GET", "/v1/events", None);
    assert_eq!(answer.error(), (429, "too_many_followers".to_owned()));
    drop(streams.pop());
    // The place is free when the server has noticed.
    node.join(7, 50);
    eventually("a follower's place is free", || node.follow("").status == 200);
}

/// A webhook receiver that answers with the given statuses, then always 204.
fn receiver(statuses: &'static [u16]) -> (String, mpsc::Receiver<Answer>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook?x=1", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::channel();
    thread::spawn(move || {
        let mut statuses = statuses.iter().copied();
        for socket in listener.incoming() {
            let mut lines = BufReader::new(socket.unwrap());
            loop {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if lines.read_line(&mut head).unwrap_or(0) == 0 {
                        break;
                    }
                }
                let Some(length) = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .map(|length| length.parse().unwrap())
                else {
                    break;
                };
                let mut body = vec![0; length];
                lines.read_exact(&mut body).unwrap();
                let status = statuses.next().unwrap_or(204);
                let body = String::from_utf8(body).unwrap();
                if sender.send(Answer { status, head, body }).is_err() {
                    return;
                }
                let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
                lines.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    (url, requests)
}

fn node_with_webhook(url: &str) -> Node {
    let url = url.parse().unwrap();
    Node::start_with(1_024, |config| {
        config.control.webhook = Some(Webhook { url, secret: Secret::new("hook secret") });
    })
}

fn signature_of(body: &str) -> String {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"hook secret");
    stentor::config::hex(aws_lc_rs::hmac::sign(&key, body.as_bytes()).as_ref())
}

#[test]
fn a_webhook_gets_signed_batches_until_it_accepts_them() {
    let (url, requests) = receiver(&[500, 429]);
    let node = node_with_webhook(&url);
    let (_, serial) = node.join(7, 50);
    node.leave(serial);

    let mut accepted: Vec<Value> = Vec::new();
    let mut refused = 0;
    while accepted.len() < 4 {
        let request = requests.recv_timeout(PATIENCE).expect("a request is due");
        assert!(request.head.starts_with("POST /hook?x=1 HTTP/1.1\r\n"));
        let signed = format!("x-voice-signature: {}\r\n", signature_of(&request.body));
        assert!(request.head.contains(&signed), "{}", request.head);
        let body = request.json();
        assert_eq!(body["node"], "voice1.example.org");
        let batch = body["batch"].as_array().unwrap();
        match request.status {
            204 => accepted.extend(batch.iter().cloned()),
            _ => refused += 1,
        }
    }
    assert_eq!(refused, 2);
    let types: Vec<_> = accepted.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["room.opened", "session.identified", "session.disconnected", "room.empty"]);
    let seqs: Vec<_> = accepted.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seqs:?}");
    eventually("the deliveries are counted", || {
        let page = node.call_with("GET", "/metrics", "", None).body;
        page.contains("stentor_webhook_delivered_total 4\n")
            && page.contains("stentor_webhook_failures_total 2\n")
    });
}

#[test]
fn stopping_tells_everyone_and_delivers_the_last_events() {
    let (url, requests) = receiver(&[]);
    let mut node = node_with_webhook(&url);
    let (_, serial) = node.join(7, 50);
    let mut stream = node.follow("");
    let control = node.control.take().unwrap();
    control.request_stop();
    for _ in 0..2 {
        let (_, command) = node.command();
        assert!(matches!(command, Command::Drain { code } if code.code() == 4015), "{command:?}");
    }
    assert_eq!(node.call_with("GET", "/healthz", "", None).status, 503);
    let late = node.call("PUT", "/v1/grants/1/8", Some(grant_body(8, 50)));
    assert_eq!(late.error(), (503, "draining".to_owned()));
    let reason = DisconnectReason::Shutdown;
    node.tell(0, Event::Disconnected { serial, reason, close_code: 4015 });
    control.stop().unwrap();

    let all = ["node.draining", "session.disconnected", "room.empty"];
    assert_eq!(stream.types(3), all);
    assert!(stream.next().is_none(), "the stream has ended");
    let posted: Vec<String> = requests
        .try_iter()
        .flat_map(|request| request.json()["batch"].as_array().unwrap().clone())
        .map(|event| event["type"].as_str().unwrap().to_owned())
        .collect();
    assert!(posted.ends_with(&all.map(str::to_owned)), "{posted:?}");
    assert!(TcpStream::connect(node.address).is_err());
}

#[test]
fn stopping_is_bounded_when_nobody_cooperates() {
    // A webhook that accepts no connection, and a session that never reports its end.
    let mut node = node_with_webhook("http://127.0.0.1:1/");
    node.join(7, 50);
    let _stream = node.follow("");
    let started = Instant::now();
    node.control.take().unwrap().stop().unwrap();
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
}

#[test]
fn control_ends_when_its_shards_have() {
    let node = Node::start();
    let Node { control, events, .. } = node;
    drop(events);
    let control = control.unwrap();
    eventually("the thread ends", || control.is_finished());
    control.stop().unwrap();
}

#[test]
fn commands_wait_for_a_full_shard_and_none_is_lost() {
    let node = Node::start_with(1, |_| {});
    node.stuck.store(true, Ordering::Relaxed);
    for user in 1..=100 {
        let path = format!("/v1/grants/1/{user}");
        assert_eq!(node.call("PUT", &path, Some(grant_body(user, 50))).status, 201);
        node.tell(0, admission(user));
    }
    eventually("commands wait", || {
        let page = node.call_with("GET", "/metrics", "", None).body;
        page.lines().any(|line| {
            line.strip_prefix("stentor_control_backlog ")
                .is_some_and(|count| count.parse::<u32>().unwrap() > 90)
        })
    });
    node.stuck.store(false, Ordering::Relaxed);
    let decided = (1..=100).map(|_| match node.command() {
        (0, Command::Decide { connection, verdict: Verdict::Join { .. } }) => connection.0,
        other => panic!("{other:?}"),
    });
    assert!(decided.eq(1..=100));
}

fn request(users: &[u64]) -> GrantRequest {
    let users = users.iter().map(|user| UserId(*user)).collect();
    GrantRequest { server_id: ServerId(1), channel: ChannelId(50), users }
}

#[test]
fn tickets_let_their_users_in() {
    let node = Node::start();
    let tickets = grant::issue(&node.access(), &request(&[7, 8])).unwrap();
    assert_eq!(tickets.len(), 2);
    assert_ne!(tickets[0].token, tickets[1].token);
    for (ticket, user) in tickets.iter().zip([7, 8]) {
        assert_eq!(ticket.endpoint, "voice1.example.org:443");
        assert_eq!((ticket.guild_id, ticket.channel_id), (ServerId(1), ChannelId(50)));
        assert_eq!((ticket.user_id, ticket.session_id.len()), (UserId(user), 32));
        let Event::Admission { connection, address, request } = admission(user) else { continue };
        let AdmissionRequest::Identify(mut identify) = request else { continue };
        identify.session = SessionId(ticket.session_id.as_str().into());
        identify.token = Token::new(ticket.token.as_str());
        let request = AdmissionRequest::Identify(identify);
        node.tell(0, Event::Admission { connection, address, request });
        let (_, command) = node.command();
        assert!(matches!(command, Command::Decide { verdict: Verdict::Join { .. }, .. }));
    }
}

#[test]
fn asking_for_tickets_fails_with_a_reason() {
    let node = Node::start();
    let message = |result: Result<_, GrantError>| result.map(|_| ()).unwrap_err().to_string();
    let wrong = ControlAccess { secret: Secret::new("wrong"), ..node.access() };
    assert!(
        message(grant::issue(&wrong, &request(&[7])))
            .contains("does not accept the control secret")
    );
    assert!(
        message(grant::issue(&node.access(), &request(&[7, 8, 7])))
            .contains("user 7 is given twice")
    );
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = ControlAccess { address: free, ..node.access() };
    assert!(message(grant::issue(&nobody, &request(&[7]))).contains("start `stentor serve`"));
}

fn stentor(arguments: &[&str]) -> Output {
    Process::new(env!("CARGO_BIN_EXE_stentor")).args(arguments).output().unwrap()
}

#[test]
fn the_grant_command_prints_one_json_array() {
    let node = Node::start();
    let address = node.address.to_string();
    let grant = |more: &[&str]| {
        let fixed = ["grant", "--server-id", "1", "--channel", "50", "--control-listen", &address];
        stentor(&[&fixed[..], more].concat())
    };
    let output = grant(&["--user", "7", "--user", "8", "--control-secret", SECRET]);
    assert!(output.status.success(), "{output:?}");
    let tickets: Value = serde_json::from_slice(&output.stdout).unwrap();
    let users: Vec<_> = tickets.as_array().unwrap().iter().map(|t| t["user_id"].clone()).collect();
    assert_eq!(users, ["7", "8"]);
    let mut keys: Vec<_> = tickets[0].as_object().unwrap().keys().cloned().collect();
    keys.sort_unstable();
    assert_eq!(keys, ["channel_id", "endpoint", "guild_id", "session_id", "token", "user_id"]);

    let wrong = grant(&["--user", "7", "--control-secret", "wrong-secret"]);
    assert_eq!((wrong.status.code(), wrong.stdout.len()), (Some(1), 0));
    let nonsense = grant(&["--user", "seven", "--control-secret", SECRET]);
    assert_eq!(nonsense.status.code(), Some(2));
}
