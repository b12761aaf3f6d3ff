//! Which RTP header extension a client means by which number (RFC 8285): browsers say it in their
//! offers, native UDP clients fix it (protocol.md §2.3). Every session has a map of its own.

use std::fmt;

use crate::rtp::extension::id;

/// Header extensions that have a meaning to the server or are passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extension {
    /// Voice activity and level (RFC 6464). Audio.
    AudioLevel,
    /// Transmission time offset (RFC 5450). Video.
    TransmissionOffset,
    /// Absolute send time, 24 bits. Audio and video.
    AbsSendTime,
    /// Coordination of video orientation. Video.
    VideoOrientation,
    /// Transport-wide sequence number, 16 bits. Audio and video.
    TransportCc,
    /// Playout delay, least and most. Video.
    PlayoutDelay,
    /// Whether the picture is a screen. Video.
    VideoContentType,
    /// Times of a frame's way through its sender. Video.
    VideoTiming,
    /// Discord's speaker flags. Audio.
    Speaker,
    /// Which m-line a packet belongs to (RFC 9143). Audio and video.
    Mid,
    /// Which simulcast layer a packet belongs to (RFC 8852). Video.
    Rid,
    /// Which layer a retransmission repairs (RFC 8852). Video.
    RepairedRid,
}

/// Every extension with its URI and its number with native UDP clients (protocol.md §2.3), in the
/// order of the enum.
const TABLE: [(Extension, &str, u8); EXTENSIONS] = [
    (Extension::AudioLevel, "urn:ietf:params:rtp-hdrext:ssrc-audio-level", id::AUDIO_LEVEL),
    (Extension::TransmissionOffset, "urn:ietf:params:rtp-hdrext:toffset", id::TRANSMISSION_OFFSET),
    (
        Extension::AbsSendTime,
        "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
        id::ABS_SEND_TIME,
    ),
    (Extension::VideoOrientation, "urn:3gpp:video-orientation", id::VIDEO_ORIENTATION),
    (
        Extension::TransportCc,
        "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
        id::TRANSPORT_CC,
    ),
    (
        Extension::PlayoutDelay,
        "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay",
        id::PLAYOUT_DELAY,
    ),
    (
        Extension::VideoContentType,
        "http://www.webrtc.org/experiments/rtp-hdrext/video-content-type",
        id::VIDEO_CONTENT_TYPE,
    ),
    (
        Extension::VideoTiming,
        "http://www.webrtc.org/experiments/rtp-hdrext/video-timing",
        id::VIDEO_TIMING,
    ),
    (Extension::Speaker, "https://discord.com/#rtp-hdrext/2018-07-29/speaker", id::SPEAKER),
    (Extension::Mid, "urn:ietf:params:rtp-hdrext:sdes:mid", id::MID),
    (Extension::Rid, "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id", id::RID),
    (
        Extension::RepairedRid,
        "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
        id::REPAIRED_RID,
    ),
];

/// How many extensions there are.
const EXTENSIONS: usize = Extension::RepairedRid as usize + 1;

impl Extension {
    /// Every extension.
    pub fn all() -> impl Iterator<Item = Extension> {
        TABLE.iter().map(|row| row.0)
    }

    /// The extension of this URI, as SDP has it.
    pub fn by_uri(uri: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == uri).map(|row| row.0)
    }

    /// Its URI.
    pub fn uri(self) -> &'static str {
        TABLE[self as usize].1
    }
}

/// One session's numbers of extensions. Small, for sealing a packet looks at its hearer's.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ExtensionMap {
    /// By extension: its number, 0 for none.
    ids: [u8; EXTENSIONS],
    /// A bit by extension: the client only sends it.
    send_only: u16,
}

impl ExtensionMap {
    /// The numbers of native UDP clients, which they do not negotiate (protocol.md §2.3).
    pub const NATIVE: ExtensionMap = {
        let mut ids = [0; EXTENSIONS];
        let mut row = 0;
        while row < EXTENSIONS {
            ids[row] = TABLE[row].2;
            row += 1;
        }
        ExtensionMap { ids, send_only: 0 }
    };

    /// Gives an extension a number, 1 to 255. `None`, and nothing changes, if the extension has one
    /// already or the number is taken: the first wins.
    pub fn insert(&mut self, extension: Extension, id: u8) -> Option<()> {
        let place = &self.ids[extension as usize];
        if id == 0 || *place != 0 || self.ids.contains(&id) {
            return None;
        }
        self.ids[extension as usize] = id;
        Some(())
    }

    /// Notes that the client sends this extension and does not want it.
    pub(super) fn set_send_only(&mut self, extension: Extension) {
        self.send_only |= 1 << extension as u16;
    }

    /// The number under which the client takes the extension; `None` if it does not.
    #[inline]
    pub fn id(&self, extension: Extension) -> Option<u8> {
        let id = self.ids[extension as usize];
        (id != 0 && self.send_only & 1 << extension as u16 == 0).then_some(id)
    }

    /// What the client means by this number in its own packets.
    #[inline]
    pub fn extension(&self, id: u8) -> Option<Extension> {
        if id == 0 {
            return None;
        }
        self.ids.iter().position(|known| *known == id).map(|row| TABLE[row].0)
    }

    /// Forgets numbers above 14, which only the two-byte form can say (RFC 8285 §4.2).
    pub(super) fn forget_two_byte(&mut self) {
        self.ids.iter_mut().filter(|id| **id > 14).for_each(|id| *id = 0);
    }
}

impl fmt::Debug for ExtensionMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Extension::all().filter(|extension| self.ids[*extension as usize] != 0);
        f.debug_map().entries(named.map(|it| (it, self.ids[it as usize]))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum_and_says_nothing_twice() {
        for (row, (extension, uri, native)) in TABLE.into_iter().enumerate() {
            assert_eq!(extension as usize, row);
            assert_eq!((Extension::by_uri(uri), extension.uri()), (Some(extension), uri));
            assert_eq!(ExtensionMap::NATIVE.id(extension), Some(native));
            assert_eq!(ExtensionMap::NATIVE.extension(native), Some(extension));
        }
        assert_eq!(Extension::by_uri("urn:ietf:params:rtp-hdrext:csrc-audio-level"), None);
    }

    #[test]
    fn the_first_number_wins() {
        let mut map = ExtensionMap::default();
        assert_eq!(map.insert(Extension::Mid, 4), Some(()));
        assert_eq!(map.insert(Extension::Mid, 5), None);
        assert_eq!(map.insert(Extension::Rid, 4), None);
        assert_eq!(map.insert(Extension::Rid, 0), None);
        assert_eq!((map.id(Extension::Mid), map.id(Extension::Rid)), (Some(4), None));
        assert_eq!((map.extension(4), map.extension(5)), (Some(Extension::Mid), None));
        assert_eq!(map.extension(0), None);
    }

    #[test]
    fn what_a_client_only_sends_is_not_sent_to_it() {
        let mut map = ExtensionMap::default();
        map.insert(Extension::AudioLevel, 1);
        map.set_send_only(Extension::AudioLevel);
        assert_eq!(map.id(Extension::AudioLevel), None);
        assert_eq!(map.extension(1), Some(Extension::AudioLevel));
    }
}
