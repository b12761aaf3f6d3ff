//! What a run asks at the server's control address besides grants: its metrics, and the end of the
//! channels that were made for the run. A connection for each; nothing here is in a hurry.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::server_cost::{Counted, counted};
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
struct HttpError(String);

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

/// The server's own counts, if it has any.
pub fn scrape(metrics: Option<&Metrics>) -> Option<Counted> {
    let Metrics { address, path, secret } = metrics?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let page = runtime.block_on(request(*address, Method::GET, path, secret.as_ref()));
    page.ok().filter(|(status, _)| *status == 200).and_then(|(_, page)| counted(&page))
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
