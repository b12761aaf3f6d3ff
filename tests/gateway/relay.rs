//! What members are told of each other, and in which order (protocol.md §1.4–1.5).

use serde_json::json;

use crate::{
    CHANNEL,
    support::{
        cipher::Mode,
        client::Client,
        gateway::{Door, Gateway, Message},
        server::Server,
    },
};

fn ops(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.op).filter(|op| !matches!(op, 18 | 20)).collect()
}

#[test]
fn a_newcomer_learns_who_is_there_after_ready_and_before_anything_else() {
    let server = Server::start();
    let mut a = Client::join(&server, CHANNEL, 10);
    let mut b = Client::join(&server, CHANNEL, 11);
    let _silent = Client::join(&server, CHANNEL, 12);
    a.speaking(0);
    b.speaking(1);

    let grant = server.grant(CHANNEL, 13);
    let mut newcomer = Gateway::open(&server, Door::plain(8));
    newcomer.identify(&grant);
    let news = newcomer.drain();
    assert_eq!(ops(&news)[..3], [8, 2, 11], "{news:?}");
    let present = news.iter().find(|message| message.op == 11).unwrap();
    let mut users: Vec<&str> = present.d["user_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user.as_str().unwrap())
        .collect();
    users.sort_unstable();
    assert_eq!(users, ["10", "11", "12"], "everyone but the newcomer");

    let mut speaking: Vec<_> = news.iter().filter(|message| message.op == 5).collect();
    speaking.sort_by_key(|message| message.d["user_id"].to_string());
    assert_eq!(speaking.len(), 2, "one per known SSRC: {news:?}");
    for (message, (client, flags)) in speaking.iter().zip([(&a, 0), (&b, 1)]) {
        assert_eq!(message.d["user_id"], client.grant.user.to_string());
        assert_eq!(message.d["ssrc"], client.media.ssrc);
        assert_eq!(message.d["speaking"], flags);
        assert!(message.d.get("delay").is_none());
    }
}

#[test]
fn the_others_learn_of_a_newcomer_at_ready_and_of_its_ssrc_when_it_speaks() {
    let server = Server::start();
    let mut present = Client::join(&server, CHANNEL, 10);
    let grant = server.grant(CHANNEL, 11);
    let mut gateway = Gateway::open(&server, Door::plain(8));
    gateway.identify(&grant);
    let connect = present.gateway.expect(11);
    assert_eq!(connect.d["user_ids"], json!(["11"]), "before it has selected a protocol");

    let mut newcomer = Client::negotiate(gateway, &grant, Mode::AesRtpsize);
    assert!(present.gateway.drain().iter().all(|message| message.op != 5), "not speaking yet");
    newcomer.speaking(0);
    let speaking = present.gateway.expect(5);
    assert_eq!(speaking.d, json!({ "speaking": 0, "ssrc": newcomer.media.ssrc, "user_id": "11" }));
}

#[test]
fn nobody_is_told_of_himself() {
    let server = Server::start();
    let mut a = Client::join(&server, CHANNEL, 10);
    let mut b = Client::join(&server, CHANNEL, 11);
    let _ = a.gateway.expect(11);
    b.speaking(1);
    let own = b.gateway.drain();
    assert!(own.iter().all(|message| message.op != 5), "{own:?}");
    let connects = own.iter().filter(|message| message.op == 11);
    assert!(connects.into_iter().all(|message| message.d["user_ids"] == json!(["10"])), "{own:?}");
}

#[test]
fn speaking_is_relayed_in_order_and_each_in_the_version_s_own_form() {
    let server = Server::start();
    let mut speaker = Client::join(&server, CHANNEL, 10);
    let mut modern = Client::join_by(&server, CHANNEL, 11, Door::plain(9));
    let mut four = Client::join_by(&server, CHANNEL, 12, Door::plain(4));
    let mut legacy = Client::join_by(&server, CHANNEL, 13, Door::unversioned(false));
    let mut three = Client::join_by(&server, CHANNEL, 14, Door::plain(3));
    for flags in [0, 1, 0, 2, 1, 0] {
        speaker.speaking(flags);
    }
    for hearer in [&mut modern, &mut four] {
        let flags = [(); 6].map(|()| hearer.gateway.expect(5).d["speaking"].as_u64().unwrap());
        assert_eq!(flags, [0, 1, 0, 2, 1, 0]);
    }
    for hearer in [&mut legacy, &mut three] {
        let speaking: Vec<_> =
            hearer.gateway.drain().into_iter().filter(|message| message.op == 5).collect();
        assert!(speaking.iter().all(|message| message.d["speaking"].is_boolean()), "{speaking:?}");
        assert_eq!(speaking.last().unwrap().d["speaking"], false);
        assert!(speaking.iter().any(|message| message.d["speaking"] == true));
        assert!(speaking.iter().all(|message| message.seq.is_none()));
    }
}

#[test]
fn a_boolean_and_a_missing_ssrc_are_good_enough_at_any_version() {
    let server = Server::start();
    let mut hearer = Client::join(&server, CHANNEL, 10);
    for (user, door) in [(11, Door::unversioned(true)), (12, Door::plain(8)), (13, Door::plain(4))]
    {
        let mut speaker = Client::join_by(&server, CHANNEL, user, door);
        speaker.gateway.send(5, json!({ "speaking": true, "delay": 0 }));
        let speaking = hearer.gateway.expect(5);
        let expected =
            json!({ "speaking": 1, "ssrc": speaker.media.ssrc, "user_id": user.to_string() });
        assert_eq!(speaking.d, expected);
        speaker.gateway.send(
            5,
            json!({ "speaking": 0, "delay": 0, "ssrc": speaker.media.ssrc, "user_id": null }),
        );
        assert_eq!(hearer.gateway.expect(5).d["speaking"], 0);
    }
}

#[test]
fn priority_is_relayed_only_with_permission() {
    let server = Server::start();
    let mut hearer = Client::join(&server, CHANNEL, 10);
    for (user, allowed, relayed) in [(11, true, 5), (12, false, 1)] {
        let permissions = json!({ "permissions": { "connect": true, "speak": true, "video": true,
                                                   "stream": true, "priority_speaker": allowed } });
        let grant = server.grant_with(CHANNEL, user, permissions);
        let mut speaker =
            Client::enter(&server, &grant, Door::plain(8), Mode::AesRtpsize, json!({}));
        speaker.speaking(5);
        assert_eq!(hearer.gateway.expect(5).d["speaking"], relayed, "user {user}");
    }
}

#[test]
fn a_goodbye_is_told_at_once_and_a_lost_connection_only_when_the_window_is_over() {
    let server = Server::with(&[("RESUME_WINDOW", "2s")]);
    let mut stays = Client::join(&server, CHANNEL, 10);
    for (user, code) in [(11, 1000), (12, 1001), (13, 4014)] {
        let leaves = Client::join(&server, CHANNEL, user);
        leaves.gateway.leave(code);
        assert_eq!(stays.gateway.expect(13).d, json!({ "user_id": user.to_string() }), "{code}");
    }
    let lost = Client::join(&server, CHANNEL, 14);
    let _ = stays.gateway.drain();
    lost.gateway.cut();
    // A full round trip later the loss is known, and still no reason to speak of it.
    let mut witness = Client::join(&server, CHANNEL, 15);
    assert!(stays.gateway.drain().iter().all(|message| message.op != 13));
    let present = witness.gateway.expect(11);
    assert!(present.d["user_ids"].as_array().unwrap().contains(&json!("14")), "still a member");
    assert_eq!(stays.gateway.expect(13).d, json!({ "user_id": "14" }));
}

#[test]
fn other_channels_hear_nothing_of_it() {
    let server = Server::start();
    let mut elsewhere = Client::join(&server, CHANNEL + 1, 10);
    let mut a = Client::join(&server, CHANNEL, 11);
    let mut b = Client::join(&server, CHANNEL, 12);
    a.start_speaking();
    a.media.speak(b"private");
    assert_eq!(b.media.hear().payload, b"private");
    b.gateway.leave(1000);
    let _ = a.gateway.expect(13);
    let news = elsewhere.gateway.drain();
    assert!(ops(&news).iter().all(|op| matches!(op, 8 | 11)), "{news:?}");
    let mut friend = Client::join(&server, CHANNEL + 1, 13);
    assert!(crate::heard_before(&mut elsewhere, &mut friend).is_empty());
}
