//! A browser's side of a session, from its Select Protocol on: connectivity checks, the handshake,
//! what it means by its numbers. Knows no keys: those are its `Transport`'s, once the handshake is
//! over. Owned by the session.

use std::{net::SocketAddr, time::Instant};

use crate::{
    egress::Path,
    sfu::{budget::Budget, inbound::Inbound, layout::LayoutId, timer::Alarm},
    webrtc::{Credentials, Dtls, ExtensionMap, Ice, Identity, Offer},
};

/// A browser, or a program that speaks as one.
#[derive(Debug)]
pub struct Peer {
    /// Connectivity checks.
    pub ice: Ice,
    /// The handshake, and what comes of it later.
    pub dtls: Dtls,
    /// Its user name fragment of ours, by which the shard finds it.
    pub ufrag: Box<str>,
    /// Which header extensions it takes.
    pub layout: LayoutId,
    /// What it means by their numbers in its own packets.
    pub numbers: ExtensionMap,
    /// Its streams as they come in.
    pub inbound: Inbound,
    /// Where it may send from: pairs that have passed a check, each in the shard's table of
    /// sources.
    pub paths: Vec<Path>,
    /// Checks it may still make.
    pub checks: Budget,
    /// Datagrams of its handshake that wait to be dealt with.
    pub waiting: usize,
    /// When a flight of the handshake is to be sent again.
    pub flight: Alarm,
    /// When consent is to be looked at.
    pub consent: Alarm,
    /// When early packets are.
    pub early: Alarm,
}

/// Connectivity checks answered for one session, at once and per second. A browser has a few pairs
/// and checks each about every 50 ms until one is chosen, and then that one every few seconds; an
/// answer costs two HMACs.
const CHECKS: (u32, u32) = (200, 100);

impl Peer {
    /// A browser that has shown its offer.
    pub fn new(
        identity: &Identity,
        local: Credentials,
        offer: Offer,
        layout: LayoutId,
        now: Instant,
    ) -> Self {
        let Offer { fingerprints, extensions, .. } = offer;
        let ufrag = local.ufrag().into();
        Self {
            ice: Ice::new(local, now),
            dtls: Dtls::new(identity, fingerprints, now),
            ufrag,
            layout,
            numbers: extensions,
            inbound: Inbound::default(),
            paths: Vec::new(),
            checks: Budget::new(CHECKS.0, CHECKS.1),
            waiting: 0,
            flight: Alarm::default(),
            consent: Alarm::default(),
            early: Alarm::default(),
        }
    }

    /// Notes a pair that has passed a check. Gives addresses that are its own no longer, because
    /// their pairs are forgotten.
    pub fn checked(&mut self, path: Path) -> Vec<SocketAddr> {
        if !self.paths.contains(&path) {
            self.paths.push(path);
        }
        let ice = &self.ice;
        let forgotten = self.paths.extract_if(.., |path| !ice.is_valid(*path));
        let forgotten: Vec<SocketAddr> = forgotten.map(|path| path.remote).collect();
        let kept = &self.paths;
        forgotten
            .into_iter()
            .filter(|remote| !kept.iter().any(|path| path.remote == *remote))
            .collect()
    }
}
