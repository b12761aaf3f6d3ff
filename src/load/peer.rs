//! A virtual browser's transport while it is made and kept: checks until the server answers, a
//! handshake for keys, then checks for consent. Sans-IO; media goes its own way. Called by
//! `gateway`, which has the datagrams carried by the media thread.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use super::{
    checks::{Checks, Silence},
    dtls::{DtlsFault, Handshake, Setup},
    offer::Remote,
};
use crate::{
    crypto::Srtp,
    rtp::demux::{Kind, classify},
    webrtc::{Credentials, Fingerprint},
};

/// Why a path came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// ICE.
    #[error(transparent)]
    Silence(#[from] Silence),
    /// DTLS.
    #[error(transparent)]
    Dtls(#[from] DtlsFault),
}

/// One browser's transport. After each call take what there is of [`Peer::poll_output`] and
/// [`Peer::take_keys`], then ask [`Peer::poll_timeout`] anew.
#[derive(Debug)]
pub struct Peer {
    setup: Arc<Setup>,
    server: Fingerprint,
    checks: Checks,
    /// From the first answer to a check until there are keys.
    handshake: Option<Handshake>,
    connected: bool,
    keys: Option<Srtp>,
    unsent: VecDeque<Vec<u8>>,
}

impl Peer {
    /// Begins with a check.
    pub fn begin(
        setup: Arc<Setup>,
        own: &Credentials,
        remote: &Remote,
        random: u64,
        now: Instant,
    ) -> Self {
        let mut peer = Self {
            setup,
            server: remote.fingerprint,
            checks: Checks::new(own, &remote.credentials, random, now),
            handshake: None,
            connected: false,
            keys: None,
            unsent: VecDeque::new(),
        };
        peer.unsent.extend(peer.checks.check(now).expect("nobody has been silent yet"));
        peer
    }

    /// Takes a datagram of the server that is no media.
    ///
    /// # Errors
    /// The handshake has failed.
    pub fn handle(&mut self, now: Instant, datagram: &[u8]) -> Result<(), PathFault> {
        match classify(datagram) {
            Kind::Stun => {
                let begins = self.checks.handle(now, datagram) && !self.connected;
                if begins && self.handshake.is_none() {
                    self.handshake = Some(Handshake::begin(&self.setup, self.server, now)?);
                }
            }
            Kind::Dtls => {
                if let Some(handshake) = &mut self.handshake {
                    handshake.handle(now, datagram)?;
                }
            }
            _ => {}
        }
        self.settle();
        Ok(())
    }

    /// Does what is due by now.
    ///
    /// # Errors
    /// The server has been silent for too long.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), PathFault> {
        self.unsent.extend(self.checks.check(now)?);
        if let Some(handshake) = &mut self.handshake
            && handshake.poll_timeout().is_some_and(|at| at <= now)
        {
            handshake.handle_timeout(now)?;
        }
        self.settle();
        Ok(())
    }

    /// The next datagram to send.
    pub fn poll_output(&mut self) -> Option<Vec<u8>> {
        self.unsent.pop_front()
    }

    /// When [`Peer::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Instant {
        let handshake = self.handshake.as_ref().and_then(Handshake::poll_timeout);
        handshake.map_or(self.checks.due_at(), |at| at.min(self.checks.due_at()))
    }

    /// The keys, once: media may flow from then on.
    pub fn take_keys(&mut self) -> Option<Srtp> {
        self.keys.take()
    }

    fn settle(&mut self) {
        let Some(handshake) = &mut self.handshake else { return };
        while let Some(datagram) = handshake.poll_output() {
            self.unsent.push_back(datagram);
        }
        self.keys = handshake.take_keys();
        if self.keys.is_some() {
            // The last word was the server's, so nothing of ours will be asked for again; and an
            // idle browser keeps no memory for it.
            self.connected = true;
            self.handshake = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        crypto::Profile,
        egress::Path,
        limits::DTLS_DATAGRAM_BYTES_MAX,
        webrtc::{Dtls, Ice, Identity, credentials::RANDOM_BYTES, ice::ANSWER_BYTES_MAX},
    };

    /// The server's side, which answers what comes unless it is lost.
    struct Server {
        ice: Ice,
        dtls: Dtls,
    }

    impl Server {
        fn answer(&mut self, now: Instant, datagram: &[u8]) -> Vec<Vec<u8>> {
            let mut answers = Vec::new();
            if classify(datagram) == Kind::Stun {
                let path = Path::to(([127, 16, 0, 1], 4_000).into());
                let mut answer = [0; ANSWER_BYTES_MAX];
                let len = self.ice.handle(now, path, datagram, &mut answer).unwrap().len;
                answers.push(answer[..len].to_vec());
            } else {
                self.dtls.handle(now, datagram).unwrap();
            }
            let mut out = [0; DTLS_DATAGRAM_BYTES_MAX];
            while let Some(len) = self.dtls.poll_output(&mut out) {
                answers.push(out[..len].to_vec());
            }
            answers
        }
    }

    /// A browser that connects although one of its datagrams, counted from 1, is lost.
    fn connect(lost: usize) -> Duration {
        let begun = Instant::now();
        let (own, theirs) =
            (Credentials::generate([1; RANDOM_BYTES]), Credentials::generate([2; RANDOM_BYTES]));
        let identity = Identity::generate().unwrap();
        let setup = Arc::new(Setup::new(Profile::AeadAes128Gcm).unwrap());
        let mut server = Server {
            ice: Ice::new(theirs.clone(), begun),
            dtls: Dtls::new(&identity, vec![*setup.fingerprint()], begun),
        };
        let remote = Remote {
            address: "127.0.0.1:50000".parse().unwrap(),
            credentials: theirs,
            fingerprint: *identity.fingerprint(),
        };
        let mut peer = Peer::begin(setup, &own, &remote, 7, begun);
        let (mut now, mut sent, mut answered) = (begun, 0, false);
        loop {
            while let Some(datagram) = peer.poll_output() {
                sent += 1;
                let is_check = classify(&datagram) == Kind::Stun;
                assert!(is_check || answered, "no handshake before the path is known");
                if sent == lost {
                    continue;
                }
                for answer in server.answer(now, &datagram) {
                    answered |= is_check;
                    peer.handle(now, &answer).unwrap();
                }
            }
            if peer.take_keys().is_some() {
                assert!(peer.poll_timeout() > now, "consent is asked for from now on");
                return now - begun;
            }
            now = peer.poll_timeout();
            peer.handle_timeout(now).unwrap();
        }
    }

    #[test]
    fn checks_come_first_then_keys_then_checks_again() {
        assert_eq!(connect(0), Duration::ZERO);
    }

    #[test]
    fn what_is_lost_is_said_again() {
        // The check, the hello, the hello with its cookie, the last flight.
        for lost in 1..=4 {
            let took = connect(lost);
            assert!(!took.is_zero() && took < Duration::from_secs(5), "{lost}: {took:?}");
        }
    }
}
