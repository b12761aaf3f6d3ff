//! Tests of offers, as clients make them and as they must not be, and of the answer.

use proptest::prelude::*;

use super::*;
use crate::{
    limits::FINGERPRINTS_MAX,
    rtp::vectors::load,
    webrtc::{credentials::RANDOM_BYTES, fingerprint::Algorithm},
};

const SHA_256: &str = "sha-256 71:20:4C:BE:C2:D0:B7:9B:73:5B:4B:29:7C:32:41:25:\
                       D8:D2:BC:66:74:D3:93:98:B3:0D:01:F7:67:19:01:13";

/// The shortest offer, and what is added to it.
fn offer(more: &str) -> Result<Offer, OfferError> {
    Offer::parse(&format!(
        "{more}\na=ice-ufrag:9WZo\na=ice-pwd:vcfFowC3gQI1KHu0Fm5ZTXum\na=fingerprint:{SHA_256}"
    ))
}

#[test]
fn every_clients_offer_is_read() {
    let offers = load("offers.json");
    for vector in offers.as_array().unwrap() {
        let client = vector["client"].as_str().unwrap();
        let offer = Offer::parse(vector["sdp"].as_str().unwrap()).expect(client);
        assert_eq!(offer.credentials.ufrag(), vector["ufrag"], "{client}");
        assert_eq!(offer.credentials.pwd(), vector["pwd"], "{client}");
        let fingerprints: Vec<_> = offer.fingerprints.iter().map(|it| it.to_string()).collect();
        assert_eq!(serde_json::json!(fingerprints), vector["fingerprints"], "{client}");
        let extensions: serde_json::Map<_, _> = Extension::all()
            .filter_map(|it| Some((format!("{it:?}"), offer.extensions.id(it)?.into())))
            .collect();
        assert_eq!(serde_json::Value::from(extensions), vector["extensions"], "{client}");
        assert_eq!(offer.mixed, vector["mixed"], "{client}");
        assert_eq!(offer.full, vector["full"], "{client}");
    }
    assert_eq!(offers.as_array().unwrap().len(), 7);
}

#[test]
fn the_fragments_among_the_payloads_of_clients_are_read() {
    let mut read = 0;
    for (client, payloads) in load("client_payloads.json").as_object().unwrap() {
        for message in payloads["msgs"].as_array().unwrap() {
            if message["d"]["protocol"] != "webrtc" {
                continue;
            }
            let offer = Offer::parse(message["d"]["data"].as_str().unwrap()).expect(client);
            assert_eq!(offer.credentials.ufrag(), "9WZo");
            assert_eq!(offer.fingerprints, [SHA_256.parse().unwrap()]);
            assert_eq!(offer.extensions.id(Extension::TransportCc), Some(3));
            assert!(offer.mixed && !offer.full);
            read += 1;
        }
    }
    assert_eq!(read, 2, "Fermi and the official web client");
}

#[test]
fn an_offer_says_what_it_lacks() {
    let without = |line: &str| {
        let text = format!(
            "a=ice-ufrag:9WZo\na=ice-pwd:vcfFowC3gQI1KHu0Fm5ZTXum\na=fingerprint:{SHA_256}"
        );
        let lines: Vec<_> = text.lines().filter(|it| !it.starts_with(line)).collect();
        Offer::parse(&lines.join("\n")).map(|_| ())
    };
    assert_eq!(without("nothing"), Ok(()));
    assert_eq!(without("a=ice-ufrag"), Err(OfferError::Ufrag));
    assert_eq!(without("a=ice-pwd"), Err(OfferError::Pwd));
    assert_eq!(without("a=fingerprint"), Err(OfferError::Fingerprint));
    assert_eq!(Offer::parse("").map(|_| ()), Err(OfferError::Ufrag));
    let refused = |more: &str| offer(more).map(|_| ()).unwrap_err();
    assert_eq!(refused("a=ice-ufrag:abc"), OfferError::Ufrag, "the first counts");
    assert_eq!(refused("a=ice-pwd:short"), OfferError::Pwd);
    assert_eq!(refused("a=setup:passive"), OfferError::Passive);
    for setup in ["actpass", "active"] {
        assert!(offer(&format!("a=setup:{setup}\na=setup:passive")).is_ok());
    }
    for error in [OfferError::Ufrag, OfferError::Pwd, OfferError::Fingerprint] {
        assert!(error.to_string().contains("a="), "{error}");
    }
}

#[test]
fn an_offer_of_200_kib_is_refused_and_one_of_the_limit_is_not() {
    let long = |len: usize| {
        let start = format!("a=fingerprint:{SHA_256}\na=ice-ufrag:9WZo\n");
        let end = "\na=ice-pwd:vcfFowC3gQI1KHu0Fm5ZTXum";
        format!("{start}{}{end}", "x".repeat(len - start.len() - end.len()))
    };
    assert!(Offer::parse(&long(OFFER_BYTES_MAX)).is_ok());
    let refused = |len| Offer::parse(&long(len)).map(|_| ());
    assert_eq!(refused(OFFER_BYTES_MAX + 1), Err(OfferError::TooLong));
    assert_eq!(refused(200 * 1_024), Err(OfferError::TooLong));
}

#[test]
fn the_first_value_wins() {
    let again = offer("a=ice-ufrag:first\na=ice-pwd:0123456789012345678901").unwrap();
    assert_eq!(again.credentials.ufrag(), "first");
    assert_eq!(again.credentials.pwd(), "0123456789012345678901");
}

#[test]
fn fingerprints_by_unknown_functions_are_passed_over_and_others_taken_once() {
    let sha_1 = "a=fingerprint:sha-1 A9:99:3E:36:47:06:81:6A:BA:3E:25:71:78:50:C2:6C:9C:D0:D8:9D";
    let offer =
        offer(&format!("{sha_1}\na=fingerprint:{SHA_256}\na=fingerprint:sha-256 00")).unwrap();
    assert_eq!(offer.fingerprints, [SHA_256.parse().unwrap()]);
    let sha_1 = sha_1.trim_start_matches("a=fingerprint:");
    assert_eq!(
        Offer::parse(&format!(
            "a=ice-ufrag:9WZo\na=ice-pwd:vcfFowC3gQI1KHu0Fm5ZTXum\na=fingerprint:{sha_1}"
        ))
        .map(|_| ()),
        Err(OfferError::Fingerprint)
    );
}

#[test]
fn so_many_fingerprints_are_taken_and_no_more() {
    let many: String = (0..100u8)
        .map(|n| format!("a=fingerprint:{}\n", Fingerprint::of(Algorithm::Sha512, &[n])))
        .collect();
    assert_eq!(offer(&many).unwrap().fingerprints.len(), FINGERPRINTS_MAX);
}

#[test]
fn numbers_of_extensions_are_those_a_packet_can_have() {
    let id = |line: &str| offer(line).unwrap().extensions.id(Extension::Mid);
    let mid = Extension::Mid.uri();
    assert_eq!(id(&format!("a=extmap:14 {mid}")), Some(14));
    assert_eq!(id(&format!("a=extmap:14 {mid} some attributes")), Some(14));
    for wrong in ["0", "15", "256", "4096", "-1", "", "x", "1x"] {
        assert_eq!(id(&format!("a=extmap-allow-mixed\na=extmap:{wrong} {mid}")), None, "{wrong}");
    }
    assert_eq!(id(&format!("a=extmap:16 {mid}")), None, "only the two-byte form has it");
    assert_eq!(id(&format!("a=extmap:16 {mid}\na=extmap-allow-mixed")), Some(16));
    assert_eq!(id(&format!("a=extmap:255 {mid}\na=extmap-allow-mixed")), Some(255));
    assert_eq!(id(&format!("a=extmap:3 {mid}\na=extmap:4 {mid}")), Some(3));
    let taken = format!("a=extmap:3 {}\na=extmap:3 {mid}", Extension::Rid.uri());
    assert_eq!(id(&taken), None);
    assert_eq!(id("a=extmap:3"), None);
}

#[test]
fn directions_are_the_clients() {
    let map = |direction: &str| {
        let line = format!("a=extmap:6/{direction} {}", Extension::PlayoutDelay.uri());
        let map = offer(&line).unwrap().extensions;
        (map.id(Extension::PlayoutDelay), map.extension(6))
    };
    let known = Some(Extension::PlayoutDelay);
    assert_eq!(map("recvonly"), (Some(6), known));
    assert_eq!(map("sendrecv"), (Some(6), known));
    assert_eq!(map("sendonly"), (None, known), "it does not want it");
    assert_eq!(map("inactive"), (None, None));
}

#[test]
fn the_answer_is_the_real_services_to_the_byte() {
    let fingerprint = SHA_256.parse().unwrap();
    let credentials = Credentials::parse("BG+c", "7dKOmilzu2oeZh+L9FOc0/").unwrap();
    let ip = "203.0.113.10".parse().unwrap();
    let answer = Answer { ip, port: 50_000, fingerprint: &fingerprint, credentials: &credentials };
    let expected = format!(
        "m=audio 50000 ICE/SDP\n\
         a=fingerprint:{SHA_256}\n\
         c=IN IP4 203.0.113.10\n\
         a=rtcp:50000\n\
         a=ice-ufrag:BG+c\n\
         a=ice-pwd:7dKOmilzu2oeZh+L9FOc0/\n\
         a=fingerprint:{SHA_256}\n\
         a=candidate:1 1 UDP 4261412862 203.0.113.10 50000 typ host\n"
    );
    assert_eq!(answer.to_string(), expected);

    let ip = "2001:db8::10".parse().unwrap();
    let text = Answer { ip, ..answer }.to_string();
    assert!(text.contains("\nc=IN IP6 2001:db8::10\n"), "{text}");
    assert!(text.ends_with(" UDP 4261412862 2001:db8::10 50000 typ host\n"), "{text}");
    assert!(!format!("{answer:?}").contains(credentials.pwd()));
}

#[test]
fn an_answer_has_nothing_that_clients_templates_stumble_over() {
    let fingerprint = SHA_256.parse().unwrap();
    for seed in 0..=255 {
        let credentials = Credentials::generate([seed; RANDOM_BYTES]);
        let ip = "203.0.113.10".parse().unwrap();
        let answer = Answer { ip, port: 1, fingerprint: &fingerprint, credentials: &credentials };
        let text = answer.to_string();
        // Fermi splits each line at `=` and takes the second part; others take lines by prefix.
        assert!(text.lines().all(|line| line.matches('=').count() == 1), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("a=rtcp")).count(), 1);
        let read = Offer::parse(&text).unwrap();
        assert_eq!(read.credentials.ufrag(), credentials.ufrag());
        assert_eq!(read.credentials.pwd(), credentials.pwd());
        assert_eq!(read.fingerprints, [fingerprint]);
    }
}

proptest! {
    #[test]
    fn any_text_is_an_offer_or_says_why_not(text in any::<String>()) {
        let _ = Offer::parse(&text);
    }

    #[test]
    fn any_lines_in_any_order_are_an_offer_or_say_why_not(
        lines in proptest::collection::vec(
            "(a=|m=|)(ice-ufrag|ice-pwd|fingerprint|extmap|setup|extmap-allow-mixed)(:|)[ -~é]{0,60}(\r|)",
            0..40,
        )
    ) {
        if let Ok(offer) = Offer::parse(&lines.join("\n")) {
            prop_assert!(!offer.fingerprints.is_empty());
        }
    }
}
