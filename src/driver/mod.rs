//! Loops that join a shard to the world: the media ring, glommio, TCP and TLS. No decisions.

mod core;
mod executor;
mod handoff;
mod line;
pub mod queues;
pub mod server;
mod shard;
mod tasks;
mod tls;
mod turnstile;
mod websocket;
pub mod wire;
