//! The media ring against the real kernel, over loopback: nothing is lost, mixed up or read from
//! memory that is already something else; what cannot be done is counted. Waits are bounded and
//! generous; no test measures time.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind},
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use stentor::{
    egress::{Egress, Flow, Path},
    limits::{DATAGRAM_BYTES_MAX, RECEIVE_BUFFER_BYTES},
    ring::{
        Ring, RingConfig, Sent,
        socket::{self, SocketBuffers},
    },
};

const PATIENCE: Duration = Duration::from_secs(10);

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn ring_at(listen: &str, config: RingConfig) -> Ring {
    let socket = socket::open(listen.parse().unwrap(), SocketBuffers::default()).unwrap();
    Ring::new(&config, socket).unwrap()
}

fn ring_of(receive_buffers: u16) -> Ring {
    ring_at("127.0.0.1:0", RingConfig { receive_buffers, ..RingConfig::default() })
}

fn ring() -> Ring {
    ring_at("127.0.0.1:0", RingConfig::default())
}

fn peer() -> UdpSocket {
    peer_at("127.0.0.1:0")
}

fn peer_at(address: &str) -> UdpSocket {
    let peer = UdpSocket::bind(address).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer
}

/// The next datagram a peer gets. Whoever uses it sends a peer no more than an ordinary receive
/// buffer holds, 200 KiB of kernel memory.
fn receive_one(peer: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 65_536];
    let (len, from) = peer.recv_from(&mut buffer).unwrap();
    (buffer[..len].to_vec(), from)
}

/// What a ring received, copied out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Copied {
    path: Path,
    bytes: Vec<u8>,
    received_at_ns: Option<u64>,
    truncated: bool,
}

/// Receives until `count` datagrams are there.
fn receive(ring: &mut Ring, count: usize) -> Vec<Copied> {
    let mut all = Vec::new();
    let end = Instant::now() + PATIENCE;
    while all.len() < count {
        assert!(Instant::now() < end, "{} of {count} datagrams came", all.len());
        let some = ring.receive(64, |received| {
            all.push(Copied {
                path: received.path,
                bytes: received.bytes.to_vec(),
                received_at_ns: received.received_at_ns,
                truncated: received.truncated,
            });
        });
        if some == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    all
}

fn put(egress: &mut Egress, flow: Flow, path: Path, payload: &[u8]) {
    let mut slot = egress.slot(flow, path, payload.len()).expect("room in the egress");
    slot.bytes().copy_from_slice(payload);
    slot.commit(payload.len());
}

fn egress() -> Egress {
    let mut egress = Egress::new(8_192, 4 * 1_024 * 1_024);
    egress.reserve_flows(256);
    egress
}

/// Bytes that name their sender, their number, and every position, so that no byte can come from
/// elsewhere unnoticed.
fn pattern(sender: u32, number: u32, len: usize) -> Vec<u8> {
    let seed = sender.wrapping_mul(0x9E37_79B9) ^ number.wrapping_mul(0x85EB_CA6B);
    let mut bytes: Vec<u8> = (0..len as u32)
        .map(|at| (seed.wrapping_add(at.wrapping_mul(0xC2B2_AE35)) >> 13) as u8)
        .collect();
    bytes[..4].copy_from_slice(&sender.to_be_bytes());
    bytes[4..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn check_pattern(bytes: &[u8]) -> (u32, u32) {
    let sender = u32::from_be_bytes(bytes[..4].try_into().unwrap());
    let number = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
    assert_eq!(bytes, pattern(sender, number, bytes.len()), "datagram {number} of {sender}");
    (sender, number)
}

fn len_of(number: u32) -> usize {
    8 + number as usize * 37 % (DATAGRAM_BYTES_MAX - 8)
}

#[test]
fn a_burst_arrives_whole_in_order_with_its_source_and_time() {
    let mut ring = ring();
    let address = ring.local_addr().unwrap();
    let peers = [peer(), peer(), peer()];
    let now_ns = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let before = now_ns();
    let mut next = [0_u32; 3];
    for round in 0..70_u32 {
        for number in round * 30..(round + 1) * 30 {
            for (sender, peer) in peers.iter().enumerate() {
                peer.send_to(&pattern(sender as u32, number, len_of(number)), address).unwrap();
            }
        }
        for received in receive(&mut ring, 90) {
            let (sender, number) = check_pattern(&received.bytes);
            assert_eq!(number, next[sender as usize]);
            assert_eq!(received.bytes.len(), len_of(number));
            next[sender as usize] += 1;
            let remote = peers[sender as usize].local_addr().unwrap();
            assert_eq!(received.path, Path::to(remote));
            assert!(!received.truncated);
            let at = received.received_at_ns.expect("a kernel timestamp");
            assert!((before..=now_ns()).contains(&at));
        }
    }
    assert_eq!(next, [2_100; 3]);
    assert_eq!((ring.receive(64, |_| panic!("nothing is left")), ring.receive_errors()), (0, 0));
}

#[test]
fn more_datagrams_than_buffers_all_arrive_and_the_shortage_is_counted() {
    let mut ring = ring_of(4);
    let (address, peer) = (ring.local_addr().unwrap(), peer());
    for round in 0..10_u32 {
        for number in 0..100 {
            peer.send_to(&pattern(round, number, 200), address).unwrap();
        }
        for (expected, received) in receive(&mut ring, 100).into_iter().enumerate() {
            assert_eq!(check_pattern(&received.bytes), (round, expected as u32));
        }
    }
    assert!(ring.receive_buffers_exhausted() >= 10, "{}", ring.receive_buffers_exhausted());
    assert_eq!(ring.receive_errors(), 0);
}

#[test]
fn a_turn_ends_at_its_maximum_and_the_next_one_goes_on() {
    let mut ring = ring_of(8);
    let (address, peer) = (ring.local_addr().unwrap(), peer());
    for number in 0..30 {
        peer.send_to(&pattern(1, number, 100), address).unwrap();
    }
    let mut numbers = Vec::new();
    for turn in 0..10 {
        let count = ring.receive(3, |received| numbers.push(check_pattern(received.bytes).1));
        assert_eq!(count, 3, "turn {turn}");
    }
    assert_eq!(numbers, (0..30).collect::<Vec<_>>());
}

#[test]
fn empty_and_oversize_datagrams_are_delivered_and_stop_nothing() {
    let mut ring = ring();
    let (address, peer) = (ring.local_addr().unwrap(), peer());
    let room = RECEIVE_BUFFER_BYTES - 128;
    for (round, len) in [0, 8, room, room + 1, 9_000, 0, 65_507, 0, 0, 20].into_iter().enumerate() {
        let sent = vec![round as u8; len];
        peer.send_to(&sent, address).unwrap();
        let [received] = receive(&mut ring, 1).try_into().unwrap();
        assert_eq!(received.bytes, sent[..len.min(room)]);
        assert_eq!(received.truncated, len > room, "{len}");
        assert_eq!(received.path, Path::to(peer.local_addr().unwrap()));
    }
    assert_eq!(ring.receive_errors(), 0);
}

#[test]
fn bytes_can_be_changed_in_place_and_a_panic_over_them_loses_no_buffer() {
    let mut ring = ring_of(2);
    let (address, peer) = (ring.local_addr().unwrap(), peer());
    for _ in 0..10 {
        peer.send_to(b"poison", address).unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < end, "the datagram came");
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                ring.receive(1, |received| {
                    received.bytes.fill(0);
                    panic!("over {:?}", received.bytes);
                })
            }));
            if outcome.is_err() {
                break;
            }
        }
    }
    peer.send_to(b"fine", address).unwrap();
    assert_eq!(receive(&mut ring, 1)[0].bytes, b"fine");
}

/// Sends what `plan` says to ten peers and returns the counts and what each peer got.
fn fan_out(gso: bool, plan: &[(usize, Vec<u8>)]) -> (Sent, Vec<Vec<Vec<u8>>>) {
    let mut ring = ring_at("127.0.0.1:0", RingConfig { gso, ..RingConfig::default() });
    let address = ring.local_addr().unwrap();
    let peers: Vec<UdpSocket> = (0..10).map(|_| peer()).collect();
    let mut egress = egress();
    for (to, payload) in plan {
        let path = Path::to(peers[*to].local_addr().unwrap());
        put(&mut egress, Flow(*to as u32), path, payload);
    }
    let sent = ring.send(&mut egress);
    assert!(egress.is_empty());
    let received = peers.iter().enumerate().map(|(to, peer)| {
        let count = plan.iter().filter(|(other, _)| *other == to).count();
        (0..count)
            .map(|_| {
                let (bytes, from) = receive_one(peer);
                assert_eq!(from, address);
                bytes
            })
            .collect()
    });
    (sent, received.collect())
}

#[test]
fn segmented_or_not_every_peer_gets_the_same_bytes_in_order() {
    // Interleaved; runs of equal lengths, a shorter end, growth, empty ones, one longer than 64.
    let lens = [172, 172, 172, 90, 172, 1_200, 1_200, 1_200, 0, 0, 1, 1_472, 1_472, 400];
    let mut plan = Vec::new();
    for (round, len) in lens.into_iter().enumerate() {
        plan.extend((0..10).map(|to| (to, vec![(round * 16 + to) as u8; len])));
    }
    plan.extend((0..150).map(|number| (3, pattern(3, number, 60))));
    let expected: Vec<Vec<Vec<u8>>> = (0..10)
        .map(|to| plan.iter().filter(|(other, _)| *other == to).map(|(_, p)| p.clone()).collect())
        .collect();
    let bytes: usize = plan.iter().map(|(_, payload)| payload.len()).sum();

    let (whole, received) = fan_out(false, &plan);
    assert_eq!(received, expected);
    let all = Sent { packets: 290, bytes: bytes as u64, traversals: 290, ..Sent::default() };
    assert_eq!(whole, all);

    let (cut, received) = fan_out(true, &plan);
    assert_eq!(received, expected);
    // Per peer: 172×3+90 | 172 | 1200×3 | 0 | 0 | 1 | 1472×2+400. The third goes on with 64, 64,
    // 22.
    assert_eq!(cut, Sent { traversals: 7 * 10 + 3, ..all });
}

#[test]
fn a_segmented_send_ends_at_what_the_kernel_takes_in_one() {
    let plan: Vec<_> = (0..50).map(|number| (0, pattern(0, number, DATAGRAM_BYTES_MAX))).collect();
    let (sent, received) = fan_out(true, &plan);
    assert_eq!((sent.packets, sent.traversals), (50, 2), "44 × 1,472 bytes fit in 65,507");
    assert!(received[0].iter().map(|bytes| check_pattern(bytes).1).eq(0..50));
}

#[test]
fn slots_reused_thousands_of_times_never_show_another_datagrams_bytes() {
    let mut ring = ring_of(64);
    let address = ring.local_addr().unwrap();
    let mut echo = ring_of(64);
    let echo_address = echo.local_addr().unwrap();
    let (mut out, mut back) = (egress(), egress());
    let mut total = Sent::default();
    for round in 0..500_u32 {
        // Runs of one length, so that many leave segmented, and receives are kept during sends.
        for number in round * 60..(round + 1) * 60 {
            let len = if number % 3 == 0 { len_of(number) } else { 300 };
            put(&mut out, Flow(number % 2), Path::to(echo_address), &pattern(9, number, len));
        }
        assert_eq!(ring.send(&mut out).packets, 60);
        let mut seen = 0;
        let end = Instant::now() + PATIENCE;
        while seen < 60 {
            assert!(Instant::now() < end, "round {round}: {seen} of 60 came");
            seen += echo.receive(16, |received| {
                assert_eq!(received.path.remote, address);
                check_pattern(received.bytes);
                put(&mut back, Flow(0), received.path, received.bytes);
                received.bytes.fill(0xAA);
            });
            let sent = echo.send(&mut back);
            total.packets += sent.packets;
            total.traversals += sent.traversals;
        }
        let mut numbers: Vec<u32> = receive(&mut ring, 60)
            .iter()
            .map(|received| check_pattern(&received.bytes).1)
            .collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(round * 60..(round + 1) * 60));
    }
    assert_eq!(total.packets, 30_000);
    assert!(total.traversals < total.packets);
}

#[test]
fn receives_that_come_while_sending_are_kept_for_the_next_receive() {
    let mut ring = ring();
    let address = ring.local_addr().unwrap();
    let peer = peer();
    let mut egress = egress();
    for number in 0..50 {
        peer.send_to(&pattern(1, number, 100), address).unwrap();
    }
    // To itself, too: these arrive in the middle of its own send.
    for number in 50..250 {
        put(&mut egress, Flow::NONE, Path::to(address), &pattern(1, number, 100));
    }
    assert_eq!(ring.send(&mut egress).packets, 200);
    let numbers = receive(&mut ring, 250).into_iter().map(|it| check_pattern(&it.bytes).1);
    assert!(numbers.eq(0..250));
}

#[test]
fn failed_sends_are_counted_and_the_rest_of_the_batch_goes_out() {
    let mut ring = ring();
    let peer = peer();
    let to = Path::to(peer.local_addr().unwrap());
    let mut egress = egress();
    put(&mut egress, Flow(0), to, b"one");
    // An address this socket's family cannot reach, a port that does not exist, then a good one.
    put(&mut egress, Flow(1), Path::to("[::1]:9".parse().unwrap()), b"lost");
    put(&mut egress, Flow(2), Path::to("127.0.0.1:0".parse().unwrap()), b"lost");
    put(&mut egress, Flow(0), to, b"two");
    let sent = ring.send(&mut egress);
    assert_eq!(sent, Sent { packets: 2, bytes: 6, traversals: 1, socket_full: 0, failed: 2 });
    assert_eq!([receive_one(&peer).0, receive_one(&peer).0], [b"one", b"two"]);
}

#[test]
fn a_dual_stack_socket_gives_ipv4_peers_as_plain_ipv4_and_answers_both() {
    let mut ring = ring_at("[::]:0", RingConfig::default());
    let port = ring.local_addr().unwrap().port();
    let mut egress = egress();
    for (bind, local) in [("127.0.0.1:0", "127.0.0.3"), ("[::1]:0", "::1")] {
        let (peer, local): (_, IpAddr) = (peer_at(bind), local.parse().unwrap());
        for _ in 0..2 {
            peer.send_to(b"hello", SocketAddr::new(local, port)).unwrap();
        }
        let received = receive(&mut ring, 2);
        let path = Path { remote: peer.local_addr().unwrap(), local: Some(local) };
        assert_eq!((received[0].path, received[1].path), (path, path));
        assert!(received[0].received_at_ns.is_some());
        for answer in [b"you", b"too"] {
            put(&mut egress, Flow(0), received[0].path, answer);
        }
        let sent = ring.send(&mut egress);
        assert_eq!((sent.packets, sent.traversals), (2, 1), "segmented, with its local address");
        let from = SocketAddr::new(local, port);
        assert_eq!(receive_one(&peer), (b"you".to_vec(), from));
        assert_eq!(receive_one(&peer), (b"too".to_vec(), from));
    }
}

#[test]
fn a_reply_leaves_from_the_address_that_was_written_to() {
    let mut ring = ring_at("0.0.0.0:0", RingConfig::default());
    let port = ring.local_addr().unwrap().port();
    let peer = peer();
    let mut egress = egress();
    for local in [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 9, 8, 7)] {
        let address = SocketAddr::from((local, port));
        // A connected socket hears nothing from anywhere else.
        let connected = peer.try_clone().unwrap();
        connected.connect(address).unwrap();
        connected.send(b"where are you").unwrap();
        let received = receive(&mut ring, 1);
        assert_eq!(received[0].path.local, Some(local.into()));
        put(&mut egress, Flow::NONE, received[0].path, b"here");
        assert_eq!(ring.send(&mut egress).packets, 1);
        assert_eq!(receive_one(&peer), (b"here".to_vec(), address));
    }
}

#[test]
fn dropping_a_ring_that_receives_frees_its_port() {
    let listen = ring().local_addr().unwrap();
    let peer = peer();
    for round in 0..50 {
        // At once, but for a process that another test starts just then: it has a copy until it
        // execs.
        let end = Instant::now() + PATIENCE;
        let socket = loop {
            match socket::open(listen, SocketBuffers::default()) {
                Ok(socket) => break socket,
                Err(error) => assert!(Instant::now() < end, "round {round}: {error}"),
            }
        };
        let config = RingConfig { receive_buffers: 16, ..RingConfig::default() };
        let mut ring = Ring::new(&config, socket).unwrap();
        for _ in 0..round {
            peer.send_to(b"unread", listen).unwrap();
        }
        if round % 2 == 0 {
            ring.receive(8, |_| ());
        }
    }
}

#[test]
fn a_ring_and_its_egress_may_go_right_after_a_send() {
    for round in 0..50_u32 {
        let peer = peer();
        let mut ring = ring_of(8);
        let mut egress = egress();
        for number in 0..100 {
            let path = Path::to(peer.local_addr().unwrap());
            put(&mut egress, Flow(number % 5), path, &pattern(round, number, 400));
        }
        assert_eq!(ring.send(&mut egress).packets, 100);
        drop(egress);
        drop(ring);
        for _ in 0..100 {
            assert_eq!(check_pattern(&receive_one(&peer).0).0, round);
        }
    }
}

#[test]
fn a_pool_that_is_no_power_of_two_is_refused_with_a_remedy() {
    for receive_buffers in [0, 3, 1_000, 40_000] {
        let socket = socket::open(loopback(), SocketBuffers::default()).unwrap();
        let error = Ring::new(&RingConfig { receive_buffers, ..RingConfig::default() }, socket)
            .unwrap_err();
        assert!(error.to_string().contains("power of two"), "{error}");
    }
}

const IN_NAMESPACE: &str = "STENTOR_TEST_NAMESPACE";

/// Loopback never fills a send buffer, unless it is made slow; so this runs itself again in a
/// network namespace of its own. Where namespaces are forbidden it says so and passes; the counting
/// is also tested in `ring/batch.rs`.
#[test]
fn a_full_send_buffer_is_counted_and_later_sends_are_fine() {
    if std::env::var_os(IN_NAMESPACE).is_some() {
        return fill_the_send_buffer();
    }
    let slow =
        "ip link set lo up && tc qdisc add dev lo root tbf rate 8kbit burst 3kb limit 100000";
    let namespace = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "sh", "-c", script]).env(IN_NAMESPACE, "1");
        command.output()
    };
    if !namespace(slow).is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no network namespaces or no tc here");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let name = "a_full_send_buffer_is_counted_and_later_sends_are_fine";
    let script = format!("{slow} && exec '{}' --exact {name} --nocapture", this.display());
    let output = namespace(&script).unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn fill_the_send_buffer() {
    let small = SocketBuffers { send_bytes: 8_192, ..SocketBuffers::default() };
    let socket = socket::open(loopback(), small).unwrap();
    let mut ring = Ring::new(&RingConfig::default(), socket).unwrap();
    let peer = peer();
    let path = Path::to(peer.local_addr().unwrap());
    let mut egress = egress();
    for number in 0..300 {
        put(&mut egress, Flow::NONE, path, &pattern(1, number, 500));
    }
    let sent = ring.send(&mut egress);
    assert!(sent.packets > 0 && sent.socket_full > 200, "{sent:?}");
    assert_eq!((sent.packets + sent.socket_full, sent.failed), (300, 0));

    assert!(
        Command::new("tc").args(["qdisc", "del", "dev", "lo", "root"]).status().unwrap().success()
    );
    let after = pattern(2, 0, 500);
    let end = Instant::now() + PATIENCE;
    loop {
        put(&mut egress, Flow::NONE, path, &after);
        if ring.send(&mut egress).packets == 1 {
            break;
        }
        assert!(Instant::now() < end, "the send buffer never emptied");
        thread::sleep(Duration::from_millis(1));
    }
    let mut arrived: HashMap<u32, u32> = HashMap::new();
    loop {
        let (sender, _) = check_pattern(&receive_one(&peer).0);
        *arrived.entry(sender).or_default() += 1;
        if sender == 2 {
            break;
        }
    }
    assert!(u64::from(arrived.get(&1).copied().unwrap_or(0)) <= sent.packets);
}
