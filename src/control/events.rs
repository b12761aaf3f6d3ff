//! `GET /v1/events`: the public events as server-sent events, resumable by `Last-Event-ID`
//! (protocol.md §6.3; WHATWG HTML §9.2). A follower that comes back too late is told so by an event
//! named `lagged` and goes on with the oldest one kept.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, stream};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    api::ApiError,
    event_log::{LoggedEvent, Next},
    node::Node,
};

/// Events taken from the log at a time.
const EVENTS_READ_MAX: usize = 256;

/// Silence after which a comment shows that the stream lives; proxies give up after 30 to 60 s.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

struct Follower {
    node: Arc<Node>,
    position: u64,
    read: VecDeque<LoggedEvent>,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn follow(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let place = node.followers.clone().try_acquire_owned().map_err(|_| {
        let message = "too many followers of the event stream";
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_followers", message)
    })?;
    let position = match headers.get("last-event-id") {
        Some(id) => {
            let seen = id.to_str().ok().and_then(|id| id.parse::<u64>().ok());
            seen.and_then(|seen| seen.checked_add(1))
                .ok_or_else(|| ApiError::invalid("Last-Event-ID is not the number of an event"))?
        }
        None => node.log.next_seq(),
    };
    let follower = Follower { node, position, read: VecDeque::new(), _place: place };
    let events = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

impl Follower {
    /// The next event; `None` when the node has finished and everything was told.
    async fn next(&mut self) -> Option<Event> {
        let mut is_finished = false;
        loop {
            if let Some(LoggedEvent { seq, json }) = self.read.pop_front() {
                self.position = seq + 1;
                return Some(Event::default().id(seq.to_string()).data(&*json));
            }
            match self.node.log.read(self.position, EVENTS_READ_MAX) {
                Next::Events(events) => self.read = events.into(),
                Next::Lagged { resume_at } => {
                    let notice = json!({"asked_for": self.position, "resume_at": resume_at});
                    self.position = resume_at;
                    return Some(Event::default().event("lagged").data(notice.to_string()));
                }
                Next::Nothing if is_finished => return None,
                Next::Nothing => tokio::select! {
                    () = self.node.log.wait(self.position) => {}
                    () = self.node.finished() => is_finished = true,
                },
            }
        }
    }
}
