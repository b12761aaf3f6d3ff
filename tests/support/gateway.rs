//! One WebSocket to the voice gateway, driven message by message (protocol.md §1). Blocking, every
//! wait bounded. Keeps what it read past, so that a test can ask for messages in any order and
//! still check the order in which they came.

use std::{
    fs::File,
    io::{BufReader, ErrorKind, Read, Result as IoResult, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tungstenite::{
    Error, Message as Frame, WebSocket,
    client::client_with_config,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{
    WAIT,
    server::{Grant, Server},
};

/// How to knock: over what, and with which version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Door {
    pub tls: bool,
    pub version: Option<u8>,
}

impl Door {
    /// TLS, with `?v=`.
    pub fn tls(version: u8) -> Self {
        Self { tls: true, version: Some(version) }
    }

    /// Plaintext, with `?v=`.
    pub fn plain(version: u8) -> Self {
        Self { tls: false, version: Some(version) }
    }

    /// Without any version, as discordgo and Fermi do.
    pub fn unversioned(tls: bool) -> Self {
        Self { tls, version: None }
    }

    /// Whether messages are numbered and heartbeats are objects.
    pub fn numbered(self) -> bool {
        self.version.is_some_and(|version| version >= 8)
    }
}

/// A message of the server.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub op: u64,
    pub d: Value,
    pub seq: Option<u64>,
    /// The frame's text.
    pub text: String,
}

/// How a WebSocket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With a close frame.
    Closed(u16, String),
    /// Without one.
    Broken,
}

/// An open WebSocket.
pub struct Gateway {
    socket: WebSocket<Stream>,
    door: Door,
    kept: Vec<Message>,
    end: Option<End>,
}

impl Gateway {
    /// Connects and upgrades. The server's first word is left to be read.
    pub fn open(server: &Server, door: Door) -> Self {
        Self::try_open(server, server.gateway(), door).expect("the gateway answers")
    }

    /// The same towards another address, a proxy's.
    pub fn open_at(server: &Server, address: SocketAddr, door: Door) -> Self {
        Self::try_open(server, address, door).expect("the gateway answers")
    }

    /// The same where being refused is the claim.
    pub fn try_open(server: &Server, address: SocketAddr, door: Door) -> Result<Self, Error> {
        let tcp = TcpStream::connect_timeout(&address, WAIT)?;
        tcp.set_nodelay(true)?;
        tcp.set_write_timeout(Some(WAIT))?;
        tcp.set_read_timeout(Some(WAIT))?;
        let stream =
            if door.tls { Stream::tls(tcp, &server.certificate())? } else { Stream::Plain(tcp) };
        let url = match door.version {
            Some(version) => format!("ws://{address}/?v={version}"),
            None => format!("ws://{address}/"),
        };
        let (socket, _) = client_with_config(url, stream, None).map_err(|error| match error {
            tungstenite::HandshakeError::Failure(error) => error,
            tungstenite::HandshakeError::Interrupted(_) => Error::Io(ErrorKind::TimedOut.into()),
        })?;
        Ok(Self { socket, door, kept: Vec::new(), end: None })
    }

    /// Sends `{op, d}`.
    pub fn send(&mut self, op: u64, d: Value) {
        self.send_text(&json!({ "op": op, "d": d }).to_string());
    }

    /// Sends any text; that the other end is gone shows when reading.
    pub fn send_text(&mut self, text: &str) {
        let _ = self.socket.send(Frame::text(text));
    }

    /// Sends a binary frame.
    pub fn send_binary(&mut self, bytes: &[u8]) {
        let _ = self.socket.send(Frame::binary(bytes.to_vec()));
    }

    /// Sends op 0 as this grant's holder.
    pub fn identify(&mut self, grant: &Grant) {
        self.identify_with(grant, json!({}));
    }

    /// The same with more fields, or others.
    pub fn identify_with(&mut self, grant: &Grant, fields: Value) {
        let mut d = json!({
            "server_id": grant.server.to_string(),
            "user_id": grant.user.to_string(),
            "session_id": grant.session,
            "token": grant.token,
        });
        if self.door.version == Some(9) {
            d["channel_id"] = grant.channel.to_string().into();
        }
        let known = d.as_object_mut().expect("an object");
        known.extend(fields.as_object().expect("an object").clone());
        self.send(0, d);
    }

    /// Sends op 7 as this grant's holder.
    pub fn resume(&mut self, grant: &Grant, seq_ack: Option<i64>) {
        let mut d = json!({
            "server_id": grant.server.to_string(),
            "session_id": grant.session,
            "token": grant.token,
        });
        if self.door.version == Some(9) {
            d["channel_id"] = grant.channel.to_string().into();
        }
        if let Some(seq_ack) = seq_ack {
            d["seq_ack"] = seq_ack.into();
        }
        self.send(7, d);
    }

    /// The next message with this opcode; messages before it are kept.
    pub fn expect(&mut self, op: u64) -> Message {
        self.expect_where(&format!("op {op}"), |message| message.op == op)
    }

    /// The next message that fits; messages before it are kept.
    pub fn expect_where(&mut self, what: &str, fits: impl Fn(&Message) -> bool) -> Message {
        if let Some(place) = self.kept.iter().position(&fits) {
            return self.kept.remove(place);
        }
        loop {
            match self.read() {
                Ok(message) if fits(&message) => return message,
                Ok(message) => self.kept.push(message),
                Err(end) => panic!("{what} expected, but {end:?} after {:?}", self.kept),
            }
        }
    }

    /// The very next message, kept ones first.
    pub fn next(&mut self) -> Message {
        if self.kept.is_empty() {
            return self.read().unwrap_or_else(|end| panic!("a message expected, but {end:?}"));
        }
        self.kept.remove(0)
    }

    /// All messages up to now, in order: a heartbeat is sent, and what came before its answer is
    /// what the server had to say.
    pub fn drain(&mut self) -> Vec<Message> {
        static NONCE: AtomicU64 = AtomicU64::new(7_000_000);
        let nonce = NONCE.fetch_add(1, Ordering::Relaxed);
        let answer = self.heartbeat(nonce);
        let mut heard = std::mem::take(&mut self.kept);
        loop {
            match self.read() {
                Ok(message) if message.op == 6 && message.d == answer => return heard,
                Ok(message) => heard.push(message),
                Err(end) => panic!("a heartbeat's answer expected, but {end:?} after {heard:?}"),
            }
        }
    }

    /// Puts messages back for later questions, in front of what else was kept.
    pub fn keep(&mut self, mut messages: Vec<Message>) {
        messages.append(&mut self.kept);
        self.kept = messages;
    }

    /// Sends op 3 in the version's own form; the `d` of the answer it is due.
    pub fn heartbeat(&mut self, nonce: u64) -> Value {
        let (sent, answer) = if self.door.numbered() {
            (json!({ "t": nonce }), json!({ "t": nonce }))
        } else {
            (nonce.into(), nonce.into())
        };
        self.send(3, sent);
        answer
    }

    /// The code with which the server closes.
    pub fn closed(&mut self) -> u16 {
        match self.ended() {
            End::Closed(code, _) => code,
            End::Broken => panic!("a close code expected, but the connection just broke"),
        }
    }

    /// How the server ends the connection; messages before that are kept.
    pub fn ended(&mut self) -> End {
        loop {
            match self.read() {
                Ok(message) => self.kept.push(message),
                Err(end) => return end,
            }
        }
    }

    /// How the connection has ended, if it has; looks for a second.
    pub fn poll_end(&mut self) -> Option<End> {
        let patience = Duration::from_secs(1);
        let deadline = Instant::now() + patience;
        while let Some(read) = self.read_until(deadline) {
            match read {
                Ok(message) => self.kept.push(message),
                Err(end) => return Some(end),
            }
        }
        None
    }

    /// Says goodbye with this code and leaves.
    pub fn leave(mut self, code: u16) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
        let _ = self.socket.close(Some(frame));
        let deadline = Instant::now() + WAIT;
        while Instant::now() < deadline && self.socket.read().is_ok() {}
    }

    /// Says goodbye without any code.
    pub fn leave_without_status(mut self) {
        let _ = self.socket.close(None);
        let deadline = Instant::now() + WAIT;
        while Instant::now() < deadline && self.socket.read().is_ok() {}
    }

    /// Breaks the connection without a goodbye.
    pub fn cut(mut self) {
        self.break_off();
    }

    /// The same, where the value stays.
    pub fn break_off(&mut self) {
        let _ = self.socket.get_ref().tcp().shutdown(Shutdown::Both);
    }

    /// The stream below the WebSocket, for those who do not want to speak WebSocket.
    pub fn stream(&mut self) -> &mut Stream {
        self.socket.get_mut()
    }

    fn read(&mut self) -> Result<Message, End> {
        let read = self.read_until(Instant::now() + WAIT);
        read.unwrap_or_else(|| {
            panic!("nothing from the gateway for {WAIT:?}; kept {:?}", self.kept)
        })
    }

    fn read_until(&mut self, deadline: Instant) -> Option<Result<Message, End>> {
        if let Some(end) = &self.end {
            return Some(Err(end.clone()));
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let left = left.max(Duration::from_millis(1));
            self.socket.get_ref().tcp().set_read_timeout(Some(left)).expect("a timeout above zero");
            let end = match self.socket.read() {
                Ok(Frame::Text(text)) => return Some(Ok(message(&text))),
                Ok(Frame::Binary(bytes)) => panic!("binary from a server without DAVE: {bytes:?}"),
                Ok(Frame::Close(Some(frame))) => {
                    End::Closed(frame.code.into(), frame.reason.to_string())
                }
                Ok(Frame::Close(None)) => End::Closed(1005, String::new()),
                Ok(_) => continue,
                Err(Error::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    continue;
                }
                Err(_) => End::Broken,
            };
            let _ = self.socket.flush();
            self.end = Some(end.clone());
            return Some(Err(end));
        }
    }
}

fn message(text: &str) -> Message {
    let value: Value = serde_json::from_str(text).expect("the server sends JSON");
    let op = value["op"].as_u64().expect("an opcode");
    assert!(value.get("d").is_some(), "every message has a d: {text}");
    assert!(text.starts_with("{\"op\":"), "op comes first: {text}");
    Message { op, d: value["d"].clone(), seq: value["seq"].as_u64(), text: text.to_owned() }
}

/// TCP, perhaps with TLS over it.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// TLS that trusts this certificate and no other.
    pub fn tls(tcp: TcpStream, certificate: &Path) -> IoResult<Self> {
        let mut roots = RootCertStore::empty();
        let pem = BufReader::new(File::open(certificate)?);
        for certificate in CertificateDer::pem_reader_iter(pem) {
            let certificate = certificate.map_err(std::io::Error::other)?;
            roots.add(certificate).map_err(std::io::Error::other)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(std::io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "127.0.0.1".try_into().expect("an address is a server name");
        let connection =
            ClientConnection::new(Arc::new(config), name).map_err(std::io::Error::other)?;
        Ok(Self::Tls(Box::new(StreamOwned::new(connection, tcp))))
    }

    /// The socket itself.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => &tls.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        match self {
            Stream::Plain(tcp) => tcp.read(buffer),
            Stream::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> IoResult<usize> {
        match self {
            Stream::Plain(tcp) => tcp.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> IoResult<()> {
        match self {
            Stream::Plain(tcp) => tcp.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}
