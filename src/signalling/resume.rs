//! What a session has been told and may have to be told again: numbered messages, bounded, dropped
//! as they are acknowledged (protocol.md §1.7). Belongs to a session of version 8 or above and
//! outlives its WebSockets.

use std::collections::VecDeque;

use super::Frame;
use crate::limits::{REPLAY_BYTES_MAX, REPLAY_MESSAGES_MAX};

/// Messages for which there is room though none is kept: more than come between two heartbeats in
/// a channel where nobody joins.
const IDLE_CAPACITY: usize = 32;

/// A message the client still lacks is no longer kept: close 4006.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message after the one acknowledged is no longer buffered")]
pub struct Gap;

/// Numbered messages of one session. Numbers run from 1 to 65535 and on to 1; there is no 0, which
/// clients take for "none".
#[derive(Debug, Default)]
pub struct ReplayBuffer {
    kept: VecDeque<Numbered>,
    /// Together, of all kept frames.
    bytes: usize,
    /// The last number given; 0 before the first.
    last: u16,
    /// The last message that had to go before it was acknowledged, until it is.
    lost: Option<u16>,
}

#[derive(Debug)]
struct Numbered {
    seq: u16,
    frame: Frame,
}

impl ReplayBuffer {
    /// Nothing said yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the next number to a message and keeps it. The oldest go when a bound is passed.
    pub fn push(&mut self, encode: impl FnOnce(u16) -> Frame) -> Frame {
        let seq = following(self.last);
        let frame = encode(seq);
        self.last = seq;
        self.bytes += frame.len();
        self.kept.push_back(Numbered { seq, frame: frame.clone() });
        while self.kept.len() > REPLAY_MESSAGES_MAX || self.bytes > REPLAY_BYTES_MAX {
            self.lost = self.pop();
        }
        frame
    }

    /// The client has everything up to `seq`. Numbers not given yet are passed over, and so is 0.
    pub fn acknowledge(&mut self, seq: u16) {
        if seq == 0 || !reaches(self.last, seq) {
            return;
        }
        while self.kept.front().is_some_and(|oldest| reaches(seq, oldest.seq)) {
            self.pop();
        }
        self.lost = self.lost.filter(|lost| !reaches(seq, *lost));
        // Who joined a large channel was told of all its members, and seldom is told as much again.
        if self.kept.capacity() > IDLE_CAPACITY && self.kept.len() < IDLE_CAPACITY / 2 {
            self.kept.shrink_to(IDLE_CAPACITY);
        }
    }

    /// What the client lacks, in order, if it had everything up to `seq_ack`. None, −1 and 0: it
    /// knows nothing beyond what it acknowledged, and gets all that is kept.
    pub fn replay_after(
        &self,
        seq_ack: Option<i64>,
    ) -> Result<impl Iterator<Item = &Frame> + use<'_>, Gap> {
        let skip = match seq_ack {
            None | Some(-1 | 0) if self.lost.is_some() => return Err(Gap),
            None | Some(-1 | 0) => 0,
            Some(seq) => {
                let seq = u16::try_from(seq).map_err(|_| Gap)?;
                if seq == self.last {
                    self.kept.len()
                } else {
                    let wanted = following(seq);
                    self.kept.iter().position(|kept| kept.seq == wanted).ok_or(Gap)?
                }
            }
        };
        Ok(self.kept.iter().skip(skip).map(|kept| &kept.frame))
    }

    /// The last number given, 0 if none was.
    pub fn last(&self) -> u16 {
        self.last
    }

    /// Messages kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    fn pop(&mut self) -> Option<u16> {
        let oldest = self.kept.pop_front()?;
        self.bytes -= oldest.frame.len();
        Some(oldest.seq)
    }
}

/// The number after `seq`.
fn following(seq: u16) -> u16 {
    seq.checked_add(1).unwrap_or(1)
}

/// Whether `seq` is at or after `other`, of two numbers less than half the circle apart.
fn reaches(seq: u16, other: u16) -> bool {
    (seq.wrapping_sub(other) as i16) >= 0
}

#[cfg(test)]
#[path = "resume_tests.rs"]
mod tests;
