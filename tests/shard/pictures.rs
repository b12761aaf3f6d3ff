//! Browsers' video, and RTCP both ways (protocol.md §3.5, §4.1).

use std::time::Duration;

use serde_json::json;
use stentor::{
    id::Ssrc,
    metrics::DropReason,
    rtp::feedback::{write_nack, write_pli},
};

use crate::{
    browser::{AEAD_128, AEAD_256, Browser, CM_SHA1, Choices, FIREFOX, VP8, VP8_RTX, media},
    client::{Heard, Profile, Rtp, codec, opus, rtp},
    rig::Rig,
};

#[test]
fn pictures_reach_viewers_under_their_own_payload_types() {
    let mut rig = Rig::new();
    let mut sender = rig.browser(1, 10, Choices::default());
    let firefox = json!([
        {"name": "opus", "type": "audio", "priority": 1000, "payload_type": 109},
        codec("VP8", 1000, 120, Some(124)), codec("H264", 2000, 126, Some(127))
    ]);
    let firefox = Choices { codecs: firefox, extensions: FIREFOX, ..Choices::default() };
    let mut firefox = rig.browser(1, 11, firefox);
    let listed = json!([opus(), codec("VP8", 1000, 101, Some(102))]);
    let desktop = Profile { layers: 1, codecs: Some(listed), ..Profile::default() };
    let desktop = rig.joined(1, 12, desktop);
    let bot = rig.speaker(1, 13);
    let frame = sender.announcement(true);
    rig.say(sender.who, |_| frame);
    // Orientation and playout delay stay true, mid and transport-cc do not, offset does.
    let elements =
        [0x40, b'1', 0x31, 9, 9, 0xD0, 1, 0x52, 0, 0, 7, 0xE2, 0, 0, 5, 0x22, 1, 2, 3, 0];
    let ssrc = Ssrc(sender.choices.ssrcs[1]);
    let packet = Rtp {
        payload_type: VP8,
        marker: true,
        seq: 9,
        extension: Some((0xBEDE, &elements)),
        payload: b"\x10\0\0\0picture",
        ..rtp(ssrc)
    };
    let sealed = sender.seal(&packet.plain());
    rig.datagram(sender.address, &sealed);
    let heard = firefox.hear(&mut rig);
    let [Heard::Rtp { marker: true, payload_type: 120, extension, payload, .. }] = &heard[..]
    else {
        panic!("{heard:?}")
    };
    assert_eq!(payload, b"\x10\0\0\0picture");
    let (_, elements) = extension.as_ref().expect("Firefox takes extensions");
    assert_eq!(elements[..4], [0x71, 0, 0, 0x42], "transport-cc, abs-send-time");
    assert_eq!(elements[7..], [0x52, 0, 0, 5, 0], "toffset, and nothing it did not offer");
    let heard = rig.clients[desktop].take_heard();
    assert_eq!(media(&heard[0]).1, 101);
    assert!(rig.clients[bot].mail.is_empty());
}

#[test]
fn feedback_of_a_viewer_reaches_a_browser_under_the_browsers_own_ssrc() {
    let mut rig = Rig::new();
    let mut sender = rig.browser(1, 10, Choices::default());
    let mut viewer = rig.browser(1, 11, Choices { profile: CM_SHA1, ..Choices::default() });
    let frame = sender.announcement(true);
    rig.say(sender.who, |_| frame);
    rig.advance(Duration::from_secs(5));
    sender.hear(&mut rig);
    let video = rig.clients[sender.who].streams[1].ssrc;
    let mut pli = vec![0x80, 201, 0, 1, 0, 0, 0, 1];
    let mut feedback = [0; 64];
    let len = write_pli(&mut feedback, Ssrc(1), video).unwrap();
    pli.extend(&feedback[..len]);
    let report = viewer.seal_rtcp(&pli);
    assert_eq!(viewer.dropped(&mut rig, &report), DropReason::RtcpConsumed);
    assert_eq!(viewer.dropped(&mut rig, &report), DropReason::Replayed);
    let heard = sender.hear(&mut rig);
    let [Heard::Rtcp(compound)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(compound[8..12], [0x81, 206, 0, 2]);
    assert_eq!(compound[16..20], sender.choices.ssrcs[1].to_be_bytes());
}

/// A camera that was on keeps viewers who wait for a keyframe. Until its SSRC is known again it
/// cannot be asked, and to try without end would be the end of the shard.
#[test]
fn a_camera_that_starts_again_is_asked_for_a_keyframe_once_its_ssrc_is_known() {
    let mut rig = Rig::new();
    let mut sender = rig.browser(1, 10, Choices::default());
    let mut viewer = rig.browser(1, 11, Choices::default());
    let frame = sender.announcement(true);
    rig.say(sender.who, |_| frame);
    let packet = sender.packet(1, VP8, b"\x10\0\0\0picture");
    rig.datagram(sender.address, &packet);
    assert_eq!(viewer.hear(&mut rig).len(), 1);

    let ssrcs = [7, 8, 9];
    let mut sender = Browser::select(&mut rig, sender.who, Choices { ssrcs, ..Choices::default() });
    let mut viewer = Browser::select(&mut rig, viewer.who, Choices::default());
    rig.advance(Duration::from_secs(2));
    viewer.connect(&mut rig);
    sender.connect(&mut rig);
    rig.advance(Duration::from_secs(2));
    let asked = |sender: &mut Browser, rig: &mut Rig| {
        let heard = sender.hear(rig);
        let plis = heard.iter().filter_map(|heard| match heard {
            Heard::Rtcp(compound) if compound[8..12] == [0x81, 206, 0, 2] => {
                Some(compound[16..20].to_vec())
            }
            _ => None,
        });
        plis.collect::<Vec<_>>()
    };
    assert!(asked(&mut sender, &mut rig).is_empty(), "under which SSRC?");
    let frame = sender.announcement(true);
    rig.say(sender.who, |_| frame);
    rig.advance(Duration::from_millis(1));
    assert_eq!(asked(&mut sender, &mut rig), [[0, 0, 0, 8]]);
}

#[test]
fn sender_reports_are_mapped_both_ways() {
    let mut rig = Rig::new();
    let mut sender = rig.browser(1, 10, Choices::default());
    let mut hearer = rig.browser(1, 11, Choices::default());
    sender.speak(&mut rig, b"voice");
    hearer.hear(&mut rig);
    sender.hear(&mut rig);
    let mut report = vec![0x80, 200, 0, 6];
    report.extend(sender.choices.ssrcs[0].to_be_bytes());
    report.extend([0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 5]);
    let sealed = sender.seal_rtcp(&report);
    assert_eq!(sender.dropped(&mut rig, &sealed), DropReason::RtcpConsumed);
    let to_hearer = hearer.hear(&mut rig);
    let [Heard::Rtcp(compound)] = &to_hearer[..] else { panic!("{to_hearer:?}") };
    let given = rig.clients[sender.who].ssrc();
    assert_eq!((compound[1], &compound[4..8]), (200, &given.0.to_be_bytes()[..]));
    let to_sender = sender.hear(&mut rig);
    let [Heard::Rtcp(compound)] = &to_sender[..] else { panic!("{to_sender:?}") };
    assert_eq!((compound[0], compound[1]), (0x81, 201));
    assert_eq!(compound[8..12], sender.choices.ssrcs[0].to_be_bytes());
}

#[test]
fn the_retransmissions_of_a_browser_are_known_by_op_12_and_by_payload_type() {
    let mut rig = Rig::new();
    let mut viewer = rig.browser(1, 10, Choices::default());
    let mut sender = rig.browser(1, 11, Choices { ssrcs: [9, 10, 11], ..Choices::default() });
    let frame = sender.announcement(true);
    rig.say(sender.who, |_| frame);
    let first = sender.packet(1, VP8, b"200");
    let lost = sender.packet(1, VP8, b"201");
    let third = sender.packet(1, VP8, b"202");
    rig.datagram(sender.address, &first);
    rig.datagram(sender.address, &third);
    let again = sender.packet(2, VP8_RTX, b"\0\xC9201");
    rig.datagram(sender.address, &again);
    assert_eq!(sender.dropped(&mut rig, &lost), DropReason::Replayed, "it has come already");
    let ssrc = rig.clients[sender.who].streams[1].ssrc;
    let heard = viewer.hear(&mut rig);
    let heard: Vec<_> = heard.iter().map(media).collect();
    let expected = [(200, b"200"), (202, b"202"), (201, b"201")];
    assert_eq!(heard, expected.map(|(seq, payload)| (ssrc, VP8, seq, &payload[..])));
}

#[test]
fn a_viewer_is_sent_again_what_it_lacks_as_a_retransmission_of_its_own_kind() {
    for profile in [AEAD_128, AEAD_256, CM_SHA1] {
        let mut rig = Rig::new();
        let mut sender = rig.browser(1, 10, Choices::default());
        let mut viewer = rig.browser(1, 11, Choices { profile, ..Choices::default() });
        let frame = sender.announcement(true);
        rig.say(sender.who, |_| frame);
        for payload in [b"200", b"201", b"202"] {
            let packet = sender.packet(1, VP8, payload);
            rig.datagram(sender.address, &packet);
        }
        assert_eq!(viewer.hear_payloads(&mut rig), [b"200", b"201", b"202"]);
        let [video, rtx] = [1, 2].map(|stream: usize| rig.clients[sender.who].streams[stream].ssrc);
        let mut numbers = None;
        for again in 0..2_u8 {
            let mut compound = vec![0x80, 201, 0, 1, 0, 0, 0, 1];
            let mut nack = [0; 64];
            let len = write_nack(&mut nack, Ssrc(1), video, [201]).unwrap();
            compound.extend(&nack[..len]);
            let sealed = viewer.seal_rtcp(&compound);
            rig.datagram(viewer.address, &sealed);
            let heard = viewer.hear(&mut rig);
            let [Heard::Rtp { ssrc, payload_type: VP8_RTX, seq, payload, extension, .. }] =
                &heard[..]
            else {
                panic!("{heard:?}")
            };
            assert_eq!((*ssrc, &payload[..]), (rtx, &b"\0\xC9201"[..]));
            let before = numbers.replace(*seq);
            assert!(before.is_none_or(|before| *seq == before + 1), "numbers of their own");
            let (_, elements) = extension.as_ref().expect("Chromium takes extensions");
            assert_eq!(elements[..3], [0x31, 0, 3 + again], "counted on");
            rig.advance(Duration::from_secs(1));
            viewer.hear(&mut rig);
        }
    }
}
