//! RTCP as clients write and read it, for the tests about it.

use stentor::{
    id::Ssrc,
    metrics::DropReason,
    rtp::{
        feedback::write_nack,
        rtcp::{BLOCK_BYTES, Blocks, ReceiverReport, Report, SenderReport, reports},
    },
};

use crate::{
    client::{Heard, Profile},
    rig::Rig,
};

/// A slice of a keyframe in H.264, and one of another picture.
pub const KEYFRAME: &[u8] = &[0x65, 0x88, 0x84];
pub const OTHER: &[u8] = &[0x41, 0x9A, 0x02];

pub fn written(write: impl FnOnce(&mut [u8]) -> Option<usize>) -> Vec<u8> {
    let mut bytes = vec![0; 1_200];
    let len = write(&mut bytes).expect("room enough");
    bytes.truncate(len);
    bytes
}

pub fn sender_report(ssrc: Ssrc, rtp_timestamp: u32) -> Vec<u8> {
    let blocks = Blocks::default();
    let ntp = 0x1122_3344_5566_7788;
    let report = SenderReport { ssrc, ntp, rtp_timestamp, packets: 7, octets: 70, blocks };
    written(|out| report.write(out))
}

pub fn receiver_report(ssrc: Ssrc, blocks: &[[u8; BLOCK_BYTES]]) -> Vec<u8> {
    written(|out| ReceiverReport { ssrc, blocks: Blocks(blocks) }.write(out))
}

/// Feedback behind an empty receiver report, as every compound begins with a report.
pub fn feedback(ssrc: Ssrc, feedback: Vec<u8>) -> Vec<u8> {
    [receiver_report(ssrc, &[]), feedback].concat()
}

/// The compounds that have come for a client.
pub fn compounds(rig: &mut Rig, who: usize) -> Vec<Vec<u8>> {
    let heard = rig.clients[who].take_heard();
    let compounds = heard.into_iter().filter_map(|heard| match heard {
        Heard::Rtcp(compound) => Some(compound),
        Heard::Rtp { .. } => None,
    });
    compounds.collect()
}

/// The packets of media that have come for a client.
pub fn media(rig: &mut Rig, who: usize) -> Vec<Heard> {
    let heard = rig.clients[who].take_heard();
    heard.into_iter().filter(|heard| matches!(heard, Heard::Rtp { .. })).collect()
}

/// A client reports; nothing else comes of the datagram itself.
pub fn report(rig: &mut Rig, who: usize, plain: &[u8]) {
    let from = rig.clients[who].address;
    let sealed = rig.clients[who].seal(plain);
    assert_eq!(rig.dropped(from, &sealed), DropReason::RtcpConsumed);
}

/// A client lacks these packets, by its own numbers.
pub fn nack(rig: &mut Rig, who: usize, media: Ssrc, lost: &[u16]) {
    let ssrc = rig.clients[who].ssrc();
    let nack = written(|out| write_nack(out, ssrc, media, lost.iter().copied()));
    report(rig, who, &feedback(ssrc, nack));
}

/// What a client is asked to send again, in order.
pub fn asked(rig: &mut Rig, who: usize) -> Vec<u16> {
    let compounds = compounds(rig, who);
    let all = compounds.iter().flat_map(|compound| reports(compound));
    let nacks = all.filter_map(|report| match report {
        Report::Nack(nack) => Some(nack.lost().collect::<Vec<_>>()),
        _ => None,
    });
    nacks.flatten().collect()
}

/// How many keyframes a client is asked for.
pub fn keyframes_asked(rig: &mut Rig, who: usize) -> usize {
    let compounds = compounds(rig, who);
    let all = compounds.iter().flat_map(|compound| reports(compound));
    all.filter(|report| matches!(report, Report::Pli(_))).count()
}

/// A camera that is on and has begun with a keyframe, and two who see it.
pub fn watched() -> (Rig, usize, usize, usize, Ssrc) {
    watched_as([Profile::video(103, 104), Profile::video(103, 104), Profile::video(103, 104)])
}

/// As before, with these profiles.
pub fn watched_as(profiles: [Profile; 3]) -> (Rig, usize, usize, usize, Ssrc) {
    let mut rig = Rig::new();
    let mut user = 9;
    let [a, b, c] = profiles.map(|profile| {
        user += 1;
        rig.joined(1, user, profile)
    });
    rig.say(a, |client| client.camera(true));
    rig.send(a, |client| client.next_packet(1, 103, KEYFRAME));
    rig.forget();
    let ssrc = rig.clients[a].streams[1].ssrc;
    (rig, a, b, c, ssrc)
}
