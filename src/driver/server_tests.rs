//! The whole server in one process: what a defect in one shard costs.

use std::{
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
    time::Duration,
};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket, client::IntoClientRequest};

use super::*;
use crate::{
    config::Flags,
    control::token::{Claims, mint},
    driver::queues::{Rooms, ShardReport},
    id::{ChannelId, ServerId, SessionId, Token, UserId},
    sfu::{Command, Kind},
};

const WAIT: Duration = Duration::from_secs(20);

/// A server with two shards on ports of its own.
fn server(state: &tempfile::TempDir) -> (Server, Arc<Config>) {
    let state = state.path().to_str().expect("a temporary path is text");
    for _ in 0..20 {
        let probe = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let port = probe.local_addr().expect("its number").port() & !1;
        drop(probe);
        let flags = Flags::of(
            None,
            &[
                ("gateway.listen", &format!("127.0.0.1:{port}")),
                ("control.listen", "127.0.0.1:0"),
                ("media.base_port", &port.to_string()),
                ("shards", "2"),
                ("state_dir", state),
            ],
        );
        let config = Arc::new(Config::load(&flags).expect("valid settings"));
        match Server::start(config.clone()) {
            Ok(server) => return (server, config),
            Err(ServeError::Ring(_) | ServeError::Listen { .. }) => continue,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("no free ports")
}

/// A client that has its Ready.
struct Client(WebSocket<TcpStream>);

impl Client {
    fn join(server: &Server, config: &Config, channel: u64, user: u64) -> Self {
        let stream = TcpStream::connect(server.gateway()).expect("the gateway listens");
        stream.set_read_timeout(Some(WAIT)).expect("a socket option");
        let request = format!("ws://{}/?v=8", server.gateway());
        let request = request.into_client_request().expect("a request");
        let (socket, _) = tungstenite::client(request, stream).expect("an upgrade");
        let mut client = Self(socket);
        let token = token(config, channel, user);
        client.send(json!({ "op": 0, "d": {
            "server_id": "1", "user_id": user.to_string(), "session_id": session(user),
            "token": token.reveal(),
        }}));
        client.expect(2);
        client
    }

    fn send(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).expect("the gateway reads");
    }

    fn expect(&mut self, op: u64) -> Value {
        loop {
            let message = self.0.read().expect("the gateway answers");
            let message: Value =
                serde_json::from_str(message.to_text().expect("text")).expect("JSON");
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

/// A signed token, so that no grant has to be asked for.
fn token(config: &Config, channel: u64, user: u64) -> Token {
    let claims = Claims {
        version: 1,
        kind: Kind::Voice,
        server: ServerId(1),
        channel: ChannelId(channel),
        user: UserId(user),
        session: SessionId(session(user).into()),
        expires: time::OffsetDateTime::now_utc().unix_timestamp() + 60,
        token: "1".to_owned(),
        permissions: None,
    };
    mint(&config.token_key, &claims)
}

fn session(user: u64) -> String {
    format!("session-{user}")
}

fn report(server: &Server, shard: usize) -> ShardReport {
    let (reply, answer) = async_channel::bounded(1);
    let ask = ToShard::Inspect { rooms: Rooms::None, reply };
    server.shards[shard].send_blocking(ask).expect("the shard runs");
    answer.recv_blocking().expect("the shard answers")
}

#[test]
fn a_defect_in_one_shard_costs_its_own_sessions_and_nothing_else() {
    let state = tempfile::tempdir().expect("a directory");
    let (server, config) = server(&state);
    let mut struck = Client::join(&server, &config, 100, 10);
    let mut spared = Client::join(&server, &config, 200, 20);
    assert_eq!((report(&server, 0).sessions, report(&server, 1).sessions), (1, 1));

    server.shards[0].send_blocking(ToShard::Command(Command::Panic)).expect("the shard runs");
    assert_eq!(struck.close_code(), 4015, "its client is told to come back");
    spared.send(json!({ "op": 3, "d": { "t": 7, "seq_ack": 1 } }));
    assert_eq!(spared.expect(6)["d"]["t"], 7);
    let (first, second) = (report(&server, 0), report(&server, 1));
    assert_eq!((first.restarts, first.sessions), (1, 0));
    assert_eq!((second.restarts, second.sessions), (0, 1));

    let mut back = Client::join(&server, &config, 100, 10);
    assert_eq!(report(&server, 0).sessions, 1, "the shard serves again");
    back.send(json!({ "op": 3, "d": { "t": 8, "seq_ack": 1 } }));
    assert_eq!(back.expect(6)["d"]["t"], 8);
    server.stop().expect("a clean end");
}

/// The task of a connection that is still being opened belongs to no state that could be lost. It
/// once span on the notice that it had been, and with it the whole shard.
#[test]
fn a_defect_while_clients_open_their_connections_does_not_stop_the_shard() {
    let state = tempfile::tempdir().expect("a directory");
    let (server, config) = server(&state);
    // Shares of the listener: which shard has which connection is the kernel's choice.
    let mut opening: Vec<TcpStream> = (0..8)
        .map(|_| TcpStream::connect(server.gateway()).expect("the gateway listens"))
        .collect();
    for stream in &mut opening {
        stream.write_all(b"GET /?v=8 HTTP/1.1\r\n").expect("the gateway reads");
    }
    for shard in 0..2 {
        // It answers once it has seen to those who came before.
        report(&server, shard);
        server.shards[shard].send_blocking(ToShard::Command(Command::Panic)).expect("it runs");
        assert_eq!(report(&server, shard).restarts, 1);
    }
    for mut stream in opening {
        let rest = b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(rest).expect("the gateway reads");
        stream.set_read_timeout(Some(WAIT)).expect("a socket option");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("the gateway answers");
        assert_eq!(&answer, b"HTTP/1.1 101");
    }
    Client::join(&server, &config, 100, 10);
    server.stop().expect("a clean end");
}
