//! Loops that join a shard to the world: glommio executors, the media ring, TCP and TLS. No
//! decisions.

mod clock;
mod core;
mod handoff;
mod line;
pub mod queues;
pub mod server;
mod shard;
mod tls;
mod turnstile;
mod websocket;
pub mod wire;
