//! Refuses RTCP that was seen before: a window over the SRTCP index of each sender SSRC (RFC 3711
//! §3.3.2, §3.4). Changes only when told that a packet has authenticated. Called by `srtp` for
//! every RTCP packet.

use crate::{id::Ssrc, metrics::DropReason};

/// How far behind the newest a packet may be: RFC 3711 §3.3.2 asks for no less, and RTCP comes some
/// tens a second.
pub const RTCP_WINDOW: u32 = 64;

/// SSRCs whose windows are kept. A browser's senders are a microphone, and a camera and a screen in
/// three layers with an RTX SSRC each; twice that, and some for those that it replaces in a call.
pub const RTCP_SOURCES_MAX: usize = 32;

/// The windows of one transport's sources.
///
/// One for each SSRC, because a sender counts for each: libsrtp, which browsers use, keeps an index
/// with each of its streams, so two SSRCs of one browser send the same indices. When a source comes
/// that there is no room for, the one that was silent for the longest gives way: what was recorded
/// of that one can be replayed, though only by whoever sits on the path, and only after the client
/// itself has sent from `RTCP_SOURCES_MAX` other SSRCs since. To refuse the newcomer instead would
/// leave a client that replaces its tracks without sender reports and key frames for good.
#[derive(Debug, Default)]
pub(super) struct RtcpWindows {
    /// Most recently heard first, free places last.
    sources: [Option<Source>; RTCP_SOURCES_MAX],
}

/// One SSRC's window.
#[derive(Debug, Clone, Copy)]
struct Source {
    ssrc: Ssrc,
    /// The newest packet's index.
    highest: u32,
    /// Bit `n`: `highest - n` was seen.
    seen: u64,
}

impl RtcpWindows {
    /// Judges a packet by its sender and index. Changes nothing: the packet may be forged.
    ///
    /// # Errors
    /// [`DropReason::Replayed`] if it was seen, [`DropReason::TooOld`] if it is behind the window.
    pub(super) fn check(&self, ssrc: Ssrc, index: u32) -> Result<(), DropReason> {
        let source = self.sources.iter().flatten().find(|source| source.ssrc == ssrc);
        let Some(&Source { highest, seen, .. }) = source else { return Ok(()) };
        match highest.checked_sub(index) {
            None => Ok(()),
            Some(behind) if behind >= RTCP_WINDOW => Err(DropReason::TooOld),
            Some(behind) if seen >> behind & 1 == 1 => Err(DropReason::Replayed),
            Some(_) => Ok(()),
        }
    }

    /// Marks a packet as seen. It has authenticated, and nothing was committed since its `check`.
    pub(super) fn commit(&mut self, ssrc: Ssrc, index: u32) {
        let known = |source: &Option<Source>| source.is_some_and(|source| source.ssrc == ssrc);
        let (at, mut source) = match self.sources.iter().position(known) {
            Some(at) => (at, self.sources[at]),
            // The last place is free, or its source was silent for the longest.
            None => (RTCP_SOURCES_MAX - 1, None),
        };
        let Source { highest, seen, .. } =
            source.get_or_insert(Source { ssrc, highest: index, seen: 0 });
        if let Some(ahead) = index.checked_sub(*highest) {
            *seen = seen.checked_shl(ahead).unwrap_or(0);
            *highest = index;
        }
        *seen |= 1 << (*highest - index);
        self.sources[at] = source;
        self.sources[..=at].rotate_right(1);
    }
}

const _: () = assert!(RTCP_WINDOW == u64::BITS);

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const A: Ssrc = Ssrc(0xA);
    const B: Ssrc = Ssrc(0xB);

    fn accept(windows: &mut RtcpWindows, ssrc: Ssrc, index: u32) -> Result<(), DropReason> {
        windows.check(ssrc, index)?;
        windows.commit(ssrc, index);
        Ok(())
    }

    #[test]
    fn a_packet_is_accepted_once() {
        let mut windows = RtcpWindows::default();
        for index in [0, 1, 5, 3, 0x7FFF_FFFF, 0x7FFF_FFFE] {
            assert_eq!(accept(&mut windows, A, index), Ok(()), "{index}");
            assert_eq!(accept(&mut windows, A, index), Err(DropReason::Replayed), "{index}");
        }
    }

    #[test]
    fn the_window_ends_where_it_says() {
        let mut windows = RtcpWindows::default();
        accept(&mut windows, A, 1_000).unwrap();
        assert_eq!(accept(&mut windows, A, 1_000 - RTCP_WINDOW), Err(DropReason::TooOld));
        assert_eq!(accept(&mut windows, A, 1_001 - RTCP_WINDOW), Ok(()));
        assert_eq!(accept(&mut windows, A, 1_001 - RTCP_WINDOW), Err(DropReason::Replayed));
        accept(&mut windows, A, 1_001).unwrap();
        assert_eq!(windows.check(A, 1_001 - RTCP_WINDOW), Err(DropReason::TooOld));
    }

    #[test]
    fn a_check_alone_changes_nothing() {
        let mut windows = RtcpWindows::default();
        accept(&mut windows, A, 10).unwrap();
        windows.check(A, 5_000).unwrap();
        windows.check(B, 10).unwrap();
        assert_eq!(windows.check(A, 11), Ok(()));
        assert_eq!(windows.check(A, 10), Err(DropReason::Replayed));
    }

    #[test]
    fn sources_count_apart_zero_among_them() {
        let mut windows = RtcpWindows::default();
        for ssrc in [A, B, Ssrc(0)] {
            assert_eq!(accept(&mut windows, ssrc, 0), Ok(()));
            assert_eq!(accept(&mut windows, ssrc, 0), Err(DropReason::Replayed));
        }
    }

    #[test]
    fn the_source_silent_for_the_longest_gives_way() {
        let mut windows = RtcpWindows::default();
        let sources = RTCP_SOURCES_MAX as u32;
        for ssrc in 0..sources {
            accept(&mut windows, Ssrc(ssrc), 7).unwrap();
        }
        accept(&mut windows, Ssrc(0), 8).unwrap();
        accept(&mut windows, Ssrc(sources), 7).unwrap();
        for ssrc in (0..=sources).filter(|&ssrc| ssrc != 1) {
            assert_eq!(windows.check(Ssrc(ssrc), 7), Err(DropReason::Replayed), "{ssrc}");
        }
        assert_eq!(windows.check(Ssrc(1), 7), Ok(()));
    }

    proptest! {
        #[test]
        fn no_packet_passes_twice_and_none_in_reach_is_refused(
            packets in proptest::collection::vec((0u32..3, 0u32..300), 1..400),
        ) {
            let mut windows = RtcpWindows::default();
            let mut seen: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            for (ssrc, index) in packets {
                let seen = seen.entry(ssrc).or_default();
                let old = seen.last().is_some_and(|&max| max >= index + RTCP_WINDOW);
                let expected = match (old, seen.contains(&index)) {
                    (true, _) => Err(DropReason::TooOld),
                    (_, true) => Err(DropReason::Replayed),
                    _ => Ok(()),
                };
                prop_assert_eq!(accept(&mut windows, Ssrc(ssrc), index), expected);
                if expected.is_ok() {
                    seen.insert(index);
                }
            }
        }
    }
}
