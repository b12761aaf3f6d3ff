//! The control plane: one ordinary thread with tokio and axum, beside the shards and off the packet
//! path. It holds grants and decides admissions (`authority`, sans-IO), answers the backend over
//! HTTP (`api` and the resources under it), and tells it what happens (`event_log`, `webhook`). A
//! development server has a `page` to talk on, and every gateway gives its files (`link_page`).
//! Control meets the shards only in `driver::queues`. Started by `driver::server`.

mod api;
pub mod authority;
mod backend;
mod backlog;
mod changes;
mod directory;
mod door;
pub mod event_log;
mod events;
mod exposition;
mod grants;
mod http_server;
pub mod ledger;
mod link_page;
mod local_origin;
mod node;
mod page;
mod rooms;
mod roster;
pub mod spacebar;
mod throttle;
mod tls_stream;
pub mod token;
mod visitors;
mod webhook;

pub use link_page::LinkPage;
pub use node::{ControlError, ControlThread, check, run};
