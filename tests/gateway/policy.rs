//! The backend's hand on live sessions (protocol.md §6.3): kick, move, mute, deafen, suppress.

use serde_json::{Value, json};

use crate::{
    CHANNEL, heard_before,
    support::{
        cipher::Mode,
        client::Client,
        gateway::Door,
        media::SILENCE,
        server::{GUILD, Server},
        wait_until,
    },
};

/// Speaker, hearer and a third whose words prove that nothing else was coming.
fn three(server: &Server) -> [Client; 3] {
    let mut clients = [10, 11, 12].map(|user| Client::join(server, CHANNEL, user));
    clients.iter_mut().for_each(Client::start_speaking);
    clients
}

/// Speaks until the server counts a drop for this reason, then lets the hearer catch up.
fn until_dropped(server: &Server, reason: &str, speaker: &mut Client) {
    wait_until(reason, || {
        speaker.media.speak(b"on the way out");
        server.metrics().drops(reason) > 0.0
    });
}

#[test]
fn who_is_kicked_is_closed_4014_and_heard_no_more() {
    let server = Server::start();
    let [mut kicked, mut hearer, mut third] = three(&server);
    let _ = hearer.gateway.drain();
    let (status, _) = server.api("DELETE", &format!("/v1/grants/{GUILD}/10"), None);
    assert_eq!(status, 204);
    assert_eq!(kicked.gateway.closed(), 4014);
    assert_eq!(hearer.gateway.expect(13).d, json!({ "user_id": "10" }));
    kicked.media.speak(b"a ghost");
    assert!(heard_before(&mut hearer, &mut third).is_empty());

    let mut again = crate::support::gateway::Gateway::open(&server, Door::plain(8));
    again.identify(&kicked.grant);
    assert!(matches!(again.closed(), 4004 | 4011), "the grant is gone");
}

#[test]
fn the_backend_may_name_the_close_code() {
    let server = Server::start();
    let mut client = Client::join(&server, CHANNEL, 10);
    let (status, _) = server.api("DELETE", &format!("/v1/grants/{GUILD}/10?close=4022"), None);
    assert_eq!(status, 204);
    assert_eq!(client.gateway.closed(), 4022);
}

#[test]
fn who_is_moved_is_closed_4014_when_it_arrives_and_speaks_there_only() {
    let server = Server::start();
    let [mut moved, mut old_hearer, mut third] = three(&server);
    let mut new_hearer = Client::join(&server, CHANNEL + 1, 20);
    let grant = server.grant(CHANNEL + 1, 10);
    let mut arrived = Client::enter(&server, &grant, Door::plain(8), Mode::AesRtpsize, json!({}));
    assert_eq!(moved.gateway.closed(), 4014);
    assert_eq!(old_hearer.gateway.expect(13).d["user_id"], "10");
    assert_eq!(new_hearer.gateway.expect(11).d["user_ids"], json!(["10"]));
    arrived.start_speaking();
    arrived.media.speak(b"hello there");
    assert_eq!(new_hearer.media.hear().payload, b"hello there");
    moved.media.speak(b"from the old session");
    assert!(heard_before(&mut old_hearer, &mut third).is_empty());
}

#[test]
fn who_is_moved_and_never_arrives_is_closed_4014_all_the_same() {
    let server = Server::start();
    let mut moved = Client::join(&server, CHANNEL, 10);
    let _ = server.grant(CHANNEL + 1, 10);
    assert_eq!(moved.gateway.closed(), 4014);
}

#[test]
fn mute_suppress_and_no_permission_silence_a_speaker_and_their_end_lets_it_go_on() {
    let silences: [(Value, Value); 3] = [
        (json!({ "state": { "mute": true } }), json!({ "state": { "mute": false } })),
        (json!({ "state": { "suppress": true } }), json!({ "state": { "suppress": false } })),
        (json!({ "permissions": { "speak": false } }), json!({ "permissions": { "speak": true } })),
    ];
    for (on, off) in silences {
        let server = Server::start();
        let [mut speaker, mut hearer, mut third] = three(&server);
        let first = speaker.media.speak(b"before");
        let mut last = hearer.media.hear();
        assert_eq!(last.payload, first.payload);

        server.patch(10, on.clone());
        until_dropped(&server, "muted", &mut speaker);
        // Until the change took effect words were let through, and a burst of silence may follow;
        // all of it without a gap.
        third.media.speak(b"caught up");
        loop {
            let heard = hearer.media.hear();
            if heard.ssrc == third.media.ssrc {
                break;
            }
            assert!(heard.payload == b"on the way out" || heard.payload == SILENCE, "{heard:?}");
            assert_eq!(heard.sequence, last.sequence.wrapping_add(1), "{on}");
            last = heard;
        }
        for _ in 0..20 {
            speaker.media.speak(b"silenced");
        }
        assert!(heard_before(&mut hearer, &mut third).is_empty(), "{on}");

        server.patch(10, off);
        let after = loop {
            speaker.media.speak(b"after");
            if let Some(heard) = hearer.media.try_hear(std::time::Duration::from_millis(50)) {
                break heard;
            }
        };
        assert_eq!((after.ssrc, &after.payload[..]), (speaker.media.ssrc, &b"after"[..]));
        assert_eq!(after.sequence, last.sequence.wrapping_add(1), "no gap for the hearer: {on}");
    }
}

#[test]
fn the_deafened_hear_nothing_and_are_still_heard() {
    let server = Server::start();
    let [mut speaker, mut deaf, mut third] = three(&server);
    server.patch(11, json!({ "state": { "deaf": true } }));
    until_dropped(&server, "deafened", &mut speaker);
    while deaf.media.try_hear(std::time::Duration::from_millis(50)).is_some() {}
    for _ in 0..20 {
        speaker.media.speak(b"not for you");
    }
    deaf.media.speak(b"I can talk");
    let words: Vec<_> = std::iter::from_fn(|| Some(third.media.hear()))
        .find(|heard| heard.payload == b"I can talk")
        .into_iter()
        .collect();
    assert_eq!(words[0].ssrc, deaf.media.ssrc);

    server.patch(11, json!({ "state": { "deaf": false } }));
    let heard = loop {
        speaker.media.speak(b"again for you");
        if let Some(heard) = deaf.media.try_hear(std::time::Duration::from_millis(50)) {
            break heard;
        }
    };
    assert_eq!(heard.payload, b"again for you", "nothing of what was said meanwhile");
}

#[test]
fn a_grant_may_start_muted() {
    let server = Server::start();
    let grant = server.grant_with(CHANNEL, 10, json!({ "state": { "mute": true } }));
    let mut muted = Client::enter(&server, &grant, Door::plain(8), Mode::AesRtpsize, json!({}));
    let mut hearer = Client::join(&server, CHANNEL, 11);
    let mut third = Client::join(&server, CHANNEL, 12);
    muted.start_speaking();
    third.start_speaking();
    muted.media.speak(b"silenced from the start");
    let heard = heard_before(&mut hearer, &mut third);
    assert!(heard.iter().all(|payload| *payload == SILENCE), "{heard:?}");
    assert_eq!(server.metrics().drops("muted"), 1.0);
}

#[test]
fn the_room_report_tells_who_is_there_and_how() {
    let server = Server::start();
    let mut client = Client::join_by(&server, CHANNEL, 10, Door::tls(8));
    client.start_speaking();
    client.media.speak(b"up");
    let (status, room) = server.api("GET", &format!("/v1/rooms/{CHANNEL}"), None);
    assert_eq!((status, &room["room_id"]), (200, &json!(CHANNEL.to_string())));
    let session = &room["sessions"][0];
    assert_eq!(session["user_id"], "10");
    assert_eq!(session["audio_ssrc"], client.media.ssrc);
    assert_eq!(session["mode"], "aead_aes256_gcm_rtpsize");
    assert_eq!((&session["transport"], &session["gateway_version"]), (&json!("udp"), &json!(8)));
    assert_eq!(server.api("GET", "/v1/rooms/1", None).0, 404);
}
