//! A control thread whose shards are played by threads that answer questions and keep commands.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use async_channel::{Receiver, Sender};
use serde_json::{Value, json};
use stentor::{
    config::{Config, ControlAccess, Flags, Secret},
    control::ControlThread,
    driver::queues::{ControlQueues, News, Rooms, ShardReport, ToControl, ToShard},
    id::{ChannelId, ConnectionId, Serial, ServerId, SessionId, ShardId, Ssrc, Token, UserId},
    metrics::{Counters, Latency},
    sfu::{
        AdmissionRequest, Command, DisconnectReason, Event, Kind, RoomReport, SessionReport,
        Verdict,
    },
    signalling::Identify,
};

use crate::{
    PATIENCE, SECRET,
    http::{Answer, EventStream},
};

/// A control thread with two fake shards.
pub struct Node {
    pub control: Option<ControlThread>,
    pub address: SocketAddr,
    pub events: Sender<ToControl>,
    pub commands: mpsc::Receiver<(u16, Command)>,
    pub rooms: Arc<Mutex<Vec<RoomReport>>>,
    /// While set, shards take nothing from their queues.
    pub stuck: Arc<AtomicBool>,
    _state: tempfile::TempDir,
}

impl Node {
    pub fn start() -> Self {
        Self::start_with(1_024, |_| {})
    }

    pub fn start_with(queue_max: usize, change: impl FnOnce(&mut Config)) -> Self {
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

    pub fn access(&self) -> ControlAccess {
        ControlAccess { address: self.address, secret: Secret::new(SECRET) }
    }

    pub fn call(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let authorization = format!("Authorization: Bearer {SECRET}\r\n");
        self.call_with(method, path, &authorization, body.map(|body| body.to_string()))
    }

    pub fn call_with(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: Option<String>,
    ) -> Answer {
        let body = match body {
            Some(body) => format!("Content-Length: {}\r\n\r\n{body}", body.len()),
            None => "\r\n".to_owned(),
        };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}");
        self.send(format!("{head}{body}").as_bytes())
    }

    pub fn send(&self, bytes: &[u8]) -> Answer {
        let mut socket = self.connect();
        // A server that has heard enough may answer and close before all is sent.
        let _ = socket.write_all(bytes);
        Answer::read(socket)
    }

    pub fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    pub fn tell(&self, shard: u16, event: Event) {
        let news = ToControl { shard: ShardId(shard), news: News::Event(event) };
        self.events.send_blocking(news).unwrap();
    }

    /// The next command and the shard it went to.
    pub fn command(&self) -> (u16, Command) {
        self.commands.recv_timeout(PATIENCE).expect("a command is due")
    }

    /// Grants, identifies and arrives.
    pub fn join(&self, user: u64, channel: u64) -> (u16, Serial) {
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

    pub fn leave(&self, serial: Serial) {
        let reason = DisconnectReason::ClientLeft;
        self.tell(0, Event::Disconnected { serial, reason, close_code: 1000 });
    }

    pub fn follow(&self, headers: &str) -> EventStream {
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

pub fn grant_body(user: u64, channel: u64) -> Value {
    json!({
        "channel_id": channel.to_string(),
        "session_id": format!("session{user}"),
        "token": format!("token{user}"),
    })
}

pub fn admission(user: u64) -> Event {
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

pub fn room_report(room: u64, user: u64) -> RoomReport {
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
