//! Tests of the tally: a faulty way between sender and hearer, and every fault counted as what it
//! is.

use proptest::prelude::*;

use super::*;
use crate::load::{payload::Kind, scenario::Scenario};

const RUN: u32 = 7;

/// Two channels of one speaker and two listeners: clients 0, 1, 2 and 3, 4, 5; sources 0 and 1.
fn cast() -> Cast {
    let mut scenario = Scenario::simple(1, 2).unwrap();
    scenario.channels[0].count = 2;
    Cast::new(&scenario)
}

fn window(slice_s: Option<u32>) -> Window {
    Window { from_ns: 10 * SECOND_NS, seconds: 4, slice_s }
}

fn tally(cast: &Cast, window: Window) -> Tally {
    let mut tally = Tally::new(cast, RUN);
    tally.measure(window);
    for client in 0..cast.clients.len() as u32 {
        tally.arrive(cast, client, 0);
    }
    tally
}

fn mark(cast: &Cast, source: u32, number: u32) -> Mark {
    let Some(of) = cast.sources.get(source as usize) else {
        return Mark { kind: Kind::Audio, run: RUN, channel: 0, source, number, intended_ns: 0 };
    };
    let intended_ns = of.pace.due_ns(number);
    Mark { kind: Kind::Audio, run: RUN, channel: of.channel, source, number, intended_ns }
}

/// The numbers of source 0 that are due in the window.
fn numbers(cast: &Cast, window: &Window) -> std::ops::Range<u32> {
    let pace = &cast.sources[0].pace;
    pace.first_from(window.from_ns)..pace.first_from(window.to_ns())
}

#[test]
fn every_fault_is_counted_as_what_it_is() {
    let (cast, window) = (cast(), window(None));
    let mut tally = tally(&cast, window);
    let first = numbers(&cast, &window).start;
    let mut hear = |number: u32| {
        let mark = mark(&cast, 0, number);
        tally.hear(&cast, 1, &mark, mark.intended_ns + 50_000);
    };
    // 3 lost; 5 after 6; 7 twice.
    for offset in [0, 1, 2, 4, 6, 5, 7, 7, 8] {
        hear(first + offset);
    }
    let [hearing, with_bound] = tally.hearing(1);
    assert_eq!(hearing.heard, 8);
    assert_eq!((hearing.duplicated, hearing.reordered), (1, 1));
    assert_eq!((hearing.wrong_channel, hearing.foreign), (0, 0));
    assert_eq!(with_bound, Hearing::default());
    let seconds = tally.take_seconds();
    assert_eq!(seconds[&0].hearing.heard, 8);
    assert_eq!(seconds[&0].latency.len(), 8);
    assert!(seconds[&0].latency.max().abs_diff(50_000) < 100);
    assert!(tally.take_seconds().is_empty());
}

#[test]
fn latency_counts_from_the_intended_time() {
    let (cast, window) = (cast(), window(None));
    let mut tally = tally(&cast, window);
    let mark = mark(&cast, 0, numbers(&cast, &window).start);
    tally.sent(mark.intended_ns, mark.intended_ns + 3_000_000);
    tally.hear(&cast, 1, &mark, mark.intended_ns + 3_050_000);
    let second = &tally.take_seconds()[&0];
    assert!(second.latency.max() >= 3_050_000);
    let late = Sending { intended: 1, sent: 1, unsent: 0, late: 1, late_max_ns: 3_000_000 };
    assert_eq!(second.sending, late);
}

#[test]
fn packets_of_others_are_told_apart() {
    let (cast, window) = (cast(), window(None));
    let mut tally = tally(&cast, window);
    let number = numbers(&cast, &window).start;
    let good = mark(&cast, 0, number);
    for wrong in
        [Mark { run: RUN + 1, ..good }, Mark { channel: 1, ..good }, mark(&cast, 99, number)]
    {
        tally.hear(&cast, 1, &wrong, good.intended_ns);
    }
    // Its own voice.
    tally.hear(&cast, 0, &good, good.intended_ns);
    // The other channel's.
    tally.hear(&cast, 1, &mark(&cast, 1, number), good.intended_ns);
    tally.undecryptable(1, good.intended_ns);
    let [hearing, _] = tally.hearing(1);
    assert_eq!((hearing.foreign, hearing.wrong_channel, hearing.undecryptable), (3, 1, 1));
    assert_eq!(tally.hearing(0)[0].foreign, 1);
    assert_eq!(hearing.heard, 0);
}

#[test]
fn what_is_due_outside_the_measured_time_or_a_stay_does_not_count() {
    let (cast, window) = (cast(), window(None));
    let mut tally = tally(&cast, window);
    let numbers = numbers(&cast, &window);
    for number in [numbers.start - 1, numbers.end] {
        let mark = mark(&cast, 0, number);
        tally.hear(&cast, 1, &mark, mark.intended_ns);
    }
    let now = 11 * SECOND_NS;
    assert_eq!(tally.leave(1, now), Some(Stay { who: 1, from_ns: 0, to_ns: now }));
    assert_eq!(tally.leave(1, now), None);
    let after = mark(&cast, 0, numbers.start + 60);
    tally.hear(&cast, 1, &after, after.intended_ns);
    assert_eq!(tally.hearing(1)[0].heard, 0);
    let under_way = mark(&cast, 0, numbers.start + 40);
    tally.hear(&cast, 1, &under_way, now + 1);
    assert_eq!(tally.hearing(1)[0].heard, 1, "due while it was there");
    tally.arrive(&cast, 1, 12 * SECOND_NS);
    let before = mark(&cast, 0, numbers.start + 90);
    assert!(before.intended_ns < 12 * SECOND_NS);
    tally.hear(&cast, 1, &before, 12 * SECOND_NS);
    assert_eq!(tally.hearing(1)[0].heard, 1, "the rest was due to nobody");
}

#[test]
fn a_refused_packet_is_intended_and_not_sent() {
    let (cast, window) = (cast(), window(None));
    let mut tally = tally(&cast, window);
    for number in numbers(&cast, &window).take(3) {
        let due_ns = cast.sources[0].pace.due_ns(number);
        tally.sent(due_ns, due_ns);
    }
    tally.refused(window.from_ns, 2);
    let sending = tally.take_seconds()[&0].sending;
    assert_eq!((sending.intended, sending.sent, sending.unsent), (3, 1, 2));
}

#[test]
fn seconds_take_turns_with_the_bare_loop() {
    let window = window(Some(2));
    let targets: Vec<_> = (0..4).map(|second| window.target_of(second)).collect();
    use Target::{Bound, Server};
    assert_eq!(targets, [Server, Server, Bound, Bound]);
    assert_eq!(window.target_at(12 * SECOND_NS), Bound);
    assert_eq!(window.target_at(12 * SECOND_NS - 1), Server);
    assert_eq!(window.second(14 * SECOND_NS), None);
}

#[test]
fn all_who_stay_are_due_all_that_others_say() {
    let (cast, window) = (cast(), window(Some(1)));
    let always = |who| Stay { who, from_ns: 0, to_ns: u64::MAX };
    let present: Vec<_> = (0..6).map(always).collect();
    let due = Due::count(&cast, &window, &present, &[always(0), always(1)]);
    assert_eq!(due.by_second, [200; 4]);
    assert_eq!(due.by_client[0], [0, 0], "nobody else speaks in its channel");
    assert_eq!(due.by_client[1], [100, 100]);
    assert_eq!(due.by_client[5], [100, 100]);
}

#[test]
fn who_comes_and_goes_is_due_what_was_said_meanwhile() {
    let (cast, window) = (cast(), window(None));
    let stay = |who, from, to| Stay { who, from_ns: from * SECOND_NS, to_ns: to * SECOND_NS };
    // Client 1 is there twice for a second; the speaker is away in the last second of four.
    let present = [stay(0, 0, 13), stay(1, 10, 11), stay(1, 12, 20), stay(2, 0, 20)];
    let due = Due::count(&cast, &window, &present, &[stay(0, 0, 20)]);
    assert_eq!(due.by_client[1], [100, 0]);
    assert_eq!(due.by_client[2], [150, 0]);
    assert_eq!(due.by_second, [100, 50, 100, 0]);
}

proptest! {
    #[test]
    fn whatever_the_way_does_heard_and_duplicated_are_exact(
        fates in proptest::collection::vec((0u32..3, 0usize..20), 1..150),
    ) {
        let (cast, window) = (cast(), window(None));
        let mut tally = tally(&cast, window);
        // Each packet arrives 0, 1 or 2 times, up to twenty places late.
        let mut way: Vec<(usize, u32)> = Vec::new();
        for ((copies, delay), (place, number)) in
            fates.iter().zip(numbers(&cast, &window).enumerate())
        {
            way.extend((0..*copies).map(|copy| (place + delay * copy as usize, number)));
        }
        way.sort_by_key(|(place, _)| *place);
        for (_, number) in &way {
            let mark = mark(&cast, 0, *number);
            tally.hear(&cast, 1, &mark, mark.intended_ns + 1);
        }
        let [hearing, _] = tally.hearing(1);
        let count = |wanted| fates.iter().filter(|(copies, _)| *copies >= wanted).count() as u64;
        prop_assert_eq!(hearing.heard, count(1));
        prop_assert_eq!(hearing.duplicated, count(2));
    }
}
