//! Accepts HTTP connections for the control API: bounded in number, in the time they may take to
//! say what they want, and in the time they may outlive a stopping node.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tracing::{debug, warn};

use super::node::Node;

/// Connections at once: a backend's pool, scrapers, followers.
const CONNECTIONS_MAX: usize = 1_024;

/// Time for a request's head, and between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Time the last answers may take once the node has finished.
const LINGER: Duration = Duration::from_secs(1);

/// Pause after a failed accept, which means that something is used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What connections may cost; a value so that a test can reach it.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    connections_max: usize,
    head_timeout: Duration,
}

/// Serves until the node has finished. Connections beyond the most at once wait for a place.
pub(crate) async fn serve(listener: TcpListener, app: Router, node: Arc<Node>) {
    let bounds = Bounds { connections_max: CONNECTIONS_MAX, head_timeout: HEAD_TIMEOUT };
    serve_within(bounds, listener, app, node).await;
}

async fn serve_within(bounds: Bounds, listener: TcpListener, app: Router, node: Arc<Node>) {
    let places = Arc::new(Semaphore::new(bounds.connections_max));
    let mut connections = JoinSet::new();
    let accept = async {
        loop {
            let place = places.clone().acquire_owned().await.expect("it is never closed");
            match listener.accept().await {
                Ok((socket, _)) => {
                    let (app, node) = (app.clone(), node.clone());
                    connections.spawn(async move {
                        converse(socket, bounds.head_timeout, app, node).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = accept => {}
        () = node.finished() => {}
    }
    let all = async { while connections.join_next().await.is_some() {} };
    // Whoever is still there is cut off when the set is dropped.
    let _ = tokio::time::timeout(LINGER, all).await;
}

async fn converse(socket: TcpStream, head_timeout: Duration, app: Router, node: Arc<Node>) {
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_timeout)
            .serve_connection(TokioIo::new(socket), TowerToHyperService::new(app))
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = node.finished() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "control connection broke");
    }
}

#[cfg(test)]
#[path = "http_server_tests.rs"]
mod tests;
