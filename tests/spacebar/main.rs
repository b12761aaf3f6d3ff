//! Black box over the Spacebar backend: a real server process, a real PostgreSQL with Spacebar's
//! tables, a real RabbitMQ or Spacebar's bus over unix sockets, and clients written for the tests.
//! One file per claim's subject.

#[path = "../support/mod.rs"]
mod support;

mod broker;
mod change;
mod departure;
mod failure;
mod join;
mod operation;
mod tls;

use serde_json::{Value, json};
use support::{
    cipher::Mode,
    client::Client,
    gateway::{Door, Gateway},
    server::{Grant, Server},
};

/// Joins with what Spacebar has given.
fn enter(server: &Server, grant: &Grant) -> Client {
    Client::enter(server, grant, Door::plain(8), Mode::AesRtpsize, json!({}))
}

/// The close code with which these credentials are refused.
fn refused(server: &Server, grant: &Grant) -> u16 {
    let mut gateway = Gateway::open(server, Door::plain(8));
    gateway.identify(grant);
    gateway.closed()
}

/// One of the doctor's findings: its status and what was found.
fn finding<'a>(report: &'a Value, name: &str) -> (&'a str, &'a str) {
    let findings = report["findings"].as_array().expect("a list");
    let found = findings.iter().find(|it| it["name"] == name);
    let found = found.unwrap_or_else(|| panic!("{name} in {report}"));
    if found["status"] != "pass" {
        assert!(found["remedy"].is_string(), "{found}");
    }
    (found["status"].as_str().expect("a status"), found["found"].as_str().expect("a text"))
}

/// Whether `hearer` hears `speaker`'s next word.
fn hears(hearer: &mut Client, speaker: &mut Client) {
    let word = support::server::random_hex().into_bytes();
    speaker.media.speak(&word);
    while hearer.media.hear().payload != word {}
}

/// Both hear each other.
fn talk(a: &mut Client, b: &mut Client) {
    hears(a, b);
    hears(b, a);
}
