//! A WebSocket that comes back (protocol.md §1.7): what it is told, in which order, under which
//! numbers; and what happened to the media meanwhile.

use serde_json::json;

use crate::{
    CHANNEL,
    support::{
        cipher::Mode,
        client::Client,
        gateway::{Door, Gateway, Message},
        server::{Grant, Server},
    },
};

/// Knocks again with op 7; the messages up to now, Hello taken off.
fn resume(
    server: &Server,
    grant: &Grant,
    door: Door,
    seq_ack: Option<i64>,
) -> (Gateway, Vec<Message>) {
    let mut gateway = Gateway::open(server, door);
    gateway.resume(grant, seq_ack);
    assert_eq!(gateway.next().op, 8);
    let news = gateway.drain();
    (gateway, news)
}

/// The code with which a resume is refused.
fn refused(server: &Server, grant: &Grant, door: Door, seq_ack: Option<i64>) -> u16 {
    let mut gateway = Gateway::open(server, door);
    gateway.resume(grant, seq_ack);
    gateway.closed()
}

/// Numbered messages other than a repeated Session Description, which some libraries wait for.
fn replayed(news: &[Message]) -> Vec<&Message> {
    news.iter().filter(|message| !matches!(message.op, 4 | 9)).collect()
}

#[test]
fn what_was_missed_is_replayed_after_resumed_under_its_own_numbers() {
    let server = Server::start();
    for (user, door) in [(10, Door::plain(8)), (20, Door::tls(9))] {
        let mut away = Client::join_by(&server, CHANNEL, user, door);
        let mut other = Client::join(&server, CHANNEL, user + 1);
        let before = away.gateway.drain();
        let last =
            before.iter().filter_map(|message| message.seq).max().expect("numbered messages");
        away.gateway.cut();
        for flags in [1, 0, 2] {
            other.speaking(flags);
        }
        let ack = i64::try_from(last).unwrap();
        let (mut back, news) = resume(&server, &away.grant, door, Some(ack));
        assert_eq!((news[0].op, news[0].seq, &news[0].d), (9, None, &json!(null)), "{news:?}");
        let missed = replayed(&news);
        assert_eq!(
            missed.iter().map(|message| message.seq).collect::<Vec<_>>(),
            [Some(last + 1), Some(last + 2), Some(last + 3)],
            "{news:?}"
        );
        let flags: Vec<_> =
            missed.iter().map(|message| (message.op, message.d["speaking"].as_u64())).collect();
        assert_eq!(flags, [(5, Some(1)), (5, Some(0)), (5, Some(2))]);

        other.speaking(1);
        let live = back.expect(5);
        assert!(live.seq.expect("a number") > last + 3, "numbers go on: {live:?}");
        other.gateway.leave(1000);
        back.leave(1000);
    }
}

#[test]
fn without_an_acknowledgement_everything_is_replayed_from_ready_on() {
    let server = Server::start();
    for (user, ack) in [(10, Some(-1)), (11, None)] {
        let away = Client::join(&server, CHANNEL, user);
        away.gateway.cut();
        let (back, news) = resume(&server, &away.grant, Door::plain(8), ack);
        assert_eq!(news[0].op, 9);
        assert_eq!((news[1].op, news[1].seq), (2, Some(1)), "{news:?}");
        assert_eq!(news[1].d, away.ready.d);
        let numbers: Vec<u64> = news.iter().filter_map(|message| message.seq).collect();
        assert!(numbers.is_sorted_by(|a, b| b == &(a + 1)), "{numbers:?}");
        back.leave(1000);
    }
}

#[test]
fn what_was_acknowledged_before_cannot_be_resumed_from() {
    let server = Server::start();
    let mut other = Client::join(&server, CHANNEL, 11);
    let mut away = Client::join(&server, CHANNEL, 10);
    other.speaking(1);
    let last = away.gateway.expect(5).seq.expect("a number");
    away.gateway.send(3, json!({ "t": 1, "seq_ack": last }));
    let _ = away.gateway.expect(6);
    away.gateway.cut();
    for ack in [1, 2, 40_000, 70_000] {
        assert_eq!(refused(&server, &away.grant, Door::plain(8), Some(ack)), 4006, "{ack}");
    }
    let (_, news) =
        resume(&server, &away.grant, Door::plain(8), Some(i64::try_from(last).unwrap()));
    assert_eq!(news[0].op, 9, "the failed attempts have not cost it its session");
}

#[test]
fn a_buffer_that_overran_cannot_be_resumed_from() {
    let server = Server::start();
    let mut others: Vec<Client> =
        (0..11).map(|n| Client::join(&server, CHANNEL, 100 + n)).collect();
    let mut away = Client::join(&server, CHANNEL, 10);
    let last = away.gateway.drain().iter().filter_map(|message| message.seq).max().unwrap_or(2);
    away.gateway.cut();
    for n in 0..1_100 {
        let speaker = &mut others[n % 11];
        let d = json!({ "speaking": u8::from(n / 11 % 2 == 0), "delay": 0, "ssrc": speaker.media.ssrc });
        speaker.gateway.send(5, d);
    }
    others.iter_mut().for_each(|other| drop(other.gateway.drain()));
    let ack = i64::try_from(last).unwrap();
    assert_eq!(refused(&server, &away.grant, Door::plain(8), Some(ack)), 4006);
}

#[test]
fn below_version_8_the_current_state_is_sent_again() {
    let server = Server::start();
    for (user, door) in [(10, Door::tls(4)), (20, Door::plain(7))] {
        let away = Client::join_by(&server, CHANNEL, user, door);
        let mut gone = Client::join(&server, CHANNEL, user + 1);
        let mut stays = Client::join(&server, CHANNEL, user + 2);
        gone.speaking(1);
        stays.speaking(1);
        away.gateway.cut();
        gone.gateway.leave(1000);
        let _ = stays.gateway.expect(13);
        stays.speaking(2);

        let (back, news) = resume(&server, &away.grant, door, None);
        assert_eq!((news[0].op, &news[0].d), (9, &json!(null)), "{news:?}");
        assert!(news.iter().all(|message| message.seq.is_none()), "{news:?}");
        let present = news.iter().find(|message| message.op == 11).expect("Clients Connect");
        assert_eq!(present.d["user_ids"], json!([(user + 2).to_string()]));
        let speaking: Vec<_> = news.iter().filter(|message| message.op == 5).collect();
        assert_eq!(speaking.len(), 1, "{news:?}");
        let expected =
            json!({ "speaking": 2, "ssrc": stays.media.ssrc, "user_id": (user + 2).to_string() });
        assert_eq!(speaking[0].d, expected);
        back.leave(1000);
        stays.gateway.leave(1000);
    }
}

#[test]
fn media_flows_on_while_the_websocket_is_away_and_after() {
    let server = Server::start();
    let mut away = Client::join(&server, CHANNEL, 10);
    let mut other = Client::join(&server, CHANNEL, 11);
    away.start_speaking();
    other.start_speaking();
    let mut sequences = Vec::new();
    let mut both_speak = |away: &mut Client, other: &mut Client| {
        for _ in 0..10 {
            let said = away.media.speak(b"from the one away");
            let heard = other.media.hear();
            assert_eq!((heard.ssrc, heard.payload), (said.ssrc, said.payload));
            sequences.push(heard.sequence);
            other.media.speak(b"to the one away");
            assert_eq!(away.media.hear().payload, b"to the one away");
        }
    };
    both_speak(&mut away, &mut other);
    let grant = away.grant.clone();
    let last =
        away.gateway.drain().iter().filter_map(|message| message.seq).max().expect("numbers");
    away.gateway.break_off();
    both_speak(&mut away, &mut other);
    let (back, news) = resume(&server, &grant, Door::plain(8), Some(i64::try_from(last).unwrap()));
    assert_eq!(news[0].op, 9);
    away.gateway = back;
    both_speak(&mut away, &mut other);
    assert!(sequences.is_sorted_by(|a, b| b.wrapping_sub(*a) == 1), "{sequences:?}");
    let news = other.gateway.drain();
    assert!(news.iter().all(|message| message.op != 13), "{news:?}");
}

#[test]
fn a_close_without_a_status_may_be_resumed_and_a_goodbye_may_not() {
    let server = Server::start();
    let away = Client::join(&server, CHANNEL, 10);
    away.gateway.leave_without_status();
    let (back, news) = resume(&server, &away.grant, Door::plain(8), Some(-1));
    assert_eq!(news[0].op, 9);
    back.leave(1000);
    for code in [1000, 1001, 4014] {
        let gone = Client::join(&server, CHANNEL, 10);
        gone.gateway.leave(code);
        assert_eq!(refused(&server, &gone.grant, Door::plain(8), Some(-1)), 4006, "{code}");
    }
}

#[test]
fn the_window_ends() {
    let server = Server::with(&[("RESUME_WINDOW", "1s")]);
    let mut witness = Client::join(&server, CHANNEL, 11);
    let late = Client::join(&server, CHANNEL, 10);
    late.gateway.cut();
    assert_eq!(witness.gateway.expect(13).d["user_id"], "10");
    assert_eq!(refused(&server, &late.grant, Door::plain(8), Some(-1)), 4006);
}

#[test]
fn a_session_can_be_taken_up_before_the_server_noticed_that_it_was_lost() {
    let server = Server::start();
    let mut other = Client::join(&server, CHANNEL, 11);
    let mut stuck = Client::join(&server, CHANNEL, 10);
    let (mut back, news) = resume(&server, &stuck.grant, Door::plain(8), Some(-1));
    assert_eq!(news[0].op, 9);
    let _ = stuck.gateway.ended();
    other.speaking(1);
    assert_eq!(back.expect(5).d["user_id"], "11");
    assert!(other.gateway.drain().iter().all(|message| message.op != 13));
}

#[test]
fn only_the_holder_of_session_and_token_resumes() {
    let server = Server::start();
    let away = Client::join(&server, CHANNEL, 10);
    away.gateway.cut();
    let wrong = [
        Grant { token: "guessed".to_owned(), ..away.grant.clone() },
        Grant { session: "another".to_owned(), ..away.grant.clone() },
        Grant { server: 1, ..away.grant.clone() },
    ];
    for grant in wrong {
        let code = refused(&server, &grant, Door::plain(8), Some(-1));
        assert!(matches!(code, 4004 | 4006), "{code}");
    }
    let (_, news) = resume(&server, &away.grant, Door::plain(8), Some(-1));
    assert_eq!(news[0].op, 9, "the failed attempts have not cost it its session");
}

#[test]
fn a_session_resumes_again_and_again_through_any_shard_s_listener() {
    let server = Server::with(&[("SHARDS", "2")]);
    let mut other = Client::join(&server, CHANNEL, 11);
    other.start_speaking();
    let mut client = Client::enter(
        &server,
        &server.grant(CHANNEL, 10),
        Door::tls(8),
        Mode::AesRtpsize,
        json!({}),
    );
    for round in 0..8 {
        let last = client.gateway.drain().iter().filter_map(|message| message.seq).max();
        let ack = last.map_or(-1, |last| i64::try_from(last).unwrap());
        client.gateway.break_off();
        let (back, news) = resume(&server, &client.grant, Door::tls(8), Some(ack));
        assert_eq!(news[0].op, 9, "round {round}");
        client.gateway = back;
        other.speaking(round % 2);
        let live = client.gateway.expect(5);
        client.gateway.keep(vec![live]);
        client.media.speak(b"still here");
        assert_eq!(other.media.hear().payload, b"still here");
    }
}
