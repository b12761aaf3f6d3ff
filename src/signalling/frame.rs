//! One WebSocket message without the WebSocket: JSON text, or a binary DAVE message (protocol.md
//! §1.2). Passed between a connection, the replay buffer and the driver, which frames and masks.

use std::fmt;

/// One message, either way.
#[derive(Clone, PartialEq, Eq)]
pub enum Frame {
    /// JSON.
    Text(String),
    /// An opcode and its payload, with a sequence number in front where the version has them.
    Binary(Vec<u8>),
}

impl Frame {
    /// Bytes of payload.
    pub fn len(&self) -> usize {
        match self {
            Frame::Text(text) => text.len(),
            Frame::Binary(bytes) => bytes.len(),
        }
    }

    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Prints the size alone: frames hold tokens and keys.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self, Frame::Text(_)) { "Text" } else { "Binary" };
        write!(f, "{kind}({} bytes)", self.len())
    }
}
