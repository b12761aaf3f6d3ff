//! One client's TCP connection: TLS or none, the WebSocket upgrade, frames. Sans-IO: bytes in,
//! messages out and the other way round. Called by `gateway`, which owns the socket.

use std::{
    fmt,
    io::{self, Read, Write},
    sync::Arc,
};

use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use tungstenite::{
    ClientHandshake, HandshakeError, Message, WebSocket,
    client::client_with_config,
    handshake::MidHandshake,
    protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
};

use crate::limits::MESSAGE_BYTES_MAX;

/// WebSocket read buffer of one connection, bytes: there are thousands, and messages are short.
const READ_BUFFER_BYTES: usize = 1_024;

/// The connection's bytes.
pub struct Wire {
    tls: Option<Box<ClientConnection>>,
    stage: Stage,
}

enum Stage {
    Upgrading(Box<MidHandshake<ClientHandshake<Pipe>>>),
    Open(Box<WebSocket<Pipe>>),
    /// It is over: the upgrade failed.
    Broken,
}

/// What has arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// The WebSocket is open.
    Opened,
    /// A text message.
    Text(String),
    /// Anything else that shows the server alive.
    SignOfLife,
    /// The server has closed, with this code (1005 for none) and reason.
    Closed(u16, String),
}

/// Why a connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// TLS.
    #[error("TLS: {0}")]
    Tls(String),
    /// The upgrade or a frame.
    #[error("WebSocket: {0}")]
    WebSocket(String),
}

impl Wire {
    /// A connection to `authority` (`host:port`) that has just been made; what it says first waits
    /// to be drained.
    ///
    /// # Errors
    /// The authority is not one.
    pub fn new(
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
        authority: &str,
        version: u8,
    ) -> Result<Self, Fault> {
        let tls = tls
            .map(|(config, name)| ClientConnection::new(config, name).map(Box::new))
            .transpose()
            .map_err(|error| Fault::Tls(error.to_string()))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        // The scheme is for the request alone: what is below is ours.
        let url = format!("ws://{authority}/?v={version}");
        let stage = match client_with_config(url, Pipe::default(), Some(config)) {
            Err(HandshakeError::Interrupted(mid)) => Stage::Upgrading(Box::new(mid)),
            Err(HandshakeError::Failure(error)) => return Err(Fault::WebSocket(error.to_string())),
            Ok((socket, _)) => Stage::Open(Box::new(socket)),
        };
        Ok(Self { tls, stage })
    }

    /// Takes bytes from the socket.
    ///
    /// # Errors
    /// TLS refuses them; an alert may wait to be drained.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        let Some(tls) = &mut self.tls else {
            self.stage.take(bytes);
            return Ok(());
        };
        let refused = |error: &dyn fmt::Display| Fault::Tls(error.to_string());
        while !bytes.is_empty() {
            if tls.read_tls(&mut bytes).map_err(|error| refused(&error))? == 0 {
                return Ok(());
            }
            let state = tls.process_new_packets().map_err(|error| refused(&error))?;
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            tls.reader().read_exact(&mut plain).map_err(|error| refused(&error))?;
            self.stage.take(&plain);
        }
        Ok(())
    }

    /// Gives the next thing that has arrived in full.
    ///
    /// # Errors
    /// It is no WebSocket, or breaks its rules.
    pub fn receive(&mut self) -> Result<Option<Received>, Fault> {
        match std::mem::replace(&mut self.stage, Stage::Broken) {
            Stage::Upgrading(mid) => match mid.handshake() {
                Ok((socket, _)) => {
                    self.stage = Stage::Open(Box::new(socket));
                    Ok(Some(Received::Opened))
                }
                Err(HandshakeError::Interrupted(mid)) => {
                    self.stage = Stage::Upgrading(Box::new(mid));
                    Ok(None)
                }
                Err(HandshakeError::Failure(error)) => Err(Fault::WebSocket(error.to_string())),
            },
            Stage::Open(mut socket) => {
                let received = read(&mut socket);
                self.stage = Stage::Open(socket);
                received
            }
            Stage::Broken => Ok(None),
        }
    }

    /// Queues a text message.
    pub fn say(&mut self, text: String) {
        if let Stage::Open(socket) = &mut self.stage {
            // It can only fail once the connection is closing, and then nobody listens.
            let _ = socket.write(Message::text(text));
        }
    }

    /// Queues a close frame that means goodbye: 1000.
    pub fn leave(&mut self) {
        if let Stage::Open(socket) = &mut self.stage {
            let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            let _ = socket.close(Some(frame));
        }
    }

    /// Appends what is to be written to the socket.
    pub fn drain(&mut self, out: &mut Vec<u8>) {
        let waiting = match &mut self.stage {
            Stage::Upgrading(mid) => std::mem::take(&mut mid.get_mut().get_mut().outgoing),
            Stage::Open(socket) => {
                let _ = socket.flush();
                std::mem::take(&mut socket.get_mut().outgoing)
            }
            Stage::Broken => Vec::new(),
        };
        let Some(tls) = &mut self.tls else {
            out.extend_from_slice(&waiting);
            return;
        };
        // Memory is the only sink, so neither can fail.
        let _ = tls.writer().write_all(&waiting);
        while tls.wants_write() && tls.write_tls(out).is_ok() {}
    }
}

impl Stage {
    fn take(&mut self, bytes: &[u8]) {
        match self {
            Stage::Upgrading(mid) => mid.get_mut().get_mut().incoming.extend_from_slice(bytes),
            Stage::Open(socket) => socket.get_mut().incoming.extend_from_slice(bytes),
            Stage::Broken => {}
        }
    }
}

fn read(socket: &mut WebSocket<Pipe>) -> Result<Option<Received>, Fault> {
    use tungstenite::Error;
    match socket.read() {
        Ok(Message::Text(text)) => Ok(Some(Received::Text(text.as_str().to_owned()))),
        Ok(Message::Close(frame)) => Ok(Some(match frame {
            Some(frame) => Received::Closed(frame.code.into(), frame.reason.as_str().to_owned()),
            None => Received::Closed(1005, String::new()),
        })),
        Ok(_) => Ok(Some(Received::SignOfLife)),
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(Error::ConnectionClosed | Error::AlreadyClosed) => Ok(None),
        Err(error) => Err(Fault::WebSocket(error.to_string())),
    }
}

/// A stream in memory: what has arrived, and what is to be written.
#[derive(Debug, Default)]
struct Pipe {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() {
            // An idle connection keeps no memory for what may come.
            self.incoming = Vec::new();
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = self.incoming.len().min(out.len());
        out[..len].copy_from_slice(&self.incoming[..len]);
        self.incoming.drain(..len);
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
        f.debug_struct("Wire").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tungstenite::{handshake::derive_accept_key, protocol::Role};

    use super::*;

    fn drained(wire: &mut Wire) -> Vec<u8> {
        let mut out = Vec::new();
        wire.drain(&mut out);
        out
    }

    fn plain() -> Wire {
        Wire::new(None, "localhost:8443", 8).unwrap()
    }

    fn answer(request: &[u8]) -> String {
        let text = String::from_utf8(request.to_vec()).unwrap();
        let key = text
            .lines()
            .find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.to_owned())
            })
            .unwrap();
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        )
    }

    fn opened() -> Wire {
        let mut wire = plain();
        let request = drained(&mut wire);
        let text = String::from_utf8(request.clone()).unwrap();
        assert!(text.starts_with("GET /?v=8 HTTP/1.1\r\nHost: localhost:8443\r\n"), "{text}");
        for part in answer(&request).as_bytes().chunks(50) {
            assert_eq!(wire.receive(), Ok(None));
            wire.feed(part).unwrap();
        }
        assert_eq!(wire.receive(), Ok(Some(Received::Opened)));
        wire
    }

    #[test]
    fn messages_pass_both_ways_and_the_servers_close_is_told() {
        let mut wire = opened();
        wire.say("{}".to_owned());
        let mut server = WebSocket::from_raw_socket(Pipe::default(), Role::Server, None);
        server.get_mut().incoming = drained(&mut wire);
        assert_eq!(server.read().unwrap(), Message::text("{}"));
        server.send(Message::text("hello")).unwrap();
        let frame = CloseFrame { code: CloseCode::Library(4004), reason: "no".into() };
        server.close(Some(frame)).unwrap();
        let bytes = std::mem::take(&mut server.get_mut().outgoing);
        wire.feed(&bytes).unwrap();
        assert_eq!(wire.receive(), Ok(Some(Received::Text("hello".to_owned()))));
        assert_eq!(wire.receive(), Ok(Some(Received::Closed(4004, "no".to_owned()))));
    }

    #[test]
    fn a_server_that_does_not_upgrade_is_a_fault() {
        let mut wire = plain();
        drained(&mut wire);
        wire.feed(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n").unwrap();
        let Err(Fault::WebSocket(problem)) = wire.receive() else { panic!("no fault") };
        assert!(problem.contains("426"), "{problem}");
        assert_eq!(wire.receive(), Ok(None));
    }

    #[test]
    fn bytes_that_are_no_tls_are_a_fault() {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let mut wire = Wire::new(Some((Arc::new(config), name)), "localhost:1", 8).unwrap();
        assert_eq!(drained(&mut wire)[0], 0x16, "a TLS handshake");
        assert!(matches!(wire.feed(b"HTTP/1.1 400 Bad Request\r\n"), Err(Fault::Tls(_))));
    }
}
