//! One TCP connection's bytes: TLS if the first byte says so, the HTTP upgrade or the page's files,
//! WebSocket frames.
//! Sans-IO: bytes in, messages out and the other way round, so that the whole of it can move to
//! another thread between two reads. Called by `websocket`, which owns the socket.

use std::{
    fmt,
    io::{self, Read, Write},
    sync::Arc,
};

use rustls::{ServerConfig, ServerConnection};
use tungstenite::{
    Message, WebSocket,
    handshake::{
        machine::TryParse,
        server::{Request, create_response, write_response},
    },
    http::{HeaderMap, HeaderValue},
    protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode as WireCloseCode},
};

use crate::{
    control::LinkPage,
    limits::{FILES_MAX, MESSAGE_BYTES_MAX, REQUEST_BYTES_MAX, UNFINISHED_BYTES_MAX},
    signalling::{CloseCode, Frame},
};

/// First byte of a TLS handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// WebSocket read buffer of one connection, bytes: most messages are shorter than this, and idle
/// connections keep it.
const READ_BUFFER_BYTES: usize = 1_024;

/// What a connection may use.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Our certificate; `None` where a proxy terminates TLS.
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether this peer may do without.
    pub plaintext: bool,
    /// The page to talk on, for those who ask for it instead of a WebSocket.
    pub page: Option<Arc<LinkPage>>,
}

/// One connection's bytes.
pub struct Wire {
    terms: Terms,
    layer: Layer,
    stage: Stage,
    /// The peer has said over TLS that no more bytes come.
    ended: bool,
    /// Bytes of the WebSocket since the last whole message.
    unfinished: usize,
}

enum Layer {
    /// Nothing has arrived; the first byte decides.
    Undecided,
    Plain,
    Tls(Box<ServerConnection>),
}

enum Stage {
    /// Part of an HTTP request, what has been answered and not been written, and how many files
    /// were given.
    Request {
        request: Vec<u8>,
        answer: Vec<u8>,
        files: usize,
    },
    Open(Box<WebSocket<Pipe>>),
}

/// What a connection's bytes amount to.
#[derive(Debug)]
pub enum Received {
    /// Somebody was given a file of the page, and may ask for the next thing.
    Visited,
    /// The WebSocket is open; the request's query string.
    Opened(Option<String>),
    /// A message.
    Frame(Frame),
    /// A ping or pong: somebody is there.
    SignOfLife,
    /// The peer has closed, with this code; 1005 for none.
    Closed(u16),
}

/// Why a connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// TLS failed; an alert may be waiting to be sent.
    #[error("TLS failed")]
    Tls,
    /// Plaintext from a peer that must not, or TLS where there is no certificate.
    #[error("plaintext is not allowed from here")]
    Plaintext,
    /// The peer's side of TLS is closed.
    #[error("the peer has closed TLS")]
    Ended,
    /// All files of the page were given that one connection may ask for.
    #[error("enough of the page was given")]
    Finished,
    /// No WebSocket upgrade; an HTTP answer is waiting to be sent.
    #[error("not a WebSocket upgrade")]
    Request,
    /// A WebSocket error that has this close code.
    #[error("close {0}: {1}")]
    WebSocket(u16, &'static str),
}

impl Wire {
    /// A connection that has just been accepted.
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            layer: Layer::Undecided,
            stage: Stage::Request { request: Vec::new(), answer: Vec::new(), files: 0 },
            ended: false,
            unfinished: 0,
        }
    }

    /// What is left in the place of one that has moved.
    pub fn spent() -> Self {
        Self::new(Terms { tls: None, plaintext: false, page: None })
    }

    /// Takes bytes from the socket.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        if let (Layer::Undecided, Some(first)) = (&self.layer, bytes.first()) {
            self.layer = decide(&self.terms, *first)?;
        }
        let Layer::Tls(tls) = &mut self.layer else {
            self.unfinished += bytes.len();
            return self.stage.take(bytes);
        };
        let mut plain = [0; 4_096];
        while !bytes.is_empty() && !self.ended {
            let taken = tls.read_tls(&mut bytes).map_err(|_| Fault::Tls)?;
            let state = tls.process_new_packets().map_err(|_| Fault::Tls)?;
            // What follows a close_notify is not taken any more, however often it is offered.
            self.ended = taken == 0 || state.peer_has_closed();
            loop {
                match tls.reader().read(&mut plain) {
                    Ok(0) | Err(_) => break,
                    Ok(len) => {
                        self.unfinished += len;
                        self.stage.take(&plain[..len])?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives the next thing that has arrived in full.
    pub fn receive(&mut self) -> Result<Option<Received>, Fault> {
        let received = match &mut self.stage {
            Stage::Request { .. } => self.upgrade(),
            Stage::Open(socket) => read(socket),
        };
        match received {
            Ok(None) if self.ended => Err(Fault::Ended),
            Ok(None) if self.unfinished > UNFINISHED_BYTES_MAX => {
                let code = CloseCode::RateLimited.code();
                Err(Fault::WebSocket(code, "fragments without end"))
            }
            // A ping between fragments makes nothing whole.
            Ok(Some(Received::SignOfLife)) => {
                self.unfinished = self.unfinished.saturating_sub(CONTROL_FRAME_BYTES_MAX);
                received
            }
            Ok(Some(_)) => {
                self.unfinished = 0;
                received
            }
            received => received,
        }
    }

    /// Queues a message. What cannot be said because the WebSocket is closing is dropped.
    pub fn send(&mut self, frame: Frame) {
        if let Stage::Open(socket) = &mut self.stage {
            let message = match frame {
                Frame::Text(text) => Message::text(text),
                Frame::Binary(bytes) => Message::binary(bytes),
            };
            let _ = socket.write(message);
        }
    }

    /// Queues a close frame; nothing can be said after it.
    pub fn close(&mut self, code: u16, why: &'static str) {
        if let Stage::Open(socket) = &mut self.stage {
            let code = WireCloseCode::from(code);
            let _ = socket.close(Some(CloseFrame { code, reason: why.into() }));
        }
    }

    /// Says that no more bytes come from us; what is queued must have been drained before.
    pub fn finish(&mut self) {
        if let Layer::Tls(tls) = &mut self.layer {
            tls.send_close_notify();
        }
    }

    /// Appends what is to be written to the socket.
    pub fn drain(&mut self, out: &mut Vec<u8>) {
        let waiting = match &mut self.stage {
            Stage::Request { answer, .. } => std::mem::take(answer),
            Stage::Open(socket) => {
                let _ = socket.flush();
                std::mem::take(&mut socket.get_mut().outgoing)
            }
        };
        match &mut self.layer {
            Layer::Tls(tls) => {
                // Memory is the only sink, so neither can fail.
                let _ = tls.writer().write_all(&waiting);
                while tls.wants_write() {
                    if tls.write_tls(out).is_err() {
                        break;
                    }
                }
            }
            Layer::Plain | Layer::Undecided if out.is_empty() => *out = waiting,
            Layer::Plain | Layer::Undecided => out.extend_from_slice(&waiting),
        }
    }

    fn upgrade(&mut self) -> Result<Option<Received>, Fault> {
        let Stage::Request { request: bytes, answer, files } = &mut self.stage else {
            return Ok(None);
        };
        if bytes.is_empty() {
            return Ok(None);
        }
        let (len, request) = match Request::try_parse(bytes) {
            Ok(None) if bytes.len() < REQUEST_BYTES_MAX => return Ok(None),
            Ok(Some(parsed)) => parsed,
            Ok(None) | Err(_) => {
                answer.extend_from_slice(BAD_REQUEST);
                return Err(Fault::Request);
            }
        };
        let Ok(response) = create_response(&request) else {
            *files += 1;
            let headers = request.headers();
            // A body would be taken for the next request.
            let has_body = headers.contains_key("transfer-encoding")
                || headers.get("content-length").is_some_and(|len| len != "0");
            let last = *files >= FILES_MAX || has_body || is_farewell(headers);
            let page = self.terms.page.as_ref().filter(|_| !headers.contains_key("upgrade"));
            if page.is_some_and(|page| page.answer(request.uri().path(), last, answer)) {
                bytes.drain(..len);
                return if last { Err(Fault::Finished) } else { Ok(Some(Received::Visited)) };
            }
            answer.extend_from_slice(UPGRADE_REQUIRED);
            return Err(Fault::Request);
        };
        let query = request.uri().query().map(str::to_owned);
        // Files that were asked for before, with the upgrade right behind, go first.
        let mut pipe = Pipe { outgoing: std::mem::take(answer), ..Pipe::default() };
        if write_response(&mut pipe.outgoing, &response).is_err() {
            return Err(Fault::Request);
        }
        let early = bytes.split_off(len);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let socket = WebSocket::from_partially_read(pipe, early, Role::Server, Some(config));
        self.stage = Stage::Open(Box::new(socket));
        Ok(Some(Received::Opened(query)))
    }
}

/// Whether the client asks for no more over this connection.
fn is_farewell(headers: &HeaderMap) -> bool {
    let says_close = |value: &HeaderValue| {
        let mut options = value.to_str().unwrap_or_default().split(',');
        options.any(|option| option.trim().eq_ignore_ascii_case("close"))
    };
    headers.get_all("connection").iter().any(says_close)
}

/// A ping with all it may carry (RFC 6455 §5.5): header, mask and 125 bytes.
const CONTROL_FRAME_BYTES_MAX: usize = 2 + 4 + 125;

const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const UPGRADE_REQUIRED: &[u8] = b"HTTP/1.1 426 Upgrade Required\r\nConnection: close\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n";

fn decide(terms: &Terms, first: u8) -> Result<Layer, Fault> {
    match &terms.tls {
        Some(config) if first == TLS_HANDSHAKE => {
            let mut tls = ServerConnection::new(config.clone()).map_err(|_| Fault::Tls)?;
            // What waits to be sent is bounded by the outbox, whole messages at a time.
            tls.set_buffer_limit(None);
            Ok(Layer::Tls(Box::new(tls)))
        }
        _ if first != TLS_HANDSHAKE && terms.plaintext => Ok(Layer::Plain),
        _ => Err(Fault::Plaintext),
    }
}

impl Stage {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match self {
            Stage::Request { request, .. } => request.extend_from_slice(bytes),
            Stage::Open(socket) => socket.get_mut().feed(bytes),
        }
        Ok(())
    }
}

fn read(socket: &mut WebSocket<Pipe>) -> Result<Option<Received>, Fault> {
    use tungstenite::Error;
    let decode = CloseCode::DecodeFailed.code();
    match socket.read() {
        Ok(Message::Text(text)) => Ok(Some(Received::Frame(Frame::Text(text.as_str().to_owned())))),
        Ok(Message::Binary(bytes)) => Ok(Some(Received::Frame(Frame::Binary(bytes.to_vec())))),
        Ok(Message::Close(frame)) => {
            Ok(Some(Received::Closed(frame.map_or(1005, |frame| frame.code.into()))))
        }
        Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {
            Ok(Some(Received::SignOfLife))
        }
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(Error::ConnectionClosed | Error::AlreadyClosed) => Ok(None),
        Err(Error::Capacity(_)) => Err(Fault::WebSocket(decode, "message too long")),
        Err(Error::Utf8(_)) => Err(Fault::WebSocket(decode, "text is not UTF-8")),
        Err(_) => Err(Fault::WebSocket(1002, "WebSocket protocol error")),
    }
}

/// A stream in memory: what has arrived, and what is to be written.
#[derive(Debug, Default)]
struct Pipe {
    incoming: Vec<u8>,
    read: usize,
    outgoing: Vec<u8>,
}

impl Pipe {
    fn feed(&mut self, bytes: &[u8]) {
        if self.read == self.incoming.len() {
            self.incoming.clear();
            self.read = 0;
        }
        self.incoming.extend_from_slice(bytes);
    }
}

impl Read for Pipe {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut rest = &self.incoming[self.read..];
        if rest.is_empty() {
            self.incoming = Vec::new();
            self.read = 0;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = rest.read(out)?;
        self.read += len;
        Ok(len)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints nothing of what passes: it holds tokens and keys.
impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layer = match self.layer {
            Layer::Undecided => "undecided",
            Layer::Plain => "plain",
            Layer::Tls(_) => "tls",
        };
        let open = matches!(self.stage, Stage::Open(_));
        f.debug_struct("Wire").field("layer", &layer).field("open", &open).finish()
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
