//! What an operator does: choose backends, check settings, ask the doctor.

use serde_json::{Value, json};

use crate::{
    enter, finding, refused,
    support::{
        server::{GUILD, Server},
        spacebar::{CHANNEL, ENDPOINT, Spacebar},
    },
    talk,
};

#[test]
fn grants_and_spacebar_let_people_into_one_channel_side_by_side() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("unix", &[]);
    let mut alice = enter(&server, &spacebar.join(10, CHANNEL));
    let mut bot = enter(&server, &server.grant(CHANNEL, 500));
    talk(&mut alice, &mut bot);
    // Spacebar knows nothing of him, and nobody asks it.
    bot.gateway.leave(1000);
    alice.gateway.expect(13);
    assert_eq!(server.metrics().sum(&["stentor_spacebar_departures_waiting"]), 0.0);
}

#[test]
fn a_backend_that_is_not_chosen_lets_nobody_in() {
    let spacebar = Spacebar::start();
    let server = spacebar.server("poll", &[("BACKENDS", "spacebar")]);
    let body = json!({"channel_id": CHANNEL.to_string(), "session_id": "s", "token": "t"});
    let (status, answer) = server.api("PUT", &format!("/v1/grants/{GUILD}/500"), Some(&body));
    assert_eq!((status, &answer["error"]["code"]), (409, &json!("backend_disabled")));
    let _alice = enter(&server, &spacebar.join(10, CHANNEL));
    drop(server);

    let server = Server::with(&[("BACKENDS", "grants")]);
    assert_eq!(refused(&server, &spacebar.join(11, CHANNEL)), 4004);
}

/// What it finds, with this database.
pub fn doctor(server: &Server, spacebar: &str) -> Value {
    let output = server.command().args(["doctor", "--json", "--spacebar", spacebar]).output();
    let output = output.expect("the binary under test starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("hunter2"), "the password is nobody's business");
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {output:?}"))
}

#[test]
fn the_doctor_says_whether_a_spacebar_can_be_worked_for() {
    let mut spacebar = Spacebar::start();
    let server = spacebar.server("unix", &[]);
    let url = spacebar.postgres.url();
    let report = doctor(&server, &url);
    for name in ["spacebar database", "spacebar schema", "spacebar region", "spacebar events"] {
        let (status, found) = finding(&report, name);
        assert_eq!(status, "pass", "{name}: {found}");
    }
    assert_eq!(finding(&report, "public media").0, "pass", "the server answers on loopback");
    let (status, found) = finding(&report, "public gateway");
    assert_eq!(status, "warn", "there is no such name: {found}");

    spacebar.postgres.sql(
        "ALTER TABLE voice_states DROP COLUMN suppress;
         ALTER TABLE streams ALTER COLUMN endpoint TYPE bigint USING 0;
         UPDATE config SET value = '\"https://elsewhere.example.org\"'
           WHERE key = 'regions_available_0_endpoint';",
    );
    let report = doctor(&server, &url);
    let (status, found) = finding(&report, "spacebar schema");
    assert_eq!(status, "fail");
    assert!(found.contains("voice_states.suppress is not there"), "{found}");
    assert!(found.contains("streams.endpoint is int8, not varchar"), "{found}");
    let (status, found) = finding(&report, "spacebar region");
    assert_eq!(status, "fail");
    assert!(found.contains("near points to https://elsewhere.example.org"), "{found}");
    assert!(found.contains(ENDPOINT), "{found}");
    assert_eq!(report["fit"], false);

    spacebar.postgres.stop();
    assert_eq!(finding(&doctor(&server, &url), "spacebar database").0, "fail");
}

#[test]
fn settings_are_checked_without_a_start() {
    const DATABASE: &str = "STENTOR_SPACEBAR_DATABASE";
    const EVENTS: &str = "STENTOR_SPACEBAR_EVENTS";
    let spacebar = Spacebar::start();
    let server = spacebar.server("poll", &[]);
    let check = |given: &[(&str, &str)]| {
        let mut command = server.command();
        command.args(["serve", "--check-config"]).envs(given.iter().copied());
        let output = command.output().expect("the binary under test starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!text.contains("hunter2"), "{text}");
        (output.status.success(), text)
    };
    // The ports are taken by the server itself: nothing is listened on.
    assert_eq!(check(&[]), (true, String::new()));
    for (given, complaint) in [
        (&[(EVENTS, "carrier-pigeon")][..], "rabbitmq-single"),
        (&[(EVENTS, "rabbitmq-single")], "spacebar.rabbitmq"),
        (
            &[(EVENTS, "rabbitmq-single"), ("STENTOR_SPACEBAR_RABBITMQ", "amqp://u:hunter2@h:p")],
            "not an AMQP URL",
        ),
        (&[(DATABASE, "mysql://u:hunter2@h/d")], "PostgreSQL"),
        (&[(DATABASE, "postgres://u:hunter2@h:x/d")], "PostgreSQL"),
        // An authority is only read where TLS is spoken.
        (
            &[
                (DATABASE, "postgres://u:hunter2@db.example/d"),
                ("STENTOR_SPACEBAR_DATABASE_CA", "/no/such/file"),
            ],
            "/no/such/file",
        ),
        (&[("STENTOR_BACKENDS", "grants")], "backends"),
        (&[("STENTOR_GATEWAY_TLS_CERT", "/no/such/file")], "gateway.tls_key"),
    ] {
        let (fine, text) = check(given);
        assert!(!fine && text.contains(complaint), "{given:?}: {text}");
    }
}
