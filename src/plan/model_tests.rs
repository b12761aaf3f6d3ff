//! The arithmetic against sums done by hand, and what must hold for all numbers. Part of `model`.

use proptest::prelude::*;

use super::*;
use crate::{crypto::Mode, plan::profile::Video};

const AES: &str = "aead_aes256_gcm_rtpsize";
const BROWSERS: &str = "SRTP_AEAD_AES_256_GCM";

/// Costs that make sums easy.
pub(in crate::plan) fn round_model() -> Model {
    let mode = ModeCost { copy_ns: 1_000.0, byte_ns: 1.0 };
    Model {
        base_cores: 0.001,
        received_ns: 5_000.0,
        halt_ns: 10_000.0,
        wake_ns: 100_000.0,
        cold_ns: 0.0,
        traversal_ns: 2_000.0,
        heartbeat_ns: 100_000.0,
        join_ns: 1_000_000.0,
        browser_ns: 30_000.0,
        browser_join_ns: 2_000_000.0,
        modes: [AES, BROWSERS].map(|name| (name.to_owned(), mode)).into(),
        separate: 0.0,
        memory_base_bytes: 10e6,
        memory_session_bytes: 50e3,
        memory_browser_bytes: 80e3,
        memory_told_bytes: 100.0,
    }
}

#[test]
fn a_channel_of_speech_is_counted_exactly() {
    let channel = Channels { joins_per_hour: 3_600.0, ..Channels::of(101) };
    let rates = Rates::of_channel(&channel, 0.0);
    assert_eq!((rates.received, rates.bursts), (50.0, 50.0));
    assert_eq!((rates.copies, rates.traversals), (5_000.0, 5_000.0));
    assert_eq!(rates.payload_bytes, 160.0 * 50.0 * 101.0);
    assert_eq!((rates.sessions, rates.joins), (101.0, 1.0));
}

#[test]
fn known_costs_give_the_exact_answer() {
    let channel = Channels { joins_per_hour: 3_600.0, ..Channels::of(101) };
    let rates = Rates::of_channel(&channel, 0.0);
    let terms = round_model().terms(AES, &rates).unwrap();
    let cores: Vec<_> = terms.iter().map(|term| (term.cores * 1e9).round()).collect();
    // 50 × 5 µs, 5,000 × 1 µs, 5,000 × 2 µs, 808,000 B × 1 ns, 101 / 41.25 × 100 µs, 1 × 1 ms.
    assert_eq!(cores, [250e3, 5e6, 10e6, 808e3, 244_848.0, 1e6]);
    let sum = round_model().cores(AES, &rates).unwrap();
    assert!((sum - 0.017_302_848).abs() < 1e-9);
    assert_eq!(round_model().cores("never measured", &rates), None);
}

#[test]
fn browsers_take_more_for_joining_and_staying() {
    let plain = Channels { joins_per_hour: 3_600.0, ..Channels::of(101) };
    let browsers = Channels { mode: BROWSERS.to_owned(), ..plain.clone() };
    let cores = |channels: &Channels| {
        let rates = Rates::of_channel(channels, 0.0);
        (round_model().cores(&channels.mode, &rates).unwrap(), round_model().memory_bytes(&rates))
    };
    let ((plain, plain_bytes), (more, more_bytes)) = (cores(&plain), cores(&browsers));
    // 101 × 30 µs, 1 × 2 ms; 101 × 30 kB.
    assert!((more - plain - 0.003_03 - 0.002).abs() < 1e-12);
    assert!((more_bytes - plain_bytes - 3.03e6).abs() < 1e-3);
}

#[test]
fn packets_of_a_frame_share_passes_as_far_as_was_measured() {
    let video = Video {
        cameras: 1.0,
        bits_per_second: 2_500_000,
        frames_per_second: 30,
        payload_bytes: 1_150,
    };
    let channel = Channels { speaking: 0.0, video: Some(video), ..Channels::of(11) };
    let rates = |separate| Rates::of_channel(&channel, separate);
    // Ten packets a frame to ten hearers.
    assert_eq!(rates(0.0).bursts, 30.0);
    assert_eq!((rates(0.0).received, rates(0.0).copies), (300.0, 3_000.0));
    assert_eq!(rates(0.0).traversals, 300.0);
    assert_eq!(rates(1.0).traversals, 3_000.0);
    assert!((rates(1.0 / 9.0).traversals - 600.0).abs() < 1e-9);
}

#[test]
fn traffic_counts_all_that_is_around_a_payload() {
    let rates = Rates::of_channel(&Channels::of(3), 0.0);
    let traffic = rates.traffic(Encryption::Udp(Mode::Aes256GcmRtpsize));
    // 160 of payload, 12 of RTP, 20 of tag and counter, 28 of UDP and IP; ours 12 of extension.
    assert_eq!(traffic.bits_in, 50.0 * 220.0 * 8.0);
    assert_eq!(traffic.bits_out, 100.0 * 232.0 * 8.0);
    // Browsers have no counter, and extensions of their own.
    let traffic = rates.traffic(Encryption::BROWSERS);
    assert_eq!((traffic.bits_in, traffic.bits_out), (50.0 * 228.0 * 8.0, 100.0 * 228.0 * 8.0));
}

#[test]
fn shards_are_enough_whatever_the_order_of_channels() {
    assert_eq!(shards(0.0, 0.0, 0.5), Some(1));
    assert_eq!(shards(0.5, 0.5, 0.5), Some(1));
    assert_eq!(shards(0.5, 0.1, 0.5), Some(1));
    // Ten of 0.1 on halves: two shards of five would do, if nobody came in a bad order.
    assert_eq!(shards(1.0, 0.1, 0.5), Some(3));
    assert_eq!(shards(0.6, 0.6, 0.5), None);
    assert_eq!(shards(1.0, 0.5, 0.5), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Channels come in any order, each to the shard with the least to do.
    #[test]
    fn the_busiest_shard_stays_within_its_headroom(
        costs in prop::collection::vec(0.001f64..0.2, 1..60),
    ) {
        let (total, usable) = (costs.iter().sum::<f64>(), 0.5);
        let largest = costs.iter().copied().fold(0.0, f64::max);
        let count = shards(total, largest, usable).unwrap();
        let mut busy = vec![0.0f64; count as usize];
        for cost in costs {
            let least = busy.iter_mut().min_by(|a, b| a.total_cmp(b)).unwrap();
            *least += cost;
        }
        prop_assert!(busy.iter().all(|busy| *busy <= usable + 1e-9), "{busy:?}");
    }

    #[test]
    fn more_never_needs_less(
        count in 1u32..2_000,
        members in 1u32..400,
        more in 1u32..400,
        speaking in 0.0f64..3.0,
        bits in 1u64..4_000_000,
    ) {
        let video = Video { cameras: 1.0, bits_per_second: bits, frames_per_second: 30,
            payload_bytes: 1_150 };
        let model = round_model();
        let cost = |members: u32, count: u32, speaking: f64| {
            let video = Some(video.clone());
            let channel = Channels { speaking, video, ..Channels::of(members) };
            let one = model.cores(AES, &Rates::of_channel(&channel, 0.1)).unwrap();
            (one * f64::from(count), one)
        };
        let needed = |(total, largest)| shards(total, largest, 0.6).unwrap_or(u32::MAX);
        let before = needed(cost(members, count, speaking));
        prop_assert!(needed(cost(members + more, count, speaking)) >= before);
        prop_assert!(needed(cost(members, count + more, speaking)) >= before);
        prop_assert!(needed(cost(members, count, speaking + 1.0)) >= before);
    }
}
