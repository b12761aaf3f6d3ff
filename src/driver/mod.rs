//! Loops that join a shard to the world: glommio executors, the media ring, TCP and TLS. No
//! decisions.

pub mod queues;
