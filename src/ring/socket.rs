//! The UDP socket a ring works on: bound, sized, with the options that the ring's parsing expects.
//! Does not send or receive. Called once per shard, before its ring.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{limits::SOCKET_BUFFER_BYTES, ring::RingError};

/// The kernel's queues of one socket, bytes of its memory (which it charges more freely than
/// payload).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketBuffers {
    /// What may wait to be received.
    pub receive_bytes: usize,
    /// What may wait to be sent.
    pub send_bytes: usize,
}

impl Default for SocketBuffers {
    fn default() -> Self {
        Self { receive_bytes: SOCKET_BUFFER_BYTES, send_bytes: SOCKET_BUFFER_BYTES }
    }
}

impl SocketBuffers {
    /// What a socket has. The kernel doubles what it was asked for and, without CAP_NET_ADMIN, caps
    /// it at `net.core.rmem_max` and `wmem_max` first.
    ///
    /// # Errors
    /// As `getsockopt`.
    pub fn of(socket: &UdpSocket) -> io::Result<Self> {
        let socket = socket2::SockRef::from(socket);
        Ok(Self {
            receive_bytes: socket.recv_buffer_size()?,
            send_bytes: socket.send_buffer_size()?,
        })
    }
}

/// Binds a socket for a ring.
///
/// An IPv6 address that is unspecified takes IPv4 too (dual stack). On an unspecified address the
/// kernel says with each datagram which of our addresses it was sent to. Datagrams leave
/// unfragmented (DF set) and of the size of the interface at most; what ICMP claims about the way
/// is ignored, since anybody can claim it.
///
/// # Errors
/// Port taken, address unknown, no descriptor left, or an option the kernel does not know.
pub fn open(listen: SocketAddr, buffers: SocketBuffers) -> Result<UdpSocket, RingError> {
    let refused = |what| move |source| RingError::from_setup(what, source);
    let domain = Domain::for_address(listen);
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(domain, kind, Some(Protocol::UDP)).map_err(refused("a UDP socket"))?;

    set_buffer(&socket, libc::SO_RCVBUFFORCE, buffers.receive_bytes)
        .or_else(|_| socket.set_recv_buffer_size(buffers.receive_bytes))
        .map_err(refused("SO_RCVBUF"))?;
    set_buffer(&socket, libc::SO_SNDBUFFORCE, buffers.send_bytes)
        .or_else(|_| socket.set_send_buffer_size(buffers.send_bytes))
        .map_err(refused("SO_SNDBUF"))?;
    set(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1).map_err(refused("SO_TIMESTAMPNS"))?;

    // An IPv6 socket needs both kinds: its IPv4 datagrams follow the IPv4 option.
    set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
        .map_err(refused("IP_MTU_DISCOVER"))?;
    let unspecified = listen.ip().is_unspecified();
    if listen.is_ipv6() {
        socket.set_only_v6(false).map_err(refused("IPV6_V6ONLY"))?;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
            .map_err(refused("IPV6_MTU_DISCOVER"))?;
        if unspecified {
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
                .map_err(refused("IPV6_RECVPKTINFO"))?;
        }
    } else if unspecified {
        set(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1).map_err(refused("IP_PKTINFO"))?;
    }

    socket.bind(&listen.into()).map_err(|source| match source.raw_os_error() {
        Some(libc::EADDRINUSE) => RingError::AddressTaken { listen },
        Some(libc::EADDRNOTAVAIL) => RingError::AddressUnknown { listen },
        _ => RingError::from_setup("to bind the media port", source),
    })?;
    Ok(socket.into())
}

fn set_buffer(socket: &Socket, option: libc::c_int, bytes: usize) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, option, libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX))
}

/// Sets an option whose value is an `int`.
pub(super) fn set(
    socket: &impl AsRawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads `value`, of the size that is given, before the call returns.
    let result = unsafe {
        let value: *const libc::c_int = &value;
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, option, value.cast(), size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_remedy() {
        let first = open(([127, 0, 0, 1], 0).into(), SocketBuffers::default()).unwrap();
        let listen = first.local_addr().unwrap();
        let text = open(listen, SocketBuffers::default()).unwrap_err().to_string();
        assert!(text.contains(&listen.to_string()) && text.contains("media.base_port"), "{text}");
    }

    #[test]
    fn an_address_of_another_machine_is_named_with_its_remedy() {
        let listen = ([192, 0, 2, 1], 0).into();
        let text = open(listen, SocketBuffers::default()).unwrap_err().to_string();
        assert!(text.contains("192.0.2.1") && text.contains("media.listen"), "{text}");
    }

    #[test]
    fn buffers_are_at_least_as_large_as_an_ordinary_socket_may_ask() {
        let small = SocketBuffers { receive_bytes: 65_536, send_bytes: 65_536 };
        let socket = open(([127, 0, 0, 1], 0).into(), small).unwrap();
        let granted = SocketBuffers::of(&socket).unwrap();
        assert_eq!(granted, SocketBuffers { receive_bytes: 131_072, send_bytes: 131_072 });
    }
}
