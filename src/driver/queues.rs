//! What crosses threads: plain owned values in bounded queues, a few per turn. A full queue is an
//! answer to the sender, never growth.

use async_channel::{Receiver, Sender};

use super::handoff::Handoff;
use crate::{
    id::{ChannelId, ShardId},
    limits::SHARD_SESSIONS_MAX,
    metrics::{Counters, Latency},
    sfu::{Command, Event, RoomReport},
};

/// Commands, questions and moving connections waiting for one shard. A join storm of a thousand
/// connections in one turn fits; a shard that falls further behind makes control wait.
pub const SHARD_QUEUE_MAX: usize = 4_096;

/// Events waiting for control, all shards together.
pub const CONTROL_QUEUE_MAX: usize = 65_536;

/// Reports a shard keeps while control's queue is full: each session's beginning and end.
pub const CONTROL_BACKLOG_MAX: usize = 4 * SHARD_SESSIONS_MAX;

/// To one shard.
#[derive(Debug)]
pub enum ToShard {
    /// Obeyed by the shard's core.
    Command(Command),
    /// A connection from another shard.
    Arrival(Box<Handoff>),
    /// Close the listener and end: everything was said with [`Command::Drain`].
    Stop,
    /// Answered by the shard's driver with a copy of what it knows.
    Inspect {
        /// Which channels are wanted beside the counters.
        rooms: Rooms,
        /// Where the answer goes; a capacity of one.
        reply: Sender<ShardReport>,
    },
}

/// Which channels a report shall tell of: each is copied with all its sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rooms {
    /// None; the counters are enough.
    None,
    /// This one, if it is live.
    One(ChannelId),
    /// All.
    All,
}

/// From one shard to control.
#[derive(Debug)]
pub struct ToControl {
    /// Who speaks.
    pub shard: ShardId,
    /// What it says.
    pub news: News,
}

/// What a shard's driver tells control.
#[derive(Debug)]
pub enum News {
    /// From the shard's core.
    Event(Event),
    /// The shard lost its state to a defect and starts empty; all its sessions are gone.
    Restarted,
}

/// A copy of one shard's state.
#[derive(Debug, Clone)]
pub struct ShardReport {
    /// Whose state.
    pub shard: ShardId,
    /// Its UDP port, as bound.
    pub port: u16,
    /// What it has counted since the process started.
    pub counters: Counters,
    /// Live sessions.
    pub sessions: u64,
    /// Live channels.
    pub channels: u64,
    /// Open WebSockets.
    pub connections: u64,
    /// Connections refused or cut, and reports dropped, by the limit that did it (metrics label
    /// `limit`).
    pub limited: Vec<(&'static str, u64)>,
    /// WebSockets it closed, by close code (metrics label `code`).
    pub closes: Vec<(u16, u64)>,
    /// Times it lost its state to a defect.
    pub restarts: u64,
    /// Time spent in one turn of the media loop.
    pub loop_time: Latency,
    /// From the kernel's receive timestamp to the end of the send, sampled.
    pub forwarding: Latency,
    /// Channels and sessions, when asked for.
    pub rooms: Vec<RoomReport>,
}

/// Control's ends of all the queues.
#[derive(Debug)]
pub struct ControlQueues {
    /// One queue per shard, in shard order.
    pub shards: Vec<Sender<ToShard>>,
    /// Events from all shards.
    pub events: Receiver<ToControl>,
}
