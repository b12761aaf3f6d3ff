//! `/v1/rooms`: what is going on in the channels of this node, and ending it (protocol.md §6.3).

use std::sync::Arc;

use axum::{Json, body::Bytes, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    api::{ApiError, CloseQuery, RoomPath, close_code},
    event_log::rfc3339_ms,
    ledger::Holder,
    node::Node,
};
use crate::{driver::queues::Rooms, sfu::RoomReport, signalling::CloseCode};

#[derive(Debug, Serialize)]
pub(super) struct RoomList {
    rooms: Vec<RoomReport>,
}

pub(super) async fn list(State(node): State<Arc<Node>>) -> Result<Json<RoomList>, ApiError> {
    let mut rooms = Vec::new();
    for report in node.inspect_all(Rooms::All).await {
        rooms.extend(report.ok_or_else(unresponsive)?.rooms);
    }
    rooms.sort_by_key(|room| room.room_id);
    for room in &mut rooms {
        complete(&node, room);
    }
    Ok(Json(RoomList { rooms }))
}

pub(super) async fn show(
    State(node): State<Arc<Node>>,
    RoomPath(room_id): RoomPath,
) -> Result<Json<RoomReport>, ApiError> {
    let shard = node.look(|authority| authority.shard_of(room_id)).ok_or_else(no_such_room)?;
    let report = node.inspect(shard, Rooms::One(room_id)).await.ok_or_else(unresponsive)?;
    // It may be empty by now, or about to get its first session.
    let mut room = report.rooms.into_iter().next().ok_or_else(no_such_room)?;
    complete(&node, &mut room);
    Ok(Json(room))
}

pub(super) async fn close(
    State(node): State<Arc<Node>>,
    RoomPath(room_id): RoomPath,
    CloseQuery(code): CloseQuery,
) -> Result<StatusCode, ApiError> {
    let code = code.unwrap_or(CloseCode::RoomClosed);
    let was_there = node.act(|authority, _, _| authority.close_room(room_id, code));
    if was_there { Ok(StatusCode::NO_CONTENT) } else { Err(no_such_room()) }
}

pub(super) async fn migrate(
    State(node): State<Arc<Node>>,
    RoomPath(room_id): RoomPath,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let code = match &body[..] {
        b"" => CloseCode::ServerCrashed,
        body => migration_code(body)?,
    };
    let was_live = node.act(|authority, _, _| authority.migrate_room(room_id, code));
    if was_live { Ok(StatusCode::NO_CONTENT) } else { Err(no_such_room()) }
}

fn migration_code(body: &[u8]) -> Result<CloseCode, ApiError> {
    #[derive(Deserialize)]
    struct Migration {
        close: Option<u16>,
    }
    let object: Map<String, Value> = serde_json::from_slice(body).map_err(ApiError::invalid)?;
    let migration: Migration = serde_json::from_value(object.into()).map_err(ApiError::invalid)?;
    migration.close.map_or(Ok(CloseCode::ServerCrashed), close_code)
}

/// Adds what only control knows.
fn complete(node: &Node, room: &mut RoomReport) {
    let room_id = room.room_id;
    for session in &mut room.sessions {
        let holder = Holder { server: session.server_id, user: session.user_id };
        let at = node.look(|authority| authority.connected_at(holder, room_id));
        session.connected_at = at.map(rfc3339_ms).unwrap_or_default();
    }
}

fn no_such_room() -> ApiError {
    ApiError::not_found("no such room on this node")
}

fn unresponsive() -> ApiError {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    ApiError::new(status, "shard_unresponsive", "a shard does not answer")
}
