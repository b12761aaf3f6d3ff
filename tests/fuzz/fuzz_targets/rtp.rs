//! Any datagram as RTP: whatever `Packet::new` accepts can be asked everything, what it says fits
//! the datagram, and rewriting a header field changes that field alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::{
    id::Ssrc,
    rtp::{
        Kind, Packet, classify,
        extension::{ElementWriter, elements},
        keyframe, packet,
    },
};

fuzz_target!(|datagram: &[u8]| {
    let kind = classify(datagram);
    let Some(packet) = Packet::new(datagram) else { return };
    assert!(matches!(kind, Kind::Rtp | Kind::Rtcp), "version 2 with a header is {kind:?}");
    assert!(packet.csrc_count() <= 15 && packet.payload_type() < 128);
    if let Some(payload) = packet.payload() {
        assert!(payload.len() <= datagram.len() - packet::HEADER_BYTES);
        for begins in [
            keyframe::begins_in_vp8,
            keyframe::begins_in_vp9,
            keyframe::begins_in_h264,
            keyframe::begins_in_h265,
            keyframe::begins_in_av1,
        ] {
            assert!(!begins(payload) || !payload.is_empty());
        }
    }
    if let Some((profile, block)) = packet.extension() {
        let mut copy = [0; 1_024];
        let mut writer = ElementWriter::new(&mut copy);
        for (id, bytes) in elements(profile, block) {
            let _ = writer.push(id, bytes);
        }
        assert!(usize::from(writer.finish()) * 4 <= 1_024);
    }

    let mut rewritten = datagram.to_vec();
    packet::set_seq(&mut rewritten, packet.seq().wrapping_add(1));
    packet::set_timestamp(&mut rewritten, packet.timestamp().wrapping_add(960));
    packet::set_ssrc(&mut rewritten, Ssrc(packet.ssrc().0 ^ 1));
    packet::set_payload_type(&mut rewritten, packet.payload_type() ^ 1);
    let after = Packet::new(&rewritten).expect("the shape is the same");
    assert_eq!(after.seq(), packet.seq().wrapping_add(1));
    assert_eq!(after.timestamp(), packet.timestamp().wrapping_add(960));
    assert_eq!(after.ssrc().0, packet.ssrc().0 ^ 1);
    assert_eq!(after.payload_type(), packet.payload_type() ^ 1);
    assert_eq!(after.marker(), packet.marker());
    assert_eq!(after.payload(), packet.payload());
});
