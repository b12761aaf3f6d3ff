//! Tests of ICE-lite under a clock that stands still.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::webrtc::{
    credentials::RANDOM_BYTES,
    stun::{Transaction, Writer},
};

/// What a check says.
#[derive(Debug, Clone, Copy)]
struct Check<'a> {
    path: Path,
    priority: Option<u32>,
    nominate: bool,
    role: Option<Role>,
    /// An attribute more.
    extra: Option<(u16, &'a [u8])>,
}

struct Rig {
    ice: Ice,
    now: Instant,
}

impl Rig {
    fn new() -> Self {
        let now = Instant::now();
        Self { ice: Ice::new(credentials(7), now), now }
    }

    fn wait(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    fn take(&mut self, check: Check<'_>) -> (Answered, Vec<u8>) {
        let datagram = signed(&check, self.ice.local(), self.ice.local().pwd());
        let mut out = [0; ANSWER_BYTES_MAX];
        let answered = self.ice.handle(self.now, check.path, &datagram, &mut out).unwrap();
        assert!(answered.len <= datagram.len(), "{} for {}", answered.len, datagram.len());
        (answered, out[..answered.len].to_vec())
    }

    /// A check of this priority, with or without nomination: has it moved the selected pair?
    fn check(&mut self, path: Path, priority: u32, nominate: bool) -> bool {
        let (answered, _) = self.take(Check { nominate, ..plain(path, priority) });
        assert_eq!(answered.nominated, answered.nominated.filter(|it| *it == path));
        assert!(self.ice.is_valid(path));
        answered.nominated.is_some()
    }

    fn refused(&mut self, datagram: &[u8]) -> DropReason {
        let before = format!("{:?}", self.ice);
        let mut out = [0xEE; ANSWER_BYTES_MAX];
        let reason = self.ice.handle(self.now, path(1), datagram, &mut out).unwrap_err();
        assert_eq!(format!("{:?}", self.ice), before, "nothing changes");
        assert_eq!(out, [0xEE; ANSWER_BYTES_MAX], "nothing is answered");
        reason
    }
}

fn credentials(seed: u8) -> Credentials {
    Credentials::generate([seed; RANDOM_BYTES])
}

fn path(host: u8) -> Path {
    Path::to(format!("192.0.2.{host}:5000").parse().unwrap())
}

fn plain(path: Path, priority: u32) -> Check<'static> {
    let role = Some(Role::Controlling(1));
    Check { path, priority: Some(priority), nominate: false, role, extra: None }
}

fn signed(check: &Check<'_>, to: &Credentials, pwd: &str) -> Vec<u8> {
    let mut out = [0; 512];
    let transaction = Transaction(*b"twelve bytes");
    let mut writer = Writer::new(&mut out, Class::Request, BINDING, transaction);
    writer.username(to.ufrag(), "peer");
    if let Some((kind, value)) = check.extra {
        writer.push(kind, value);
    }
    if let Some(priority) = check.priority {
        writer.priority(priority);
    }
    if let Some(role) = check.role {
        writer.role(role);
    }
    if check.nominate {
        writer.use_candidate();
    }
    let len = writer.finish(&Key::new(pwd)).unwrap();
    out[..len].to_vec()
}

#[test]
fn a_check_is_answered_with_where_it_came_from() {
    for remote in ["203.0.113.9:1234", "[2001:db8::9]:65535"] {
        let mut rig = Rig::new();
        let path = Path::to(remote.parse().unwrap());
        let (answered, bytes) = rig.take(plain(path, 100));
        let answer = Message::parse(&bytes).unwrap();
        assert_eq!((answer.class(), answer.method()), (Class::Success, BINDING));
        assert_eq!(answer.transaction(), Transaction(*b"twelve bytes"));
        assert_eq!(answer.mapped_address(), Some(path.remote));
        assert!(answer.has_fingerprint());
        assert!(answer.is_authentic(&Key::new(rig.ice.local().pwd())), "with our password");
        assert_eq!(answered.nominated, None);
        assert!(rig.ice.is_valid(path) && rig.ice.selected().is_none());
    }
}

#[test]
fn the_shortest_check_is_no_shorter_than_its_answer() {
    let mut rig = Rig::new();
    let path = Path::to("[2001:db8::9]:1".parse().unwrap());
    // The shortest user name is ours and a colon; everything else may be left out.
    let mut out = [0; 128];
    let len = Writer::new(&mut out, Class::Request, BINDING, Transaction([0; 12]))
        .username(rig.ice.local().ufrag(), "")
        .finish(&Key::new(rig.ice.local().pwd()))
        .unwrap();
    let mut answer = [0; ANSWER_BYTES_MAX];
    let answered = rig.ice.handle(rig.now, path, &out[..len], &mut answer).unwrap();
    assert_eq!((len, answered.len), (76, 76));
}

#[test]
fn the_session_is_found_before_anything_is_verified() {
    let local = credentials(7);
    let datagram = signed(&plain(path(1), 1), &local, "not the password, and no matter");
    assert_eq!(local_ufrag(&datagram), Some(local.ufrag().as_bytes()));
    assert_eq!(local_ufrag(&datagram[1..]), None);
    assert_eq!(local_ufrag(&[]), None);
}

#[test]
fn a_strangers_check_gets_no_answer() {
    let mut rig = Rig::new();
    let (ours, pwd) = (credentials(7), credentials(7).pwd().to_owned());
    let check = plain(path(1), 1);
    let wrong = signed(&check, &ours, credentials(8).pwd());
    assert_eq!(rig.refused(&wrong), DropReason::BadIntegrity);
    let elsewhere = signed(&check, &credentials(8), &pwd);
    assert_eq!(rig.refused(&elsewhere), DropReason::UnknownUfrag);
    // Only a beginning of our name, or more than it.
    for name in [&ours.ufrag()[..15], &format!("{}x", ours.ufrag())] {
        let mut out = [0; 128];
        let len = Writer::new(&mut out, Class::Request, BINDING, Transaction([0; 12]))
            .username(name, "peer")
            .finish(&Key::new(&pwd))
            .unwrap();
        assert_eq!(rig.refused(&out[..len]), DropReason::UnknownUfrag);
    }
}

#[test]
fn what_is_no_check_gets_no_answer() {
    let mut rig = Rig::new();
    let (ours, pwd) = (credentials(7), Key::new(credentials(7).pwd()));
    for (class, method) in [
        (Class::Indication, BINDING),
        (Class::Success, BINDING),
        (Class::Error, BINDING),
        (Class::Request, 0x003),
        (Class::Request, 0x080),
    ] {
        let mut out = [0; 128];
        let len = Writer::new(&mut out, class, method, Transaction([0; 12]))
            .username(ours.ufrag(), "peer")
            .finish(&pwd)
            .unwrap();
        assert_eq!(rig.refused(&out[..len]), DropReason::BadStun, "{class:?} {method:03x}");
    }
    let mut out = [0; 128];
    let nameless =
        Writer::new(&mut out, Class::Request, BINDING, Transaction([0; 12])).finish(&pwd).unwrap();
    assert_eq!(rig.refused(&out[..nameless]), DropReason::BadStun);
    assert_eq!(rig.refused(b"anything"), DropReason::BadStun);

    let good = signed(&plain(path(1), 1), &ours, ours.pwd());
    let mut unfingered = good[..good.len() - 8].to_vec();
    unfingered[3] -= 8;
    assert_eq!(rig.refused(&unfingered), DropReason::BadStun);
    let mut unsigned = [&good[..good.len() - 32], &good[good.len() - 8..]].concat();
    unsigned[3] -= 24;
    let end = unsigned.len();
    let crc = crc32fast::hash(&unsigned[..end - 8]) ^ 0x5354_554E;
    unsigned[end - 4..].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(rig.refused(&unsigned), DropReason::BadIntegrity);
}

#[test]
fn a_role_conflict_and_what_is_not_understood_are_told_and_change_nothing() {
    let mut rig = Rig::new();
    let controlled = Check { role: Some(Role::Controlled(0)), nominate: true, ..plain(path(1), 1) };
    let unknown = Check { extra: Some((0x7ABC, b"x")), nominate: true, ..plain(path(1), 1) };
    for (check, code) in [(controlled, 487), (unknown, 420)] {
        let (answered, bytes) = rig.take(check);
        let answer = Message::parse(&bytes).unwrap();
        assert_eq!((answer.class(), answer.error_code()), (Class::Error, Some(code)));
        assert!(answer.has_fingerprint());
        assert!(answer.is_authentic(&Key::new(rig.ice.local().pwd())));
        assert_eq!(answered.nominated, None);
        assert_eq!((rig.ice.selected(), rig.ice.is_valid(path(1))), (None, false));
    }
}

#[test]
fn a_long_list_of_what_is_not_understood_fits_the_answer() {
    let mut rig = Rig::new();
    let mut out = [0; 512];
    let mut writer = Writer::new(&mut out, Class::Request, BINDING, Transaction([0; 12]));
    writer.username(rig.ice.local().ufrag(), "peer");
    (0x5000..0x5000 + 40).for_each(|kind| {
        writer.push(kind, &[]);
    });
    let len = writer.finish(&Key::new(rig.ice.local().pwd())).unwrap();
    let mut answer = [0; ANSWER_BYTES_MAX];
    let answered = rig.ice.handle(rig.now, path(1), &out[..len], &mut answer).unwrap();
    assert_eq!(answered.len, ANSWER_BYTES_MAX);
}

#[test]
fn a_check_without_priority_and_role_is_as_good() {
    let mut rig = Rig::new();
    let bare = Check { priority: None, role: None, nominate: true, ..plain(path(1), 0) };
    assert_eq!(rig.take(bare).0.nominated, Some(path(1)));
}

#[test]
fn a_browser_that_restarts_ice_by_itself_is_still_known() {
    let mut rig = Rig::new();
    rig.check(path(1), 100, true);
    let local = credentials(7);
    let mut out = [0; 128];
    let len = Writer::new(&mut out, Class::Request, BINDING, Transaction([1; 12]))
        .username(local.ufrag(), "another")
        .priority(100)
        .use_candidate()
        .finish(&Key::new(local.pwd()))
        .unwrap();
    let mut answer = [0; ANSWER_BYTES_MAX];
    let answered = rig.ice.handle(rig.now, path(2), &out[..len], &mut answer).unwrap();
    assert_eq!(answered.nominated, Some(path(2)));
}

#[test]
fn nothing_is_selected_before_it_is_nominated() {
    let mut rig = Rig::new();
    assert!(!rig.check(path(1), 100, false));
    assert_eq!(rig.ice.selected(), None);
    assert!(rig.check(path(1), 100, true));
    assert_eq!(rig.ice.selected(), Some(path(1)));
    assert!(!rig.check(path(1), 100, true), "the same is no news");
}

#[test]
fn a_new_mapping_is_taken_at_once() {
    let mut rig = Rig::new();
    rig.check(path(1), 100, true);
    assert!(!rig.check(path(2), 100, false));
    assert!(rig.check(path(2), 100, true));
    assert_eq!(rig.ice.selected(), Some(path(2)));
}

#[test]
fn the_same_peer_at_another_of_our_addresses_is_another_pair() {
    let mut rig = Rig::new();
    let there = Path { local: Some("198.51.100.1".parse().unwrap()), ..path(1) };
    rig.check(path(1), 100, true);
    assert!(!rig.ice.is_valid(there));
    assert!(rig.check(there, 100, true));
}

#[test]
fn of_several_nominated_pairs_the_one_of_highest_priority_counts() {
    // As Firefox does it: every check nominates, then only the best pair is checked.
    let mut rig = Rig::new();
    assert!(rig.check(path(1), 100, true));
    assert!(rig.check(path(2), 200, true));
    assert!(!rig.check(path(3), 150, true));
    for _ in 0..20 {
        rig.wait(5.0);
        assert!(!rig.check(path(2), 200, false));
    }
    assert_eq!(rig.ice.selected(), Some(path(2)));
    assert_eq!(rig.ice.consent_until(), rig.now + CONSENT_TIMEOUT);
}

#[test]
fn a_pair_of_lower_priority_is_taken_when_the_browser_nominates_it_alone() {
    // As Chromium does it: what it uses it nominates with every check.
    let mut rig = Rig::new();
    rig.check(path(1), 200, true);
    rig.wait(1.0);
    assert!(!rig.check(path(2), 100, true), "both are nominated");
    rig.check(path(1), 200, true);
    for _ in 0..2 {
        rig.wait(1.4);
        assert!(!rig.check(path(2), 100, true));
        // The old network still answers, but is not what the browser uses.
        rig.check(path(1), 200, false);
    }
    rig.wait(0.3);
    assert!(rig.check(path(2), 100, true));
    assert_eq!(rig.ice.selected(), Some(path(2)));
}

#[test]
fn a_nominated_pair_is_taken_when_the_selected_one_is_checked_no_more() {
    // Firefox again: it nominated both, and uses another one than we thought.
    let mut rig = Rig::new();
    rig.check(path(1), 100, true);
    rig.check(path(2), 200, true);
    rig.check(path(3), 50, false);
    rig.wait(6.0);
    assert!(!rig.check(path(1), 100, false));
    rig.wait(6.0);
    assert!(!rig.check(path(3), 50, false), "it was never nominated");
    assert!(rig.check(path(1), 100, false));
    assert_eq!(rig.ice.consent_until(), rig.now + CONSENT_TIMEOUT);
}

#[test]
fn consent_is_renewed_by_checks_of_the_selected_pair_alone() {
    let mut rig = Rig::new();
    let start = rig.now;
    rig.wait(10.0);
    rig.check(path(1), 100, false);
    assert_eq!(rig.ice.consent_until(), start + CONSENT_TIMEOUT, "the first must be nominated");
    rig.check(path(1), 100, true);
    let nominated = rig.now;
    assert_eq!(rig.ice.consent_until(), nominated + CONSENT_TIMEOUT);
    rig.wait(5.0);
    rig.check(path(2), 50, false);
    assert_eq!(rig.ice.consent_until(), nominated + CONSENT_TIMEOUT);
    rig.check(path(1), 100, false);
    assert_eq!(rig.ice.consent_until(), rig.now + CONSENT_TIMEOUT);
}

#[test]
fn the_pair_that_was_not_checked_for_longest_is_forgotten_and_never_the_selected_one() {
    let mut rig = Rig::new();
    rig.check(path(0), 200, true);
    for host in 1..=ICE_PAIRS_MAX as u8 {
        rig.wait(0.1);
        rig.check(path(host), 100, false);
    }
    assert!(rig.ice.is_valid(path(0)), "selected");
    assert!(!rig.ice.is_valid(path(1)), "oldest");
    assert!((2..=ICE_PAIRS_MAX as u8).all(|host| rig.ice.is_valid(path(host))));
    rig.wait(0.1);
    rig.check(path(2), 100, false);
    rig.check(path(1), 100, false);
    assert!(rig.ice.is_valid(path(2)) && !rig.ice.is_valid(path(3)));
}

#[test]
fn a_clock_that_stands_still_or_goes_back_does_no_harm() {
    let mut rig = Rig::new();
    let start = rig.now;
    rig.wait(60.0);
    rig.check(path(1), 200, true);
    rig.now = start;
    assert!(!rig.check(path(2), 100, true));
    assert!(!rig.check(path(2), 100, false));
    assert_eq!(rig.ice.selected(), Some(path(1)));
}

#[test]
fn no_password_is_printed() {
    let rig = Rig::new();
    let text = format!("{:?}", rig.ice);
    assert!(text.contains(rig.ice.local().ufrag()) && !text.contains(rig.ice.local().pwd()));
}

proptest! {
    #[test]
    fn whatever_is_checked_the_selected_pair_is_valid_and_was_nominated(
        checks in proptest::collection::vec((0..12u8, 0..4u32, any::<bool>(), 0.0..20.0f64), 1..80)
    ) {
        let mut rig = Rig::new();
        let mut nominated = std::collections::BTreeSet::new();
        for (host, priority, nominate, pause) in checks {
            rig.wait(pause);
            let before = rig.ice.selected();
            if nominate {
                nominated.insert(host);
            }
            let moved = rig.check(path(host), priority, nominate);
            prop_assert_eq!(moved, rig.ice.selected() != before);
            prop_assert!(rig.ice.pairs.len() <= ICE_PAIRS_MAX);
            match rig.ice.selected() {
                Some(selected) => {
                    prop_assert!(rig.ice.is_valid(selected));
                    prop_assert!(nominated.iter().any(|host| path(*host) == selected));
                }
                None => prop_assert!(nominated.is_empty()),
            }
        }
    }

    #[test]
    fn any_datagram_is_answered_or_dropped(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        flips in proptest::collection::vec(any::<prop::sample::Index>(), 1..4),
    ) {
        let mut rig = Rig::new();
        rig.refused(&bytes);
        let local = credentials(7);
        let mut datagram = signed(&plain(path(1), 1), &local, local.pwd());
        let good = datagram.clone();
        for flip in flips {
            let bit = flip.index(8 * datagram.len());
            datagram[bit / 8] ^= 1 << (bit % 8);
        }
        if datagram != good {
            rig.refused(&datagram);
        }
    }
}
