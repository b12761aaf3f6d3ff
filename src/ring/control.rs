//! Control messages, the `cmsg` chain beside a datagram's bytes: kernel timestamp and local address
//! in, segment size and local address out. Bytes in, values out; no system calls.
//!
//! ```text
//! len: usize | level: i32 | type: i32 | value … | padding to a multiple of 8
//! ```

use std::net::{IpAddr, Ipv4Addr};

use super::address::{Family, mapped, unmapped};

/// Room for what goes out: segment size (24 bytes) and `in6_pktinfo` (40 bytes).
pub(super) const CONTROL_BYTES: usize = 64;

const HEADER: usize = size_of::<libc::cmsghdr>();

const fn padded(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

/// What the kernel says about a datagram it received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Arrival {
    /// `SCM_TIMESTAMPNS`, nanoseconds of `CLOCK_REALTIME`.
    pub received_at_ns: Option<u64>,
    /// Our address it was sent to.
    pub local: Option<IpAddr>,
    /// Length of the datagrams that it has several of (`UDP_GRO`), but for the last.
    pub segment: Option<u16>,
}

/// Reads a chain that the kernel wrote. Stops at the first header that contradicts the length.
#[inline]
pub(super) fn read(mut chain: &[u8]) -> Arrival {
    let mut arrival = Arrival::default();
    while let Some((level, kind, value, rest)) = first(chain) {
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => arrival.received_at_ns = timespec(value),
            // in_pktinfo: interface, our address, address in the header. Ours is the one to answer
            // from; they differ when the datagram was broadcast.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let ip = value.get(4..).and_then(|value| value.first_chunk::<4>());
                arrival.local = ip.map(|&ip| Ipv4Addr::from(ip).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                arrival.local = value.first_chunk().map(|&ip| unmapped(ip));
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let len = value.first_chunk().map(|&len| i32::from_ne_bytes(len));
                arrival.segment =
                    len.and_then(|len| u16::try_from(len).ok()).filter(|len| *len > 0);
            }
            _ => {}
        }
        chain = rest;
    }
    arrival
}

#[inline]
fn first(chain: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let (header, _) = chain.split_first_chunk::<HEADER>()?;
    let (len, kind) = header.split_first_chunk::<{ size_of::<usize>() }>()?;
    let len = usize::from_ne_bytes(*len);
    let level = i32::from_ne_bytes(*kind.first_chunk()?);
    let kind = i32::from_ne_bytes(*kind.last_chunk()?);
    let value = chain.get(HEADER..len)?;
    Some((level, kind, value, chain.get(padded(len)..).unwrap_or_default()))
}

fn timespec(value: &[u8]) -> Option<u64> {
    const WORD: usize = size_of::<libc::c_long>();
    let seconds = libc::c_long::from_ne_bytes(*value.first_chunk::<WORD>()?);
    let nanoseconds = libc::c_long::from_ne_bytes(*value.get(WORD..)?.first_chunk::<WORD>()?);
    u64::try_from(seconds)
        .ok()?
        .checked_mul(1_000_000_000)?
        .checked_add(u64::try_from(nanoseconds).ok()?)
}

/// A chain being written, aligned as `cmsghdr` asks.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Chain {
    bytes: [u8; CONTROL_BYTES],
    len: usize,
}

impl Chain {
    /// An empty chain.
    pub(super) const EMPTY: Chain = Chain { bytes: [0; CONTROL_BYTES], len: 0 };

    /// Forgets what was written.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Has the kernel cut the bytes into datagrams of `len` (`UDP_SEGMENT`).
    #[inline]
    pub(super) fn segment(&mut self, len: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &len.to_ne_bytes());
    }

    /// Has the datagram leave from `local`. On an IPv6 socket IPv4 addresses are mapped. `false`:
    /// an IPv4 socket has no such address.
    #[inline]
    pub(super) fn leave_from(&mut self, family: Family, local: IpAddr) -> bool {
        match (family, local) {
            (Family::V4, IpAddr::V4(ip)) => {
                // in_pktinfo: any interface, our address, nothing.
                let mut value = [0; 12];
                value[4..8].copy_from_slice(&ip.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &value);
            }
            (Family::V4, IpAddr::V6(_)) => return false,
            (Family::V6, ip) => {
                // in6_pktinfo: our address, any interface.
                let mut value = [0; 20];
                value[..16].copy_from_slice(&mapped(ip));
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &value);
            }
        }
        true
    }

    /// The chain for the kernel. Empty when nothing was written.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    #[inline]
    fn push(&mut self, level: i32, kind: i32, value: &[u8]) {
        let len = HEADER + value.len();
        let out = &mut self.bytes[self.len..self.len + padded(len)];
        out[..8].copy_from_slice(&len.to_ne_bytes());
        out[8..12].copy_from_slice(&level.to_ne_bytes());
        out[12..16].copy_from_slice(&kind.to_ne_bytes());
        out[HEADER..len].copy_from_slice(value);
        self.len += padded(len);
    }
}

// A 64-bit kernel and 64-bit words throughout: the layouts above say so.
const _: () = assert!(HEADER == 16 && size_of::<usize>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    fn message(level: i32, kind: i32, value: &[u8]) -> Vec<u8> {
        let mut chain = Chain::EMPTY;
        chain.push(level, kind, value);
        chain.bytes().to_vec()
    }

    #[test]
    fn timestamp_and_local_address_are_read_in_any_order() {
        let mut stamp = Vec::new();
        stamp.extend_from_slice(&1_700_000_000_i64.to_ne_bytes());
        stamp.extend_from_slice(&42_i64.to_ne_bytes());
        let stamp = message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &stamp);
        let mut v4 = Chain::EMPTY;
        assert!(v4.leave_from(Family::V4, "127.0.0.2".parse().unwrap()));
        let expected = Arrival {
            received_at_ns: Some(1_700_000_000_000_000_042),
            local: Some("127.0.0.2".parse().unwrap()),
            segment: None,
        };
        assert_eq!(read(&[stamp.as_slice(), v4.bytes()].concat()), expected);
        assert_eq!(read(&[v4.bytes(), stamp.as_slice()].concat()), expected);
        let mut mapped = Chain::EMPTY;
        assert!(mapped.leave_from(Family::V6, "127.0.0.2".parse().unwrap()));
        assert_eq!(read(&[mapped.bytes(), stamp.as_slice()].concat()), expected);
    }

    #[test]
    fn a_segment_length_is_read_and_none_that_cuts_nothing() {
        let read_of =
            |len: i32| read(&message(libc::SOL_UDP, libc::UDP_GRO, &len.to_ne_bytes())).segment;
        assert_eq!(read_of(1_178), Some(1_178));
        assert_eq!([read_of(0), read_of(-1), read_of(65_536)], [None; 3]);
    }

    #[test]
    fn unknown_messages_are_skipped() {
        let strange = message(libc::SOL_SOCKET, 12_345, &[7; 5]);
        let mut local = Chain::EMPTY;
        local.leave_from(Family::V6, "2001:db8::1".parse().unwrap());
        let arrival = read(&[strange.as_slice(), local.bytes()].concat());
        assert_eq!(arrival.local, Some("2001:db8::1".parse().unwrap()));
        assert_eq!(arrival.received_at_ns, None);
    }

    #[test]
    fn no_length_reads_past_the_chain() {
        let whole = message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &[1; 16]);
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]), Arrival::default());
        }
        for len in [0, 1, 15, 33, usize::MAX - 7, usize::MAX] {
            let mut lying = whole.clone();
            lying[..8].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(read(&lying), Arrival::default(), "len {len}");
        }
    }

    #[test]
    fn both_outgoing_messages_fit_together() {
        let mut chain = Chain::EMPTY;
        assert!(chain.leave_from(Family::V6, "::1".parse().unwrap()));
        chain.segment(1_200);
        assert_eq!(chain.bytes().len(), CONTROL_BYTES);
        chain.clear();
        assert!(chain.bytes().is_empty());
        assert!(!chain.leave_from(Family::V4, "::1".parse().unwrap()));
    }
}
