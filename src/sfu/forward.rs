//! Fan-out of one opened packet to a channel's hearers. Pure; allocates nothing. Called by the
//! shard for every packet of media.

use crate::{
    egress::Egress,
    metrics::{Counters, DropReason},
    sfu::{
        cursor::Cursor,
        form::{Forms, Parts},
        layout::Layouts,
        session::SessionIndex,
        transport::Transport,
    },
};

/// What forwarding borrows of a shard.
#[derive(Debug)]
pub struct Hearers<'a> {
    /// A channel's members.
    pub members: &'a [SessionIndex],
    /// One for each member.
    pub cursors: &'a mut [Cursor],
    /// By session.
    pub transports: &'a mut [Option<Transport>],
    /// What the transports' layouts are.
    pub layouts: &'a Layouts,
}

/// Seals a packet for everyone in `hearers` but the sender. `forms` has begun it. Returns how many
/// it went to.
pub fn forward(
    parts: &Parts<'_>,
    forms: &mut Forms,
    sender: SessionIndex,
    hearers: Hearers<'_>,
    egress: &mut Egress,
    counters: &mut Counters,
) -> usize {
    let before = egress.len();
    let Hearers { members, cursors, transports, layouts } = hearers;
    for (&hearer, cursor) in members.iter().zip(cursors) {
        if hearer == sender {
            continue;
        }
        let forwarded = match &mut transports[hearer.index()] {
            Some(transport) => forward_one(parts, forms, cursor, transport, layouts, egress),
            None => Err(DropReason::NotConnected),
        };
        if let Err(reason) = forwarded {
            if is_a_gap(reason) {
                // Every cursor has to hear of every packet, or it takes the stream to have gone
                // back after half a lap, and gives numbers twice.
                cursor.withhold(parts.place.seq);
                // Video is of no use without what was missed, up to the next keyframe.
                if parts.is_video() {
                    cursor.wait();
                }
            }
            counters.dropped(reason);
        }
    }
    let forwarded = egress.len() - before;
    counters.forwarded += forwarded as u64;
    forwarded
}

/// Seals a packet for one hearer.
#[inline]
pub(super) fn forward_one(
    parts: &Parts<'_>,
    forms: &mut Forms,
    cursor: &mut Cursor,
    transport: &mut Transport,
    layouts: &Layouts,
    egress: &mut Egress,
) -> Result<(), DropReason> {
    if transport.path().is_none() {
        return Err(DropReason::NotConnected);
    }
    let due = match transport.deaf {
        true => Err(DropReason::Deafened),
        false => parts.media.payload_type_for(transport.opus(), transport.video.as_ref()),
    };
    let seq = parts.place.seq;
    let payload_type = due.inspect_err(|_| cursor.withhold(seq))?;
    if parts.begins {
        cursor.begin(seq);
    }
    let number = cursor.number(seq).ok_or_else(|| {
        if cursor.is_waiting() {
            DropReason::AwaitingKeyframe
        } else if cursor.is_shunned() {
            DropReason::Unwanted
        } else {
            DropReason::LateAfterGap
        }
    })?;
    let form = forms.of(transport.layout(), layouts, parts);
    transport.seal(form, number, payload_type, egress)
}

/// Whether a hearer that was not given a packet for this reason lacks what follows it too. One that
/// was lost on the way out it can ask for.
fn is_a_gap(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::NotConnected | DropReason::Deafened | DropReason::CodecNotSupported
    )
}
