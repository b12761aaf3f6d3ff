//! Sans-IO: everything one core owns, channels, sessions and their media. Takes `now`, datagrams,
//! messages and commands; gives datagrams, messages and events. Called by `driver` and by the
//! simulation.

mod admission;
mod arrivals;
mod budget;
mod camera;
mod channel;
mod codec;
mod command;
mod control_packets;
mod conversation;
mod cursor;
mod discovery;
mod entrance;
mod event;
mod feedback;
mod form;
mod forward;
mod handshake;
mod inbound;
mod ingress;
mod keyframes;
mod laps;
mod layout;
mod missing;
mod peer;
mod publish;
mod reception;
mod repair;
mod reports;
mod retransmit;
mod session;
mod shard;
mod source;
mod timer;
mod transport;
mod wants;

pub use admission::{
    Admission, E2ee, Kind, Permissions, Policy, RoomPolicy, RoomType, StreamPolicy, VoiceState,
};
pub use command::{Command, Verdict};
pub use event::{AdmissionRequest, DisconnectReason, Event, RoomReport, SessionReport};
pub use shard::{Arrival, Output, Shard, ShardConfig};
pub use timer::Timer;
