//! A voice server with faults: just enough of the protocol (protocol.md §1–§3) for bots and
//! browsers to join in plaintext and hear each other, and mischief done to packets by their
//! numbers, so that what a load generator must find is known beforehand. Stops when dropped.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use stentor::{
    crypto::{Profile, Role, Srtp},
    egress::Path,
    rtp::demux::{Kind, classify},
    webrtc::{Answer, Credentials, Dtls, DtlsEvent, Ice, Identity, Offer, credentials, ice},
};
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

/// By the SSRC that each was given.
#[derive(Default)]
struct Sessions(BTreeMap<u32, Session>);

struct Session {
    channel: u64,
    keys: Keys,
    address: Option<SocketAddr>,
    sent: u32,
}

enum Keys {
    None,
    Udp(Cipher),
    /// A browser, with the server's own transport: faults are done behind it.
    Shaking(Box<(Ice, Dtls)>),
    WebRtc(Srtp),
}

impl Keys {
    /// Opens a packet of the first lap.
    fn open(&self, datagram: &[u8]) -> Option<Vec<u8>> {
        match self {
            Keys::None | Keys::Shaking(_) => None,
            Keys::Udp(cipher) => cipher.open(datagram),
            Keys::WebRtc(srtp) => {
                let mut datagram = datagram.to_vec();
                let range = srtp.open(&mut datagram, 0).ok()?;
                Some(datagram[range].to_vec())
            }
        }
    }

    /// Seals a packet under this sender's SSRC, the `sent`th of all to its hearer.
    fn seal(&self, plain: &[u8], sender: u32, sent: u32) -> Option<Vec<u8>> {
        let mut plain = plain.to_vec();
        plain[8..12].copy_from_slice(&sender.to_be_bytes());
        match self {
            Keys::None | Keys::Shaking(_) => None,
            Keys::Udp(cipher) => Some(cipher.seal(&plain, sent | 1 << 31)),
            Keys::WebRtc(srtp) => {
                let len = plain.len();
                plain.resize(len + srtp.profile().overhead(), 0);
                srtp.seal(&mut plain, len, 0)?;
                Some(plain)
            }
        }
    }
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
        let identity = Identity::generate().expect("a certificate");
        let doorman = thread::spawn(move || admit(&listener, port, &identity, &stopped, &shared));
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

fn admit(
    listener: &TcpListener,
    port: u16,
    identity: &Identity,
    stop: &Arc<AtomicBool>,
    all: &Arc<Mutex<Sessions>>,
) {
    static SSRC: AtomicU32 = AtomicU32::new(1_000);
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let (stop, all) = (stop.clone(), all.clone());
                let (identity, ssrc) = (identity.clone(), SSRC.fetch_add(1, Ordering::Relaxed));
                thread::spawn(move || converse(stream, port, ssrc, &identity, &stop, &all));
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn converse(
    stream: TcpStream,
    port: u16,
    ssrc: u32,
    identity: &Identity,
    stop: &AtomicBool,
    all: &Mutex<Sessions>,
) {
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
                let session =
                    Session { channel: user / 100, keys: Keys::None, address: None, sent: 0 };
                all.lock().expect("no panic").0.insert(ssrc, session);
                let modes = [Mode::AesRtpsize.name()];
                let ready = json!({"ssrc": ssrc, "ip": "127.0.0.1", "port": port, "modes": modes,
                    "experiments": [], "streams": []});
                say(&mut socket, 2, ready);
            }
            Some(1) => {
                let (keys, description) = match d["protocol"].as_str() {
                    Some("webrtc") => answer(d, port, ssrc, identity),
                    _ => select(ssrc),
                };
                if let Some(session) = all.lock().expect("no panic").0.get_mut(&ssrc) {
                    session.keys = keys;
                }
                say(&mut socket, 4, description);
            }
            Some(3) => say(&mut socket, 6, json!({"t": d["t"]})),
            _ => {}
        }
    }
    all.lock().expect("no panic").0.remove(&ssrc);
}

/// A bot's key, and op 4.
fn select(ssrc: u32) -> (Keys, Value) {
    let key = [ssrc as u8; 32];
    let description = json!({"mode": Mode::AesRtpsize.name(), "secret_key": key,
        "audio_codec": "opus", "video_codec": "H264", "media_session_id": "0",
        "dave_protocol_version": 0});
    (Keys::Udp(Cipher::new(Mode::AesRtpsize, key)), description)
}

/// A browser's transport, and op 4.
fn answer(d: &Value, port: u16, ssrc: u32, identity: &Identity) -> (Keys, Value) {
    let offer = Offer::parse(d["data"].as_str().expect("an offer")).expect("an offer");
    let mut random = [0; credentials::RANDOM_BYTES];
    random[..4].copy_from_slice(&ssrc.to_be_bytes());
    let own = Credentials::generate(random);
    let now = Instant::now();
    let answer = Answer {
        ip: Ipv4Addr::LOCALHOST.into(),
        port,
        fingerprint: identity.fingerprint(),
        credentials: &own,
    };
    let description = json!({"sdp": answer.to_string(), "audio_codec": "opus",
        "video_codec": "H264", "media_session_id": "0", "dave_protocol_version": 0});
    let dtls = Dtls::new(identity, offer.fingerprints, now);
    (Keys::Shaking(Box::new((Ice::new(own, now), dtls))), description)
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
    let kind = classify(datagram);
    if kind == Kind::Discovery {
        let ssrc = u32::from_be_bytes(datagram[4..8].try_into().expect("4 bytes"));
        let Some(session) = all.0.get_mut(&ssrc) else { return };
        session.address = Some(from);
        let mut answer = datagram.to_vec();
        answer[1] = 2;
        let text = from.ip().to_string();
        answer[8..8 + text.len()].copy_from_slice(text.as_bytes());
        answer[72..].copy_from_slice(&from.port().to_be_bytes());
        let _ = media.send_to(&answer, from);
        return;
    }
    if matches!(kind, Kind::Stun | Kind::Dtls) {
        return all.shake(media, from, datagram);
    }
    let mine = |session: &Session| session.address == Some(from);
    let Some((&sender, session)) = all.0.iter().find(|(_, session)| mine(session)) else { return };
    let Some(plain) = session.keys.open(datagram) else { return };
    thread::sleep(pause);
    let packet = Rtp::parse(&plain).expect("the generator sends RTP");
    let number = &packet.payload[NUMBER_AT..NUMBER_AT + 4];
    let number = u32::from_be_bytes(number.try_into().expect("4 bytes"));
    let channel = session.channel;
    let waited = held.remove(&channel);
    let mine = |session: &Session| session.channel == channel;
    match fate(number) {
        Fate::Forwarded => all.send(media, &plain, sender, mine),
        Fate::Dropped => {}
        Fate::Doubled => (0..2).for_each(|_| all.send(media, &plain, sender, mine)),
        Fate::Garbled => all.send_garbled(media, &plain, sender, mine),
        Fate::Delayed => drop(held.insert(channel, plain)),
        Fate::Strayed => all.send(media, &plain, sender, |_| true),
    }
    if let Some(plain) = waited {
        all.send(media, &plain, sender, mine);
    }
}

impl Sessions {
    /// A check or a part of a handshake.
    fn shake(&mut self, media: &UdpSocket, from: SocketAddr, datagram: &[u8]) {
        let ufrag = ice::local_ufrag(datagram);
        let session = self.0.values_mut().find(|session| match &session.keys {
            Keys::Shaking(both) if ufrag.is_some() => {
                ufrag == Some(both.0.local().ufrag().as_bytes())
            }
            _ => session.address == Some(from),
        });
        let Some(session) = session else { return };
        let Keys::Shaking(both) = &mut session.keys else { return };
        let ((ice, dtls), now) = (&mut **both, Instant::now());
        let mut out = [0; 2_048];
        if ufrag.is_some() {
            let answered = ice.handle(now, Path::to(from), datagram, &mut out).expect("a check");
            session.address = Some(from);
            let _ = media.send_to(&out[..answered.len], from);
            return;
        }
        // What is said twice is dropped.
        let _ = dtls.handle(now, datagram);
        while let Some(len) = dtls.poll_output(&mut out) {
            let _ = media.send_to(&out[..len], from);
        }
        if let Some(DtlsEvent::Connected { profile, material }) = dtls.poll_event() {
            let profile = Profile::from_id(profile.0).expect("one that was offered");
            let srtp = Srtp::new(profile, &material, Role::Server).expect("its length");
            session.keys = Keys::WebRtc(srtp);
        }
    }

    fn send(
        &mut self,
        media: &UdpSocket,
        plain: &[u8],
        sender: u32,
        to: impl Fn(&Session) -> bool,
    ) {
        self.each(plain, sender, to, |datagram, address| {
            let _ = media.send_to(&datagram, address);
        });
    }

    fn send_garbled(
        &mut self,
        media: &UdpSocket,
        plain: &[u8],
        sender: u32,
        to: impl Fn(&Session) -> bool,
    ) {
        self.each(plain, sender, to, |mut datagram, address| {
            let last = datagram.len() - 20;
            datagram[last] ^= 1;
            let _ = media.send_to(&datagram, address);
        });
    }

    fn each(
        &mut self,
        plain: &[u8],
        sender: u32,
        to: impl Fn(&Session) -> bool,
        send: impl Fn(Vec<u8>, SocketAddr),
    ) {
        for (ssrc, session) in &mut self.0 {
            if *ssrc == sender || !to(session) {
                continue;
            }
            session.sent += 1;
            let sealed = session.keys.seal(plain, sender, session.sent);
            if let (Some(sealed), Some(address)) = (sealed, session.address) {
                send(sealed, address);
            }
        }
    }
}
