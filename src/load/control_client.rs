//! What a run asks at the server's control address besides grants: its metrics, and the end of the
//! channels that were made for the run. A connection for each; nothing here is in a hurry, so what
//! is asked while time is measured is asked on a thread of its own.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    thread::{self, JoinHandle},
    time::Duration,
};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    clock::Clock,
    server_cost::{Counted, counted},
};
use crate::{
    config::{ControlAccess, Secret},
    id::ChannelId,
};

/// Time for one request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Largest answer worth reading, bytes: the metrics of 64 shards.
const ANSWER_BYTES_MAX: usize = 4 * 1_024 * 1_024;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HttpError(String);

/// Where metrics are.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// The server.
    pub address: SocketAddr,
    /// The page.
    pub path: String,
    /// What opens it, if anything does.
    pub secret: Option<Secret>,
}

/// A reading of the server's own counts that is under way, beside the readings of its process: they
/// have their times, and a server that does not answer must not hold them up.
#[derive(Debug)]
pub struct Scrape(io::Result<JoinHandle<Result<Counted, HttpError>>>);

impl Scrape {
    /// Begins one.
    pub fn begin(metrics: Metrics, clock: Clock) -> Self {
        let thread = thread::Builder::new().name("load-metrics".to_owned());
        Self(thread.spawn(move || scrape(&metrics, clock)))
    }

    /// Waits for what comes of it.
    ///
    /// # Errors
    /// The server does not answer, or not with counts.
    pub fn finish(self) -> Result<Counted, HttpError> {
        let thread = self.0.map_err(|error| HttpError(format!("no thread for it: {error}")))?;
        thread.join().expect("reading metrics does not panic")
    }
}

fn scrape(metrics: &Metrics, clock: Clock) -> Result<Counted, HttpError> {
    let Metrics { address, path, secret } = metrics;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| HttpError(error.to_string()))?;
    let page = runtime.block_on(request(*address, Method::GET, path, secret.as_ref()));
    let at_ns = clock.now_ns();
    match page? {
        (200, page) => counted(&page, at_ns)
            .ok_or_else(|| HttpError(format!("{address}{path} has no counts of a stentor"))),
        (status, _) => Err(HttpError(format!("{address}{path} answers with status {status}"))),
    }
}

/// Ends channels and their grants. Left alone they would do no harm, so what fails is let be.
pub fn close_rooms(access: &ControlAccess, channels: &BTreeSet<ChannelId>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    for channel in channels {
        let path = format!("/v1/rooms/{channel}");
        let secret = Some(&access.secret);
        if runtime.block_on(request(access.address, Method::DELETE, &path, secret)).is_err() {
            return;
        }
    }
}

/// Asks; the answer's status and body.
async fn request(
    address: SocketAddr,
    method: Method,
    path: &str,
    secret: Option<&Secret>,
) -> Result<(u16, String), HttpError> {
    let asked = tokio::time::timeout(TIMEOUT, ask(address, method, path, secret)).await;
    asked.map_err(|_| HttpError(format!("{address} took longer than {TIMEOUT:?}")))?
}

async fn ask(
    address: SocketAddr,
    method: Method,
    path: &str,
    secret: Option<&Secret>,
) -> Result<(u16, String), HttpError> {
    let failed = |error: &dyn std::fmt::Display| HttpError(format!("{address}: {error}"));
    let socket = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
    let handshake = http1::handshake(TokioIo::new(socket)).await;
    let (mut server, connection) = handshake.map_err(|error| failed(&error))?;
    // What goes wrong with the connection shows in the request on it.
    let connection = tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close");
    if let Some(secret) = secret {
        let bearer = [b"Bearer ", secret.reveal()].concat();
        request = request.header(header::AUTHORIZATION, bearer);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| failed(&error))?;
    let response = server.send_request(request).await.map_err(|error| failed(&error))?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| failed(&error))?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use super::*;

    /// What comes of a reading that a server answers after it has begun, and what the server was
    /// asked.
    fn answered(status: &str, page: &str) -> (Result<Counted, HttpError>, String) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let metrics = Metrics { address, path: "/metrics".to_owned(), secret: None };
        let scrape = Scrape::begin(metrics, Clock::start());
        let (mut socket, _) = server.accept().unwrap();
        let mut asked = [0; 1_024];
        let len = socket.read(&mut asked).unwrap();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", page.len());
        socket.write_all((head + page).as_bytes()).unwrap();
        (scrape.finish(), String::from_utf8_lossy(&asked[..len]).into_owned())
    }

    #[test]
    fn a_reading_that_has_begun_keeps_nobody_waiting() {
        let page = "stentor_packets_forwarded_total 12\nstentor_stack_traversals_total 4\n";
        let (counted, asked) = answered("200 OK", page);
        let counted = counted.unwrap();
        assert_eq!((counted.forwarded, counted.traversals), (12, 4));
        assert!(counted.at_ns > 0, "it has its time");
        assert!(asked.starts_with("GET /metrics HTTP/1.1\r\n"), "{asked}");
    }

    #[test]
    fn a_reading_that_fails_says_why() {
        let why = |status, page| answered(status, page).0.unwrap_err().to_string();
        assert!(why("200 OK", "up 1\n").contains("no counts of a stentor"));
        assert!(why("403 Forbidden", "").contains("status 403"));
        let address = "127.0.0.1:1".parse().unwrap();
        let metrics = Metrics { address, path: "/metrics".to_owned(), secret: None };
        let refused = Scrape::begin(metrics, Clock::start()).finish().unwrap_err().to_string();
        assert!(refused.contains("127.0.0.1:1: "), "{refused}");
    }
}
