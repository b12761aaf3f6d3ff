//! Sans-IO: everything one core owns, channels, sessions and their media. Takes `now`, datagrams,
//! messages and commands; gives datagrams, messages and events. Called by `driver` and by the
//! simulation.

mod admission;
mod command;
mod event;

pub use admission::{
    Admission, E2ee, Kind, Permissions, Policy, RoomPolicy, RoomType, StreamPolicy, VoiceState,
};
pub use command::{Command, Verdict};
pub use event::{AdmissionRequest, DisconnectReason, Event, RoomReport, SessionReport};
