//! One speaker before many hearers, everything agreed: a shard at the moment from which forwarding is
//! all it does. For the bench of the forwarder and the test of its allocations.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Instant,
};

use stentor::{
    crypto::Mode,
    egress::{Egress, Path},
    id::{ConnectionId, ShardId},
    sfu::{Command, Output, Shard, ShardConfig, Verdict},
};

use crate::client::{Client, Grant, Profile};

pub struct Stage {
    pub shard: Shard,
    pub egress: Egress,
    pub now: Instant,
    /// The speaker first.
    clients: Vec<Client>,
}

impl Stage {
    /// A speaker and so many hearers, all in this mode.
    pub fn new(hearers: usize, mode: Mode) -> Self {
        let config = ShardConfig {
            id: ShardId(0),
            modes: vec![mode],
            public_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            public_port: 50_000,
            resume_window: Default::default(),
            speaking_events: false,
        };
        let now = Instant::now();
        let mut egress = Egress::new(1_024, 1 << 20);
        egress.reserve_flows(hearers + 1);
        let shard = Shard::new(config, [7; 32], now);
        let mut stage = Self { shard, egress, now, clients: Vec::new() };
        for user in 0..=hearers as u64 {
            stage.seat(user, mode);
        }
        stage
    }

    /// Somebody joins, and is ready to hear and to speak.
    fn seat(&mut self, user: u64, mode: Mode) {
        let id = ConnectionId(user);
        // Without a version that numbers messages nobody has to acknowledge any.
        let mut client = Client::new(Grant::new(1, user), Profile { mode, ..Profile::legacy() });
        client.address = SocketAddr::from((Ipv4Addr::LOCALHOST, 10_000 + user as u16));
        client.opened(id);
        let (version, address) = (client.profile.version(), client.web_address());
        self.shard.handle_open(self.now, id, version, address);
        self.shard.handle_frame(self.now, id, client.identify());
        let admission = Box::new(client.grant.admission(user, Default::default()));
        let verdict = Verdict::Join { shard: ShardId(0), admission };
        let decide = Command::Decide { connection: id, verdict };
        self.shard.handle_command(self.now, decide, &mut self.egress);
        self.shard.handle_frame(self.now, id, client.select_protocol());
        self.clients.push(client);
        while let Some(output) = self.shard.poll_output() {
            if let Output::Frame { connection, frame } = output
                && connection == id
            {
                self.clients[user as usize].hear(frame);
            }
        }
        let client = &self.clients[user as usize];
        let (from, mut discovery) = (client.address, client.discovery());
        self.hear(from, &mut discovery);
    }

    /// The speaker's next packet, sealed.
    pub fn packet(&mut self, payload: &[u8]) -> Vec<u8> {
        self.clients[0].voice(payload)
    }

    /// The packet is forwarded, and what is to be sent because of it counted and let go.
    #[inline]
    pub fn forward(&mut self, packet: &mut [u8]) -> usize {
        self.hear(SocketAddr::from((Ipv4Addr::LOCALHOST, 10_000)), packet)
    }

    #[inline]
    fn hear(&mut self, from: SocketAddr, datagram: &mut [u8]) -> usize {
        self.shard.handle_datagram(self.now, Path::to(from), datagram, &mut self.egress);
        let filled = self.egress.len();
        drop(self.egress.flight());
        filled
    }
}
