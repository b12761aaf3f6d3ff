//! A voice channel: who is in it. Its members' state is the sessions' own. Owned by the shard.

use crate::{
    id::ChannelId,
    sfu::{Kind, codec::Decoders, session::SessionIndex},
};

/// Sessions that hear each other.
#[derive(Debug)]
pub struct Channel {
    /// Its id.
    pub id: ChannelId,
    /// A voice channel's or a stream's.
    pub kind: Kind,
    /// In no particular order; every stream's cursors run beside it.
    pub members: Vec<SessionIndex>,
    /// Who can decode what.
    pub decoders: Decoders,
    /// Whether a [`crate::sfu::timer::Timer::SinkWants`] is set.
    pub wants_due: bool,
}

impl Channel {
    /// An empty channel.
    pub fn new(id: ChannelId, kind: Kind) -> Self {
        Self { id, kind, members: Vec::new(), decoders: Decoders::default(), wants_due: false }
    }
}
