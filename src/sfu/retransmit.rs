//! What hearers of video may ask for again: the last packets of one stream as they were forwarded,
//! and what one hearer was lately answered. Memory of fixed size; nothing is allocated per packet.
//! Filled by the shard's ingress, asked by its RTCP.

use std::time::{Duration, Instant};

use crate::{
    id::Ssrc,
    limits::{RETRANSMISSION_BYTES_MAX, RETRANSMISSION_PACKETS_MAX},
    sfu::{budget::Budget, codec::Media},
};

/// The newest plain packets of one stream, by the channel's numbers.
#[derive(Debug)]
pub struct Cache {
    /// A packet's place is its number modulo their count.
    entries: Box<[Option<Entry>]>,
    /// Packets one after the other; one that does not fit before the end begins at the start.
    bytes: Box<[u8]>,
    /// Bytes ever used, those left out before an end too: the next packet's position.
    used: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    seq: u16,
    len: u16,
    /// Where it was put, in bytes ever used.
    position: u64,
    media: Media,
}

impl Cache {
    /// An empty cache, with all the memory it will ever have.
    pub fn new() -> Self {
        Self {
            entries: vec![None; RETRANSMISSION_PACKETS_MAX].into_boxed_slice(),
            bytes: vec![0; RETRANSMISSION_BYTES_MAX].into_boxed_slice(),
            used: 0,
        }
    }

    /// Keeps a packet in place of the oldest ones.
    pub fn store(&mut self, seq: u16, media: Media, packet: &[u8]) {
        let size = self.bytes.len() as u64;
        let (len, rest) = (packet.len() as u64, size - self.used % size);
        if len > size {
            return;
        }
        let position = if len > rest { self.used + rest } else { self.used };
        let at = (position % size) as usize;
        self.bytes[at..at + packet.len()].copy_from_slice(packet);
        self.used = position + len;
        self.entries[place(seq)] = Some(Entry { seq, len: packet.len() as u16, position, media });
    }

    /// The packet with this number, if it is still there, and what it carries.
    pub fn get(&self, seq: u16) -> Option<(&[u8], Media)> {
        let Entry { len, position, media, .. } =
            self.entries[place(seq)].filter(|entry| entry.seq == seq)?;
        let size = self.bytes.len() as u64;
        if self.used - position > size {
            return None;
        }
        let at = (position % size) as usize;
        Some((&self.bytes[at..at + usize::from(len)], media))
    }
}

/// A number's place among the entries.
fn place(seq: u16) -> usize {
    usize::from(seq) % RETRANSMISSION_PACKETS_MAX
}

/// What one hearer was sent again: so many packets and no more, and none of them twice within a
/// round trip, since the first may still be under way.
#[derive(Debug)]
pub struct Answers {
    budget: Budget,
    /// Hashed by stream and number; what falls on the same place is forgotten, and may then be
    /// answered once more.
    lately: Box<[Option<Answer>]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    ssrc: Ssrc,
    seq: u16,
    at: Instant,
}

/// Packets sent again to one hearer, at once and per second: a tenth lost of ten cameras at 2.5
/// Mbit/s are 260 a second. More is no longer loss that repetition mends.
const ANSWERS: (u32, u32) = (256, 600);

/// Answers remembered of one hearer: those of a round trip of half a second at the full rate.
const LATELY: usize = 256;

impl Answers {
    /// Nothing was asked yet.
    pub fn new() -> Self {
        Self {
            budget: Budget::new(ANSWERS.0, ANSWERS.1),
            lately: vec![None; LATELY].into_boxed_slice(),
        }
    }

    /// Whether the hearer is to be sent packet `seq` of `ssrc`, of which it is then sent.
    pub fn take(&mut self, now: Instant, round_trip: Duration, ssrc: Ssrc, seq: u16) -> bool {
        let hash = u32::from(seq) ^ ssrc.0.wrapping_mul(31);
        let last = &mut self.lately[hash as usize % LATELY];
        let again = last.is_some_and(|last| {
            (last.ssrc, last.seq) == (ssrc, seq)
                && now.saturating_duration_since(last.at) < round_trip
        });
        if again || !self.budget.take(now) {
            return false;
        }
        *last = Some(Answer { ssrc, seq, at: now });
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEDIA: Media = Media::Video { codec: None, payload_type: 103 };

    #[test]
    fn a_packet_is_kept_until_its_bytes_or_its_place_are_taken() {
        let mut cache = Cache::new();
        for seq in 0..=RETRANSMISSION_PACKETS_MAX as u16 {
            cache.store(seq, MEDIA, &seq.to_be_bytes());
        }
        assert_eq!(cache.get(0), None, "its place was taken");
        assert_eq!(cache.get(1), Some((&[0, 1][..], MEDIA)));
        let long = [7; 1_400];
        let fit = RETRANSMISSION_BYTES_MAX / long.len();
        for seq in 2_000..2_000 + fit as u16 {
            cache.store(seq, MEDIA, &long);
        }
        assert_eq!(cache.get(1), None, "its bytes were taken");
        assert_eq!(cache.get(2_001), Some((&long[..], MEDIA)));
        assert_eq!(cache.get(65_535), None);
    }

    #[test]
    fn half_a_second_of_eight_megabits_fits() {
        const PACKET: usize = 1_200;
        let mut cache = Cache::new();
        let packets = 8_000_000 / 8 / 2 / PACKET;
        (0..packets).for_each(|seq| cache.store(seq as u16, MEDIA, &[1; PACKET]));
        assert!((0..packets).all(|seq| cache.get(seq as u16).is_some()));
    }

    #[test]
    fn one_packet_is_sent_again_once_within_a_round_trip() {
        let start = Instant::now();
        let trip = Duration::from_millis(50);
        let mut answers = Answers::new();
        assert!(answers.take(start, trip, Ssrc(5), 9));
        assert!(!answers.take(start + Duration::from_millis(49), trip, Ssrc(5), 9));
        assert!(answers.take(start, trip, Ssrc(5), 10) && answers.take(start, trip, Ssrc(7), 9));
        assert!(answers.take(start + trip, trip, Ssrc(5), 9));
    }

    #[test]
    fn one_hearer_is_sent_no_more_than_its_budget() {
        let start = Instant::now();
        let mut answers = Answers::new();
        let asked =
            (0..10_000_u16).filter(|seq| answers.take(start, Duration::ZERO, Ssrc(1), *seq));
        assert_eq!(asked.count(), ANSWERS.0 as usize);
        let later = start + Duration::from_millis(10);
        let asked =
            (0..10_000_u16).filter(|seq| answers.take(later, Duration::ZERO, Ssrc(1), *seq));
        assert_eq!(asked.count(), ANSWERS.1 as usize / 100);
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_was_stored(
            packets in proptest::collection::vec((0u16..3_000, 1usize..1_432), 1..900),
        ) {
            let mut cache = Cache::new();
            let mut stored: Vec<(u16, Vec<u8>)> = Vec::new();
            for (step, (seq, len)) in packets.into_iter().enumerate() {
                let packet = vec![step as u8; len];
                cache.store(seq, MEDIA, &packet);
                stored.push((seq, packet));
            }
            let mut newer = 0;
            for (index, (seq, packet)) in stored.iter().enumerate().rev() {
                newer += packet.len();
                let later = &stored[index + 1..];
                if later.iter().any(|(later, _)| place(*later) == place(*seq)) {
                    continue;
                }
                match cache.get(*seq) {
                    Some((found, _)) => prop_assert_eq!(found, &packet[..]),
                    // Less than a packet is left out before an end.
                    None => prop_assert!(newer + 1_432 > RETRANSMISSION_BYTES_MAX),
                }
            }
        }
    }
}
