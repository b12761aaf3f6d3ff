//! ICE-lite (RFC 8445), one session's side: answers the checks of a browser, knows which pairs are
//! alive and which one media goes to, and until when the browser consents to be sent to (RFC 7675).
//! Sends nothing of its own accord: the browser has the controlling role and checks every pair.
//!
//! **What it costs, and what to charge.** [`local_ufrag`] reads a datagram; with it the shard finds
//! the session in a map, so that a flood with unknown `ufrag`s costs a look-up each. Only a caller
//! who knows a session's `ufrag` makes [`Ice::handle`] compute: one HMAC for a check that is
//! refused, two for one that is answered. Charge that session's budget before each call. Chromium
//! sends at most one check in 48 ms for all of its pairs together, others at most as many.
//!
//! **What is answered.** Only checks that are signed with our password: a stranger gets nothing
//! back, neither an oracle nor a reflector (RFC 8489 §9.1.3 would have 400 and 401). An answer is
//! never longer than the check.

use std::{net::SocketAddr, time::Instant};

use crate::{
    egress::Path,
    limits::{CONSENT_TIMEOUT, ICE_CHECK_QUIET, ICE_NOMINATION_QUIET, ICE_PAIRS_MAX},
    metrics::DropReason,
};

use super::{
    Credentials,
    stun::{BINDING, Class, HEADER_BYTES, Key, Message, Role, UNKNOWN_MAX, Writer},
};

/// Room that [`Ice::handle`] needs for an answer: a header, an error code, a list of unknown
/// attributes, integrity and fingerprint.
pub const ANSWER_BYTES_MAX: usize = HEADER_BYTES + 8 + (4 + 2 * UNKNOWN_MAX) + 24 + 8;

const UNKNOWN_ATTRIBUTE: u16 = 420;
const ROLE_CONFLICT: u16 = 487;

/// Which session a datagram asks for: the `ufrag` that its USERNAME begins with. Nothing has been
/// verified.
pub fn local_ufrag(datagram: &[u8]) -> Option<&[u8]> {
    Message::parse(datagram)?.username().map(|(ours, _)| ours)
}

/// What [`Ice::handle`] wrote, and what it meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Length of the answer.
    pub len: usize,
    /// The pair that media goes to from now on, if it is another one than before.
    pub nominated: Option<Path>,
}

/// One session's agent. A repeated Select Protocol makes a new one, with new credentials.
#[derive(Debug)]
pub struct Ice {
    local: Credentials,
    key: Key,
    pairs: Vec<Pair>,
    selected: Option<Path>,
    consent_until: Instant,
}

/// A way to the browser that has passed a check.
#[derive(Debug, Clone, Copy)]
struct Pair {
    path: Path,
    /// By its last check. All pairs have the same candidate on our side, so that the order of these
    /// is the order of the pairs' priorities (RFC 8445 §6.1.2.3).
    priority: u32,
    checked: Instant,
    nominated: Option<Instant>,
}

impl Ice {
    /// Starts with our own credentials. The browser's are of no use to a side that sends no checks,
    /// and a browser that restarts ICE by itself, without telling us, has others than its offer
    /// said: whoever knows our password is the one we gave it to.
    pub fn new(local: Credentials, now: Instant) -> Self {
        let key = Key::new(local.pwd());
        Self {
            local,
            key,
            pairs: Vec::with_capacity(ICE_PAIRS_MAX),
            selected: None,
            consent_until: now + CONSENT_TIMEOUT,
        }
    }

    /// Our own credentials, for the answer and for the map that [`local_ufrag`] is looked up in.
    pub fn local(&self) -> &Credentials {
        &self.local
    }

    /// Takes a STUN datagram that came by `path`, writes the answer into `out`, which has room for
    /// [`ANSWER_BYTES_MAX`], and says how long it is. The answer goes back by the same path.
    ///
    /// # Panics
    ///
    /// Panics if `out` is shorter.
    pub fn handle(
        &mut self,
        now: Instant,
        path: Path,
        datagram: &[u8],
        out: &mut [u8],
    ) -> Result<Answered, DropReason> {
        let check = Message::parse(datagram).ok_or(DropReason::BadStun)?;
        if !check.has_fingerprint() || (check.class(), check.method()) != (Class::Request, BINDING)
        {
            return Err(DropReason::BadStun);
        }
        let (ufrag, _) = check.username().ok_or(DropReason::BadStun)?;
        if ufrag != self.local.ufrag().as_bytes() {
            return Err(DropReason::UnknownUfrag);
        }
        if !check.is_authentic(&self.key) {
            return Err(DropReason::BadIntegrity);
        }

        let transaction = check.transaction();
        let mut nominated = None;
        let len = if !check.unknown_attributes().is_empty() {
            Writer::new(out, Class::Error, BINDING, transaction)
                .error_code(UNKNOWN_ATTRIBUTE)
                .unknown_attributes(check.unknown_attributes())
                .finish(&self.key)
        } else if let Some(Role::Controlled(_)) = check.role() {
            // A lite side never takes the controlling role (RFC 8445 §6.1.1).
            Writer::new(out, Class::Error, BINDING, transaction)
                .error_code(ROLE_CONFLICT)
                .finish(&self.key)
        } else {
            nominated = self.note_check(now, path, &check);
            Writer::new(out, Class::Success, BINDING, transaction)
                .mapped_address(path.remote)
                .finish(&self.key)
        };
        Ok(Answered { len: len.expect("out has ANSWER_BYTES_MAX"), nominated })
    }

    /// The pair that media goes to: the nominated one. Nominating another moves it, which is how a
    /// browser tells of a new network or a new mapping.
    pub fn selected(&self) -> Option<Path> {
        self.selected
    }

    /// Whether a check has passed on this path lately. DTLS is taken from such paths alone: who
    /// sends from there has shown our password, or sits on the way.
    pub fn is_valid(&self, path: Path) -> bool {
        self.pairs.iter().any(|pair| pair.path == path)
    }

    /// Whether a check from this address has passed so lately that the browser must still be there.
    pub fn is_alive_at(&self, now: Instant, remote: SocketAddr) -> bool {
        let lately = |pair: &Pair| now.saturating_duration_since(pair.checked) < ICE_CHECK_QUIET;
        self.pairs.iter().any(|pair| pair.path.remote == remote && lately(pair))
    }

    /// When the transport ends unless the browser checks the selected pair, or nominates its first
    /// one, before.
    pub fn consent_until(&self) -> Instant {
        self.consent_until
    }

    /// Remembers a good check and returns the pair it has made the selected one, if it has.
    fn note_check(&mut self, now: Instant, path: Path, check: &Message<'_>) -> Option<Path> {
        let (pair, nominating) = (self.refresh(now, path, check), check.use_candidate());
        let moves = self.selected != Some(path) && self.is_preferred(now, &pair, nominating);
        if moves {
            self.selected = Some(path);
        }
        if self.selected == Some(path) {
            self.consent_until = now + CONSENT_TIMEOUT;
        }
        moves.then_some(path)
    }

    fn refresh(&mut self, now: Instant, path: Path, check: &Message<'_>) -> Pair {
        let known = self.pairs.iter().position(|pair| pair.path == path);
        let before = known.and_then(|index| self.pairs[index].nominated);
        let pair = Pair {
            path,
            priority: check.priority().unwrap_or(0),
            checked: now,
            nominated: if check.use_candidate() { Some(now) } else { before },
        };
        match known {
            Some(index) => self.pairs[index] = pair,
            None if self.pairs.len() < ICE_PAIRS_MAX => self.pairs.push(pair),
            None => {
                let selected = self.selected;
                let oldest = self
                    .pairs
                    .iter_mut()
                    .filter(|pair| Some(pair.path) != selected)
                    .min_by_key(|pair| pair.checked)
                    .expect("only one of several is the selected one");
                *oldest = pair;
            }
        }
        pair
    }

    /// Whether a pair that was checked just now takes the selected one's place.
    ///
    /// Browsers take us for a full agent, for nothing in our answer says otherwise (protocol.md
    /// §3.2), and nominate several pairs: Firefox every one it checks, Chromium every one that is
    /// better than what it uses. Of these the one of highest priority counts (RFC 8445 §8.1.1), and
    /// the newest of equals, which is a NAT's new mapping. One of lower priority is meant when the
    /// selected one is no longer nominated, or is checked no more.
    fn is_preferred(&self, now: Instant, pair: &Pair, nominating: bool) -> bool {
        let selected = self.pairs.iter().find(|pair| Some(pair.path) == self.selected);
        let Some(selected) = selected else { return nominating };
        let quiet = |since: Option<Instant>, limit| {
            since.is_none_or(|since| now.saturating_duration_since(since) >= limit)
        };
        if nominating {
            pair.priority >= selected.priority || quiet(selected.nominated, ICE_NOMINATION_QUIET)
        } else {
            pair.nominated.is_some() && quiet(Some(selected.checked), ICE_CHECK_QUIET)
        }
    }
}

#[cfg(test)]
#[path = "ice_tests.rs"]
mod tests;
