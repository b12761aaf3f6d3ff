//! Sleeping in the media ring, or on its eventfd, against the real kernel: what ends a sleep, and
//! that nothing is slept through. Waits are bounded and generous; no test measures time.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use stentor::{
    egress::{Egress, Flow, Path},
    ring::{
        Ring, RingConfig, Watch, fd,
        socket::{self, SocketBuffers},
    },
};

/// Longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long nothing has to happen.
const QUIET: Duration = Duration::from_millis(100);

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn ring() -> Ring {
    ring_of(8)
}

fn ring_of(receive_buffers: u16) -> Ring {
    let socket = socket::open(loopback(), SocketBuffers::default()).unwrap();
    Ring::new(&RingConfig { receive_buffers, ..RingConfig::default() }, socket).unwrap()
}

fn peer() -> UdpSocket {
    UdpSocket::bind(loopback()).unwrap()
}

fn put(egress: &mut Egress, to: SocketAddr, payload: &[u8]) {
    let mut slot = egress.slot(Flow::NONE, Path::to(to), payload.len()).expect("room");
    slot.bytes().copy_from_slice(payload);
    slot.commit(payload.len());
}

/// A pair of sockets, the second of which is watched.
fn watched(ring: &mut Ring) -> (UnixStream, UnixStream, Watch) {
    let (near, far) = UnixStream::pair().unwrap();
    let watch = ring.watch(fd::duplicate(&far).unwrap());
    (near, far, watch)
}

/// Sleeps, again if a sleep ends early, until `done` says so.
fn sleep_until(ring: &mut Ring, mut done: impl FnMut(&mut Ring) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done(ring) {
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "slept through it");
        ring.wait(left);
    }
}

/// Sleeps for as long as nothing has to happen.
fn sleep_quietly(ring: &mut Ring) {
    let end = Instant::now() + QUIET;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        ring.wait(left);
    }
}

#[test]
fn arrivals_and_what_is_watched_end_a_sleep_every_time() {
    let mut ring = ring();
    let to = ring.local_addr().unwrap();
    let peer = UdpSocket::bind(loopback()).unwrap();
    let (mut near, mut far, watch) = watched(&mut ring);
    for round in 0..300 {
        let (peer, near) = (&peer, &mut near);
        thread::scope(|scope| {
            scope.spawn(move || {
                if round % 3 != 1 {
                    peer.send_to(b"voice", to).unwrap();
                }
                if round % 3 != 0 {
                    near.write_all(b"!").unwrap();
                }
            });
            if round % 3 != 1 {
                sleep_until(&mut ring, |ring| ring.receive(8, |_| ()) > 0);
            }
            if round % 3 != 0 {
                sleep_until(&mut ring, |ring| ring.take_readable(watch));
                std::io::Read::read_exact(&mut far, &mut [0]).unwrap();
            }
        });
    }
}

#[test]
fn what_was_taken_as_readable_and_not_read_is_found_again() {
    let mut ring = ring();
    let (mut near, mut far, watch) = watched(&mut ring);
    near.write_all(b"!").unwrap();
    for _ in 0..10 {
        sleep_until(&mut ring, |ring| ring.take_readable(watch));
    }
    std::io::Read::read_exact(&mut far, &mut [0]).unwrap();
    // One request may have been under way before it was read.
    sleep_quietly(&mut ring);
    ring.take_readable(watch);
    sleep_quietly(&mut ring);
    assert!(!ring.take_readable(watch), "nothing is left to read");
}

#[test]
fn a_look_finds_what_is_readable_without_a_sleep() {
    let mut ring = ring();
    let (mut near, _far, watch) = watched(&mut ring);
    // Puts the request into the kernel.
    ring.wait(QUIET);
    near.write_all(b"!").unwrap();
    let end = Instant::now() + PATIENCE;
    while !ring.take_readable(watch) {
        assert!(Instant::now() < end);
        ring.look();
    }
}

#[test]
fn what_is_paused_disturbs_nobodys_sleep_until_it_is_watched_again() {
    let mut ring = ring();
    let (mut near, _far, watch) = watched(&mut ring);
    ring.pause(watch, true);
    near.write_all(b"!").unwrap();
    sleep_quietly(&mut ring);
    assert!(!ring.take_readable(watch));
    ring.pause(watch, false);
    sleep_until(&mut ring, |ring| ring.take_readable(watch));
}

#[test]
fn a_listener_that_was_watched_is_closed_with_its_ring() {
    for _ in 0..20 {
        let mut ring = ring();
        let listener = TcpListener::bind(loopback()).unwrap();
        let address = listener.local_addr().unwrap();
        let _watch = ring.watch(fd::duplicate(&listener).unwrap());
        ring.wait(Duration::from_millis(1));
        drop(listener);
        assert!(TcpStream::connect(address).is_ok(), "the ring has it still");
        drop(ring);
        assert!(TcpStream::connect(address).is_err());
        TcpListener::bind(address).expect("the port is free");
    }
}

#[test]
fn what_is_watched_is_found_while_datagrams_never_end() {
    let mut ring = ring();
    let to = ring.local_addr().unwrap();
    let peer = UdpSocket::bind(loopback()).unwrap();
    let (mut near, _far, watch) = watched(&mut ring);
    let send = |count| {
        for _ in 0..count {
            peer.send_to(b"voice", to).unwrap();
        }
    };
    send(8);
    near.write_all(b"!").unwrap();
    let mut turns = 0;
    while !ring.take_readable(watch) {
        turns += 1;
        assert!(turns < 10_000, "never found");
        ring.look();
        send(4);
        assert!(ring.receive(4, |_| ()) > 0);
    }
}

/// A thread that reports each time the ring's eventfd is readable, and clears it.
fn sleeper(ring: &Ring) -> mpsc::Receiver<()> {
    let mut eventfd: File = fd::adopt(fd::duplicate(&ring.eventfd()).unwrap());
    let (wake, woken) = mpsc::channel();
    thread::spawn(move || {
        let mut count = [0; 8];
        while eventfd.read_exact(&mut count).is_ok() && wake.send(()).is_ok() {}
    });
    woken
}

#[test]
fn an_arrival_wakes_a_sleeper_every_time() {
    let mut ring = ring();
    let (address, peer) = (ring.local_addr().unwrap(), peer());
    let woken = sleeper(&ring);
    for round in 0..300 {
        peer.send_to(b"wake up", address).unwrap();
        woken.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("round {round}: not woken"));
        while ring.receive(64, |_| ()) == 0 {}
        assert_eq!(ring.receive(64, |_| ()), 0);
    }
}

#[test]
fn neither_receiving_nor_sending_wakes_a_sleeper_when_nothing_is_left() {
    let mut ring = ring();
    let (address, peer) = (ring.local_addr().unwrap(), peer());
    let woken = sleeper(&ring);
    assert!(woken.recv_timeout(QUIET).is_err(), "a new ring has nothing");
    let mut egress = Egress::new(128, 64 * 1_024);
    for _ in 0..100 {
        put(&mut egress, peer.local_addr().unwrap(), b"voice");
    }
    assert_eq!(ring.send(&mut egress).packets, 100);
    assert!(woken.recv_timeout(QUIET).is_err(), "its own sends are no reason");
    peer.send_to(b"voice", address).unwrap();
    woken.recv_timeout(PATIENCE).expect("an arrival is");
    while ring.receive(64, |_| ()) == 0 {}
    assert_eq!(ring.receive(64, |_| ()), 0);
    assert!(woken.recv_timeout(QUIET).is_err(), "what was received is none");
}

#[test]
fn what_arrives_during_a_send_wakes_the_sleeper_after_it() {
    let mut ring = ring();
    let address = ring.local_addr().unwrap();
    let woken = sleeper(&ring);
    let mut egress = Egress::new(128, 64 * 1_024);
    for _ in 0..50 {
        assert_eq!(ring.receive(64, |_| ()), 0);
        put(&mut egress, address, b"to myself");
        assert_eq!(ring.send(&mut egress).packets, 1);
        woken.recv_timeout(PATIENCE).expect("woken");
        assert!(ring.has_received());
        while ring.receive(64, |it| assert_eq!(it.bytes, b"to myself")) == 0 {}
    }
}

#[test]
fn a_sleeper_is_woken_while_a_shortage_of_buffers_lasts() {
    let mut ring = ring_of(1);
    let (address, peer) = (ring.local_addr().unwrap(), peer());
    let woken = sleeper(&ring);
    for number in 0..20 {
        peer.send_to(&[number], address).unwrap();
    }
    let mut next = 0;
    while next < 20 {
        woken.recv_timeout(PATIENCE).expect("woken");
        while ring.receive(1, |it| assert_eq!(it.bytes, [next])) == 1 {
            next += 1;
        }
    }
}
