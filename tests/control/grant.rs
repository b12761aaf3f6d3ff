//! Tickets, and the `grant` command that prints them.

use std::{
    net::TcpListener,
    process::{Command as Process, Output},
};

use serde_json::Value;
use stentor::{
    config::{ControlAccess, Secret},
    grant::{self, GrantError, GrantRequest},
    id::{ChannelId, ServerId, SessionId, Token, UserId},
    sfu::{AdmissionRequest, Command, Event, Verdict},
};

use crate::{
    SECRET,
    node::{Node, admission},
};

fn request(users: &[u64]) -> GrantRequest {
    let users = users.iter().map(|user| UserId(*user)).collect();
    GrantRequest { server_id: ServerId(1), channel: ChannelId(50), users }
}

#[test]
fn tickets_let_their_users_in() {
    let node = Node::start();
    let tickets = grant::issue(&node.access(), &request(&[7, 8])).unwrap();
    assert_eq!(tickets.len(), 2);
    assert_ne!(tickets[0].token, tickets[1].token);
    for (ticket, user) in tickets.iter().zip([7, 8]) {
        assert_eq!(ticket.endpoint, "voice1.example.org:443");
        assert_eq!((ticket.guild_id, ticket.channel_id), (ServerId(1), ChannelId(50)));
        assert_eq!((ticket.user_id, ticket.session_id.len()), (UserId(user), 32));
        let Event::Admission { connection, address, request } = admission(user) else { continue };
        let AdmissionRequest::Identify(mut identify) = request else { continue };
        identify.session = SessionId(ticket.session_id.as_str().into());
        identify.token = Token::new(ticket.token.as_str());
        let request = AdmissionRequest::Identify(identify);
        node.tell(0, Event::Admission { connection, address, request });
        let (_, command) = node.command();
        assert!(matches!(command, Command::Decide { verdict: Verdict::Join { .. }, .. }));
    }
}

#[test]
fn asking_for_tickets_fails_with_a_reason() {
    let node = Node::start();
    let message = |result: Result<_, GrantError>| result.map(|_| ()).unwrap_err().to_string();
    let wrong = ControlAccess { secret: Secret::new("wrong"), ..node.access() };
    assert!(
        message(grant::issue(&wrong, &request(&[7])))
            .contains("does not accept the control secret")
    );
    assert!(
        message(grant::issue(&node.access(), &request(&[7, 8, 7])))
            .contains("user 7 is given twice")
    );
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = ControlAccess { address: free, ..node.access() };
    assert!(message(grant::issue(&nobody, &request(&[7]))).contains("start `stentor serve`"));
}

fn stentor(arguments: &[&str]) -> Output {
    Process::new(env!("CARGO_BIN_EXE_stentor")).args(arguments).output().unwrap()
}

#[test]
fn the_grant_command_prints_one_json_array() {
    let node = Node::start();
    let address = node.address.to_string();
    let grant = |more: &[&str]| {
        let fixed = ["grant", "--server-id", "1", "--channel", "50", "--control-listen", &address];
        stentor(&[&fixed[..], more].concat())
    };
    let output = grant(&["--user", "7", "--user", "8", "--control-secret", SECRET]);
    assert!(output.status.success(), "{output:?}");
    let tickets: Value = serde_json::from_slice(&output.stdout).unwrap();
    let users: Vec<_> = tickets.as_array().unwrap().iter().map(|t| t["user_id"].clone()).collect();
    assert_eq!(users, ["7", "8"]);
    let mut keys: Vec<_> = tickets[0].as_object().unwrap().keys().cloned().collect();
    keys.sort_unstable();
    assert_eq!(keys, ["channel_id", "endpoint", "guild_id", "session_id", "token", "user_id"]);

    let wrong = grant(&["--user", "7", "--control-secret", "wrong-secret"]);
    assert_eq!((wrong.status.code(), wrong.stdout.len()), (Some(1), 0));
    let nonsense = grant(&["--user", "seven", "--control-secret", SECRET]);
    assert_eq!(nonsense.status.code(), Some(2));
}
