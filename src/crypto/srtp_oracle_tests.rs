//! SRTP and SRTCP against webrtc-srtp, which shares no code with ours: the same bytes from both,
//! and each opens what the other sealed, in all profiles and across wraps of the sequence number.

use proptest::{collection::vec, prelude::*};
use webrtc_srtp::{
    context::Context,
    option::{srtcp_replay_protection, srtp_replay_protection},
    protection_profile::ProtectionProfile,
};

use super::*;

/// One direction of the oracle, keyed with `role`'s half of the material.
fn oracle(profile: Profile, material: &[u8], role: Role) -> Context {
    let (key, salt) = (profile.key_len(), profile.salt_len());
    let (key_at, salt_at) = match role {
        Role::Client => (0, 2 * key),
        Role::Server => (key, 2 * key + salt),
    };
    let theirs = match profile {
        Profile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
        Profile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
        Profile::Aes128CmSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
    };
    Context::new(
        &material[key_at..key_at + key],
        &material[salt_at..salt_at + salt],
        theirs,
        Some(srtp_replay_protection(1_024)),
        Some(srtcp_replay_protection(64)),
    )
    .expect("material of the profile's length")
}

fn profiles() -> impl Strategy<Value = Profile> {
    proptest::sample::select(&Profile::PREFERRED[..])
}

/// Enough material for any profile.
fn material() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 88)
}

/// RTP whose sequence number and SSRC are still to be written: any marker, payload type and padding
/// bit, CSRCs, and an extension that the oracle does not look into.
fn rtp() -> impl Strategy<Value = Vec<u8>> {
    let extension = proptest::option::of(vec(any::<[u8; 4]>(), 0..8));
    let fixed = (any::<bool>(), any::<u8>(), any::<u32>());
    (fixed, vec(any::<[u8; 4]>(), 0..16), extension, vec(any::<u8>(), 0..1_200)).prop_map(
        |((padding, second, timestamp), csrcs, extension, payload)| {
            let first = 0x80
                | u8::from(padding) << 5
                | u8::from(extension.is_some()) << 4
                | csrcs.len() as u8;
            let mut packet = vec![first, second, 0, 0];
            packet.extend(timestamp.to_be_bytes());
            packet.extend([0; 4]);
            packet.extend(csrcs.as_flattened());
            if let Some(words) = extension {
                packet.extend([0x12, 0x34, 0, words.len() as u8]);
                packet.extend(words.as_flattened());
            }
            packet.extend(payload);
            packet
        },
    )
}

/// Compound RTCP whose sender SSRC is still to be written.
fn rtcp() -> impl Strategy<Value = Vec<u8>> {
    (200u8..207, vec(any::<[u8; 4]>(), 0..64)).prop_map(|(kind, words)| {
        let mut packet = vec![0x80, kind, 0, words.len() as u8 + 1, 0, 0, 0, 0];
        packet.extend(words.as_flattened());
        packet
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Sequence numbers start in the first lap and go on by less than half a lap, as both ends can
    /// follow, until they have wrapped twice.
    #[test]
    fn rtp_is_the_same_in_both(
        profile in profiles(),
        material in material(),
        mut plain in rtp(),
        ssrc: u32,
        start: u16,
        steps in vec(1u64..32_000, 12..30),
    ) {
        let material = &material[..profile.material_len()];
        let server = Srtp::new(profile, material, Role::Server).unwrap();
        let client = Srtp::new(profile, material, Role::Client).unwrap();
        let mut sender = oracle(profile, material, Role::Server);
        let mut receiver = oracle(profile, material, Role::Server);
        plain[8..12].copy_from_slice(&ssrc.to_be_bytes());
        let mut index = u64::from(start);
        for step in steps {
            let (roc, seq) = ((index >> 16) as u32, index as u16);
            plain[2..4].copy_from_slice(&seq.to_be_bytes());
            let mut packet = plain.clone();
            packet.resize(plain.len() + profile.overhead(), 0);
            prop_assert_eq!(server.seal(&mut packet, plain.len(), roc), Some(packet.len()));
            let theirs = sender.encrypt_rtp(&plain).unwrap();
            prop_assert_eq!(&theirs[..], &packet[..], "roc {} seq {}", roc, seq);
            prop_assert_eq!(&receiver.decrypt_rtp(&packet).unwrap()[..], &plain[..]);
            let range = client.open(&mut packet, roc).unwrap();
            prop_assert_eq!(&packet[range], &plain[..]);
            index += step;
        }
    }

    /// The oracle's first index is 1, so that our 0 is left out.
    #[test]
    fn rtcp_is_the_same_in_both(
        profile in profiles(),
        material in material(),
        mut plain in rtcp(),
        ssrc: u32,
    ) {
        let material = &material[..profile.material_len()];
        let mut server = Srtp::new(profile, material, Role::Server).unwrap();
        let mut sender = oracle(profile, material, Role::Server);
        plain[4..8].copy_from_slice(&ssrc.to_be_bytes());
        let mut packet = plain.clone();
        packet.resize(plain.len() + profile.rtcp_overhead(), 0);
        prop_assert_eq!(server.seal_rtcp(&mut packet, plain.len()), Some(packet.len()));
        for _ in 0..4 {
            packet[..plain.len()].copy_from_slice(&plain);
            prop_assert_eq!(server.seal_rtcp(&mut packet, plain.len()), Some(packet.len()));
            prop_assert_eq!(&sender.encrypt_rtcp(&plain).unwrap()[..], &packet[..]);
        }
    }

    /// The oracle counts for each SSRC, we for all: each takes what the other sends, once.
    #[test]
    fn rtcp_of_many_sources_is_opened_once_by_both(
        profile in profiles(),
        material in material(),
        mut plain in rtcp(),
        ssrcs in vec(0u32..5, 1..40),
    ) {
        let material = &material[..profile.material_len()];
        let mut server = Srtp::new(profile, material, Role::Server).unwrap();
        let mut client = Srtp::new(profile, material, Role::Client).unwrap();
        let mut sender = oracle(profile, material, Role::Server);
        let mut receiver = oracle(profile, material, Role::Server);
        for ssrc in ssrcs {
            plain[4..8].copy_from_slice(&ssrc.to_be_bytes());
            let mut packet = plain.clone();
            packet.resize(plain.len() + profile.rtcp_overhead(), 0);
            prop_assert_eq!(server.seal_rtcp(&mut packet, plain.len()), Some(packet.len()));
            prop_assert_eq!(&receiver.decrypt_rtcp(&packet).unwrap()[..], &plain[..]);
            prop_assert!(receiver.decrypt_rtcp(&packet).is_err());

            let theirs = sender.encrypt_rtcp(&plain).unwrap();
            let mut packet = theirs.to_vec();
            let range = client.open_rtcp(&mut packet).unwrap();
            prop_assert_eq!(&packet[range], &plain[..]);
            let again = client.open_rtcp(&mut theirs.to_vec());
            prop_assert_eq!(again, Err(DropReason::Replayed));
        }
    }

    #[test]
    fn what_neither_sealed_opens_for_neither(
        profile in profiles(),
        material in material(),
        mut plain in rtp(),
        mut report in rtcp(),
        bit: prop::sample::Index,
    ) {
        let material = &material[..profile.material_len()];
        let mut client = Srtp::new(profile, material, Role::Client).unwrap();
        let mut sender = oracle(profile, material, Role::Server);
        plain[8..12].copy_from_slice(&[0, 0, 0, 7]);
        let mut packet = sender.encrypt_rtp(&plain).unwrap().to_vec();
        let at = bit.index(packet.len() * 8);
        packet[at / 8] ^= 1 << (at % 8);
        prop_assert!(client.open(&mut packet.clone(), 0).is_err(), "RTP bit {}", at);
        packet[at / 8] ^= 1 << (at % 8);
        prop_assert!(client.open(&mut packet, 0).is_ok());

        report[4..8].copy_from_slice(&[0, 0, 0, 7]);
        let mut packet = sender.encrypt_rtcp(&report).unwrap().to_vec();
        let at = bit.index(packet.len() * 8);
        packet[at / 8] ^= 1 << (at % 8);
        prop_assert!(client.open_rtcp(&mut packet.clone()).is_err(), "RTCP bit {}", at);
        packet[at / 8] ^= 1 << (at % 8);
        prop_assert!(client.open_rtcp(&mut packet).is_ok());
    }
}
