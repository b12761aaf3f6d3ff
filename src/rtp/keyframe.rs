//! Where a picture that needs no earlier one begins, told from the clear first bytes of an RTP
//! payload: payload descriptors and unit headers, which stay readable when clients encrypt their
//! frames among themselves (protocol.md §5.9). No state; a payload that is cut off begins nothing.
//! Called by the shard, which starts hearers of video there.

/// VP8 (RFC 7741 §4.2, §4.3): the first partition begins in this packet and its P bit is clear.
///
/// ```text
/// |X|R|N|S|R| PID | (X: |I|L|T|K| RSV | …)   then   |Size0|H| VER |P|
/// ```
pub fn begins_in_vp8(payload: &[u8]) -> bool {
    fn frame_tag(payload: &[u8]) -> Option<u8> {
        let (&first, mut rest) = payload.split_first()?;
        if first & 0x80 != 0 {
            let (&extended, after) = rest.split_first()?;
            rest = after;
            if extended & 0x80 != 0 {
                let picture_id = 1 + usize::from(rest.first()? >> 7);
                rest = rest.get(picture_id..)?;
            }
            let others = usize::from(extended & 0x40 != 0) + usize::from(extended & 0x30 != 0);
            rest = rest.get(others..)?;
        }
        rest.first().copied()
    }
    let starts = payload.first().is_some_and(|first| first & 0x17 == 0x10);
    starts && frame_tag(payload).is_some_and(|tag| tag & 1 == 0)
}

/// VP9 (RFC 9628 §4.2): a frame of the lowest spatial layer begins in this packet and is predicted
/// from no other picture.
///
/// ```text
/// |I|P|L|F|B|E|V|Z| (I: 1 or 2 bytes of picture id) (L: |TID|U| SID |D|)
/// ```
pub fn begins_in_vp9(payload: &[u8]) -> bool {
    fn spatial_layer(payload: &[u8]) -> Option<u8> {
        let (&first, mut rest) = payload.split_first()?;
        if first & 0x80 != 0 {
            rest = rest.get(1 + usize::from(rest.first()? >> 7)..)?;
        }
        if first & 0x20 == 0 { Some(0) } else { Some(rest.first()? >> 1 & 0x07) }
    }
    let starts = payload.first().is_some_and(|first| first & 0x48 == 0x08);
    starts && spatial_layer(payload) == Some(0)
}

/// H.264 (RFC 6184 §5.4 to §5.8): an IDR slice or a sequence parameter set begins in this packet,
/// alone, aggregated or as the first of its fragments.
pub fn begins_in_h264(payload: &[u8]) -> bool {
    let is_key = |header: u8| matches!(header & 0x1F, 5 | 7);
    match *payload {
        [header, ref units @ ..] if header & 0x1F == 24 => any_unit(units, is_key),
        // As before, behind a decoding order number.
        [header, _, _, ref units @ ..] if header & 0x1F == 25 => any_unit(units, is_key),
        [header, fragment, ..] if matches!(header & 0x1F, 28 | 29) => {
            fragment & 0x80 != 0 && is_key(fragment)
        }
        [header, ..] => is_key(header),
        [] => false,
    }
}

/// H.265 (RFC 7798 §4.4): a picture of random access or a parameter set begins in this packet.
pub fn begins_in_h265(payload: &[u8]) -> bool {
    let is_key = |unit: u8| matches!(unit & 0x3F, 16..=21 | 32..=34);
    match *payload {
        [header, _, ref units @ ..] if header >> 1 & 0x3F == 48 => {
            any_unit(units, |header| is_key(header >> 1))
        }
        [header, _, fragment, ..] if header >> 1 & 0x3F == 49 => {
            fragment & 0x80 != 0 && is_key(fragment)
        }
        [header, _, ..] => is_key(header >> 1),
        _ => false,
    }
}

/// AV1 (AV1's RTP specification §4.4): the packet is the first of a coded video sequence.
///
/// ```text
/// |Z|Y| W |N|-|-|-|   Z: goes on with a unit of the packet before; N: a sequence begins
/// ```
pub fn begins_in_av1(payload: &[u8]) -> bool {
    matches!(*payload, [aggregation, _, ..] if aggregation & 0x88 == 0x08)
}

/// Whether the first byte of any of these units, each behind its length in 16 bits, is such a one.
fn any_unit(mut units: &[u8], is: impl Fn(u8) -> bool) -> bool {
    while let Some((length, rest)) = units.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((unit, rest)) = rest.split_at_checked(length) else { return false };
        if unit.first().is_some_and(|header| is(*header)) {
            return true;
        }
        units = rest;
    }
    false
}

#[cfg(test)]
#[path = "keyframe_tests.rs"]
mod tests;
