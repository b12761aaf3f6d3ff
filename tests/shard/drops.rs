//! Every way a datagram, or one hearer's copy of it, can go no further in the shard: each counted
//! once, under its own reason.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use stentor::{
    crypto::Mode,
    egress::Egress,
    id::Ssrc,
    limits::{DATAGRAM_BYTES_MAX, PLAIN_BYTES_MAX},
    metrics::DropReason as D,
};

use crate::{
    client::{Client, Grant, Profile, Rtp, codec, discovery, message, rtp},
    rig::{Rig, STRANGER},
    rtcp::KEYFRAME,
};

/// Two who speak and take video, and everything that can be done to them.
struct Scene {
    rig: Rig,
    a: usize,
    b: usize,
}

impl Scene {
    fn a_sends(&mut self, make: impl FnOnce(&mut Client) -> Vec<u8>) -> Vec<D> {
        let bytes = make(&mut self.rig.clients[self.a]);
        let from = self.rig.clients[self.a].address;
        self.rig.drops_during(|rig| rig.datagram(from, &bytes))
    }

    fn stranger_sends(&mut self, bytes: &[u8]) -> Vec<D> {
        self.rig.drops_during(|rig| rig.datagram(STRANGER, bytes))
    }
}

type Case = (D, fn(&mut Scene) -> Vec<D>);

const CASES: &[Case] = &[
    (D::Noise, |s| s.stranger_sends(b"noise")),
    (D::Keepalive, |s| s.a_sends(|_| vec![7, 0, 0, 0, 0, 0, 0, 0])),
    (D::Malformed, |s| s.stranger_sends(&[0x8F, 120, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
    (D::Malformed, |s| s.a_sends(|a| rtp(a.ssrc()).plain())),
    (D::Malformed, |s| {
        s.a_sends(|a| {
            let cut = Rtp { extension: Some((0xBEDE, &[0; 8])), ..rtp(a.ssrc()) }.plain();
            a.seal(&cut[..20])
        })
    }),
    (D::Malformed, |s| {
        s.a_sends(|a| {
            // The padding bit over a payload whose last byte, the count, is 0.
            let mut padded = Rtp { payload: &[1, 2, 0], ..rtp(a.ssrc()) }.plain();
            padded[0] |= 0x20;
            a.seal(&padded)
        })
    }),
    (D::Oversize, |s| s.a_sends(|_| vec![0x80; DATAGRAM_BYTES_MAX + 1])),
    (D::Oversize, |s| {
        // Fits as it comes, but not with the extension that every voice packet leaves with.
        s.a_sends(|a| {
            let len = DATAGRAM_BYTES_MAX - a.profile.mode.overhead() - 12;
            a.voice(&vec![1; len])
        })
    }),
    (D::UnknownSource, |s| s.stranger_sends(&Rtp { payload: &[0; 40], ..rtp(Ssrc(5)) }.plain())),
    (D::UnknownSourceFlood, |s| {
        let mut forged = s.rig.clients[s.a].voice(b"x");
        forged[12] ^= 1;
        let drops = s.rig.drops_during(|rig| {
            (0..2_001).for_each(|_| rig.datagram(STRANGER, &forged));
        });
        assert_eq!(drops.iter().filter(|reason| **reason == D::BadTag).count(), 2_000);
        s.rig.advance(Duration::from_secs(1));
        assert_eq!(s.stranger_sends(&forged), [D::BadTag], "the budget is refilled");
        vec![*drops.iter().find(|reason| **reason != D::BadTag).unwrap()]
    }),
    (D::UnknownDiscovery, |s| s.stranger_sends(&discovery(Ssrc(5)))),
    (D::RequestFlood, |s| {
        let request = s.rig.clients[s.a].discovery();
        s.rig.advance(Duration::from_secs(10));
        s.rig.drops_during(|rig| (0..11).for_each(|_| rig.datagram(STRANGER, &request)))
    }),
    (D::RequestFlood, |s| {
        let ping = [0x13, 0x37, 0xCA, 0xFE, 0, 0, 0, 0];
        let drops =
            s.rig.drops_during(|rig| (0..2_001).for_each(|_| rig.datagram(STRANGER, &ping)));
        assert!(s.a_sends(|_| ping.to_vec()).is_empty(), "a member's ping is always answered");
        drops
    }),
    (D::RequestFlood, |s| {
        s.rig.egress = Egress::new(1, DATAGRAM_BYTES_MAX);
        let (request, from) = (s.rig.clients[s.a].discovery(), s.rig.clients[s.a].address);
        s.rig.drops_during(|rig| {
            // Two in one batch, of which the egress holds one.
            for _ in 0..2 {
                let path = stentor::egress::Path::to(from);
                rig.shard.handle_datagram(rig.now, path, &mut request.clone(), &mut rig.egress);
            }
        })
    }),
    (D::NoKey, |s| {
        let c = s.rig.client(Grant::new(1, 12), Profile::default());
        s.rig.identify(c);
        let ssrc = s.rig.clients[c].ssrc();
        s.stranger_sends(&Rtp { payload: &[0; 40], ..rtp(ssrc) }.plain())
    }),
    (D::BadTag, |s| {
        s.a_sends(|a| {
            let mut forged = a.voice(b"x");
            forged[12] ^= 1;
            forged
        })
    }),
    (D::Replayed, |s| {
        let packet = s.rig.clients[s.a].voice(b"x");
        s.a_sends(|_| packet.clone());
        s.a_sends(|_| packet)
    }),
    (D::TooOld, |s| {
        s.a_sends(|a| a.voice_at(5_000, b"x"));
        s.a_sends(|a| a.voice_at(5_000 - 1_024, b"x"))
    }),
    (D::SequenceJump, |s| {
        s.a_sends(|a| a.voice_at(0, b"x"));
        s.a_sends(|a| a.voice_at(3_001, b"x"))
    }),
    (D::ForeignSsrc, |s| {
        let theirs = s.rig.clients[s.b].ssrc();
        s.a_sends(|a| a.seal(&Rtp { payload: b"x", ..rtp(theirs) }.plain()))
    }),
    (D::Muted, |s| {
        s.rig.update(s.a, |policy| policy.state.mute = true);
        s.a_sends(|a| a.voice(b"x"))
    }),
    (D::VideoNotAllowed, |s| s.a_sends(|a| a.next_packet(1, 103, b"x"))),
    (D::UnknownPayloadType, |s| s.a_sends(|a| a.next_packet(0, 96, b"x"))),
    (D::EmptyPayload, |s| s.a_sends(|a| a.voice(b""))),
    (D::EmptyPayload, |s| s.a_sends(|a| a.seal(&Rtp { padding: 4, ..rtp(a.ssrc()) }.plain()))),
    (D::LateAfterCut, |s| {
        let late = s.rig.clients[s.a].voice_at(1, b"x");
        s.a_sends(|a| a.voice_at(2, b"x"));
        s.rig.update(s.a, |policy| policy.state.mute = true);
        s.rig.update(s.a, |policy| policy.state.mute = false);
        s.a_sends(|_| late)
    }),
    (D::NoHearer, |s| {
        s.rig.hang_up(s.b, 1000);
        s.a_sends(|a| a.voice(b"x"))
    }),
    (D::Deafened, |s| {
        s.rig.update(s.b, |policy| policy.state.deaf = true);
        s.a_sends(|a| a.voice(b"x"))
    }),
    (D::NotConnected, |s| {
        let c = s.rig.client(Grant::new(1, 12), Profile::default());
        s.rig.identify(c);
        s.a_sends(|a| a.voice(b"x"))
    }),
    (D::NotConnected, |s| {
        let c = s.rig.client(Grant::new(1, 12), Profile::default());
        s.rig.identify(c);
        s.rig.say(c, Client::select_protocol);
        s.a_sends(|a| a.voice(b"x"))
    }),
    (D::UselessRetransmission, |s| {
        s.rig.say(s.a, |client| client.camera(true));
        s.a_sends(|a| a.next_packet(1, 103, KEYFRAME));
        s.a_sends(|a| a.next_packet(2, 104, &[0, 0, 0x65]))
    }),
    (D::AwaitingKeyframe, |s| {
        s.rig.say(s.a, |client| client.camera(true));
        s.a_sends(|a| a.next_packet(1, 103, KEYFRAME));
        s.rig.joined(1, 12, Profile::video(103, 104));
        s.a_sends(|a| a.next_packet(1, 103, b"x"))
    }),
    (D::Unwanted, |s| {
        s.rig.say(s.b, |_| message(15, json!({"any": 0})));
        s.rig.say(s.a, |client| client.camera(true));
        s.a_sends(|a| a.next_packet(1, 103, KEYFRAME))
    }),
    (D::CodecNotSupported, |s| {
        let vp8 = json!([codec("VP8", 1000, 96, None)]);
        s.rig.joined(1, 12, Profile { codecs: Some(vp8), ..Profile::default() });
        s.rig.say(s.a, |client| client.camera(true));
        s.a_sends(|a| a.next_packet(1, 103, b"x"))
    }),
    (D::LateAfterGap, |s| {
        let late = s.rig.clients[s.a].voice_at(1, b"x");
        s.a_sends(|a| a.voice_at(0, b"x"));
        s.rig.update(s.b, |policy| policy.state.deaf = true);
        s.a_sends(|a| a.voice_at(2, b"x"));
        s.rig.update(s.b, |policy| policy.state.deaf = false);
        s.a_sends(|_| late)
    }),
    (D::EgressFull, |s| {
        s.rig.speaker(1, 12);
        s.rig.egress = Egress::new(1, DATAGRAM_BYTES_MAX);
        s.a_sends(|a| a.voice(b"x"))
    }),
    (D::BadStun, |s| {
        let mut binding = vec![0; 20];
        binding[..8].copy_from_slice(&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42]);
        s.stranger_sends(&binding)
    }),
    (D::UnknownSource, |s| s.stranger_sends(&[22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
    (D::RtcpFlood, |s| {
        let report =
            |a: &mut Client| a.seal(&[&[0x80, 201, 0, 1][..], &a.ssrc().0.to_be_bytes()].concat());
        (0..200).for_each(|_| assert_eq!(s.a_sends(report), [D::RtcpConsumed]));
        s.a_sends(report)
    }),
    (D::RtcpConsumed, |s| {
        s.a_sends(|a| a.seal(&[&[0x80, 201, 0, 1][..], &a.ssrc().0.to_be_bytes()].concat()))
    }),
];

/// Those that the kernel's send path counts, the end of a key, 2^30 packets away, and those of
/// browsers (`web`, and `webrtc`'s own tests).
const ELSEWHERE: [D; 9] = [
    D::SocketFull,
    D::SendFailed,
    D::NonceExhausted,
    D::UnknownUfrag,
    D::BadIntegrity,
    D::HandshakeFlood,
    D::Unannounced,
    D::DtlsUseless,
    D::DtlsOver,
];

#[test]
fn every_drop_is_counted_once_under_its_reason() {
    for (case, (reason, cause)) in CASES.iter().enumerate() {
        let mut rig = Rig::new();
        let a = rig.joined(1, 10, Profile::video(103, 104));
        let b = rig.joined(1, 11, Profile::video(103, 104));
        let drops = cause(&mut Scene { rig, a, b });
        assert_eq!(drops, [*reason], "case {case}");
    }
}

#[test]
fn the_longest_packet_that_is_forwarded_can_be_sealed_in_every_mode() {
    let overheads = Mode::ALL.map(|mode| mode.overhead());
    assert_eq!(overheads.into_iter().max(), Some(DATAGRAM_BYTES_MAX - PLAIN_BYTES_MAX));
    for mode in Mode::ALL {
        let mut rig = Rig::new();
        let a = rig.speaker(1, 10);
        let b = rig.joined(1, 11, Profile { mode, ..Profile::default() });
        let longest = vec![7; PLAIN_BYTES_MAX - 24];
        rig.speak(a, &longest);
        assert_eq!(rig.clients[b].take_payloads(), [&longest[..]]);
        let (from, longer) = (rig.clients[a].address, vec![7; PLAIN_BYTES_MAX - 23]);
        let longer = rig.clients[a].voice(&longer);
        assert_eq!(rig.dropped(from, &longer), D::Oversize);
        rig.speak(a, b"next");
        let heard = rig.clients[b].take_heard();
        assert_eq!(heard[0].seq(), Some(2), "it was lost, and reads as lost");
    }
}

#[test]
fn a_stranger_gets_back_no_more_than_it_sent() {
    let mut rig = Rig::new();
    let (a, _) = (rig.speaker(1, 10), rig.speaker(1, 11));
    let ssrc = rig.clients[a].ssrc();
    let heads: [&[u8]; 7] = [
        &[0x80, 120],
        &[0x80, 201],
        &[0, 1, 0, 70],
        &[0, 2, 0, 70],
        &[0x13, 0x37, 0xCA, 0xFE],
        &[22, 0xFE, 0xFD],
        &[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42],
    ];
    let mut answers = BTreeSet::new();
    for head in heads {
        for len in 0..=200 {
            // The SSRC of a member, where discovery, RTCP and RTP have it.
            for at in [4, 8] {
                let mut bytes = [head, &[0; 200]].concat();
                bytes[at..at + 4].copy_from_slice(&ssrc.0.to_be_bytes());
                rig.datagram(STRANGER, &bytes[..len]);
                let back = std::mem::take(&mut rig.strays);
                assert!(back.iter().map(|(_, back)| back.len()).sum::<usize>() <= len);
                assert!(back.iter().all(|(to, _)| *to == STRANGER));
                answers.extend(back.iter().map(|(_, back)| back.len()));
                // So that no budget is what keeps it quiet.
                rig.now += Duration::from_secs(1);
            }
        }
    }
    assert_eq!(answers, [8, 74].into(), "pings and discovery");
}

#[test]
fn no_reason_is_without_a_case() {
    for reason in D::ALL {
        let covered = CASES.iter().any(|(covered, _)| covered == reason);
        assert_ne!(covered, ELSEWHERE.contains(reason), "{reason:?}");
    }
}

#[test]
fn a_reason_is_a_datagrams_or_a_hearers() {
    let hearers: Vec<_> = D::ALL.iter().filter(|reason| reason.is_hearers()).collect();
    let expected = [
        D::Deafened,
        D::NotConnected,
        D::AwaitingKeyframe,
        D::Unwanted,
        D::CodecNotSupported,
        D::LateAfterGap,
        D::NonceExhausted,
        D::EgressFull,
        D::SocketFull,
        D::SendFailed,
    ];
    assert_eq!(hearers, expected.iter().collect::<Vec<_>>());
}
