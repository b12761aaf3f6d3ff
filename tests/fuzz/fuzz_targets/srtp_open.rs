//! Any datagram as RTP and as RTCP under any profile: `profile u8 ‖ roc u32 ‖ material ‖ datagram`.
//! RTP that opens must seal again to itself, RTCP must open once, and what we seal must open at the
//! other end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::{
    crypto::{Profile, Role, Srtp},
    metrics::DropReason,
};

fuzz_target!(|input: &[u8]| {
    let Some((&[profile, ref roc @ ..], input)) = input.split_first_chunk::<5>() else { return };
    let profile = Profile::PREFERRED[usize::from(profile) % Profile::PREFERRED.len()];
    let roc = u32::from_be_bytes(*roc);
    let Some((material, datagram)) = input.split_at_checked(profile.material_len()) else { return };
    let end = |role| Srtp::new(profile, material, role).expect("material of the right length");
    let (mut server, mut client) = (end(Role::Server), end(Role::Client));

    let mut opened = datagram.to_vec();
    if let Ok(range) = client.open(&mut opened, roc) {
        let plain = &opened[range];
        assert_eq!(plain.len() + profile.overhead(), datagram.len());
        let mut sealed = vec![0; datagram.len()];
        sealed[..plain.len()].copy_from_slice(plain);
        assert_eq!(server.seal(&mut sealed, plain.len(), roc), Some(datagram.len()));
        assert_eq!(sealed, datagram);
    }

    let mut opened = datagram.to_vec();
    if let Ok(range) = client.open_rtcp(&mut opened) {
        assert_eq!(range.len() + profile.rtcp_overhead(), datagram.len());
        assert_eq!(client.open_rtcp(&mut datagram.to_vec()), Err(DropReason::Replayed));
    }

    let mut sealed = datagram.to_vec();
    sealed.resize(datagram.len() + profile.overhead(), 0);
    if let Some(length) = server.seal(&mut sealed, datagram.len(), roc) {
        assert_eq!(length, sealed.len());
        let range = client.open(&mut sealed, roc).expect("what we seal opens");
        assert_eq!(&sealed[range], datagram);
    }

    // A client that has seen nothing, since the datagram may have been index 0.
    let mut client = end(Role::Client);
    let mut sealed = datagram.to_vec();
    sealed.resize(datagram.len() + profile.rtcp_overhead(), 0);
    if let Some(length) = server.seal_rtcp(&mut sealed, datagram.len()) {
        assert_eq!(length, sealed.len());
        let range = client.open_rtcp(&mut sealed).expect("what we seal opens");
        assert_eq!(&sealed[range], datagram);
    }
});
