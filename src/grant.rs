//! `stentor grant`: asks a running server, over its control API, to let users into a channel, and
//! gives what a client needs to connect. For trying things out; a backend calls the API itself
//! (protocol.md §6.3).

use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpStream;

use crate::{
    config::{ControlAccess, hex},
    id::{ChannelId, ServerId, UserId},
};

/// Time for all requests together.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer worth reading, bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1_024;

/// Which grants to ask for.
#[derive(Debug, Clone, clap::Args)]
pub struct GrantRequest {
    /// Guild, or for a private call its channel
    #[arg(long, value_name = "SNOWFLAKE")]
    pub server_id: ServerId,
    /// The voice channel
    #[arg(long, value_name = "SNOWFLAKE")]
    pub channel: ChannelId,
    /// Who may join; repeat for more. A user with a live session gets new keys for the next one
    #[arg(long = "user", value_name = "SNOWFLAKE", required = true)]
    pub users: Vec<UserId>,
}

/// One user's way in: the fields of VOICE_SERVER_UPDATE and of Identify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// `host:port` of the voice gateway.
    pub endpoint: String,
    /// `server_id` of Identify.
    pub guild_id: ServerId,
    /// `channel_id` of Identify.
    pub channel_id: ChannelId,
    /// `user_id` of Identify.
    pub user_id: UserId,
    /// `session_id` of Identify; random.
    pub session_id: String,
    /// `token` of Identify; random.
    pub token: String,
}

impl Ticket {
    /// Opens the page to talk on in a browser, which finds the ticket behind the `#`: browsers send
    /// that part to nobody.
    pub fn link(&self) -> String {
        let Self { endpoint, guild_id, channel_id, user_id, session_id, token } = self;
        format!(
            "https://{endpoint}/#server={guild_id}&channel={channel_id}&user={user_id}\
             &session={session_id}&token={token}"
        )
    }
}

/// Why there are no tickets.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// Nobody listens.
    #[error(
        "no server answers at {address} ({source}); start `stentor serve`, or give the control.listen it runs with"
    )]
    NoServer {
        /// Where.
        address: SocketAddr,
        /// How it failed.
        source: std::io::Error,
    },
    /// The secret is another server's.
    #[error(
        "the server at {0} does not accept the control secret; give the settings it runs with (control.secret_file or state_dir)"
    )]
    WrongSecret(SocketAddr),
    /// The server said no.
    #[error("the server refused the grant for user {user}: {message}")]
    Refused {
        /// For whom.
        user: UserId,
        /// In the server's words.
        message: String,
    },
    /// What answers is no stentor, or it broke off.
    #[error("the server at {address} does not answer as stentor does: {problem}")]
    Broken {
        /// Where.
        address: SocketAddr,
        /// How.
        problem: String,
    },
    /// The second grant would take the first one's place.
    #[error("user {0} is given twice, and has one place only")]
    Twice(UserId),
}

/// Asks for all grants, one after the other, and waits for the answers.
pub fn issue(access: &ControlAccess, request: &GrantRequest) -> Result<Vec<Ticket>, GrantError> {
    let mut users = request.users.clone();
    users.sort_unstable();
    if let Some(pair) = users.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(GrantError::Twice(pair[0]));
    }
    let address = access.address;
    let no_server = |source| GrantError::NoServer { address, source };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_server)?;
    let all = async {
        let socket = TcpStream::connect(address).await.map_err(no_server)?;
        ask(socket, access, request).await
    };
    let timed = async { tokio::time::timeout(TIMEOUT, all).await };
    let late = |_| no_server(std::io::ErrorKind::TimedOut.into());
    runtime.block_on(timed).map_err(late)?
}

async fn ask(
    socket: TcpStream,
    access: &ControlAccess,
    request: &GrantRequest,
) -> Result<Vec<Ticket>, GrantError> {
    let address = access.address;
    let broken =
        |error: &dyn std::fmt::Display| GrantError::Broken { address, problem: error.to_string() };
    let (mut server, connection) =
        http1::handshake(TokioIo::new(socket)).await.map_err(|error| broken(&error))?;
    // What goes wrong with the connection shows in the requests on it.
    tokio::spawn(connection);

    let mut tickets = Vec::with_capacity(request.users.len());
    for &user in &request.users {
        let (session_id, token) = (random_hex(), random_hex());
        let put = put(access, request, user, &session_id, &token);
        server.ready().await.map_err(|error| broken(&error))?;
        let response = server.send_request(put).await.map_err(|error| broken(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| broken(&error))?.to_bytes();
        let endpoint = match status {
            StatusCode::OK | StatusCode::CREATED => endpoint(&body),
            StatusCode::UNAUTHORIZED => return Err(GrantError::WrongSecret(address)),
            _ => {
                let message = refusal(&body).ok_or_else(|| broken(&status))?;
                return Err(GrantError::Refused { user, message });
            }
        };
        tickets.push(Ticket {
            endpoint: endpoint.ok_or_else(|| broken(&"the answer names no endpoint"))?,
            guild_id: request.server_id,
            channel_id: request.channel,
            user_id: user,
            session_id,
            token,
        });
    }
    Ok(tickets)
}

fn put(
    access: &ControlAccess,
    request: &GrantRequest,
    user: UserId,
    session_id: &str,
    token: &str,
) -> Request<Full<Bytes>> {
    let body = json!({
        "kind": "voice",
        "channel_id": request.channel,
        "session_id": session_id,
        "token": token,
    });
    let bearer = [b"Bearer ", access.secret.reveal()].concat();
    let mut bearer = header::HeaderValue::from_bytes(&bearer)
        .expect("the settings only take secrets of printable characters");
    bearer.set_sensitive(true);
    Request::put(format!("/v1/grants/{}/{user}", request.server_id))
        .header(header::HOST, access.address.to_string())
        .header(header::AUTHORIZATION, bearer)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body.to_string().into()))
        .expect("all parts are plain ASCII")
}

fn endpoint(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Granted {
        endpoint: String,
    }
    serde_json::from_slice::<Granted>(body).ok().map(|granted| granted.endpoint)
}

fn refusal(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        error: Refusal,
    }
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    serde_json::from_slice::<Answer>(body).ok().map(|answer| answer.error.message)
}

/// 128 random bits as 32 digits, the form of Discord's own session ids.
fn random_hex() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    hex(&bytes)
}
