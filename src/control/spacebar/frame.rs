//! Frames of Spacebar's unix-socket bus: a length of four bytes, big-endian, then so much JSON
//! (protocol.md §6.1). Cuts a byte stream into them; a frame too long to be of interest is passed
//! over without being kept. Pure; called by `unix_bus`.

use std::ops::Range;

/// Longest frame worth keeping, bytes. The events a voice server listens for have a few hundred;
/// with a member and all its roles a few thousand. Others, such as whole guilds, may have
/// megabytes.
pub const FRAME_BYTES_MAX: usize = 256 * 1_024;

const HEAD: usize = 4;

/// What has arrived and is no whole frame yet.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// The part of `bytes` that was given out before.
    taken: usize,
    /// Of a frame that is too long: so much of it is still to come.
    skip: usize,
    passed_over: u64,
}

impl Frames {
    /// Adds what has arrived. Holds at most one frame beside it.
    pub fn push(&mut self, arrived: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        let skipped = self.skip.min(arrived.len());
        self.skip -= skipped;
        self.bytes.extend_from_slice(&arrived[skipped..]);
    }

    /// The next whole frame's content.
    pub fn next_frame(&mut self) -> Option<&[u8]> {
        self.next_range().map(|range| &self.bytes[range])
    }

    /// Frames that were too long.
    pub fn passed_over(&self) -> u64 {
        self.passed_over
    }

    fn next_range(&mut self) -> Option<Range<usize>> {
        loop {
            let rest = &self.bytes[self.taken..];
            let (head, content) = rest.split_first_chunk::<HEAD>()?;
            let length = u32::from_be_bytes(*head) as usize;
            if length > FRAME_BYTES_MAX {
                let here = content.len().min(length);
                self.passed_over += 1;
                self.skip = length - here;
                self.taken += HEAD + here;
                continue;
            }
            if content.len() < length {
                return None;
            }
            let start = self.taken + HEAD;
            self.taken = start + length;
            return Some(start..self.taken);
        }
    }
}

/// One frame of this content.
pub fn frame(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("what we say is short");
    [&length.to_be_bytes(), content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(chunks: &[&[u8]]) -> (Vec<Vec<u8>>, u64) {
        let mut frames = Frames::default();
        let mut found = Vec::new();
        for chunk in chunks {
            frames.push(chunk);
            while let Some(frame) = frames.next_frame() {
                found.push(frame.to_vec());
            }
        }
        (found, frames.passed_over())
    }

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        let stream = [frame(b"one"), frame(b""), frame(b"three")].concat();
        let expected = vec![b"one".to_vec(), b"".to_vec(), b"three".to_vec()];
        for size in 1..=stream.len() {
            let chunks: Vec<&[u8]> = stream.chunks(size).collect();
            assert_eq!(frames(&chunks), (expected.clone(), 0), "chunks of {size}");
        }
    }

    #[test]
    fn a_frame_too_long_is_passed_over_and_costs_no_memory() {
        let long = frame(&vec![b'x'; FRAME_BYTES_MAX + 1]);
        let stream = [frame(b"before"), long, frame(b"after")].concat();
        for size in [1_000, FRAME_BYTES_MAX, stream.len()] {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for chunk in stream.chunks(size) {
                frames.push(chunk);
                while let Some(frame) = frames.next_frame() {
                    found.push(frame.to_vec());
                }
                assert!(frames.bytes.len() <= size + HEAD + b"before".len());
            }
            assert_eq!(found, [b"before".to_vec(), b"after".to_vec()], "chunks of {size}");
            assert_eq!(frames.passed_over(), 1);
        }
    }

    #[test]
    fn a_whole_frame_of_the_longest_length_is_kept() {
        let longest = vec![b'x'; FRAME_BYTES_MAX];
        assert_eq!(frames(&[&frame(&longest)]).0, [longest]);
    }
}
