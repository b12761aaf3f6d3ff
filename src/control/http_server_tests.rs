//! What connections to the control API may cost, on real sockets with bounds that a test can reach.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream as Socket},
    thread::JoinHandle,
};

use axum::{body::Bytes, middleware, routing::get};

use super::*;
use crate::{
    config::{Config, Flags},
    control::api::bound,
    driver::queues::ControlQueues,
};

/// Longest wait for anything that must happen.
const WAIT: Duration = Duration::from_secs(20);

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3_600);

/// A server that answers every body with its length.
struct Running {
    address: SocketAddr,
    stop: Option<async_channel::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(bounds: Bounds, request_timeout: Duration) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let serve = async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let length = async |body: Bytes| body.len().to_string();
            let app = Router::new()
                .route("/", get(length))
                .layer(middleware::from_fn_with_state(request_timeout, bound));
            tokio::select! {
                () = serve_within(bounds, listener, app, node()) => {}
                _ = stopped.recv() => {}
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let thread = Some(std::thread::spawn(move || runtime.block_on(serve)));
        Self { address, stop: Some(stop), thread }
    }

    fn connect(&self) -> Socket {
        let socket = Socket::connect(self.address).unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        socket
    }

    /// Sends bytes on a connection of their own and reads all that comes back.
    fn send(&self, bytes: &[u8]) -> String {
        let mut socket = self.connect();
        socket.write_all(bytes).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("the server hangs up");
        answer
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn node() -> Arc<Node> {
    let config = Config::inspect(&Flags::of(None, &[("state_dir", "/nonexistent")])).unwrap();
    let (shard, _) = async_channel::bounded(1);
    let (_, events) = async_channel::bounded(1);
    Arc::new(Node::new(Arc::new(config), ControlQueues { shards: vec![shard], events }).0)
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[test]
fn a_connection_beyond_the_bound_waits_until_another_has_gone() {
    let bounds = Bounds { connections_max: 2, head_timeout: NEVER };
    let server = Running::start(bounds, NEVER);
    let mut silent: Vec<Socket> = (0..2).map(|_| server.connect()).collect();
    let mut waiting = server.connect();
    waiting.write_all(REQUEST).unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(waiting.read(&mut [0; 1]).is_err(), "there is no place");
    waiting.set_read_timeout(Some(WAIT)).unwrap();
    silent.pop();
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_head_that_never_ends_costs_its_connection() {
    let bounds = Bounds { connections_max: 8, head_timeout: Duration::from_millis(50) };
    let server = Running::start(bounds, NEVER);
    for half in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
        assert!(!server.send(half).contains("200"));
    }
}

#[test]
fn a_body_that_never_ends_is_answered_408() {
    let bounds = Bounds { connections_max: 8, head_timeout: NEVER };
    let server = Running::start(bounds, Duration::from_millis(50));
    let half = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\nhalf";
    let answer = server.send(half);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("\"code\":\"timeout\""), "{answer}");
}
