//! A database and a broker elsewhere are spoken to in TLS, and only if they are who they should be.

use serde_json::json;

use crate::{
    enter, finding,
    operation::doctor,
    refused,
    support::{
        broker::{Broker, Talker},
        postgres::Postgres,
        server::GUILD,
        spacebar::{CHANNEL, Spacebar, state_event},
        wait_until,
    },
};

#[test]
fn a_database_that_shows_the_right_certificate_is_spoken_to_and_no_other() {
    let spacebar = Spacebar::start_on(Postgres::start_with_tls());
    let root = spacebar.postgres.root();
    let root = root.to_str().unwrap();
    let trusting = [("SPACEBAR_DATABASE_CA", root)];
    for (sslmode, events) in [("require", "notify"), ("verify-full", "poll")] {
        let url = spacebar.postgres.url_of("localhost", sslmode);
        let server = spacebar.server(events, &[("SPACEBAR_DATABASE", url.as_str()), trusting[0]]);
        let mut alice = enter(&server, &spacebar.enter(10, CHANNEL));
        if events == "notify" {
            wait_until("it listens", || {
                server.metrics().sum(&["stentor_spacebar_watching"]) == 1.0
            });
        }
        let count = "SELECT count(*) > 0, bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity \
                     USING (pid) WHERE application_name = 'stentor'";
        assert_eq!(spacebar.postgres.sql(count), "t|t", "{sslmode}");
        spacebar.postgres.sql("UPDATE voice_states SET channel_id = NULL, guild_id = NULL");
        assert_eq!(alice.gateway.closed(), 4014);
    }

    // Signed by somebody else, or for another name: the careful modes and `require` are one.
    for (host, sslmode, ca) in [
        ("localhost", "require", None),
        ("localhost", "verify-full", None),
        ("127.0.0.1", "require", Some(trusting[0])),
        ("127.0.0.1", "verify-full", Some(trusting[0])),
    ] {
        let url = spacebar.postgres.url_of(host, sslmode);
        let settings: Vec<_> =
            [Some(("SPACEBAR_DATABASE", url.as_str())), ca].into_iter().flatten().collect();
        let server = spacebar.server("poll", &settings);
        assert_eq!(refused(&server, &spacebar.enter(10, CHANNEL)), 4015, "{host} {sslmode}");
        let report = doctor(&server, &url);
        let (status, found) = finding(&report, "spacebar database");
        assert_eq!(status, "fail");
        assert!(found.contains("certificate"), "{found}");
    }
}

#[test]
fn a_broker_that_shows_the_right_certificate_is_spoken_to_and_no_other() {
    let broker = Broker::start_with_tls();
    let spacebar = Spacebar::start();
    let (url, root) = broker.url_with_tls();
    let settings =
        [("SPACEBAR_RABBITMQ", url.as_str()), ("SPACEBAR_RABBITMQ_CA", root.to_str().unwrap())];
    let server = spacebar.server("rabbitmq-single", &settings);
    let mut talker = Talker::on(&broker, "-");
    wait_until("it listens", || server.metrics().sum(&["stentor_spacebar_watching"]) == 1.0);
    let grant = spacebar.enter(10, CHANNEL);
    let mut alice = enter(&server, &grant);
    spacebar.postgres.sql("UPDATE voice_states SET channel_id = NULL");
    let event = state_event(&grant, None, json!({}));
    talker.say("-", None, event.to_string().as_bytes());
    assert_eq!(alice.gateway.closed(), 4014);
    enter(&server, &spacebar.enter(11, CHANNEL)).gateway.leave(1000);
    talker.hear("a departure", |_, bytes| {
        String::from_utf8_lossy(bytes).contains(&format!("\"id\":\"{GUILD}\""))
    });
    drop(server);

    let server = spacebar.server("rabbitmq-single", &settings[..1]);
    let (status, found) = {
        let report = doctor(&server, &spacebar.postgres.url());
        let (status, found) = finding(&report, "spacebar events");
        (status.to_owned(), found.to_owned())
    };
    assert_eq!(status, "fail", "{found}");
    assert!(found.contains("certificate"), "{found}");
    assert!(!found.contains("guest:guest") && !server.log().contains("guest:guest"));
    assert_eq!(server.metrics().sum(&["stentor_spacebar_watching"]), 0.0);
}
