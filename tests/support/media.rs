//! The UDP half of a client: discovery, sealed RTP out, opened RTP in (protocol.md §2). Connected
//! to the one address Ready gave, so an answer from anywhere else is never heard.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use super::{
    WAIT,
    cipher::{Cipher, Mode},
    rtp::Rtp,
};

/// Samples per 20 ms.
pub const FRAME: u32 = 960;
/// The Opus frame that ends a talk spurt.
pub const SILENCE: [u8; 3] = [0xf8, 0xff, 0xfe];

/// One UDP socket with the keys of one session.
pub struct Media {
    socket: UdpSocket,
    /// The session's audio SSRC.
    pub ssrc: u32,
    cipher: Cipher,
    counter: u32,
    sequence: u16,
    timestamp: u32,
    opened: VecDeque<Rtp>,
}

/// What discovery answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovered {
    pub text: String,
    pub port: u16,
    pub raw: Vec<u8>,
}

impl Media {
    /// A socket towards the shard, without a key yet.
    pub fn new(shard: SocketAddr, ssrc: u32) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        socket.connect(shard).expect("loopback is reachable");
        Self {
            socket,
            ssrc,
            cipher: Cipher::new(Mode::AesRtpsize, [0; 32]),
            counter: 0,
            sequence: ssrc as u16,
            timestamp: ssrc.wrapping_mul(7),
            opened: VecDeque::new(),
        }
    }

    /// The same session from a new socket, as after a network change. The old socket stays open.
    pub fn moved(&self) -> Media {
        let mut moved = Media::new(self.peer(), self.ssrc);
        moved.cipher = self.cipher.clone();
        (moved.counter, moved.sequence, moved.timestamp) =
            (self.counter, self.sequence, self.timestamp);
        moved
    }

    pub fn set_key(&mut self, mode: Mode, key: [u8; 32]) {
        self.cipher = Cipher::new(mode, key);
    }

    /// The shard's end.
    pub fn peer(&self) -> SocketAddr {
        self.socket.peer_addr().expect("connected")
    }

    /// This end.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("bound")
    }

    /// Asks once what the server sees, for any SSRC.
    pub fn ask_discovery(&self, ssrc: u32) {
        let mut request = vec![0, 1, 0, 70];
        request.extend(ssrc.to_be_bytes());
        request.resize(74, 0);
        self.send_raw(&request);
    }

    /// Asks once for its own SSRC and waits for the answer.
    pub fn discover(&self) -> Discovered {
        self.ask_discovery(self.ssrc);
        let raw = self.receive(WAIT).expect("discovery is answered");
        assert_eq!(
            (raw.len(), &raw[..4]),
            (74, &[0, 2, 0, 70][..]),
            "a discovery response: {raw:?}"
        );
        assert_eq!(raw[4..8], self.ssrc.to_be_bytes(), "the SSRC is echoed");
        let text: Vec<u8> = raw[8..72].iter().copied().take_while(|byte| *byte != 0).collect();
        let text = String::from_utf8(text).expect("an address is ASCII");
        Discovered { text, port: u16::from_be_bytes([raw[72], raw[73]]), raw }
    }

    /// Seals and sends the next 20 ms; the packet as it was before.
    pub fn speak(&mut self, payload: &[u8]) -> Rtp {
        let packet = self.next_packet(payload);
        self.send(&packet);
        packet
    }

    /// The packet of the next 20 ms, not sent.
    pub fn next_packet(&mut self, payload: &[u8]) -> Rtp {
        let packet = Rtp::opus(self.ssrc, self.sequence, self.timestamp, payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(FRAME);
        packet
    }

    /// Seals and sends any packet.
    pub fn send(&mut self, packet: &Rtp) {
        let datagram = self.seal(&packet.write());
        self.send_raw(&datagram);
    }

    /// The datagram of plain packet bytes, under the next nonce.
    pub fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        self.counter += 1;
        self.cipher.seal(packet, self.counter)
    }

    pub fn send_raw(&self, datagram: &[u8]) {
        // A refused send is the answer to an earlier datagram; the kernel's word on this one is the
        // second try's.
        if self.socket.send(datagram).is_err() {
            let _ = self.socket.send(datagram);
        }
    }

    /// The next RTP packet, opened. RTCP in between must open too and is let go.
    pub fn hear(&mut self) -> Rtp {
        self.try_hear(WAIT).unwrap_or_else(|| panic!("nothing heard for {WAIT:?}"))
    }

    /// The same, if one comes within the time given.
    pub fn try_hear(&mut self, within: Duration) -> Option<Rtp> {
        if let Some(packet) = self.opened.pop_front() {
            return Some(packet);
        }
        let deadline = Instant::now() + within;
        loop {
            let datagram = self.receive(deadline.saturating_duration_since(Instant::now()))?;
            let plain = self.cipher.open(&datagram);
            let plain =
                plain.unwrap_or_else(|| panic!("a datagram that does not open: {datagram:x?}"));
            if !(192..=223).contains(&plain[1]) {
                return Some(Rtp::parse(&plain).expect("the server sends well-formed RTP"));
            }
        }
    }

    /// The next datagram as it came.
    pub fn receive(&self, within: Duration) -> Option<Vec<u8>> {
        let mut buffer = [0; 2_048];
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.socket.set_read_timeout(Some(left)).expect("a timeout above zero");
            if let Ok(length) = self.socket.recv(&mut buffer) {
                return Some(buffer[..length].to_vec());
            }
        }
    }
}
