//! Tests of the nonce counter against clients that count in either order from anywhere.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Order {
    Big,
    Little,
}

impl Order {
    fn write(self, counter: u32) -> [u8; 4] {
        match self {
            Order::Big => counter.to_be_bytes(),
            Order::Little => counter.to_le_bytes(),
        }
    }

    fn read(self, suffix: [u8; 4]) -> u32 {
        match self {
            Order::Big => u32::from_be_bytes(suffix),
            Order::Little => u32::from_le_bytes(suffix),
        }
    }
}

#[test]
fn the_first_suffix_is_in_the_upper_half_of_both_orders() {
    assert_eq!(NonceCounter::new([0, 0, 0]).next(), Some([0x80, 0, 0, 0x80]));
    assert_eq!(NonceCounter::new([0xFF; 3]).next(), Some([0x81, 0xFF, 0xFF, 0xFF]));
}

#[test]
fn spreading_keeps_all_thirty_bits_apart_from_the_tops() {
    let mut union = 0;
    for bit in 0..COUNTER_BITS {
        let spread = spread(1 << bit);
        assert_eq!((spread.count_ones(), spread & (TOPS | union)), (1, 0));
        union |= spread;
    }
    assert_eq!(union | TOPS, u32::MAX);
}

#[test]
fn an_exhausted_counter_hands_out_nothing_for_good() {
    let mut nonces = NonceCounter { left: 2, ..NonceCounter::new([0; 3]) };
    assert!(nonces.next().is_some() && nonces.next().is_some());
    nonces.observe([0x80; 4]);
    assert_eq!((nonces.next(), nonces.next()), (None, None));
}

#[test]
fn the_counter_passes_its_end_without_touching_the_tops() {
    let mut nonces = NonceCounter { counter: (1 << 30) - 1, ..NonceCounter::new([0; 3]) };
    assert_eq!(nonces.next(), Some([0xFF; 4]));
    assert_eq!(nonces.next(), Some([0x80, 0, 0, 0x80]));
}

#[test]
fn a_client_in_our_half_moves_us_out_of_it_and_back() {
    let mut nonces = NonceCounter::new([0; 3]);
    nonces.observe(Order::Big.write(0x8000_0001));
    assert!(Order::Big.read(nonces.next().unwrap()) < 1 << 31);
    nonces.observe(Order::Big.write(0));
    assert!(Order::Big.read(nonces.next().unwrap()) >= 1 << 31);
    nonces.observe(Order::Little.write(0x8000_0001));
    assert!(Order::Little.read(nonces.next().unwrap()) < 1 << 31);
    nonces.observe(Order::Little.write(0));
    assert!(Order::Little.read(nonces.next().unwrap()) >= 1 << 31);
}

#[test]
fn what_was_handed_out_before_a_client_spoke_is_what_it_may_meet() {
    let mut nonces = NonceCounter::new([0; 3]);
    let before = nonces.next().unwrap();
    let client = Order::Big.read(before) - 1;
    nonces.observe(Order::Big.write(client));
    assert_eq!(Order::Big.write(client + 1), before, "the documented remainder");
    for _ in 0..1_000 {
        assert!(Order::Big.read(nonces.next().unwrap()) < 1 << 31);
    }
}

/// One step of a session.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// We seal a packet.
    Seal,
    /// The client's packet arrives.
    Arrive,
    /// The client's packet is lost.
    Lose,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![3 => Just(Step::Seal), 3 => Just(Step::Arrive), 1 => Just(Step::Lose)];
    proptest::collection::vec(step, 1..400)
}

/// Starts near where a collision could be: our own first suffixes, the ends of the halves,
/// anywhere.
fn start(order: Order, random: [u8; 3]) -> impl Strategy<Value = u32> {
    let ours = order.read(NonceCounter::new(random).next().unwrap());
    let half = 1u32 << 31;
    (prop_oneof![Just(ours), Just(ours ^ half), Just(0), Just(half), any::<u32>()], 0u32..64)
        .prop_map(|(near, before)| near.wrapping_sub(before))
}

fn session() -> impl Strategy<Value = (Order, [u8; 3], u32, Vec<Step>)> {
    (prop_oneof![Just(Order::Big), Just(Order::Little)], any::<[u8; 3]>())
        .prop_flat_map(|(order, random)| (Just(order), Just(random), start(order, random), steps()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_suffix_is_used_by_both_sides_but_those_older_than_the_clients_arrival(
        (order, random, start, steps) in session(),
    ) {
        let mut nonces = NonceCounter::new(random);
        // Ours: suffix to how many we had handed out before it.
        let mut ours = HashMap::new();
        // The client's: each suffix with its stay in one half, and for each stay how many of ours
        // had been handed out when it was first seen.
        let mut theirs = Vec::new();
        let mut seen_at = vec![None];
        let mut counter = start;
        for step in steps {
            if let Step::Seal = step {
                let repeated = ours.insert(nonces.next().unwrap(), ours.len());
                prop_assert_eq!(repeated, None, "we repeat ourselves");
                continue;
            }
            let suffix = order.write(counter);
            theirs.push((suffix, seen_at.len() - 1));
            if let Step::Arrive = step {
                nonces.observe(suffix);
                seen_at.last_mut().unwrap().get_or_insert(ours.len());
            }
            let next = counter.wrapping_add(1);
            if (next ^ counter) >> 31 != 0 {
                seen_at.push(None);
            }
            counter = next;
        }
        for (suffix, stay) in theirs {
            if let Some(&index) = ours.get(&suffix) {
                let residual = seen_at[stay].is_none_or(|seen_at| index < seen_at);
                prop_assert!(residual, "{:02x?} is used by both", suffix);
            }
        }
    }

    #[test]
    fn a_client_that_starts_low_never_meets_us(
        order in prop_oneof![Just(Order::Big), Just(Order::Little)],
        random: [u8; 3], start in 0u32..1 << 30, steps in steps(),
    ) {
        let mut nonces = NonceCounter::new(random);
        for (counter, step) in (start..).zip(steps) {
            match step {
                Step::Seal => prop_assert!(order.read(nonces.next().unwrap()) >= 1 << 31),
                Step::Arrive => nonces.observe(order.write(counter)),
                Step::Lose => {}
            }
        }
    }

    #[test]
    fn after_any_packet_we_are_in_the_other_half_of_both_orders(
        random: [u8; 3], observed in proptest::collection::vec(any::<[u8; 4]>(), 1..20),
    ) {
        let mut nonces = NonceCounter::new(random);
        for suffix in observed {
            nonces.observe(suffix);
            let ours = nonces.next().unwrap();
            for order in [Order::Big, Order::Little] {
                prop_assert_ne!(order.read(ours) >> 31, order.read(suffix) >> 31);
            }
        }
    }
}
