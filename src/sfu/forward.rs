//! Fan-out of one opened packet to a channel's hearers. Pure; allocates nothing. Called by the
//! shard for every packet of media.

use crate::{
    egress::Egress,
    metrics::{Counters, DropReason},
    rtp::{extension, packet},
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
    /// Whether hearers who wait for a keyframe go on with this packet.
    pub begins: bool,
}

impl Fanout<'_> {
    fn is_video(&self) -> bool {
        matches!(self.media, Media::Video { .. })
    }
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
        let forwarded = match &mut transports[hearer.index()] {
            Some(transport) => forward_one(fanout, cursor, transport, egress),
            None => Err(DropReason::NotConnected),
        };
        if let Err(reason) = forwarded {
            // Video is of no use without what was missed, up to the next keyframe.
            if fanout.is_video() && is_a_gap(reason) {
                cursor.withhold(fanout.seq);
                cursor.wait();
            }
            counters.dropped(reason);
        }
    }
    let forwarded = egress.len() - before;
    counters.forwarded += forwarded as u64;
    forwarded
}

/// Seals `fanout` for one hearer.
#[inline]
pub(super) fn forward_one(
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
    if fanout.begins {
        cursor.begin(fanout.seq);
    }
    let seq = cursor.pass(fanout.seq).ok_or_else(|| match cursor.is_waiting() {
        true => DropReason::AwaitingKeyframe,
        false => DropReason::LateAfterGap,
    })?;
    match fanout.media {
        Media::Audio => transport.seal(fanout.packet, egress, |bytes| {
            packet::set_payload_type(bytes, payload_type);
            packet::set_seq(bytes, seq);
        }),
        Media::Video { .. } => transport.seal_numbered(fanout.packet, egress, |bytes, number| {
            packet::set_payload_type(bytes, payload_type);
            packet::set_seq(bytes, seq);
            extension::set_transport_seq(bytes, number);
        }),
    }
}

/// Whether a hearer that was not given a packet for this reason lacks what follows it too. One that
/// was lost on the way out it can ask for.
fn is_a_gap(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::NotConnected | DropReason::Deafened | DropReason::CodecNotSupported
    )
}
