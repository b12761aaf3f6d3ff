//! A connection on its way to the shard that has its channel: socket, TLS and WebSocket state,
//! bytes already read, and the conversation. Happens once, between two reads.

use std::{net::IpAddr, os::fd::OwnedFd, rc::Rc};

use super::{core::Core, queues::ToShard, turnstile::Permit, wire::Wire};
use crate::{id::ShardId, sfu::Arrival};

/// Everything about a connection that moves.
#[derive(Debug)]
pub struct Handoff {
    /// The TCP socket; no read or write of it is under way.
    pub socket: OwnedFd,
    /// What is known of its bytes.
    pub wire: Wire,
    /// The conversation and control's decision.
    pub arrival: Box<Arrival>,
    /// The client's address.
    pub address: IpAddr,
    /// Its place among its address's connections.
    pub permit: Permit,
}

impl Handoff {
    /// Sends the connection off; it comes back if the other shard's queue is full.
    pub fn send(self, core: &Rc<Core>, to: ShardId) -> Result<(), Box<Handoff>> {
        match core.send_to(to, ToShard::Arrival(Box::new(self))) {
            Err(ToShard::Arrival(handoff)) => Err(handoff),
            _ => Ok(()),
        }
    }
}
