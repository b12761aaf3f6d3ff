//! What control tells a shard. Plain owned values that cross threads in bounded queues.

use crate::{
    id::{ChannelId, ConnectionId, Serial, ShardId},
    sfu::{Admission, DisconnectReason, Policy},
    signalling::CloseCode,
};

/// An order or an answer from control to one shard.
#[derive(Debug, Clone)]
pub enum Command {
    /// The answer to [`crate::sfu::Event::Admission`], sent to the shard that asked.
    Decide {
        /// The connection that asked to be let in.
        connection: ConnectionId,
        /// Whether it may, and where.
        verdict: Verdict,
    },
    /// New rules for a live session, applied at once.
    Update {
        /// Which session.
        serial: Serial,
        /// All of its rules, not a difference.
        policy: Box<Policy>,
    },
    /// Ends a session.
    Close {
        /// Which session.
        serial: Serial,
        /// What its client is told.
        code: CloseCode,
        /// What the backend is told.
        reason: DisconnectReason,
    },
    /// Ends every session of a channel.
    CloseChannel {
        /// Which channel.
        channel: ChannelId,
        /// What the clients are told.
        code: CloseCode,
        /// What the backend is told.
        reason: DisconnectReason,
    },
    /// Closes the WebSockets of a channel with 4015, so that its members come back by themselves:
    /// they stay members and may resume.
    Reconnect {
        /// Which channel.
        channel: ChannelId,
    },
    /// A defect, for tests of what a shard's end costs.
    #[cfg(test)]
    Panic,
    /// Ends every session: the server is stopping. New connections are refused from here on.
    Drain {
        /// What the clients are told.
        code: CloseCode,
    },
}

/// Control's answer to a connection that wants in.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Join as a new session on `shard`.
    Join {
        /// The channel's shard; the connection moves there if it is another one.
        shard: ShardId,
        /// What it may do.
        admission: Box<Admission>,
    },
    /// Take up the session again that lives on `shard`.
    Resume {
        /// Where the session lives.
        shard: ShardId,
        /// Which session.
        serial: Serial,
    },
    /// Stay outside.
    Refuse {
        /// What the client is told.
        code: CloseCode,
        /// The close frame's text.
        why: &'static str,
    },
}
