//! The bus over RabbitMQ, in both of its forms. One test for each, since the broker takes seconds
//! to start.

use serde_json::{Value, json};

use crate::{
    enter,
    support::{
        broker::{Broker, Talker},
        server::GUILD,
        spacebar::{CHANNEL, OTHER_CHANNEL, Spacebar, is_leave, state_event},
        wait_until,
    },
    talk,
};

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("a message holds JSON")
}

#[test]
fn one_exchange_for_all_is_heard_and_told_and_survives_the_broker() {
    let mut broker = Broker::start();
    let spacebar = Spacebar::start();
    let server =
        spacebar.server("rabbitmq-single", &[("SPACEBAR_RABBITMQ", broker.url().as_str())]);
    let mut talker = Talker::on(&broker, "-");
    let watching = || server.metrics().sum(&["stentor_spacebar_watching"]) == 1.0;
    wait_until("it listens", watching);
    let grants = [10, 11, 12].map(|user| spacebar.enter(user, CHANNEL));
    let [mut alice, mut bob, carol] = grants.each_ref().map(|grant| enter(&server, grant));

    let kick = |talker: &Talker, grant| {
        talker.say("-", None, state_event(grant, None, json!({})).to_string().as_bytes());
    };
    spacebar.postgres.sql("UPDATE voice_states SET channel_id = NULL WHERE user_id = 10");
    kick(&talker, &grants[0]);
    assert_eq!(alice.gateway.closed(), 4014);

    carol.gateway.leave(1000);
    let heard = || server.metrics().sum(&["stentor_spacebar_events_heard_total"]);
    let before = heard();
    let (_, told) = talker.hear("carol leaves", |_, bytes| is_leave(&json_of(bytes), 12));
    assert_eq!(json_of(&told)["id"], GUILD.to_string());
    talker.say("-", None, state_event(&grants[2], None, json!({})).to_string().as_bytes());
    wait_until("what follows is heard", || heard() > before);
    assert_eq!(heard(), before + 1.0, "what we say ourselves is no news");

    // The broker dies; who leaves meanwhile is told of when it is back.
    broker.stop();
    wait_until("it is missed", || !watching());
    let mut dave = enter(&server, &spacebar.enter(13, CHANNEL));
    talk(&mut bob, &mut dave);
    bob.gateway.leave(1000);
    spacebar.postgres.eventually(&Spacebar::row_query(11), "|f|f");
    // One leaves and is back before it can be told of.
    enter(&server, &spacebar.enter(14, CHANNEL)).gateway.leave(1000);
    spacebar.postgres.eventually(&Spacebar::row_query(14), "|f|f");
    let _erin = enter(&server, &spacebar.enter(14, CHANNEL));
    let events = |what| server.metrics().sum(&[what]);
    let (said, unsaid) = (
        || events("stentor_spacebar_events_said_total"),
        || events("stentor_spacebar_events_unsaid_total"),
    );
    assert_eq!((said(), unsaid()), (1.0, 0.0));
    // What is said before we listen is not kept for us: the exchange forgets.
    broker.resume();
    wait_until("it listens again", watching);
    wait_until("what waited was said, and no more", || (said(), unsaid()) == (2.0, 1.0));
    let talker = Talker::on(&broker, "-");
    spacebar.postgres.sql("UPDATE voice_states SET channel_id = NULL WHERE user_id = 13");
    kick(&talker, &dave.grant);
    assert_eq!(dave.gateway.closed(), 4014);
    assert!(!server.log().contains("guest:guest"), "the password is nobody's business");
}

#[test]
fn an_exchange_for_each_id_is_heard_where_somebody_is() {
    let broker = Broker::start();
    let spacebar = Spacebar::start();
    let server =
        spacebar.server("rabbitmq-legacy", &[("SPACEBAR_RABBITMQ", broker.url().as_str())]);
    let guild = GUILD.to_string();
    let mut talker = Talker::on(&broker, &guild);
    let grants = [10, 11, 12].map(|user| spacebar.enter(user, CHANNEL));
    let [mut alice, mut bob, carol] = grants.each_ref().map(|grant| enter(&server, grant));

    // Exchanges are bound within a second; a bare event has no envelope but its type.
    spacebar
        .postgres
        .sql(&format!("UPDATE voice_states SET channel_id = {OTHER_CHANNEL} WHERE user_id = 10"));
    let moved = state_event(&grants[0], Some(OTHER_CHANNEL), json!({}));
    let moved = moved["event"]["data"].to_string();
    talker.say(&guild, Some("VOICE_STATE_UPDATE"), moved.as_bytes());
    assert_eq!(alice.gateway.closed(), 4014);

    carol.gateway.leave(1000);
    let (kind, told) = talker.hear("carol leaves", |_, bytes| {
        let data = json_of(bytes);
        data["user_id"] == "12" && data["channel_id"].is_null()
    });
    assert_eq!(kind, "VOICE_STATE_UPDATE");
    assert_eq!(json_of(&told)["guild_id"], guild);

    let channel = json!({"id": CHANNEL.to_string(), "guild_id": guild, "type": 2}).to_string();
    wait_until("the guild's exchange is heard", || {
        talker.say(&guild, Some("CHANNEL_DELETE"), channel.as_bytes());
        bob.gateway.poll_end().is_some()
    });
    assert_eq!(bob.gateway.closed(), 4022);
}
