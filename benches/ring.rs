//! Did sending get slower? The ring against the same datagrams through `sendmmsg` and `sendto`, and
//! segmented sends on and off, over loopback. The receivers never read: once their small buffers
//! are full the kernel drops at the last step, the same for all. Filling the egress is not timed.

// The yardstick is a bare system call; the server's own unsafe code is all in `src/ring`.
#![allow(unsafe_code)]

use std::{
    hint::black_box,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    ptr,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use socket2::{SockAddr, SockRef};
use stentor::{
    egress::{Egress, Flow, Path},
    ring::{
        Ring, RingConfig,
        socket::{self, SocketBuffers},
    },
};

/// Speakers' packets of one turn, each for a hearer of its own: 5 × 100.
const VOICE: Load = Load { datagrams: 500, destinations: 100, bytes: 172 };
/// A video frame of ten packets to each of ten hearers.
const VIDEO: Load = Load { datagrams: 100, destinations: 10, bytes: 1_200 };

#[derive(Clone, Copy)]
struct Load {
    datagrams: usize,
    destinations: usize,
    bytes: usize,
}

impl Load {
    fn destination(&self, datagram: usize) -> usize {
        datagram % self.destinations
    }
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn receivers(count: usize) -> Vec<UdpSocket> {
    let receiver = |_| {
        let socket = UdpSocket::bind(loopback()).unwrap();
        SockRef::from(&socket).set_recv_buffer_size(4_096).unwrap();
        socket
    };
    (0..count).map(receiver).collect()
}

/// Time of `rounds` sends through a ring.
fn through_ring(ring: &mut Ring, load: Load, to: &[SocketAddr], rounds: u64) -> Duration {
    let mut egress = Egress::new(load.datagrams, load.datagrams * load.bytes + 1_472);
    egress.reserve_flows(load.destinations);
    let mut time = Duration::ZERO;
    for _ in 0..rounds {
        for datagram in 0..load.datagrams {
            let destination = load.destination(datagram);
            let (flow, path) = (Flow(destination as u32), Path::to(to[destination]));
            let mut slot = egress.slot(flow, path, load.bytes).unwrap();
            slot.bytes().fill(datagram as u8);
            slot.commit(load.bytes);
        }
        let start = Instant::now();
        let sent = ring.send(&mut egress);
        time += start.elapsed();
        assert_eq!(sent.packets, load.datagrams as u64);
    }
    time
}

/// Time of `rounds` sends through `sendmmsg`, everything prepared beforehand.
fn through_sendmmsg(socket: &UdpSocket, load: Load, to: &[SocketAddr], rounds: u64) -> Duration {
    let addresses: Vec<SockAddr> = to.iter().map(|&address| address.into()).collect();
    let payloads = vec![7_u8; load.datagrams * load.bytes];
    let piece = |bytes: &[u8]| libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut pieces: Vec<libc::iovec> = payloads.chunks(load.bytes).map(piece).collect();
    let message = |(datagram, piece): (usize, &mut libc::iovec)| {
        let address = &addresses[load.destination(datagram)];
        libc::mmsghdr {
            msg_hdr: libc::msghdr {
                msg_name: address.as_ptr().cast_mut().cast(),
                msg_namelen: address.len(),
                msg_iov: piece,
                msg_iovlen: 1,
                msg_control: ptr::null_mut(),
                msg_controllen: 0,
                msg_flags: 0,
            },
            msg_len: 0,
        }
    };
    let mut messages: Vec<libc::mmsghdr> = pieces.iter_mut().enumerate().map(message).collect();
    let start = Instant::now();
    for _ in 0..rounds {
        let mut left = &mut messages[..];
        while !left.is_empty() {
            // SAFETY: addresses, pieces and payloads outlive the loop and are not touched in it.
            let sent = unsafe {
                libc::sendmmsg(socket.as_raw_fd(), left.as_mut_ptr(), left.len() as u32, 0)
            };
            left = &mut left[usize::try_from(sent).expect("sendmmsg works")..];
        }
    }
    start.elapsed()
}

/// Time of `rounds` sends, one call each.
fn through_sendto(socket: &UdpSocket, load: Load, to: &[SocketAddr], rounds: u64) -> Duration {
    let payload = vec![7_u8; load.bytes];
    let start = Instant::now();
    for _ in 0..rounds {
        for datagram in 0..load.datagrams {
            black_box(socket.send_to(&payload, to[load.destination(datagram)]).unwrap());
        }
    }
    start.elapsed()
}

fn benches(criterion: &mut Criterion) {
    for (name, load) in [("voice_500x172_to_100", VOICE), ("video_100x1200_to_10", VIDEO)] {
        let receivers = receivers(load.destinations);
        let to: Vec<SocketAddr> =
            receivers.iter().map(|receiver| receiver.local_addr().unwrap()).collect();
        let open = || socket::open(loopback(), SocketBuffers::default()).unwrap();
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(load.datagrams as u64));
        group.bench_function("sendto", |bencher| {
            let socket = open();
            bencher.iter_custom(|rounds| through_sendto(&socket, load, &to, rounds));
        });
        group.bench_function("sendmmsg", |bencher| {
            let socket = open();
            bencher.iter_custom(|rounds| through_sendmmsg(&socket, load, &to, rounds));
        });
        for (name, gso) in [("ring_without_gso", false), ("ring_with_gso", true)] {
            group.bench_function(name, |bencher| {
                let mut ring =
                    Ring::new(&RingConfig { gso, ..RingConfig::default() }, open()).unwrap();
                bencher.iter_custom(|rounds| through_ring(&mut ring, load, &to, rounds));
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = ring;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30);
    targets = benches
}
criterion_main!(ring);
