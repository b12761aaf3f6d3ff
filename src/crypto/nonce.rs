//! The nonces we seal with. Both directions of a session share one key (protocol.md §2.4), so a
//! suffix that the client has used or will use must not be ours: it would give away the plaintexts
//! of both packets and the means to forge more. Called by the session for every packet it seals and
//! for every packet of its client that has authenticated.

/// The top bit of a suffix read as a big-endian counter.
const BIG_ENDIAN_TOP: u32 = 1 << 31;
/// The top bit of a suffix read as a little-endian counter: that of its last byte.
const LITTLE_ENDIAN_TOP: u32 = 1 << 7;
const TOPS: u32 = BIG_ENDIAN_TOP | LITTLE_ENDIAN_TOP;

/// Bits that are left to count with.
const COUNTER_BITS: u32 = 30;
/// How many suffixes one key has.
const SUFFIXES_MAX: u32 = (1 << COUNTER_BITS) - 1;

/// Hands out the suffixes of one key, none of them twice, and none that its client meets by
/// counting.
///
/// Clients count upwards from 0, 1 or a random number, some in big-endian order and some in
/// little-endian (protocol.md §2.4). Hence a suffix of ours sets two bits apart, each the top bit
/// of the counter in one of the orders, to the opposite of what the client was last seen with; a
/// counter of 30 bits, which only ever goes on, fills the rest:
///
/// ```text
/// | top of big-endian | 23 counter bits | top of little-endian | 7 counter bits |
/// ```
///
/// What is guaranteed:
/// - No two suffixes of ours are equal, whatever the client sends: their counters differ.
/// - A suffix handed out after [`observe`](Self::observe) of the client's `c` is in the other half
///   of the number space than `c`, in whichever order the client counts. The client meets it only
///   after it has counted across the middle or the end of that space.
/// - Before anything was observed the client is taken to be in the lower half. A client that starts
///   at 0 or 1 therefore never meets a suffix of ours within its first 2^31 packets.
///
/// What is not: a client that enters a half we have been in, by starting at a random number or by
/// counting 2^31 packets, may meet suffixes we had handed out before it was first seen there. That
/// is for the protocol to mend, which would have to give the directions different keys.
#[derive(Debug)]
pub struct NonceCounter {
    /// The next value of the 30 counter bits.
    counter: u32,
    /// How many more there are.
    left: u32,
    /// The two bits set apart, in their places; opposite to the client's.
    tops: u32,
}

impl NonceCounter {
    /// Starts at 24 random bits.
    pub fn new(random: [u8; 3]) -> Self {
        let [a, b, c] = random;
        let counter = u32::from_be_bytes([0, a, b, c]);
        Self { counter, left: SUFFIXES_MAX, tops: TOPS }
    }

    /// Takes note of the suffix of a packet from the client, which must have authenticated and be
    /// no replay: otherwise others could steer our nonces into the client's.
    #[inline]
    pub fn observe(&mut self, client_suffix: [u8; 4]) {
        self.tops = !u32::from_be_bytes(client_suffix) & TOPS;
    }

    /// The suffix to seal the next packet with, or `None` when all have been handed out: 2^30 − 1,
    /// which is 124 days of a hundred packets a second. The session then needs a new key.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "an iterator could be drained unsealed")]
    pub fn next(&mut self) -> Option<[u8; 4]> {
        self.left = self.left.checked_sub(1)?;
        let suffix = self.tops | spread(self.counter);
        self.counter = (self.counter + 1) & ((1 << COUNTER_BITS) - 1);
        Some(suffix.to_be_bytes())
    }
}

/// Moves 30 bits to where [`TOPS`] leaves room: 23 above bit 7 and 7 below it.
#[inline]
fn spread(counter: u32) -> u32 {
    (counter & !0x7F) << 1 | counter & 0x7F
}

#[cfg(test)]
#[path = "nonce_tests.rs"]
mod tests;
