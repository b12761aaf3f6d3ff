//! Refuses packets that were seen before. A window over the RTP sequence numbers of one source:
//! nonces cannot serve, since some clients start theirs again (protocol.md §2.4). Changes only when
//! told that a packet has authenticated. Called by the session for every media packet.

use crate::metrics::DropReason;

/// How far behind the newest a packet may be, packets: 20 seconds of audio, one second of video. A
/// multiple of 64 that divides 65,536, so that a sequence number has one place in the window.
pub const WINDOW: u16 = 1_024;

/// How far ahead of the newest a packet may be, packets; farther is a jump (`MAX_DROPOUT`, RFC 3550
/// §A.1).
pub const AHEAD_MAX: u16 = 3_000;

/// One source's window of sequence numbers, extended by counting their laps.
///
/// Order of calls for each packet: [`check`](Self::check), then authenticate it, then
/// [`commit`](Self::commit) what `check` returned, or [`note_jump`](Self::note_jump) if it refused
/// the packet as [`DropReason::TooOld`] or [`DropReason::SequenceJump`].
///
/// A source may start again anywhere: two packets in a row outside the window are believed (RFC
/// 3550
/// §A.1). Whoever can replay two packets that are older than the window can thus make us take them
/// for a restart; sequence numbers of 16 bits leave no way to have both. A restart that lands
/// inside the window is refused until it has passed the newest packet.
#[derive(Debug, Clone, Default)]
pub struct ReplayWindow {
    /// The newest packet's extended sequence number; `None` before the first.
    highest: Option<u64>,
    /// Which packets of the window were seen: bit `seq % WINDOW`.
    seen: [u64; WINDOW as usize / 64],
    /// The packet that would confirm a jump.
    confirming: Option<u16>,
}

/// Leave to accept one packet, to be committed once it has authenticated.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a packet that is accepted but not committed can be replayed"]
pub struct Accept {
    index: u64,
    restarted: bool,
}

impl Accept {
    /// The packet's sequence number, with the number of its laps above 16 bits. A source's first
    /// lap is number 1; a restart begins the next.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How many laps of the sequence came before the packet's: SRTP's rollover counter.
    pub fn laps(&self) -> u32 {
        // A key is worn out long before it has sealed 2^32 laps.
        (self.index / LAP).saturating_sub(1) as u32
    }

    /// Whether the source has started again: this packet has nothing to do with those before it.
    pub fn restarted(&self) -> bool {
        self.restarted
    }
}

impl ReplayWindow {
    /// A window that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest packet's extended sequence number.
    pub fn highest(&self) -> Option<u64> {
        self.highest
    }

    /// Judges a packet by its sequence number. Changes nothing: the packet may be forged.
    ///
    /// # Errors
    /// [`DropReason::Replayed`] if it was seen; [`DropReason::TooOld`] if it is behind the window,
    /// but no farther than a gap; [`DropReason::SequenceJump`] if it is out of reach.
    #[inline]
    pub fn check(&self, seq: u16) -> Result<Accept, DropReason> {
        let Some(highest) = self.highest else {
            return Ok(Accept { index: LAP + u64::from(seq), restarted: false });
        };
        let ahead = seq.wrapping_sub(highest as u16);
        let behind = ahead.wrapping_neg();
        if (1..=AHEAD_MAX).contains(&ahead) {
            return Ok(Accept { index: highest + u64::from(ahead), restarted: false });
        }
        if behind < WINDOW {
            let (word, bit) = place(seq);
            if self.seen[word] & bit != 0 {
                return Err(DropReason::Replayed);
            }
            return Ok(Accept { index: highest - u64::from(behind), restarted: false });
        }
        if self.confirming == Some(seq) {
            let lap = highest / LAP + 1;
            return Ok(Accept { index: lap * LAP + u64::from(seq), restarted: true });
        }
        Err(if behind <= AHEAD_MAX { DropReason::TooOld } else { DropReason::SequenceJump })
    }

    /// Judges a packet of a source that cannot start again, because its key makes a packet's lap
    /// part of what authenticates: it may leap as far ahead as half a lap (RFC 3711 §3.3.1).
    /// Changes nothing.
    ///
    /// # Errors
    /// [`DropReason::Replayed`] if it was seen; [`DropReason::TooOld`] if it is behind the window.
    #[inline]
    pub fn check_lasting(&self, seq: u16) -> Result<Accept, DropReason> {
        let Some(highest) = self.highest else {
            return Ok(Accept { index: LAP + u64::from(seq), restarted: false });
        };
        let ahead = seq.wrapping_sub(highest as u16);
        if (1..1 << 15).contains(&ahead) {
            return Ok(Accept { index: highest + u64::from(ahead), restarted: false });
        }
        let behind = u64::from(ahead.wrapping_neg());
        if behind >= u64::from(WINDOW) || highest - behind < LAP {
            return Err(DropReason::TooOld);
        }
        let (word, bit) = place(seq);
        if self.seen[word] & bit != 0 {
            return Err(DropReason::Replayed);
        }
        Ok(Accept { index: highest - behind, restarted: false })
    }

    /// Marks a packet as seen. It has authenticated, and nothing was committed since its `check`.
    #[inline]
    pub fn commit(&mut self, accept: Accept) {
        let Accept { index, restarted } = accept;
        match self.highest {
            Some(highest) if !restarted => {
                if index > highest {
                    self.advance(highest, index);
                }
            }
            _ => {
                self.seen.fill(0);
                self.highest = Some(index);
            }
        }
        let (word, bit) = place(index as u16);
        self.seen[word] |= bit;
        self.confirming = None;
    }

    /// Remembers a packet that `check` refused as too old or as a jump, and that has authenticated:
    /// if the very next packet follows it, the source has started again.
    pub fn note_jump(&mut self, seq: u16) {
        self.confirming = Some(seq.wrapping_add(1));
    }

    /// Moves the window's head, and forgets what the places it takes over held.
    #[inline]
    fn advance(&mut self, highest: u64, index: u64) {
        if index - highest >= u64::from(WINDOW) {
            self.seen.fill(0);
        } else {
            for skipped in highest + 1..index {
                let (word, bit) = place(skipped as u16);
                self.seen[word] &= !bit;
            }
        }
        self.highest = Some(index);
    }
}

/// Sequence numbers in one lap.
const LAP: u64 = 1 << 16;

/// A sequence number's word and bit in the window.
#[inline]
fn place(seq: u16) -> (usize, u64) {
    let place = seq % WINDOW;
    (usize::from(place / 64), 1 << (place % 64))
}

const _: () = assert!(WINDOW.is_multiple_of(64) && LAP.is_multiple_of(WINDOW as u64));

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
