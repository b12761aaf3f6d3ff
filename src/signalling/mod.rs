//! Sans-IO voice gateway: one WebSocket's conversation (protocol.md §1). Parses and writes frames,
//! keeps the order of a connection, its deadlines and its replay buffer. Knows nothing of media,
//! grants or other members: those are the shard's (`sfu`), which calls all of this.

mod client;
mod close;
mod codec;
mod connection;
mod envelope;
mod frame;
mod heartbeat;
mod identify;
pub mod opcode;
mod resume;
mod select_protocol;
mod server;
mod sink_wants;
mod stream;
mod version;

pub use client::{ClientMessage, Dave, Speaking};
pub use close::{BROKEN, CloseCode, Refusal};
pub use codec::{Codec, CodecName};
pub use connection::{Connection, Request};
pub use frame::Frame;
pub use heartbeat::Heartbeat;
pub use identify::{Identify, Resume};
pub use resume::{Gap, ReplayBuffer};
pub use select_protocol::{Protocol, SelectProtocol};
pub use server::{Described, ServerMessage};
pub use sink_wants::SinkWants;
pub use stream::{Layer, Resolution, StreamRequest, Video};
pub use version::Version;
