//! Any datagram as a browser's check: whatever `Message::parse` accepts can be asked everything,
//! and what an agent answers is no longer than the check and read back as what it is. The first
//! byte says whether the datagram is signed, so that the fuzzer gets past the signature.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use stentor::{
    egress::Path,
    rtp::{Kind, classify},
    webrtc::{
        Credentials, Ice,
        credentials::RANDOM_BYTES,
        ice::{ANSWER_BYTES_MAX, local_ufrag},
        stun::{BINDING, Class, HEADER_BYTES, Key, Message, UNKNOWN_MAX, Writer},
    },
};

fuzz_target!(|input: &[u8]| {
    let Some((mode, datagram)) = input.split_first() else { return };
    let local = Credentials::generate([7; RANDOM_BYTES]);
    match Message::parse(datagram) {
        Some(message) => {
            assert!(matches!(classify(datagram), Kind::Stun), "a message that is none");
            assert_eq!(local_ufrag(datagram), message.username().map(|(ours, _)| ours));
            assert!(message.method() < 0x100);
            assert!(message.unknown_attributes().len() <= UNKNOWN_MAX);
            assert!(message.unknown_attributes().iter().all(|kind| *kind < 0x8000));
            let _ = (message.class(), message.priority(), message.role(), message.error_code());
            let _ = (message.mapped_address(), message.has_fingerprint());
        }
        None => assert_eq!(local_ufrag(datagram), None),
    }

    let now = Instant::now();
    let path = Path::to(([192, 0, 2, 1], 5_000).into());
    let mut ice = Ice::new(local.clone(), now);
    let signed = if mode & 1 == 0 { datagram.to_vec() } else { sign(datagram, &local) };
    let mut out = [0; ANSWER_BYTES_MAX];
    let Ok(answered) = ice.handle(now, path, &signed, &mut out) else {
        assert!(ice.selected().is_none() && !ice.is_valid(path));
        return;
    };
    assert!(answered.len <= signed.len(), "{} for {}", answered.len, signed.len());
    let check = Message::parse(&signed).expect("it was answered");
    let answer = Message::parse(&out[..answered.len]).expect("an answer is a message");
    assert!(check.is_authentic(&Key::new(local.pwd())));
    assert!(answer.is_authentic(&Key::new(local.pwd())) && answer.has_fingerprint());
    assert_eq!((answer.transaction(), answer.method()), (check.transaction(), BINDING));
    match answer.class() {
        Class::Success => {
            assert_eq!(answer.mapped_address(), Some(path.remote));
            assert_eq!(answered.nominated, check.use_candidate().then_some(path));
            assert!(ice.is_valid(path));
        }
        class => {
            assert_eq!(class, Class::Error);
            assert!(matches!(answer.error_code(), Some(420 | 487)));
            assert!(answered.nominated.is_none() && !ice.is_valid(path));
        }
    }
});

/// A check to `to` with the attributes that `datagram` holds behind twenty bytes of header.
fn sign(datagram: &[u8], to: &Credentials) -> Vec<u8> {
    let mut out = vec![0; datagram.len() + 256];
    let transaction = stentor::webrtc::stun::Transaction([9; 12]);
    let mut writer = Writer::new(&mut out, Class::Request, BINDING, transaction);
    writer.username(to.ufrag(), "peer");
    let mut rest = datagram.get(HEADER_BYTES..).unwrap_or_default();
    while let Some(([a, b, c, d], tail)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([*c, *d]));
        let (value, tail) = tail.split_at_checked(len).unwrap_or((tail, &[]));
        writer.push(u16::from_be_bytes([*a, *b]), value);
        rest = tail.get(len.next_multiple_of(4) - len..).unwrap_or_default();
    }
    let len = writer.finish(&Key::new(to.pwd())).expect("there is room");
    out.truncate(len);
    out
}
