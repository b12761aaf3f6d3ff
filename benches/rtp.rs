//! Did reading and writing wire formats get slower? Everything the packet path does to a header.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use stentor::{
    id::Ssrc,
    rtp::{
        Header, Packet, classify,
        extension::{AUDIO_EXTENSION_WORDS, abs_send_time, audio_extension, elements},
        feedback::write_nack,
        rtcp::{Blocks, ReceiverReport, Report, ReportBlock, reports},
    },
};

const HEADER: Header = Header {
    marker: false,
    payload_type: 120,
    seq: 1,
    timestamp: 960,
    ssrc: Ssrc(123_456),
    extension_words: Some(AUDIO_EXTENSION_WORDS),
};

fn audio() -> [u8; 184] {
    let mut packet = [0x5A; 184];
    let len = HEADER.write(&mut packet);
    packet[len..len + 8].copy_from_slice(&audio_extension([1, 2, 3], 0x7F, 2));
    packet
}

fn compound() -> Vec<u8> {
    let block = ReportBlock {
        ssrc: Ssrc(654_321),
        fraction_lost: 3,
        lost: 9,
        highest_seq: 0x1_0001,
        jitter: 7,
        last_sr: 1,
        delay_since_sr: 2,
    };
    let mut out = vec![0; 256];
    let blocks = [block.to_bytes(); 3];
    let report = ReceiverReport { ssrc: Ssrc(123_456), blocks: Blocks(&blocks) };
    let len = report.write(&mut out).unwrap();
    let nack = write_nack(&mut out[len..], Ssrc(123_456), Ssrc(654_321), [1, 2, 9, 40]).unwrap();
    out.truncate(len + nack);
    out
}

fn bench(c: &mut Criterion) {
    let audio = audio();
    c.bench_function("classify/audio", |b| b.iter(|| classify(black_box(&audio))));
    c.bench_function("packet/view, ssrc, seq", |b| {
        b.iter(|| {
            let packet = Packet::new(black_box(&audio)).unwrap();
            (packet.ssrc(), packet.seq(), packet.payload_type())
        });
    });
    c.bench_function("packet/payload", |b| {
        let packet = Packet::new(&audio).unwrap();
        b.iter(|| black_box(packet).payload().map(<[u8]>::len));
    });
    c.bench_function("packet/extension elements", |b| {
        let packet = Packet::new(&audio).unwrap();
        b.iter(|| {
            let (profile, block) = black_box(packet).extension().unwrap();
            elements(profile, block).map(|(id, bytes)| usize::from(id) + bytes.len()).sum::<usize>()
        });
    });
    c.bench_function("header/write with audio extension", |b| {
        let mut out = [0; 64];
        b.iter(|| {
            let len = black_box(HEADER).write(black_box(&mut out));
            let time = abs_send_time(black_box(Duration::from_millis(123_456)));
            out[len..len + 8].copy_from_slice(&audio_extension(time, 0x7F, 2));
        });
    });
    let compound = compound();
    c.bench_function("rtcp/receiver report of 3 blocks and nack", |b| {
        b.iter(|| {
            reports(black_box(&compound))
                .map(|report| match report {
                    Report::ReceiverReport(report) => report.blocks.iter().count(),
                    Report::Nack(nack) => nack.lost().count(),
                    _ => 0,
                })
                .sum::<usize>()
        });
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
