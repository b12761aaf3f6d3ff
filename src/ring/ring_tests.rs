//! What only the inside can arrange or see: a device that cannot cut, a batch left half filled.
//! Everything else is in `tests/ring.rs`.

use std::net::Ipv4Addr;

use super::{
    socket::{SocketBuffers, open, set},
    *,
};
use crate::{
    egress::{Flow, Path},
    limits::GSO_FAILURES_MAX,
};

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn ring_on(socket: UdpSocket, gso: bool) -> Ring {
    Ring::new(&RingConfig { receive_buffers: 8, gso, ..RingConfig::default() }, socket).unwrap()
}

fn fill(egress: &mut Egress, to: SocketAddr, payloads: &[&[u8]]) {
    for payload in payloads {
        let mut slot = egress.slot(Flow(0), Path::to(to), payload.len()).unwrap();
        slot.bytes().copy_from_slice(payload);
        slot.commit(payload.len());
    }
}

fn receive(peer: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2_048];
    let len = peer.recv(&mut buffer).unwrap();
    buffer[..len].to_vec()
}

fn peer() -> UdpSocket {
    let peer = UdpSocket::bind(loopback()).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    peer
}

#[test]
fn datagrams_the_device_cannot_cut_are_sent_alone_and_cutting_is_given_up() {
    let socket = open(loopback(), SocketBuffers::default()).unwrap();
    // Without checksums the kernel refuses to segment (EINVAL), and sends single datagrams.
    set(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
    let mut ring = ring_on(socket, true);
    let peer = peer();
    let mut egress = Egress::new(8, 8_192);
    egress.reserve_flows(1);
    for round in 1..=GSO_FAILURES_MAX {
        assert!(ring.gso(), "given up before round {round}");
        fill(&mut egress, peer.local_addr().unwrap(), &[b"one", b"two", b"3"]);
        let sent = ring.send(&mut egress);
        assert_eq!(sent, Sent { packets: 3, bytes: 7, traversals: 3, ..Sent::default() });
        assert_eq!([receive(&peer), receive(&peer), receive(&peer)], [&b"one"[..], b"two", b"3"]);
    }
    assert!(!ring.gso());
}

#[test]
fn sends_that_fail_either_way_do_not_cost_the_others_their_segmentation() {
    let socket = open(loopback(), SocketBuffers::default()).unwrap();
    let mut ring = ring_on(socket, true);
    let peer = peer();
    let mut egress = Egress::new(8, 8_192);
    egress.reserve_flows(1);
    // The kernel lets nothing from 127.0.0.1 leave the machine: EINVAL, as when it cannot cut.
    let nowhere: SocketAddr = "192.0.2.1:9".parse().unwrap();
    for _ in 0..2 * GSO_FAILURES_MAX {
        fill(&mut egress, nowhere, &[b"one", b"two"]);
        let sent = ring.send(&mut egress);
        assert_eq!((sent.packets, sent.failed), (0, 2));
    }
    assert!(ring.gso());
    fill(&mut egress, peer.local_addr().unwrap(), &[b"one", b"two"]);
    assert_eq!(ring.send(&mut egress).traversals, 1);
}

#[test]
fn messages_left_by_a_panic_in_mid_fill_are_never_submitted() {
    let mut ring = ring_on(open(loopback(), SocketBuffers::default()).unwrap(), true);
    let peer = peer();
    let to = peer.local_addr().unwrap();
    let gone = b"gone".to_vec();
    assert!(ring.batch.add(crate::egress::Outgoing { path: Path::to(to), bytes: &gone }));
    drop(gone);
    let mut egress = Egress::new(8, 8_192);
    egress.reserve_flows(1);
    fill(&mut egress, to, &[b"here"]);
    assert_eq!(ring.send(&mut egress).packets, 1);
    assert_eq!(receive(&peer), b"here");
}

#[test]
fn a_ring_is_gone_from_the_kernel_when_it_is_dropped() {
    let mut ring = ring_on(open(loopback(), SocketBuffers::default()).unwrap(), true);
    assert!(ring.armed);
    assert!(ring.stop());
    assert!(!ring.armed);
}

#[test]
fn what_was_sent_in_one_piece_comes_in_one_and_is_delivered_as_the_datagrams_it_was() {
    let mut sender = ring_on(open(loopback(), SocketBuffers::default()).unwrap(), true);
    let socket = open(loopback(), SocketBuffers::default()).unwrap();
    let config = RingConfig { receive_buffers: 8, gro: true, ..RingConfig::default() };
    let mut receiver = Ring::new(&config, socket).unwrap();
    let to = receiver.local_addr().unwrap();
    let mut egress = Egress::new(64, 65_536);
    egress.reserve_flows(1);
    let payloads: Vec<Vec<u8>> =
        (0..40).map(|number| vec![number; if number < 39 { 1_200 } else { 77 }]).collect();
    for round in 0..20 {
        let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        fill(&mut egress, to, &payloads);
        assert_eq!(sender.send(&mut egress).traversals, 1);
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while receiver.arrived.is_empty() && std::time::Instant::now() < end {
            receiver.wait(Duration::from_secs(1));
        }
        assert_eq!(receiver.arrived.len(), 1, "round {round}");
        let mut heard: Vec<Vec<u8>> = Vec::new();
        let stamped = receiver.receive(1, |received| {
            assert!(received.received_at_ns.is_some() && !received.truncated);
            heard.push(received.bytes.to_vec());
        });
        assert_eq!((stamped, heard), (40, payloads.iter().map(|it| it.to_vec()).collect()));
    }
}
