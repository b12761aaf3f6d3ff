//! The HTTP side of control: routes, who may call them, and the one shape of errors
//! (protocol.md §6.3). What the routes do is in `grants`, `rooms`, `events` and `exposition`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{events, exposition, grants, ledger::Holder, node::Node, page, rooms};
use crate::{
    config::Secret,
    id::{ChannelId, ServerId, UserId},
    signalling::CloseCode,
};

/// Largest request body, bytes: a grant with the longest credentials takes a tenth of it.
const BODY_BYTES_MAX: usize = 64 * 1_024;

/// Time in which a request must have been read and answered; longer than shards have to answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything that control answers.
pub(crate) fn router(node: Arc<Node>) -> Router {
    let v1 = Router::new()
        .route(
            "/grants/{server_id}/{user_id}",
            put(grants::put).patch(grants::patch).delete(grants::delete),
        )
        .route("/rooms", get(rooms::list))
        .route("/rooms/{room_id}", get(rooms::show).delete(rooms::close))
        .route("/rooms/{room_id}/migrate", post(rooms::migrate))
        .route("/events", get(events::follow))
        .route("/healthz", get(health_in_detail))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(node.clone(), require_secret));
    let mut metrics = Router::new()
        .route("/metrics", get(exposition::metrics))
        .method_not_allowed_fallback(method_not_allowed);
    if !node.config.control.listen.ip().to_canonical().is_loopback() {
        metrics = metrics.layer(middleware::from_fn_with_state(node.clone(), require_secret));
    }
    let page = if node.config.development {
        page::router(node.clone()).with_state(())
    } else {
        page::absent()
    };
    Router::new()
        .nest("/v1", v1)
        .merge(metrics)
        .merge(page)
        .route("/healthz", get(health))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(REQUEST_TIMEOUT, bound))
        .with_state(node)
}

/// An answer that is none: `{"error":{"code":"…","message":"…"}}`.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl std::fmt::Display,
    ) -> Self {
        Self { status, code, message: message.to_string() }
    }

    pub(crate) fn invalid(message: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    pub(crate) fn not_found(message: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({"error": {"code": self.code, "message": self.message}});
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

async fn not_found() -> ApiError {
    ApiError::not_found("no such resource")
}

async fn method_not_allowed() -> ApiError {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    ApiError::new(status, "method_not_allowed", "this resource does not know the method")
}

/// Whether the server takes sessions; for load balancers, so without secret.
async fn health(State(node): State<Arc<Node>>) -> Response {
    let (status, text) = health_status(&node);
    (status, Json(json!({"status": text}))).into_response()
}

async fn health_in_detail(State(node): State<Arc<Node>>) -> Response {
    let (status, text) = health_status(&node);
    let report = node.report();
    let body = json!({
        "status": text,
        "version": env!("CARGO_PKG_VERSION"),
        "shards": node.shard_queues().len(),
        "sessions": report.sessions,
        "rooms": report.rooms,
        "grants": report.grants,
    });
    (status, Json(body)).into_response()
}

fn health_status(node: &Node) -> (StatusCode, &'static str) {
    if node.report().is_draining {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else {
        (StatusCode::OK, "ok")
    }
}

async fn require_secret(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    if shows_secret(request.headers(), &node.config.control.secret) {
        next.run(request).await
    } else {
        let message = "show the control secret as `Authorization: Bearer …`";
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message).into_response()
    }
}

fn shows_secret(headers: &HeaderMap, secret: &Secret) -> bool {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return false };
    let value = value.as_bytes();
    let Some((scheme, shown)) = value.split_at_checked("Bearer ".len()) else { return false };
    scheme.eq_ignore_ascii_case(b"Bearer ") && secret.matches(shown.trim_ascii())
}

/// Keeps what a caller may cost within bounds: an announced body that is too long is not waited
/// for, and nothing is waited for too long.
pub(super) async fn bound(
    State(timeout): State<Duration>,
    request: Request,
    next: Next,
) -> Response {
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > BODY_BYTES_MAX as u64) {
        let message = format!("a body has at most {BODY_BYTES_MAX} bytes");
        return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message).into_response();
    }
    match tokio::time::timeout(timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let message = "the request took too long";
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message).into_response()
        }
    }
}

/// `{server_id}/{user_id}`.
pub(crate) struct HolderPath(pub(crate) Holder);

impl<S: Send + Sync> FromRequestParts<S> for HolderPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((server, user)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(ApiError::invalid)?;
        let server: ServerId = named("server_id", server.parse())?;
        let user: UserId = named("user_id", user.parse())?;
        Ok(Self(Holder { server, user }))
    }
}

/// `{room_id}`.
pub(crate) struct RoomPath(pub(crate) ChannelId);

impl<S: Send + Sync> FromRequestParts<S> for RoomPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(room) =
            Path::<String>::from_request_parts(parts, state).await.map_err(ApiError::invalid)?;
        named("room_id", room.parse()).map(Self)
    }
}

fn named<T, E: std::fmt::Display>(name: &str, parsed: Result<T, E>) -> Result<T, ApiError> {
    parsed.map_err(|error| ApiError::invalid(format!("{name} is {error}")))
}

/// `?close=`.
pub(crate) struct CloseQuery(pub(crate) Option<CloseCode>);

impl<S: Send + Sync> FromRequestParts<S> for CloseQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Parameters {
            close: Option<u16>,
        }
        let Query(parameters) = Query::<Parameters>::from_request_parts(parts, state)
            .await
            .map_err(ApiError::invalid)?;
        parameters.close.map(close_code).transpose().map(Self)
    }
}

/// The close code with this number, if it is one that servers send.
pub(crate) fn close_code(number: u16) -> Result<CloseCode, ApiError> {
    CloseCode::from_code(number)
        .ok_or_else(|| ApiError::invalid(format!("{number} is not a close code of this protocol")))
}

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if request.headers().get(header::CONTENT_TYPE).is_some_and(|value| !is_json(value)) {
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(ApiError::new(status, "unsupported_media_type", "send application/json"));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            let code = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => "too_large",
                _ => "invalid",
            };
            ApiError::new(rejection.status(), code, rejection.body_text())
        })?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            let code = if error.is_data() { "invalid" } else { "malformed_json" };
            ApiError::new(StatusCode::BAD_REQUEST, code, error)
        })
    }
}

fn is_json(content_type: &header::HeaderValue) -> bool {
    let text = content_type.to_str().unwrap_or("");
    let essence = text.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case("application/json")
}
