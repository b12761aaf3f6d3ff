//! Sans-IO voice gateway: one WebSocket's conversation (protocol.md §1). Parses and writes frames,
//! keeps the order of a connection, its deadlines and its replay buffer. Knows nothing of media.

mod close;
mod message;

pub use close::CloseCode;
pub use message::{Identify, Resume, StreamRequest};
