//! Socket addresses as the kernel writes and reads them. Bytes in, values out; no system calls.
//! IPv4 addresses on a dual-stack socket are mapped on the way in and out, so that the rest of the
//! server knows each peer by one address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Room for the longer of the two forms: `sockaddr_in6`, 28 bytes.
pub(super) const ADDRESS_BYTES: usize = size_of::<libc::sockaddr_in6>();

const V4_BYTES: usize = size_of::<libc::sockaddr_in>();

/// The address family of a socket: which form its addresses take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// `sockaddr_in`: family, port, address, 8 bytes of zero.
    V4,
    /// `sockaddr_in6`: family, port, flow, address, scope. Takes IPv4 addresses mapped.
    V6,
}

impl Family {
    /// Family of a socket bound to `local`.
    pub(super) fn of(local: SocketAddr) -> Self {
        if local.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Bytes of an address on such a socket.
    pub(super) fn address_bytes(self) -> usize {
        match self {
            Family::V4 => V4_BYTES,
            Family::V6 => ADDRESS_BYTES,
        }
    }

    /// Writes an address. `false`: an IPv4 socket cannot reach it.
    #[inline]
    pub(super) fn write(self, address: SocketAddr, out: &mut [u8; ADDRESS_BYTES]) -> bool {
        out[2..4].copy_from_slice(&address.port().to_be_bytes());
        match (self, address.ip()) {
            (Family::V4, IpAddr::V4(ip)) => {
                out[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                out[4..8].copy_from_slice(&ip.octets());
                out[8..V4_BYTES].fill(0);
            }
            (Family::V4, IpAddr::V6(_)) => return false,
            (Family::V6, ip) => {
                let scope = match address {
                    SocketAddr::V6(address) => address.scope_id(),
                    SocketAddr::V4(_) => 0,
                };
                out[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                out[4..8].fill(0);
                out[8..24].copy_from_slice(&mapped(ip));
                out[24..28].copy_from_slice(&scope.to_ne_bytes());
            }
        }
        true
    }
}

/// Reads an address that the kernel wrote, either form. `None`: another family, or cut short.
#[inline]
pub(super) fn read(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
            Some(SocketAddr::new(Ipv4Addr::from(ip).into(), port))
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
            let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
            Some(match unmapped(ip) {
                IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
                ip => SocketAddr::new(ip, port),
            })
        }
        _ => None,
    }
}

/// The sixteen bytes of an address; IPv4 as `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2).
#[inline]
pub(super) fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The reverse of [`mapped`].
#[inline]
pub(super) fn unmapped(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(family: Family, address: &str) -> SocketAddr {
        let mut bytes = [0xEE; ADDRESS_BYTES];
        assert!(family.write(address.parse().unwrap(), &mut bytes));
        read(&bytes[..family.address_bytes()]).unwrap()
    }

    #[test]
    fn addresses_survive_both_forms() {
        for address in ["192.0.2.7:50000", "127.0.0.1:1"] {
            assert_eq!(round_trip(Family::V4, address).to_string(), address);
            assert_eq!(round_trip(Family::V6, address).to_string(), address);
        }
        for address in ["[2001:db8::1]:50000", "[fe80::1%3]:9"] {
            assert_eq!(round_trip(Family::V6, address).to_string(), address);
        }
    }

    #[test]
    fn layouts_are_those_of_the_kernel() {
        let mut bytes = [0xEE; ADDRESS_BYTES];
        Family::V4.write("192.0.2.7:258".parse().unwrap(), &mut bytes);
        let family = (libc::AF_INET as u16).to_ne_bytes();
        assert_eq!(bytes[..16], [family[0], family[1], 1, 2, 192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(std::mem::offset_of!(libc::sockaddr_in6, sin6_addr), 8);
        assert_eq!(std::mem::offset_of!(libc::sockaddr_in6, sin6_scope_id), 24);
    }

    #[test]
    fn an_ipv4_socket_refuses_an_ipv6_address() {
        assert!(!Family::V4.write("[::1]:9".parse().unwrap(), &mut [0; ADDRESS_BYTES]));
    }

    #[test]
    fn cut_and_foreign_addresses_are_refused() {
        let mut bytes = [0; ADDRESS_BYTES];
        Family::V6.write("[2001:db8::1]:9".parse().unwrap(), &mut bytes);
        for len in 0..ADDRESS_BYTES {
            assert_eq!(read(&bytes[..len]), None);
        }
        bytes[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
        assert_eq!(read(&bytes), None);
    }
}
