//! Any text as an offer: it is one or says why not, and what was read out of one reads the same
//! again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::{
    limits::{FINGERPRINTS_MAX, OFFER_BYTES_MAX},
    webrtc::{Answer, Extension, Offer, OfferError},
};

fuzz_target!(|text: &str| {
    let offer = match Offer::parse(text) {
        Ok(offer) => offer,
        Err(error) => {
            assert_eq!(error == OfferError::TooLong, text.len() > OFFER_BYTES_MAX);
            return;
        }
    };
    assert!((1..=FINGERPRINTS_MAX).contains(&offer.fingerprints.len()));
    let mut numbers = 0;
    for extension in Extension::all() {
        let Some(id) = offer.extensions.id(extension) else { continue };
        assert!((1..=14).contains(&id) || offer.mixed && id > 15, "{extension:?} is {id}");
        assert_eq!(offer.extensions.extension(id), Some(extension));
        numbers += 1;
    }
    let meant = (0..=255).filter_map(|id| offer.extensions.extension(id)).count();
    assert!(numbers <= meant && meant <= Extension::all().count());
    let printed = format!("{offer:?}");
    let pwd = offer.credentials.pwd();
    assert!(!printed.contains(pwd) || offer.credentials.ufrag().contains(pwd));

    let answer = Answer {
        ip: [203, 0, 113, 10].into(),
        port: 50_000,
        fingerprint: &offer.fingerprints[0],
        credentials: &offer.credentials,
    };
    let again = Offer::parse(&answer.to_string()).expect("an answer has all that an offer needs");
    assert_eq!(again.credentials.ufrag(), offer.credentials.ufrag());
    assert_eq!(again.credentials.pwd(), offer.credentials.pwd());
    assert_eq!(again.fingerprints, offer.fingerprints[..1]);
});
