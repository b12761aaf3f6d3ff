//! One plain HTTP request to the server's control address: metrics, and the end of channels that
//! were made for a run. A connection for each; nothing here is in a hurry.

use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::config::Secret;

/// Time for one request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Largest answer worth reading, bytes: the metrics of 64 shards.
const ANSWER_BYTES_MAX: usize = 4 * 1_024 * 1_024;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HttpError(String);

/// Asks; the answer's status and body.
///
/// # Errors
/// Nobody listens, it takes too long, or what answers does not speak HTTP.
pub async fn request(
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
