//! Posts the public events to the backend: batches in order, signed, again and again until each is
//! accepted (protocol.md §6.3). Its queue is the event log: what falls out of that before the
//! backend is back is lost, counted and logged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::hmac;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Uri,
    body::Bytes,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tracing::{debug, warn};

use super::{
    event_log::{LoggedEvent, Next},
    node::Node,
    tls_stream::{self, TlsStream},
};
use crate::config::{Secret, Webhook, hex};

/// Events in one request.
const BATCH_EVENTS_MAX: usize = 100;

/// Bytes of events in one request, unless a single one has more.
const BATCH_BYTES_MAX: usize = 1_024 * 1_024;

/// Time for one request, connecting included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after the first failure; doubled with each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(250);

/// Longest pause: a backend that is back after an outage should not wait long for its news.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// An answer's body is of no interest; one longer than this costs its connection.
const ANSWER_BYTES_MAX: usize = 64 * 1_024;

/// What became of the events, for the metrics.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    /// Events the backend has accepted.
    pub(crate) delivered: AtomicU64,
    /// Requests that failed or were not answered 2xx.
    pub(crate) failures: AtomicU64,
    /// Events that fell out of the log first.
    pub(crate) lost: AtomicU64,
}

#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("answered {0}")]
    Status(hyper::StatusCode),
    #[error("no answer in time")]
    Timeout,
}

/// Posts events from number `position` on until the node has finished and all are delivered.
pub(crate) async fn post(node: Arc<Node>, webhook: Webhook, mut position: u64) {
    let name = node.config.gateway.public_endpoint.host().to_owned();
    let mut poster = Poster::new(webhook);
    let mut failures = 0;
    let mut is_finished = false;
    loop {
        match node.log.read(position, BATCH_EVENTS_MAX) {
            Next::Events(events) => {
                let events = within_bytes(&events);
                let body = Bytes::from(batch(&name, events));
                let posted = tokio::time::timeout(REQUEST_TIMEOUT, poster.post(body)).await;
                match posted.unwrap_or(Err(PostError::Timeout)) {
                    Ok(()) => {
                        failures = 0;
                        position += events.len() as u64;
                        node.deliveries.delivered.fetch_add(events.len() as u64, Ordering::Relaxed);
                    }
                    Err(error) => {
                        poster.connection = None;
                        let pause = backoff(failures);
                        failures += 1;
                        node.deliveries.failures.fetch_add(1, Ordering::Relaxed);
                        warn!(%error, failures, ?pause, "the webhook did not accept events");
                        tokio::time::sleep(pause).await;
                    }
                }
            }
            Next::Lagged { resume_at } => {
                let lost = resume_at.saturating_sub(position);
                node.deliveries.lost.fetch_add(lost, Ordering::Relaxed);
                warn!(lost, "the webhook was away for too long: events are lost");
                position = resume_at;
            }
            Next::Nothing if is_finished => return,
            Next::Nothing => tokio::select! {
                () = node.log.wait(position) => {}
                () = node.finished() => is_finished = true,
            },
        }
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(BACKOFF_MAX)
}

/// As many of the first events as go into one request; at least one.
fn within_bytes(events: &[LoggedEvent]) -> &[LoggedEvent] {
    let mut bytes = 0;
    let fitting = events.iter().take_while(|event| {
        bytes += event.json.len();
        bytes <= BATCH_BYTES_MAX
    });
    let count = fitting.count().max(1).min(events.len());
    &events[..count]
}

/// `{"node":"voice1","batch":[Event,…]}`; the events are JSON already.
fn batch(node: &str, events: &[LoggedEvent]) -> String {
    let name = serde_json::to_string(node).expect("text is always JSON");
    let events: Vec<&str> = events.iter().map(|event| &*event.json).collect();
    format!(r#"{{"node":{name},"batch":[{}]}}"#, events.join(","))
}

/// `hex(hmac_sha256(secret, body))`.
fn signature(secret: &Secret, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.reveal());
    hex(hmac::sign(&key, body).as_ref())
}

/// One receiver and the connection to it.
struct Poster {
    webhook: Webhook,
    tls: Option<Arc<ClientConfig>>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Poster {
    fn new(webhook: Webhook) -> Self {
        Self { webhook, tls: None, connection: None }
    }

    async fn post(&mut self, body: Bytes) -> Result<(), PostError> {
        let request = self.request(body);
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.connect().await?,
        };
        connection.ready().await?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        let whole = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        if whole.is_ok() {
            self.connection = Some(connection);
        }
        if status.is_success() { Ok(()) } else { Err(PostError::Status(status)) }
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let url = &self.webhook.url;
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let host = url.authority().map_or("", |authority| authority.as_str());
        Request::post(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("stentor/", env!("CARGO_PKG_VERSION")))
            .header("x-voice-signature", signature(&self.webhook.secret, &body))
            .body(Full::new(body))
            .expect("the parts come from a parsed URL")
    }

    async fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>, PostError> {
        let (host, port, is_tls) = target(&self.webhook.url);
        let socket = TcpStream::connect((host, port)).await?;
        socket.set_nodelay(true)?;
        if !is_tls {
            return converse(TokioIo::new(socket)).await;
        }
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        let config = match &self.tls {
            Some(config) => config.clone(),
            None => self.tls.insert(tls_stream::client_config()?).clone(),
        };
        converse(TokioIo::new(TlsStream::connect(socket, config, name).await?)).await
    }
}

/// Host without brackets, port, and whether TLS is spoken there.
fn target(url: &Uri) -> (&str, u16, bool) {
    let is_tls = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let host = url.host().unwrap_or("");
    (host.trim_start_matches('[').trim_end_matches(']'), port, is_tls)
}

async fn converse<T>(io: T) -> Result<SendRequest<Full<Bytes>>, PostError>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(io).await?;
    // Ends when the sender is dropped or the peer hangs up.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "webhook connection broke");
        }
    });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, bytes: usize) -> LoggedEvent {
        LoggedEvent { seq, json: "x".repeat(bytes).into() }
    }

    #[test]
    fn pauses_double_up_to_half_a_minute() {
        let ms: Vec<u128> = [0, 1, 2, 6, 7, 40].map(|n| backoff(n).as_millis()).to_vec();
        assert_eq!(ms, [250, 500, 1_000, 16_000, 30_000, 30_000]);
    }

    #[test]
    fn a_batch_is_bounded_in_bytes_but_never_empty() {
        let small = [event(1, 10), event(2, BATCH_BYTES_MAX), event(3, 1)];
        assert_eq!(within_bytes(&small).len(), 1);
        let big = [event(1, BATCH_BYTES_MAX + 1), event(2, 1)];
        assert_eq!(within_bytes(&big).len(), 1);
        assert_eq!(within_bytes(&[event(1, 1), event(2, 1)]).len(), 2);
    }

    #[test]
    fn a_batch_is_json_and_its_signature_is_hmac_sha256() {
        let events =
            [1, 2].map(|seq| LoggedEvent { seq, json: format!(r#"{{"seq":{seq}}}"#).into() });
        let body = batch("voice1", &events);
        assert_eq!(body, r#"{"node":"voice1","batch":[{"seq":1},{"seq":2}]}"#);
        // RFC 4231 §4.3 (test case 2).
        assert_eq!(
            signature(&Secret::new("Jefe"), b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn the_target_follows_from_the_url() {
        let target = |url: &'static str| {
            let url = Uri::from_static(url);
            let (host, port, is_tls) = target(&url);
            (host.to_owned(), port, is_tls)
        };
        assert_eq!(target("http://a/x"), ("a".to_owned(), 80, false));
        assert_eq!(target("https://a.b/x?y"), ("a.b".to_owned(), 443, true));
        assert_eq!(target("http://[::1]:8/"), ("::1".to_owned(), 8, false));
    }
}
