//! One received datagram, as a multishot `recvmsg` leaves it in a provided buffer. Bytes in, view
//! out; no system calls, no unsafe: a length that lies is a `None`.
//!
//! ```text
//! 0                16               48                128 (192 with GRO)
//! | io_uring_      | address, its   | control, its     | payload …
//! | recvmsg_out    | room fixed     | room fixed       |
//! ```
//! `io_uring_recvmsg_out`: lengths of address, control and payload, then `MSG_*` flags, `u32` each.

use crate::{
    egress::Path,
    limits::RECEIVE_BUFFER_BYTES,
    ring::{address, control},
};

const HEADER_BYTES: usize = 16;

/// Room for an address: `sockaddr_in6` has 28 bytes.
pub(super) const NAME_ROOM: usize = 32;

/// Room for control messages: a timestamp (32 bytes) and `in6_pktinfo` (40 bytes). The payload then
/// starts on a cache line.
pub(super) const CONTROL_ROOM: usize = 80;

/// Room for the length of segments (24 bytes) besides.
pub(super) const CONTROL_ROOM_GRO: usize = 144;

const _: () = assert!(address::ADDRESS_BYTES <= NAME_ROOM);
const _: () = assert!((HEADER_BYTES + NAME_ROOM + CONTROL_ROOM).is_multiple_of(64));
const _: () = assert!((HEADER_BYTES + NAME_ROOM + CONTROL_ROOM_GRO).is_multiple_of(64));
const _: () = assert!(HEADER_BYTES + NAME_ROOM + CONTROL_ROOM < RECEIVE_BUFFER_BYTES);

/// A datagram in its receive buffer, which is the kernel's again when the closure that got it
/// returns.
#[derive(Debug)]
pub struct Received<'a> {
    /// Who sent it, and to which of our addresses if the socket has several.
    pub path: Path,
    /// The UDP payload: at most 1,920 bytes, which is more than
    /// [`DATAGRAM_BYTES_MAX`](crate::limits::DATAGRAM_BYTES_MAX), or what UDP allows with GRO. May
    /// be changed in place.
    pub bytes: &'a mut [u8],
    /// When the kernel took it from the device, nanoseconds of `CLOCK_REALTIME`.
    pub received_at_ns: Option<u64>,
    /// Whether it was longer than the buffer, so that `bytes` is only its beginning.
    pub truncated: bool,
}

/// What a buffer holds: one datagram, or several of one length that came together.
#[derive(Debug)]
pub(super) struct Filling<'a> {
    first: Received<'a>,
    segment: Option<u16>,
}

impl<'a> Filling<'a> {
    /// Each datagram in turn.
    #[inline]
    pub(super) fn datagrams(self) -> impl Iterator<Item = Received<'a>> {
        let Received { path, bytes, received_at_ns, truncated } = self.first;
        let len = self.segment.map_or(bytes.len(), usize::from).max(1);
        // A datagram without payload is one as well.
        let empty: Option<&mut [u8]> = bytes.is_empty().then(Default::default);
        let each = move |bytes| Received { path, bytes, received_at_ns, truncated };
        empty.into_iter().chain(bytes.chunks_mut(len)).map(each)
    }
}

/// Reads a filled buffer, of the length that the completion gave, with so much room for control
/// messages.
#[inline]
pub(super) fn parse(buffer: &mut [u8], control_room: usize) -> Option<Filling<'_>> {
    let (header, rest) = buffer.split_first_chunk_mut::<HEADER_BYTES>()?;
    let word = |at: usize| {
        u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let [name_len, control_len, payload_len] = [0, 4, 8].map(|at| word(at) as usize);
    let flags = word(12) as i32;

    let (name, rest) = rest.split_at_mut_checked(NAME_ROOM)?;
    let (control, payload) = rest.split_at_mut_checked(control_room)?;
    let remote = address::read(&name[..name_len.min(NAME_ROOM)])?;
    let arrival = control::read(&control[..control_len.min(control_room)]);
    let payload_len = payload_len.min(payload.len());
    let first = Received {
        path: Path { remote, local: arrival.local },
        bytes: &mut payload[..payload_len],
        received_at_ns: arrival.received_at_ns,
        truncated: flags & libc::MSG_TRUNC != 0,
    };
    Some(Filling { first, segment: arrival.segment })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::address::{ADDRESS_BYTES, Family};

    fn filled(lens: [u32; 3], flags: i32, payload: &[u8]) -> Vec<u8> {
        let mut buffer = Vec::new();
        for len in lens {
            buffer.extend_from_slice(&len.to_ne_bytes());
        }
        buffer.extend_from_slice(&flags.to_ne_bytes());
        let mut name = [0; ADDRESS_BYTES];
        assert!(Family::V4.write("192.0.2.7:9".parse().unwrap(), &mut name));
        buffer.extend_from_slice(&name);
        buffer.resize(HEADER_BYTES + NAME_ROOM + CONTROL_ROOM, 0);
        buffer.extend_from_slice(payload);
        buffer
    }

    fn parse(buffer: &mut [u8]) -> Option<Received<'_>> {
        super::parse(buffer, CONTROL_ROOM).map(|filling| filling.first)
    }

    #[test]
    fn datagrams_that_came_together_are_told_apart() {
        for (segment, payload, expected) in [
            (Some(3), &b"onetwothr"[..], &[&b"one"[..], b"two", b"thr"][..]),
            (Some(4), b"fourfive6", &[b"four", b"five", b"6"]),
            (Some(9), b"one", &[b"one"]),
            (None, b"whole", &[b"whole"]),
            (None, b"", &[b""]),
            (Some(2), b"", &[b""]),
        ] {
            let mut buffer = filled([16, 0, payload.len() as u32], 0, payload);
            let filling = super::parse(&mut buffer, CONTROL_ROOM).unwrap();
            let datagrams = Filling { segment, ..filling }.datagrams();
            assert_eq!(datagrams.map(|it| it.bytes.to_vec()).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_datagram_is_read_where_the_kernel_put_it() {
        let mut buffer = filled([16, 0, 5], 0, b"voice");
        let received = parse(&mut buffer).unwrap();
        assert_eq!(received.path, Path::to("192.0.2.7:9".parse().unwrap()));
        assert_eq!(received.bytes, b"voice");
        assert_eq!((received.received_at_ns, received.truncated), (None, false));
        let mut buffer = filled([16, 0, 5], libc::MSG_TRUNC, b"voice");
        assert!(parse(&mut buffer).unwrap().truncated);
    }

    #[test]
    fn lengths_that_lie_are_clamped_or_refused() {
        let most = u32::MAX;
        let mut buffer = filled([most, most, most], 0, b"voice");
        assert_eq!(parse(&mut buffer).unwrap().bytes, b"voice");
        let mut nameless = filled([0, 0, 5], 0, b"voice");
        assert!(parse(&mut nameless).is_none());
        for len in 0..HEADER_BYTES + NAME_ROOM + CONTROL_ROOM {
            let mut cut = filled([16, 0, 5], 0, b"voice");
            cut.truncate(len);
            assert!(parse(&mut cut).is_none(), "{len}");
        }
    }
}
