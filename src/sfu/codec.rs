//! Codecs as the channel sees them: which video codec a sender should use, and what each hearer
//! calls it. Payload-type spaces are per session, so types are always remapped (protocol.md §1.9,
//! §3.1).

use crate::{
    metrics::DropReason,
    rtp::keyframe,
    signalling::{Codec, CodecName},
};

/// Payload type of Opus on plain UDP (protocol.md §2.3).
pub const OPUS_PAYLOAD_TYPE: u8 = 120;

/// Media clock of Opus, Hz.
pub const AUDIO_CLOCK_HZ: u32 = 48_000;

/// Media clock of all video codecs, Hz.
pub const VIDEO_CLOCK_HZ: u32 = 90_000;

/// Video codecs a channel passes through.
const VIDEO: [CodecName; 5] =
    [CodecName::H264, CodecName::H265, CodecName::Vp8, CodecName::Vp9, CodecName::Av1];

/// A video codec's row in the tables below.
fn row(name: CodecName) -> Option<usize> {
    VIDEO.iter().position(|known| *known == name)
}

/// What one hearer calls each video codec it can decode. Part of what sealing a packet touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadTypes {
    /// It listed no codecs and takes whatever comes.
    Anything,
    /// By codec: media and retransmission payload type, 0 for none.
    Listed([[u8; 2]; VIDEO.len()]),
}

impl PayloadTypes {
    /// The table of a session that listed `codecs`.
    pub fn listed(codecs: &[Codec]) -> Self {
        let mut table = [[0; 2]; VIDEO.len()];
        // Of several numbers for one codec, which are its variants, the preferred one.
        let mut priorities = [None; VIDEO.len()];
        for codec in codecs.iter().filter(|codec| codec.decode) {
            let Some(row) = row(codec.name) else { continue };
            if priorities[row].is_none_or(|best| codec.priority < best) {
                priorities[row] = Some(codec.priority);
                table[row] = [codec.payload_type, codec.rtx_payload_type.unwrap_or(0)];
            }
        }
        Self::Listed(table)
    }
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// Opus.
    Audio,
    /// Video.
    Video {
        /// As its sender declared it, if it declared codecs.
        codec: Option<CodecName>,
        /// What the sender calls it.
        payload_type: u8,
    },
}

impl Media {
    /// Tells a video payload type of a sender that listed `codecs`, or none.
    pub fn video(codecs: Option<&[Codec]>, payload_type: u8) -> Option<Self> {
        let Some(codecs) = codecs else {
            return Some(Media::Video { codec: None, payload_type });
        };
        let mut video = codecs.iter().filter(|codec| codec.name.is_video());
        let codec = video.find(|codec| codec.payload_type == payload_type)?;
        Some(Media::Video { codec: Some(codec.name), payload_type })
    }

    /// Tells what a retransmission with this payload type carries; `newest` is what its stream
    /// carried last, for a sender that listed no codecs.
    pub fn retransmitted(
        codecs: Option<&[Codec]>,
        payload_type: u8,
        newest: Option<Media>,
    ) -> Option<Self> {
        let Some(codecs) = codecs else { return newest };
        let mut video = codecs.iter().filter(|codec| codec.name.is_video());
        let codec = video.find(|codec| codec.rtx_payload_type == Some(payload_type))?;
        Some(Media::Video { codec: Some(codec.name), payload_type: codec.payload_type })
    }

    /// Whether a keyframe begins in a packet with this payload; `None` if that cannot be told of
    /// such media. Only its clear bytes are looked at.
    pub fn begins_keyframe(self, payload: &[u8]) -> Option<bool> {
        let Media::Video { codec: Some(codec), .. } = self else { return None };
        Some(match codec {
            CodecName::Opus => return None,
            CodecName::Av1 => keyframe::begins_in_av1(payload),
            CodecName::H265 => keyframe::begins_in_h265(payload),
            CodecName::H264 => keyframe::begins_in_h264(payload),
            CodecName::Vp8 => keyframe::begins_in_vp8(payload),
            CodecName::Vp9 => keyframe::begins_in_vp9(payload),
        })
    }

    /// What a hearer calls the packet's payload, by its number for Opus and its table for video.
    #[inline]
    pub fn payload_type_for(
        self,
        opus: u8,
        video: Option<&PayloadTypes>,
    ) -> Result<u8, DropReason> {
        let Media::Video { codec, payload_type } = self else {
            return Ok(opus);
        };
        match (video, codec.and_then(row)) {
            (Some(PayloadTypes::Anything), _) => Ok(payload_type),
            (Some(PayloadTypes::Listed(table)), Some(row)) => match table[row][0] {
                0 => Err(DropReason::CodecNotSupported),
                theirs => Ok(theirs),
            },
            _ => Err(DropReason::CodecNotSupported),
        }
    }

    /// What such a hearer calls its retransmissions, if it listed them.
    pub fn retransmission_type_for(self, video: Option<&PayloadTypes>) -> Option<u8> {
        let Media::Video { codec: Some(codec), .. } = self else { return None };
        let Some(PayloadTypes::Listed(table)) = video else { return None };
        Some(table[row(codec)?][1]).filter(|theirs| *theirs != 0)
    }
}

/// How many members of a channel can decode each video codec: enough to choose a sender's codec
/// without looking at every member.
#[derive(Debug, Default)]
pub struct Decoders {
    viewers: usize,
    by_codec: [usize; VIDEO.len()],
}

impl Decoders {
    /// A member that listed `codecs` has come.
    pub fn add(&mut self, codecs: &[Codec]) {
        self.count(codecs, |count| *count += 1);
    }

    /// A member that listed `codecs` has gone, or lists others now.
    pub fn remove(&mut self, codecs: &[Codec]) {
        self.count(codecs, |count| *count -= 1);
    }

    /// The codec a member that lists `codecs` should send: of those it can encode and everyone else
    /// can decode the one it prefers, else the first it can encode, else H264 (protocol.md §1.9).
    pub fn choose(&self, codecs: Option<&[Codec]>) -> CodecName {
        let codecs = codecs.unwrap_or_default();
        let own = usize::from(is_viewer(codecs));
        let encodable = || codecs.iter().filter(|codec| codec.encode && codec.name.is_video());
        encodable()
            .filter(|codec| {
                row(codec.name).is_some_and(|row| {
                    let mine = usize::from(decodes(codecs, codec.name));
                    self.by_codec[row] - mine == self.viewers - own
                })
            })
            .min_by_key(|codec| codec.priority)
            .or_else(|| encodable().next())
            .map_or(CodecName::H264, |codec| codec.name)
    }

    fn count(&mut self, codecs: &[Codec], change: impl Fn(&mut usize)) {
        if !is_viewer(codecs) {
            return;
        }
        change(&mut self.viewers);
        for (row, name) in VIDEO.into_iter().enumerate() {
            if decodes(codecs, name) {
                change(&mut self.by_codec[row]);
            }
        }
    }
}

/// Bots without video codecs do not count as viewers.
fn is_viewer(codecs: &[Codec]) -> bool {
    codecs.iter().any(|codec| codec.decode && codec.name.is_video())
}

fn decodes(codecs: &[Codec], name: CodecName) -> bool {
    codecs.iter().any(|codec| codec.decode && codec.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codec(name: CodecName, priority: u32, payload_type: u8) -> Codec {
        let rtx_payload_type = Some(payload_type + 1);
        Codec { name, priority, payload_type, rtx_payload_type, encode: true, decode: true }
    }

    #[test]
    fn the_sender_prefers_what_everyone_else_decodes() {
        let modern = [codec(CodecName::Av1, 1000, 101), codec(CodecName::H264, 2000, 103)];
        let old = [codec(CodecName::H264, 1000, 96), codec(CodecName::Vp8, 2000, 98)];
        let mut decoders = Decoders::default();
        decoders.add(&modern);
        assert_eq!(decoders.choose(Some(&modern)), CodecName::Av1, "alone");
        decoders.add(&old);
        assert_eq!(decoders.choose(Some(&modern)), CodecName::H264);
        assert_eq!(decoders.choose(None), CodecName::H264, "no codecs known");
        decoders.add(&[codec(CodecName::Vp9, 1000, 98)]);
        assert_eq!(decoders.choose(Some(&old)), CodecName::H264, "none fits: its first");
        decoders.remove(&old);
        decoders.remove(&[codec(CodecName::Vp9, 1000, 98)]);
        assert_eq!(decoders.choose(Some(&modern)), CodecName::Av1);
    }

    #[test]
    fn payload_types_are_the_hearers_own() {
        let sender = [codec(CodecName::H264, 1000, 103)];
        let hearer = PayloadTypes::listed(&[codec(CodecName::H264, 1000, 126)]);
        let media = Media::video(Some(&sender), 103).unwrap();
        assert_eq!(media.payload_type_for(111, Some(&hearer)), Ok(126));
        assert_eq!(media.retransmission_type_for(Some(&hearer)), Some(127));
        assert_eq!(media.retransmission_type_for(Some(&PayloadTypes::Anything)), None);
        assert_eq!(media.payload_type_for(111, Some(&PayloadTypes::Anything)), Ok(103));
        assert_eq!(media.payload_type_for(111, None), Err(DropReason::CodecNotSupported));
        assert_eq!(Media::video(Some(&sender), 96), None, "a probe");
        assert_eq!(Media::video(Some(&sender), 104), None, "in the wrong stream");
        assert_eq!(Media::Audio.payload_type_for(111, None), Ok(111));
    }

    #[test]
    fn of_a_codecs_variants_the_preferred_one_is_sent() {
        let media = Media::Video { codec: Some(CodecName::H264), payload_type: 103 };
        for listed in [
            [codec(CodecName::H264, 2000, 103), codec(CodecName::H264, 2000, 107)],
            [codec(CodecName::H264, 3000, 109), codec(CodecName::H264, 2000, 103)],
        ] {
            let hearer = PayloadTypes::listed(&listed);
            assert_eq!(media.payload_type_for(111, Some(&hearer)), Ok(103));
            assert_eq!(media.retransmission_type_for(Some(&hearer)), Some(104));
        }
    }

    #[test]
    fn a_retransmission_carries_what_its_payload_type_says() {
        let sender = [codec(CodecName::Vp8, 1000, 96), codec(CodecName::H264, 2000, 103)];
        let h264 = Media::video(Some(&sender), 103);
        assert_eq!(Media::retransmitted(Some(&sender), 104, None), h264);
        assert_eq!(Media::retransmitted(Some(&sender), 103, h264), None);
        assert_eq!(Media::retransmitted(None, 104, h264), h264);
        assert_eq!(Media::retransmitted(None, 104, None), None);
    }

    #[test]
    fn keyframes_are_told_by_the_codec() {
        let payload = [0x65, 0x88];
        let media = |codec| Media::Video { codec, payload_type: 103 };
        assert_eq!(media(Some(CodecName::H264)).begins_keyframe(&payload), Some(true));
        assert_eq!(media(Some(CodecName::Vp8)).begins_keyframe(&payload), Some(false));
        assert_eq!(media(None).begins_keyframe(&payload), None);
        assert_eq!(Media::Audio.begins_keyframe(&payload), None);
    }
}
