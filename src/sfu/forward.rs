//! Fan-out of one opened packet to a channel's hearers. Pure; allocates nothing. Called by the shard
//! for every packet of media.

use crate::{
    egress::Egress,
    metrics::{Counters, DropReason},
    rtp::packet,
    sfu::{codec::Media, cursor::Cursor, session::SessionIndex, transport::Transport},
};

/// A packet as hearers shall get it, but for what differs from hearer to hearer.
#[derive(Debug, Clone, Copy)]
pub struct Fanout<'a> {
    /// The plain packet: header, extension, payload.
    pub packet: &'a [u8],
    /// Its number in the channel's sequence.
    pub seq: u16,
    /// What it carries.
    pub media: Media,
}

/// Seals `fanout` for everyone in `members` but the sender. `cursors` run beside `members`,
/// `transports` are indexed by session. Returns how many hearers it went to.
pub fn forward(
    fanout: &Fanout<'_>,
    sender: SessionIndex,
    members: &[SessionIndex],
    cursors: &mut [Cursor],
    transports: &mut [Option<Transport>],
    egress: &mut Egress,
    counters: &mut Counters,
) -> usize {
    let before = egress.len();
    for (&hearer, cursor) in members.iter().zip(cursors) {
        if hearer == sender {
            continue;
        }
        let Some(transport) = &mut transports[hearer.index()] else {
            counters.dropped(DropReason::NotConnected);
            continue;
        };
        if let Err(reason) = forward_one(fanout, cursor, transport, egress) {
            counters.dropped(reason);
        }
    }
    let forwarded = egress.len() - before;
    counters.forwarded += forwarded as u64;
    forwarded
}

#[inline]
fn forward_one(
    fanout: &Fanout<'_>,
    cursor: &mut Cursor,
    transport: &mut Transport,
    egress: &mut Egress,
) -> Result<(), DropReason> {
    if transport.path().is_none() {
        return Err(DropReason::NotConnected);
    }
    let due = match transport.deaf {
        true => Err(DropReason::Deafened),
        false => fanout.media.payload_type_for(transport.video.as_ref()),
    };
    let payload_type = due.inspect_err(|_| cursor.withhold(fanout.seq))?;
    let seq = cursor.pass(fanout.seq).ok_or(DropReason::LateAfterGap)?;
    transport.seal(fanout.packet, egress, |bytes| {
        packet::set_payload_type(bytes, payload_type);
        packet::set_seq(bytes, seq);
    })
}
