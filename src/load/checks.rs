//! A browser's connectivity checks (RFC 8445 §7): one pair, nominated by every check, repeated
//! until the server answers and then for as long as the browser consents to be sent to (RFC 7675).
//! Sans-IO: datagrams, the time and random bytes come in.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::webrtc::{
    Credentials,
    stun::{BINDING, Class, Key, Message, Role, Transaction, Writer},
};

/// A check that was not answered is repeated after this long while there is no answer yet: what
/// Chromium waits at most.
const AGAIN: Duration = Duration::from_millis(250);

/// Time from one check to the next afterwards: five seconds, and up to a fifth more or less (RFC
/// 7675 §5.1).
const CONSENT: Duration = Duration::from_secs(4);
const CONSENT_SPREAD_MS: u64 = 2_000;

/// Time without an answer after which the path counts as dead (RFC 7675 §5.1).
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Checks whose answers are still good: as many as are sent in [`SILENCE_MAX`] without an answer.
const OUTSTANDING_MAX: usize = 120;

/// Priority of a host candidate of UDP, as Chromium gives it.
const PRIORITY: u32 = 0x6E7F_1EFF;

/// Room for a check: the credentials of both sides have at most 256 characters each.
const CHECK_BYTES_MAX: usize = 700;

/// The server does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server does not answer connectivity checks")]
pub struct Silence;

/// One browser's checks.
#[derive(Debug)]
pub struct Checks {
    /// The server's `ufrag` and ours.
    names: (Box<str>, Box<str>),
    key: Key,
    tie_breaker: u64,
    sent: u32,
    outstanding: VecDeque<Transaction>,
    answered: bool,
    /// The last sign of life, or the beginning.
    heard_at: Instant,
    due_at: Instant,
}

impl Checks {
    /// Checks the server that has these credentials. The first check is due at once.
    pub fn new(own: &Credentials, server: &Credentials, random: u64, now: Instant) -> Self {
        Self {
            names: (server.ufrag().into(), own.ufrag().into()),
            key: Key::new(server.pwd()),
            tie_breaker: random,
            sent: 0,
            outstanding: VecDeque::with_capacity(OUTSTANDING_MAX),
            answered: false,
            heard_at: now,
            due_at: now,
        }
    }

    /// When the next check is due.
    pub fn due_at(&self) -> Instant {
        self.due_at
    }

    /// Whether the server has answered one.
    pub fn is_answered(&self) -> bool {
        self.answered
    }

    /// The check that is due by now, if one is.
    ///
    /// # Errors
    /// The server has not answered for too long.
    pub fn check(&mut self, now: Instant) -> Result<Option<Vec<u8>>, Silence> {
        if now < self.due_at {
            return Ok(None);
        }
        if now.saturating_duration_since(self.heard_at) >= SILENCE_MAX {
            return Err(Silence);
        }
        self.sent += 1;
        let spread = self.tie_breaker.rotate_left(self.sent.wrapping_mul(13)) % CONSENT_SPREAD_MS;
        let wait = if self.answered { CONSENT + Duration::from_millis(spread) } else { AGAIN };
        self.due_at = now + wait;
        let mut transaction = [0; 12];
        transaction[..8].copy_from_slice(&self.tie_breaker.to_be_bytes());
        transaction[8..].copy_from_slice(&self.sent.to_be_bytes());
        if self.outstanding.len() == OUTSTANDING_MAX {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back(Transaction(transaction));
        let mut check = vec![0; CHECK_BYTES_MAX];
        let len = Writer::new(&mut check, Class::Request, BINDING, Transaction(transaction))
            .username(&self.names.0, &self.names.1)
            .role(Role::Controlling(self.tie_breaker))
            .use_candidate()
            .priority(PRIORITY)
            .finish(&self.key);
        check.truncate(len.expect("there is room for the longest names"));
        Ok(Some(check))
    }

    /// Takes a STUN datagram; whether it was a good answer. What is none is nobody's business.
    pub fn handle(&mut self, now: Instant, datagram: &[u8]) -> bool {
        let Some(message) = Message::parse(datagram) else { return false };
        let place = self.outstanding.iter().position(|it| *it == message.transaction());
        let good = (message.class(), message.method()) == (Class::Success, BINDING)
            && message.has_fingerprint()
            && message.is_authentic(&self.key);
        let Some(place) = place.filter(|_| good) else { return false };
        self.outstanding.remove(place);
        if !self.answered {
            self.answered = true;
            self.due_at = now + CONSENT;
        }
        self.heard_at = now;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        egress::Path,
        webrtc::{
            Ice,
            credentials::RANDOM_BYTES,
            ice::{ANSWER_BYTES_MAX, local_ufrag},
        },
    };

    fn credentials(seed: u8) -> Credentials {
        Credentials::generate([seed; RANDOM_BYTES])
    }

    #[test]
    fn the_server_answers_a_check_and_takes_the_pair() {
        let (own, theirs, now) = (credentials(1), credentials(2), Instant::now());
        let mut ice = Ice::new(theirs.clone(), now);
        let mut checks = Checks::new(&own, &theirs, 0xABCD, now);
        let check = checks.check(now).unwrap().expect("the first is due at once");
        assert_eq!(local_ufrag(&check), Some(theirs.ufrag().as_bytes()));
        let path = Path::to(([127, 16, 0, 1], 4_000).into());
        let mut answer = [0; ANSWER_BYTES_MAX];
        let answered = ice.handle(now, path, &check, &mut answer).unwrap();
        assert_eq!(answered.nominated, Some(path));
        assert!(!checks.is_answered());
        let answer = &mut answer[..answered.len];
        assert!(checks.handle(now, answer) && checks.is_answered());
        assert!(!checks.handle(now, answer), "once");
        let wait = checks.due_at() - now;
        assert_eq!(checks.check(now + wait / 2), Ok(None));
        assert!(checks.check(now + wait).unwrap().is_some(), "consent is asked for again");
    }

    #[test]
    fn an_answer_that_is_not_signed_is_none() {
        let (own, theirs, now) = (credentials(1), credentials(2), Instant::now());
        let mut ice = Ice::new(theirs.clone(), now);
        let mut checks = Checks::new(&own, &theirs, 1, now);
        let check = checks.check(now).unwrap().unwrap();
        let path = Path::to(([127, 16, 0, 1], 4_000).into());
        let mut answer = [0; ANSWER_BYTES_MAX];
        let len = ice.handle(now, path, &check, &mut answer).unwrap().len;
        for at in 0..len {
            let mut wrong = answer[..len].to_vec();
            wrong[at] ^= 1;
            assert!(!checks.handle(now, &wrong), "byte {at}");
        }
        assert!(!checks.handle(now, &check), "its own check");
        assert!(checks.handle(now, &answer[..len]));
    }

    #[test]
    fn a_silent_server_is_given_up() {
        let (own, theirs, begun) = (credentials(1), credentials(2), Instant::now());
        let mut checks = Checks::new(&own, &theirs, 1, begun);
        let mut sent = 0;
        let end = loop {
            match checks.check(checks.due_at()) {
                Ok(Some(_)) => sent += 1,
                Ok(None) => panic!("due"),
                Err(Silence) => break checks.due_at(),
            }
        };
        assert_eq!(end - begun, SILENCE_MAX);
        assert_eq!(sent, 120);
    }
}
