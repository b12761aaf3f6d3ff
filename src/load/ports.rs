//! The UDP sockets of one media thread, each on a ring of its own, and which client sends from
//! where. Servers know a session by its address, so every client needs one: on loopback one socket
//! serves them all, each with an address of its own out of 127.0.0.0/8; elsewhere each has a port.
//! Sends and receives; knows nothing of what.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::BorrowedFd,
};

use crate::{
    egress::{Egress, Flow, Path, Slot},
    limits::DATAGRAM_BYTES_MAX,
    ring::{
        Received, Ring, RingConfig, RingError, Sent,
        socket::{self, SocketBuffers},
    },
};

/// Address of the first client on loopback. Above what people use by hand.
const FIRST_LOOPBACK: u32 = u32::from_be_bytes([127, 16, 0, 1]);

/// Receive buffers of the socket that serves all clients: 20 ms at 50,000 packets a second. What
/// comes while all are taken waits in the socket.
const SHARED_BUFFERS: u16 = 1_024;
/// Receive buffers of a socket that serves one client: a frame of video and a half.
const OWN_BUFFERS: u16 = 64;

/// Bytes of socket buffer asked for when one socket serves all clients: what the server sends while
/// the generator is busy sending, and the kernel charges small datagrams with up to 2 KiB.
const SHARED_SOCKET_BYTES: usize = 64 * 1_024 * 1_024;
/// The same where it serves one.
const OWN_SOCKET_BYTES: usize = 1_024 * 1_024;

/// Datagrams sent in one go. Fewer would enter the kernel more often; more would make the last one
/// of a burst wait for the first ones' sealing.
const BATCH: usize = 64;

/// Datagrams received before the schedule is looked at again, and what came in one piece with the
/// last of them: tens of microseconds' work.
const RECEIVE_MAX: usize = 64;

/// How clients are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// By address: the server is on this machine.
    Loopback,
    /// By port, of this family's unspecified address.
    PerClient {
        /// Whether the server has an IPv6 address.
        v6: bool,
    },
}

impl Addressing {
    /// How to reach a server whose gateway is there.
    pub fn towards(gateway: IpAddr) -> Self {
        match gateway {
            IpAddr::V4(address) if address.is_loopback() => Addressing::Loopback,
            _ => Addressing::PerClient { v6: gateway.is_ipv6() },
        }
    }

    /// The address that a client's connections leave from, if it has one of its own.
    pub fn address_of(self, client: u32) -> Option<Ipv4Addr> {
        (self == Addressing::Loopback).then(|| Ipv4Addr::from(FIRST_LOOPBACK + client))
    }
}

/// The sockets of some of the clients.
#[derive(Debug)]
pub struct Ports {
    addressing: Addressing,
    ports: Vec<Port>,
    /// The clients that these are for, in order.
    clients: Vec<u32>,
}

#[derive(Debug)]
struct Port {
    ring: Ring,
    egress: Egress,
    address: SocketAddr,
}

impl Port {
    /// `shared`: it serves all clients. Then the kernel need not cut what the server has sent in
    /// one piece, which on this machine it would do on the server's account.
    fn open(listen: IpAddr, shared: bool) -> Result<Self, RingError> {
        let (receive_buffers, socket_bytes) = if shared {
            (SHARED_BUFFERS, SHARED_SOCKET_BYTES)
        } else {
            (OWN_BUFFERS, OWN_SOCKET_BYTES)
        };
        let refused = |source| RingError::Refused { what: "the socket's address", source };
        let sizes = SocketBuffers { receive_bytes: socket_bytes, send_bytes: socket_bytes };
        let socket = socket::open((listen, 0).into(), sizes)?;
        let address = socket.local_addr().map_err(refused)?;
        let config = RingConfig { receive_buffers, gro: shared, ..RingConfig::default() };
        let ring = Ring::new(&config, socket)?;
        Ok(Self { ring, egress: Egress::new(BATCH, BATCH * DATAGRAM_BYTES_MAX), address })
    }
}

impl Ports {
    /// Opens what these clients need. `clients_in_all` is how many the run has.
    ///
    /// # Errors
    /// The kernel gives no ring or no socket; the error says what to do.
    pub fn open(
        addressing: Addressing,
        clients: Vec<u32>,
        clients_in_all: usize,
    ) -> Result<Self, RingError> {
        let ports = match addressing {
            Addressing::Loopback => {
                let mut port = Port::open(Ipv4Addr::UNSPECIFIED.into(), true)?;
                port.egress.reserve_flows(clients_in_all);
                vec![port]
            }
            Addressing::PerClient { v6 } => {
                let listen: IpAddr =
                    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
                let open = |_| Port::open(listen, false);
                clients.iter().map(open).collect::<Result<_, _>>()?
            }
        };
        Ok(Self { addressing, ports, clients })
    }

    /// Room for a datagram of up to `len_max` bytes from a client, or `None`: then
    /// [`flush`](Self::flush) first.
    pub fn slot(&mut self, client: u32, to: SocketAddr, len_max: usize) -> Option<Slot<'_>> {
        let local = self.addressing.address_of(client).map(IpAddr::V4);
        let (port, flow) = match self.addressing {
            Addressing::Loopback => (0, Flow(client)),
            Addressing::PerClient { .. } => (self.clients.binary_search(&client).ok()?, Flow::NONE),
        };
        self.ports[port].egress.slot(flow, Path { remote: to, local }, len_max)
    }

    /// Sends everything.
    pub fn flush(&mut self) -> Sent {
        let mut all = Sent::default();
        for Port { ring, egress, .. } in &mut self.ports {
            if !egress.is_empty() {
                let sent = ring.send(egress);
                all.packets += sent.packets;
                all.socket_full += sent.socket_full;
                all.failed += sent.failed;
            }
        }
        all
    }

    /// Delivers some of what has arrived: for which client, and the datagram. Whether there was
    /// no more; only then may the caller wait.
    pub fn receive(&mut self, mut deliver: impl FnMut(u32, Received<'_>)) -> bool {
        let (addressing, clients) = (self.addressing, &self.clients);
        let mut drained = true;
        for (place, port) in self.ports.iter_mut().enumerate() {
            let received = port.ring.receive(RECEIVE_MAX, |received| {
                let client = match (addressing, received.path.local) {
                    (Addressing::Loopback, Some(IpAddr::V4(local))) => {
                        u32::from(local).checked_sub(FIRST_LOOPBACK)
                    }
                    (Addressing::Loopback, _) => None,
                    (Addressing::PerClient { .. }, _) => Some(clients[place]),
                };
                if let Some(client) = client {
                    deliver(client, received);
                }
            });
            drained &= received < RECEIVE_MAX;
        }
        drained
    }

    /// What to wait on for arrivals.
    pub fn eventfds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.ports.iter().map(|port| port.ring.eventfd())
    }

    /// The ports' numbers.
    pub fn numbers(&self) -> Vec<u16> {
        self.ports.iter().map(|port| port.address.port()).collect()
    }
}

/// Makes an eventfd unreadable until it is signalled again.
pub fn reset(eventfd: BorrowedFd<'_>) -> io::Result<()> {
    let mut count = [0; 8];
    rustix::io::read(eventfd, &mut count)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::UdpSocket, thread, time::Duration};

    use super::*;

    /// Longest wait for what must happen.
    const WAIT: Duration = Duration::from_secs(20);

    /// Every client says its number to a socket, which says it back.
    fn echo(addressing: Addressing, clients: Vec<u32>) -> (BTreeSet<SocketAddr>, Vec<u32>) {
        let mut ports = Ports::open(addressing, clients.clone(), 10).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(WAIT)).unwrap();
        let to = peer.local_addr().unwrap();
        for client in &clients {
            let mut slot = ports.slot(*client, to, 4).unwrap();
            slot.bytes().copy_from_slice(&client.to_be_bytes());
            slot.commit(4);
        }
        assert_eq!(ports.flush().packets, clients.len() as u64);
        let mut sources = BTreeSet::new();
        for _ in &clients {
            let mut bytes = [0; 4];
            let (_, from) = peer.recv_from(&mut bytes).unwrap();
            sources.insert(from);
            peer.send_to(&bytes, from).unwrap();
        }
        let mut heard = Vec::new();
        for _ in 0..WAIT.as_millis() {
            ports.receive(|client, received| {
                assert_eq!(received.bytes, client.to_be_bytes(), "each hears what is its own");
                heard.push(client);
            });
            if heard.len() == clients.len() {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        heard.sort_unstable();
        (sources, heard)
    }

    #[test]
    fn on_loopback_clients_differ_by_address() {
        let (sources, heard) = echo(Addressing::Loopback, vec![0, 4, 9]);
        let addresses: Vec<_> = sources.iter().map(|source| source.ip().to_string()).collect();
        assert_eq!(addresses, ["127.16.0.1", "127.16.0.5", "127.16.0.10"]);
        assert_eq!(heard, [0, 4, 9]);
    }

    #[test]
    fn elsewhere_clients_differ_by_port() {
        let (sources, heard) = echo(Addressing::PerClient { v6: false }, vec![1, 3, 5]);
        let ports: BTreeSet<_> = sources.iter().map(SocketAddr::port).collect();
        assert_eq!(ports.len(), 3);
        assert_eq!(heard, [1, 3, 5]);
    }

    #[test]
    fn a_full_batch_says_so() {
        let mut ports = Ports::open(Addressing::Loopback, vec![0], 1).unwrap();
        let to = "127.0.0.1:9".parse().unwrap();
        let mut taken = 0;
        while let Some(slot) = ports.slot(0, to, 100) {
            slot.commit(100);
            taken += 1;
        }
        assert_eq!(taken, BATCH);
        ports.flush();
        assert!(ports.slot(0, to, 100).is_some());
    }

    #[test]
    fn a_server_on_this_machine_is_known_by_its_address() {
        let towards = |address: &str| Addressing::towards(address.parse().unwrap());
        assert_eq!(towards("127.0.0.1"), Addressing::Loopback);
        assert_eq!(towards("192.0.2.1"), Addressing::PerClient { v6: false });
        assert_eq!(towards("2001:db8::1"), Addressing::PerClient { v6: true });
    }
}
