//! ClientHellos in pieces: as large as post-quantum keys make them, in any order, repeated, lost.

use std::time::{Duration, Instant};

use stentor::webrtc::{Dtls, Fingerprint, Identity, fingerprint::Algorithm};

use crate::{
    client::{Client, DimplClient, Rtc},
    dice::Dice,
    path::World,
};

/// Cuts every ClientHello that is one record into records of this many bytes of it.
fn cut(datagram: &[u8], size: usize) -> Vec<Vec<u8>> {
    const RECORD: usize = 13;
    const MESSAGE: usize = 12;
    if (datagram[0], datagram[RECORD]) != (22, 1) {
        return vec![datagram.to_vec()];
    }
    let (head, body) = datagram.split_at(RECORD + MESSAGE);
    let pieces = body.chunks(size).enumerate().map(|(index, piece)| {
        let mut record = head.to_vec();
        // A record number for each, whichever the whole had.
        let number = u64::from(head[10]) * 1_000 + index as u64;
        record[5..11].copy_from_slice(&number.to_be_bytes()[2..]);
        record[11..13].copy_from_slice(&((MESSAGE + piece.len()) as u16).to_be_bytes());
        let (offset, length) = ((index * size) as u32, piece.len() as u32);
        record[RECORD + 6..RECORD + 9].copy_from_slice(&offset.to_be_bytes()[1..]);
        record[RECORD + 9..RECORD + 12].copy_from_slice(&length.to_be_bytes()[1..]);
        record.extend_from_slice(piece);
        record
    });
    pieces.collect()
}

fn shuffle(pieces: &mut [Vec<u8>], dice: &mut Dice) {
    for index in (1..pieces.len()).rev() {
        pieces.swap(index, dice.within(0..index + 1));
    }
}

#[test]
fn a_hello_in_pieces_is_a_hello_in_any_order() {
    for seed in 0..50 {
        let now = Instant::now();
        let mut dice = Dice::new(seed);
        let size = dice.within(20..80);
        let mut world = World::new(now, Rtc::default().start(now)).with_meddler(|_, datagram| {
            let mut pieces = cut(&datagram, size);
            shuffle(&mut pieces, &mut dice);
            pieces
        });
        world.connect();
    }
}

#[test]
fn pieces_may_come_twice_and_be_lost_until_they_are_sent_again() {
    for seed in 0..50 {
        let now = Instant::now();
        let mut dice = Dice::new(seed);
        let size = dice.within(20..80);
        let mut world =
            World::new(now, DimplClient::start(now, 1_150)).with_meddler(|_, datagram| {
                let mut pieces = cut(&datagram, size);
                if pieces.len() > 1 {
                    pieces.extend(pieces.clone());
                    pieces.retain(|_| !dice.percent(30));
                    shuffle(&mut pieces, &mut dice);
                }
                pieces
            });
        world.run(Duration::from_secs(30));
        assert_eq!(world.client.agreed(), world.agreed().as_ref(), "seed {seed}");
        assert!(world.agreed().is_some(), "seed {seed}: {:?}", world.events);
    }
}

/// A ClientHello such as BoringSSL makes for DTLS 1.3 with 1.2 to fall back to: key shares for
/// X25519MLKEM768 (1,216 bytes) and X25519, suites and extensions that mean nothing to 1.2.
fn post_quantum_hello(cookie: &[u8]) -> Vec<u8> {
    let vector16 = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &vector16(body)].concat();
    let words = |words: &[u16]| words.iter().flat_map(|it| it.to_be_bytes()).collect::<Vec<_>>();

    let share = |group: u16, key: &[u8]| [&group.to_be_bytes()[..], &vector16(key)].concat();
    let shares = [share(0x11EC, &[0x4D; 1_216]), share(0x001D, &[9; 32])].concat();
    let signatures = words(&[0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601]);
    let extensions = [
        extension(0x0017, &[]),                                                  // EMS
        extension(0xFF01, &[0]),                                                 // renegotiation
        extension(0x000A, &vector16(&words(&[0x11EC, 0x001D, 0x0017, 0x0018]))), // groups
        extension(0x000B, &[1, 0]),                                              // point formats
        extension(0x0023, &[]),                                                  // session ticket
        extension(0x000D, &vector16(&signatures)),
        extension(0x000E, &[&vector16(&words(&[8, 7, 1]))[..], &[0]].concat()), // use_srtp
        extension(0x0033, &vector16(&shares)),
        extension(0x002D, &[1, 1]),
        extension(0x002B, &[4, 0xFE, 0xFC, 0xFE, 0xFD]), // versions 1.3 and 1.2
    ]
    .concat();
    let suites = words(&[
        0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xCCA9, 0xCCA8, 0xC009, 0xC013, 0xC00A, 0xC014,
        0x009C, 0x009D, 0x002F, 0x0035,
    ]);
    let body = [
        &[254, 253][..],
        &[0x52; 32],
        &[0],
        &[cookie.len() as u8],
        cookie,
        &vector16(&suites),
        &[1, 0],
        &vector16(&extensions),
    ]
    .concat();
    let length = &(body.len() as u32).to_be_bytes()[1..];
    let sequence = u8::from(!cookie.is_empty());
    let message = [&[1][..], length, &[0, sequence, 0, 0, 0], length, &body].concat();
    let header = [22, 254, 255, 0, 0, 0, 0, 0, 0, 0, sequence];
    [&header[..], &vector16(&message)].concat()
}

#[test]
fn a_post_quantum_hello_in_two_pieces_is_answered_with_a_classical_group() {
    for (pieces_swapped, repeated) in [(false, false), (true, false), (false, true), (true, true)] {
        let now = Instant::now();
        let identity = Identity::generate().unwrap();
        let expected = vec![Fingerprint::of(Algorithm::Sha256, b"whoever")];
        let mut server = Dtls::new(&identity, expected, now);
        let mut out = [0; 1_200];
        let mut give = |server: &mut Dtls, hello: &[u8]| {
            assert!(hello.len() > 1_400, "{} bytes", hello.len());
            let mut pieces = cut(hello, 1_100);
            assert_eq!(pieces.len(), 2);
            if pieces_swapped {
                pieces.swap(0, 1);
            }
            if repeated {
                pieces.insert(0, pieces[0].clone());
            }
            for piece in pieces {
                assert_eq!(server.handle(now, &piece), Ok(()));
            }
            let len = server.poll_output(&mut out).expect("an answer");
            out[..len].to_vec()
        };
        // HelloVerifyRequest: version, and a cookie of 32 bytes.
        let verify = give(&mut server, &post_quantum_hello(&[]));
        assert_eq!((verify[13], verify[27]), (3, 32), "{verify:02x?}");
        // ServerHello, Certificate, ServerKeyExchange, CertificateRequest, ServerHelloDone.
        let flight = give(&mut server, &post_quantum_hello(&verify[28..60]));
        let mut kinds = Vec::new();
        let mut exchange = Vec::new();
        let mut rest = &flight[..];
        while !rest.is_empty() {
            let length = usize::from(u16::from_be_bytes([rest[11], rest[12]]));
            kinds.push(rest[13]);
            if rest[13] == 12 {
                exchange = rest[25..28].to_vec();
            }
            rest = &rest[13 + length..];
        }
        assert_eq!(kinds, [2, 11, 12, 13, 14], "one datagram");
        assert_eq!(exchange, [3, 0, 0x1D], "a named curve: X25519");
        assert!(server.poll_event().is_none());
    }
}
