//! A voice server with faults: just enough of the protocol (protocol.md §1, §2) for clients in
//! plaintext to join and hear each other, and mischief done to packets by their numbers, so that
//! what a load generator must find is known beforehand. Stops when dropped.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::{
    cipher::{Cipher, Mode},
    rtp::Rtp,
};

/// How often a thread looks whether it is to stop.
const TICK: Duration = Duration::from_millis(50);

/// Where the number of a packet is in the generator's payload (`src/load/payload.rs`).
const NUMBER_AT: usize = 16;

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is forwarded, as it should be.
    Forwarded,
    /// Nobody gets it.
    Dropped,
    /// Everybody gets it twice.
    Doubled,
    /// Everybody gets it in a form that does not open.
    Garbled,
    /// Everybody gets it after the one that follows.
    Delayed,
    /// Those in other channels get it as well.
    Strayed,
}

/// The running server.
pub struct Faulty {
    gateway: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Sessions(BTreeMap<u32, Session>);

struct Session {
    channel: u64,
    cipher: Option<Cipher>,
    address: Option<SocketAddr>,
    sent: u32,
}

impl Faulty {
    /// Starts it. Users of one channel share the number of their hundred. Each packet waits for
    /// `pause` in the one thread that forwards.
    pub fn start(fate: fn(u32) -> Fate, pause: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.set_nonblocking(true).expect("a listener can poll");
        let media = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        media.set_read_timeout(Some(TICK)).expect("a timeout above zero");
        let gateway = listener.local_addr().expect("an address");
        let port = media.local_addr().expect("an address").port();
        let stop = Arc::new(AtomicBool::new(false));
        let sessions = Arc::new(Mutex::new(Sessions::default()));
        let (stopped, shared) = (stop.clone(), sessions.clone());
        let doorman = thread::spawn(move || admit(&listener, port, &stopped, &shared));
        let stopped = stop.clone();
        let forwarder = thread::spawn(move || {
            let mut held = BTreeMap::new();
            while !stopped.load(Ordering::Relaxed) {
                forward(&media, &sessions, fate, pause, &mut held);
            }
        });
        Self { gateway, stop, threads: vec![doorman, forwarder] }
    }

    /// Grants for so many members of each channel, as `stentor grant` prints them.
    pub fn grants(&self, channels: u64, members: u64) -> Value {
        let users = (0..channels).flat_map(|channel| {
            (0..members).map(move |member| (channel, 100 * (channel + 1) + member))
        });
        let grants = users.map(|(channel, user)| {
            json!({
                "endpoint": self.gateway.to_string(),
                "guild_id": "1",
                "channel_id": (channel + 1).to_string(),
                "user_id": user.to_string(),
                "session_id": "s",
                "token": "t",
            })
        });
        grants.collect()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn admit(listener: &TcpListener, port: u16, stop: &Arc<AtomicBool>, all: &Arc<Mutex<Sessions>>) {
    static SSRC: AtomicU32 = AtomicU32::new(1_000);
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let (stop, all) = (stop.clone(), all.clone());
                let ssrc = SSRC.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || converse(stream, port, ssrc, &stop, &all));
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn converse(stream: TcpStream, port: u16, ssrc: u32, stop: &AtomicBool, all: &Mutex<Sessions>) {
    stream.set_nonblocking(false).expect("a socket can block");
    let Ok(mut socket) = tungstenite::accept(stream) else { return };
    socket.get_ref().set_read_timeout(Some(TICK)).expect("a timeout above zero");
    say(&mut socket, 8, json!({"v": 8, "heartbeat_interval": 5_000}));
    while !stop.load(Ordering::Relaxed) {
        let text = match socket.read() {
            Ok(Message::Text(text)) => text,
            Ok(Message::Close(_)) => break,
            Ok(_) => continue,
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                continue;
            }
            Err(_) => break,
        };
        let message: Value = serde_json::from_str(&text).expect("a client writes JSON");
        let d = &message["d"];
        match message["op"].as_u64() {
            Some(0) => {
                let user: u64 =
                    d["user_id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
                let session = Session { channel: user / 100, cipher: None, address: None, sent: 0 };
                all.lock().expect("no panic").0.insert(ssrc, session);
                let modes = [Mode::AesRtpsize.name()];
                let ready = json!({"ssrc": ssrc, "ip": "127.0.0.1", "port": port, "modes": modes,
                    "experiments": [], "streams": []});
                say(&mut socket, 2, ready);
            }
            Some(1) => {
                let key = [ssrc as u8; 32];
                let cipher = Cipher::new(Mode::AesRtpsize, key);
                if let Some(session) = all.lock().expect("no panic").0.get_mut(&ssrc) {
                    session.cipher = Some(cipher);
                }
                let description = json!({"mode": Mode::AesRtpsize.name(), "secret_key": key,
                    "audio_codec": "opus", "video_codec": "H264", "media_session_id": "0",
                    "dave_protocol_version": 0});
                say(&mut socket, 4, description);
            }
            Some(3) => say(&mut socket, 6, json!({"t": d["t"]})),
            _ => {}
        }
    }
    all.lock().expect("no panic").0.remove(&ssrc);
}

fn say(socket: &mut WebSocket<TcpStream>, op: u64, d: Value) {
    // A client that has gone is noticed when reading.
    let _ = socket.send(Message::text(json!({"op": op, "d": d}).to_string()));
}

/// Deals with one datagram, if one comes. `held` has, by channel, a packet that waits for the one
/// after it.
fn forward(
    media: &UdpSocket,
    all: &Mutex<Sessions>,
    fate: fn(u32) -> Fate,
    pause: Duration,
    held: &mut BTreeMap<u64, Vec<u8>>,
) {
    let mut bytes = [0; 2_048];
    let Ok((len, from)) = media.recv_from(&mut bytes) else { return };
    let datagram = &bytes[..len];
    let mut all = all.lock().expect("no panic");
    let word = |at: usize| u32::from_be_bytes(datagram[at..at + 4].try_into().expect("4 bytes"));
    if len == 74 {
        let Some(session) = all.0.get_mut(&word(4)) else { return };
        session.address = Some(from);
        let mut answer = datagram.to_vec();
        answer[1] = 2;
        let text = from.ip().to_string();
        answer[8..8 + text.len()].copy_from_slice(text.as_bytes());
        answer[72..].copy_from_slice(&from.port().to_be_bytes());
        let _ = media.send_to(&answer, from);
        return;
    }
    let Some(session) = all.0.get(&word(8)) else { return };
    let Some(plain) = session.cipher.as_ref().and_then(|cipher| cipher.open(datagram)) else {
        return;
    };
    thread::sleep(pause);
    let packet = Rtp::parse(&plain).expect("the generator sends RTP");
    let number = &packet.payload[NUMBER_AT..NUMBER_AT + 4];
    let number = u32::from_be_bytes(number.try_into().expect("4 bytes"));
    let channel = session.channel;
    let waited = held.remove(&channel);
    let mine = |session: &Session| session.channel == channel;
    match fate(number) {
        Fate::Forwarded => all.send(media, &plain, word(8), mine),
        Fate::Dropped => {}
        Fate::Doubled => (0..2).for_each(|_| all.send(media, &plain, word(8), mine)),
        Fate::Garbled => all.send_garbled(media, &plain, word(8), mine),
        Fate::Delayed => drop(held.insert(channel, plain)),
        Fate::Strayed => all.send(media, &plain, word(8), |_| true),
    }
    if let Some(plain) = waited {
        all.send(media, &plain, word(8), mine);
    }
}

impl Sessions {
    fn send(
        &mut self,
        media: &UdpSocket,
        plain: &[u8],
        sender: u32,
        to: impl Fn(&Session) -> bool,
    ) {
        self.each(sender, to, |cipher, address, sent| {
            let _ = media.send_to(&cipher.seal(plain, sent), address);
        });
    }

    fn send_garbled(
        &mut self,
        media: &UdpSocket,
        plain: &[u8],
        sender: u32,
        to: impl Fn(&Session) -> bool,
    ) {
        self.each(sender, to, |cipher, address, sent| {
            let mut datagram = cipher.seal(plain, sent);
            datagram[20] ^= 1;
            let _ = media.send_to(&datagram, address);
        });
    }

    fn each(
        &mut self,
        sender: u32,
        to: impl Fn(&Session) -> bool,
        send: impl Fn(&Cipher, SocketAddr, u32),
    ) {
        for (ssrc, session) in &mut self.0 {
            if *ssrc == sender || !to(session) {
                continue;
            }
            let (Some(cipher), Some(address)) = (&session.cipher, session.address) else {
                continue;
            };
            session.sent += 1;
            send(cipher, address, session.sent | 1 << 31);
        }
    }
}
