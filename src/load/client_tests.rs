//! A client's side of the conversation, message by message, on plain UDP and as a browser. Compiled
//! into `client`.

use super::*;
use crate::{
    crypto::{Profile as SrtpProfile, Role},
    id::{ChannelId, ServerId, UserId},
    webrtc::{Answer, Offer, credentials::RANDOM_BYTES, fingerprint::Algorithm},
};

const HELLO: &str = r#"{"op":8,"d":{"v":8,"heartbeat_interval":41250}}"#;

fn client(camera: bool, version: u8) -> Client {
    carried(Carriage::Udp(Mode::Aes256GcmRtpsize), camera, version)
}

fn browser(camera: bool) -> Client {
    let browser = Browser {
        credentials: Credentials::generate([4; RANDOM_BYTES]),
        fingerprint: Fingerprint::of(Algorithm::Sha256, b"ours"),
        ssrcs: [Ssrc(71), Ssrc(72), Ssrc(73)],
    };
    carried(Carriage::WebRtc(Box::new(browser)), camera, 8)
}

fn carried(carriage: Carriage, camera: bool, version: u8) -> Client {
    let ticket = Ticket {
        endpoint: "localhost:8443".into(),
        guild_id: ServerId(1),
        channel_id: ChannelId(2),
        user_id: UserId(10),
        session_id: "s".into(),
        token: "t".into(),
    };
    Client::new(Profile { version, video: camera, camera }, carriage, ticket)
}

fn ready(streams: &str) -> String {
    format!(
        r#"{{"op":2,"d":{{"ssrc":7,"ip":"127.0.0.1","port":50000,"streams":{streams},
        "experiments":[],"modes":["aead_aes256_gcm_rtpsize"]}},"seq":1}}"#
    )
}

fn description(mode: &str) -> String {
    let key = vec!["9"; 32].join(",");
    format!(r#"{{"op":4,"d":{{"mode":"{mode}","secret_key":[{key}]}},"seq":2}}"#)
}

fn said(client: &mut Client) -> Value {
    match client.poll_step() {
        Some(Step::Say(text)) => serde_json::from_str(&text).unwrap(),
        other => panic!("expected it to say something, got {other:?}"),
    }
}

#[test]
fn a_listener_joins_in_the_order_of_the_protocol() {
    let mut client = client(false, 8);
    assert!(client.poll_step().is_none());
    client.hear(HELLO).unwrap();
    assert_eq!(client.heartbeat_interval(), Some(Duration::from_millis(41_250)));
    let identify = said(&mut client);
    assert_eq!((&identify["op"], &identify["d"]["user_id"]), (&json!(0), &json!("10")));
    assert_eq!(identify["d"].get("channel_id"), None, "a field of version 9");
    client.hear(&ready("[]")).unwrap();
    let Some(Step::Discover { ssrc, server }) = client.poll_step() else { panic!() };
    assert_eq!((ssrc, server.port()), (Ssrc(7), 50_000));
    client.discovered("127.16.0.1:4000".parse().unwrap());
    let select = said(&mut client);
    assert_eq!(select["d"]["data"]["address"], "127.16.0.1");
    client.hear(&description("aead_aes256_gcm_rtpsize")).unwrap();
    let Some(Step::Agreed(agreed)) = client.poll_step() else { panic!() };
    let Keys::Udp(Mode::Aes256GcmRtpsize, key) = &agreed.keys else { panic!() };
    assert_eq!((key.bytes(), agreed.audio, agreed.video), (&[9; 32], Ssrc(7), None));
    assert_eq!(said(&mut client)["op"], 5);
    let beat = said(&mut client);
    assert_eq!(beat, json!({"op": 3, "d": {"t": 1, "seq_ack": 2}}));
    client.hear(r#"{"op":6,"d":{"t":1}}"#).unwrap();
    assert!(matches!(client.poll_step(), Some(Step::Speak)));
    client.hear(r#"{"op":6,"d":{"t":1}}"#).unwrap();
    assert!(client.poll_step().is_none());
}

#[test]
fn a_camera_is_announced_before_its_first_packet() {
    let mut client = client(true, 9);
    client.hear(HELLO).unwrap();
    let identify = said(&mut client);
    assert_eq!(identify["d"]["streams"][0]["rid"], "100");
    assert_eq!(identify["d"]["channel_id"], "2");
    let streams = r#"[{"type":"video","rid":"100","quality":100,"ssrc":8,"rtx_ssrc":9}]"#;
    client.hear(&ready(streams)).unwrap();
    client.poll_step();
    client.discovered("127.16.0.1:4000".parse().unwrap());
    assert_eq!(said(&mut client)["d"]["codecs"][1]["name"], "H264");
    client.hear(&description("aead_aes256_gcm_rtpsize")).unwrap();
    let Some(Step::Agreed(agreed)) = client.poll_step() else { panic!() };
    assert_eq!(agreed.video, Some(Ssrc(8)));
    assert_eq!(said(&mut client)["op"], 5);
    let video = said(&mut client);
    assert_eq!((&video["op"], &video["d"]["video_ssrc"]), (&json!(12), &json!(8)));
    assert_eq!(said(&mut client)["op"], 3);
}

/// What a server answers a browser.
fn answer() -> (String, Credentials) {
    let credentials = Credentials::generate([5; RANDOM_BYTES]);
    let fingerprint = Fingerprint::of(Algorithm::Sha256, b"theirs");
    let ip = "127.0.0.1".parse().unwrap();
    let sdp = Answer { ip, port: 50_000, fingerprint: &fingerprint, credentials: &credentials };
    (json!({"op": 4, "d": {"sdp": sdp.to_string()}, "seq": 2}).to_string(), credentials)
}

#[test]
fn a_browser_joins_by_offer_and_answer_and_says_what_it_sends_by_its_own_ssrcs() {
    let mut client = browser(true);
    client.hear(HELLO).unwrap();
    assert_eq!(said(&mut client)["d"]["video"], true);
    let streams = r#"[{"type":"video","rid":"100","quality":100,"ssrc":8,"rtx_ssrc":9}]"#;
    client.hear(&ready(streams)).unwrap();
    let select = said(&mut client);
    assert_eq!((&select["op"], &select["d"]["protocol"]), (&json!(1), &json!("webrtc")));
    let offer = Offer::parse(select["d"]["data"].as_str().unwrap()).unwrap();
    assert_eq!(offer.fingerprints, [Fingerprint::of(Algorithm::Sha256, b"ours")]);
    assert_eq!(select["d"]["codecs"][0]["payload_type"], 111);
    let (answer, credentials) = answer();
    client.hear(&answer).unwrap();
    let Some(Step::Connect(remote)) = client.poll_step() else { panic!() };
    assert_eq!(remote.credentials.ufrag(), credentials.ufrag());
    assert!(client.poll_step().is_none(), "nothing is said before there are keys");
    client.connected(srtp());
    let Some(Step::Agreed(agreed)) = client.poll_step() else { panic!() };
    assert_eq!((agreed.audio, agreed.video), (Ssrc(71), Some(Ssrc(72))));
    assert_eq!(agreed.server.port(), 50_000);
    assert_eq!(said(&mut client), json!({"op": 5, "d": {"speaking": 1, "delay": 0, "ssrc": 71}}));
    let video = said(&mut client);
    assert_eq!((&video["op"], &video["d"]["audio_ssrc"]), (&json!(12), &json!(71)));
    assert_eq!(video["d"]["streams"][0]["ssrc"], 72);
    assert_eq!(video["d"]["streams"][0]["rtx_ssrc"], 73);
    assert_eq!(said(&mut client)["op"], 3);
}

#[test]
fn a_browser_without_a_camera_says_op_12_all_the_same() {
    let mut client = browser(false);
    client.hear(HELLO).unwrap();
    client.hear(&ready("[]")).unwrap();
    client.hear(&answer().0).unwrap();
    client.connected(srtp());
    let steps: Vec<_> = std::iter::from_fn(|| client.poll_step()).collect();
    let video = json!({"audio_ssrc": 71, "video_ssrc": 0, "rtx_ssrc": 0, "streams": []});
    let op_12 = Some(json!({"op": 12, "d": video}).to_string());
    let said = steps.into_iter().filter_map(|step| match step {
        Step::Say(text) => Some(text),
        _ => None,
    });
    assert_eq!(said.rev().nth(1), op_12, "before the heartbeat");
}

fn srtp() -> Srtp {
    let profile = SrtpProfile::AeadAes128Gcm;
    Srtp::new(profile, &vec![9; profile.material_len()], Role::Client).unwrap()
}

#[test]
fn before_version_8_heartbeats_are_numbers() {
    let mut client = client(false, 4);
    client.hear(HELLO).unwrap();
    said(&mut client);
    client.handle_heartbeat_due().unwrap();
    assert_eq!(said(&mut client), json!({"op": 3, "d": 1}));
    client.hear(r#"{"op":3,"d":null}"#).unwrap();
    assert_eq!(said(&mut client), json!({"op": 3, "d": 2}), "asked for one");
}

#[test]
fn a_server_that_breaks_the_protocol_is_named_as_such() {
    for (messages, word) in [
        (&["{}"][..], "missing field `op`"),
        (&[r#"{"op":8,"d":{"heartbeat_interval":0}}"#], "interval of 0"),
        (&[r#"{"op":8,"d":{"heartbeat_interval":-1e300}}"#], "interval"),
        (&[HELLO, r#"{"op":2,"d":{"ssrc":7}}"#], "missing field `ip`"),
        (&[r#"{"op":4,"d":{"mode":"aead_aes256_gcm_rtpsize","secret_key":[1]}}"#], "length"),
        (&[description("aead_aes256_gcm_rtpsize").as_str()], "before Ready"),
        (&[ready("[]").as_str(), description("plain").as_str()], "the mode is plain"),
    ] {
        let mut client = client(false, 8);
        let fault = messages.iter().find_map(|text| client.hear(text).err()).unwrap();
        assert!(fault.to_string().contains(word), "{fault}");
    }
    let mut client = client(true, 8);
    assert!(client.hear(&ready("[]")).is_err(), "no SSRC for the camera");
    let fault = browser(false).hear(r#"{"op":4,"d":{"sdp":"c=IN IP4 1.2.3.4"}}"#).unwrap_err();
    assert!(fault.to_string().contains("lacks a=ice-ufrag:"), "{fault}");
}

#[test]
fn a_mode_that_is_not_offered_and_silence_are_faults() {
    let mut client = client(false, 8);
    client.carriage = Carriage::Udp(Mode::XChaCha20Poly1305Rtpsize);
    let fault = client.hear(&ready("[]")).unwrap_err();
    assert_eq!(fault, Fault::ModeNotOffered("aead_xchacha20_poly1305_rtpsize"));
    for _ in 0..UNANSWERED_MAX {
        client.handle_heartbeat_due().unwrap();
    }
    assert_eq!(client.handle_heartbeat_due(), Err(Fault::Unresponsive));
    client.hear(r#"{"op":6,"d":{"t":3}}"#).unwrap();
    client.handle_heartbeat_due().unwrap();
}
