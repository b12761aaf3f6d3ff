//! The authority as a table: what happens, and exactly what it decides and orders.

use super::*;
use crate::{
    control::token::{self, Claims},
    id::{ConnectionId, ServerId, SessionId, Token, UserId},
    sfu::{AdmissionRequest, StreamPolicy, Verdict},
    signalling::{Identify, Resume},
};

pub(super) const SERVER: ServerId = ServerId(1);

fn rules() -> Rules {
    Rules {
        shards: 2,
        backends: vec![BackendName::Grants, BackendName::Tokens],
        resume_window: Duration::from_secs(60),
        token_key: Secret::new(vec![7; 32]),
        e2ee: E2ee::Required,
        speaking_events: true,
        clients_have_addresses: true,
    }
}

/// An authority, a clock, and what came out in a form that reads in a table.
pub(super) struct World {
    pub(super) authority: Authority,
    pub(super) now: Instant,
    pub(super) wall: OffsetDateTime,
    asked: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let wall = OffsetDateTime::from_unix_timestamp(1_000_000).unwrap();
        Self { authority: Authority::new(rules()), now: Instant::now(), wall, asked: 0 }
    }

    pub(super) fn outputs(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.authority.poll_output()).map(render).collect()
    }

    /// Turns the clock to every deadline up to so much later.
    pub(super) fn wait(&mut self, ms: u64) -> Vec<String> {
        let end = self.now + Duration::from_millis(ms);
        let wall_end = self.wall + Duration::from_millis(ms);
        while let Some(at) = self.authority.poll_timeout().filter(|at| *at <= end) {
            self.authority.handle_timeout(at, wall_end);
        }
        self.authority.handle_timeout(end, wall_end);
        (self.now, self.wall) = (end, wall_end);
        self.outputs()
    }

    pub(super) fn grant(&mut self, user: u64, channel: u64) -> Vec<String> {
        self.put(user, grant(user, channel));
        self.outputs()
    }

    pub(super) fn put(&mut self, user: u64, grant: Grant) -> bool {
        self.authority.grant(self.now, self.wall, holder(user), grant).unwrap()
    }

    pub(super) fn tell(&mut self, shard: u16, event: Event) -> Vec<String> {
        self.authority.handle_news(self.now, self.wall, ShardId(shard), News::Event(event));
        self.outputs()
    }

    pub(super) fn ask_from(&mut self, address: &str, request: AdmissionRequest) -> Vec<String> {
        self.asked += 1;
        let (connection, address) = (ConnectionId(self.asked), address.parse().unwrap());
        self.tell(0, Event::Admission { connection, address, request })
    }

    pub(super) fn ask(&mut self, identify: Identify) -> Vec<String> {
        self.ask_from("192.0.2.1", AdmissionRequest::Identify(identify))
    }

    pub(super) fn resume(&mut self, resume: Resume) -> Vec<String> {
        self.ask_from("192.0.2.1", AdmissionRequest::Resume(resume))
    }

    /// Grants, identifies and arrives; the session's serial.
    pub(super) fn join(&mut self, user: u64, channel: u64) -> Serial {
        self.grant(user, channel);
        self.enter(user, user)
    }

    /// Identifies from an address of its own and arrives.
    pub(super) fn enter(&mut self, user: u64, from: u64) -> Serial {
        let identify = AdmissionRequest::Identify(identify(user));
        let answer = self.ask_from(&format!("10.0.0.{from}"), identify);
        assert!(answer[0].contains("join"), "{answer:?}");
        let serial = self.authority.sessions.of(holder(user)).last().unwrap().0;
        self.tell(0, Event::Identified { serial });
        serial
    }

    pub(super) fn leave(&mut self, serial: Serial, reason: DisconnectReason) -> Vec<String> {
        self.tell(0, Event::Disconnected { serial, reason, close_code: 1000 })
    }

    pub(super) fn assert_empty(&self) {
        assert_eq!((self.authority.sessions(), self.authority.rooms()), (0, 0));
        assert!(self.authority.sessions.is_empty() && self.authority.audiences.is_empty());
    }
}

fn render(output: Output) -> String {
    match output {
        Output::Published(event) => {
            let json = serde_json::to_value(event).unwrap();
            let mut text = json["type"].as_str().unwrap().to_owned();
            for key in
                ["user_id", "channel_id", "transport", "reason", "flags", "active", "viewer_ids"]
            {
                if let Some(value) = json.get(key) {
                    text += &format!(" {}", value.to_string().replace('"', ""));
                }
            }
            text
        }
        Output::Command(shard, command) => {
            let what = match command {
                Command::Decide { connection, verdict } => {
                    let verdict = match verdict {
                        Verdict::Join { shard, admission } => format!(
                            "join {} in {} on {shard}",
                            admission.serial.0, admission.channel
                        ),
                        Verdict::Resume { shard, serial } => {
                            format!("resume {} on {shard}", serial.0)
                        }
                        Verdict::Refuse { code, why } => format!("refuse {} {why}", code.code()),
                    };
                    format!("decide {}: {verdict}", connection.0)
                }
                Command::Update { serial, policy } => {
                    format!("update {} mute={}", serial.0, policy.state.mute)
                }
                Command::Close { serial, code, reason } => {
                    format!("close {} {} {reason:?}", serial.0, code.code())
                }
                Command::CloseChannel { channel, code, reason } => {
                    format!("close channel {channel} {} {reason:?}", code.code())
                }
                Command::Reconnect { channel } => format!("reconnect {channel}"),
                Command::Drain { code } => format!("drain {}", code.code()),
                Command::Panic => unreachable!("control orders no defects"),
            };
            format!("{shard}> {what}")
        }
        other => unreachable!("no Spacebar here: {other:?}"),
    }
}

pub(super) fn holder(user: u64) -> Holder {
    Holder { server: SERVER, user: UserId(user) }
}

pub(super) fn grant(user: u64, channel: u64) -> Grant {
    Grant {
        kind: Kind::Voice,
        channel: ChannelId(channel),
        session: SessionId(format!("session{user}").into()),
        token: Token::new(format!("token{user}")),
        expires_at: None,
        single_use: false,
        policy: Policy::default(),
    }
}

pub(super) fn identify(user: u64) -> Identify {
    Identify {
        server: SERVER,
        channel: None,
        user: UserId(user),
        session: SessionId(format!("session{user}").into()),
        token: Token::new(format!("token{user}")),
        video: false,
        streams: Vec::new(),
        dave_max: 1,
    }
}

pub(super) fn resume(user: u64) -> Resume {
    let Identify { server, channel, session, token, .. } = identify(user);
    Resume { server, channel, session, token, seq_ack: None }
}

#[test]
fn an_identify_that_matches_its_grant_joins_and_leaves_nothing_behind() {
    let mut world = World::new();
    assert!(world.grant(7, 50).is_empty());
    assert_eq!(world.ask(identify(7)), ["0> decide 1: join 1 in 50 on 0"]);
    let serial = Serial(1);
    assert_eq!(
        world.tell(0, Event::Identified { serial }),
        ["room.opened 50", "session.identified 7 50"]
    );
    assert_eq!(world.authority.shard_of(ChannelId(50)), Some(ShardId(0)));
    assert_eq!(world.authority.connected_at(holder(7), ChannelId(50)), Some(world.wall));
    assert_eq!(
        world.tell(0, Event::Connected { serial, transport: "udp" }),
        ["session.connected 7 50 udp"]
    );
    assert_eq!(world.tell(0, Event::Video { serial, active: true }), ["video 7 50 true"]);
    assert_eq!(
        world.leave(serial, DisconnectReason::ClientLeft),
        ["session.disconnected 7 50 client_left", "room.empty 50"]
    );
    assert!(world.leave(serial, DisconnectReason::ClientLeft).is_empty(), "only once");
    assert!(world.wait(60_000).is_empty());
    world.assert_empty();
}

#[test]
fn an_identify_that_differs_in_anything_is_refused() {
    let refused = "refuse 4004 authentication failed";
    let wrong: [fn(&mut Identify); 6] = [
        |identify| identify.server = ServerId(2),
        |identify| identify.user = UserId(8),
        |identify| identify.session = SessionId("other".into()),
        |identify| identify.token = Token::new("other"),
        |identify| identify.token = Token::new(""),
        |identify| identify.channel = Some(ChannelId(51)),
    ];
    for (index, wrong) in wrong.into_iter().enumerate() {
        let mut world = World::new();
        world.grant(7, 50);
        let mut identify = identify(7);
        wrong(&mut identify);
        assert_eq!(world.ask(identify), [format!("0> decide 1: {refused}")], "{index}");
        world.assert_empty();
    }
    let mut world = World::new();
    world.grant(7, 50);
    let right = Identify { channel: Some(ChannelId(50)), ..identify(7) };
    assert_eq!(world.ask(right), ["0> decide 1: join 1 in 50 on 0"]);
}

#[test]
fn a_grant_must_be_in_time_and_allow_connecting() {
    let ends = |wall: OffsetDateTime, s: i64| Some(wall + time::Duration::seconds(s));
    let mut world = World::new();
    let late = Grant { expires_at: ends(world.wall, -1), ..grant(1, 50) };
    let in_time = Grant { expires_at: ends(world.wall, 0), ..grant(2, 50) };
    let mut forbidden = grant(3, 50);
    forbidden.policy.permissions.connect = false;
    for (user, grant, answer) in [
        (1, late, "refuse 4004 authentication failed"),
        (2, in_time, "join 1 in 50 on 0"),
        (3, forbidden, "refuse 4004 authentication failed"),
    ] {
        world.put(user, grant);
        assert_eq!(world.ask(identify(user)), [format!("0> decide {user}: {answer}")]);
    }
    // The end of a grant bounds the Identify, not the session.
    world.tell(0, Event::Identified { serial: Serial(1) });
    world.wait(5_000);
    assert_eq!(world.authority.grants(), 1, "only the one without an end is left");
    assert_eq!(world.resume(resume(2)), ["0> decide 4: resume 1 on 0"]);
}

#[test]
fn a_single_use_grant_lets_in_once_but_its_session_resumes() {
    let mut world = World::new();
    world.put(7, Grant { single_use: true, ..grant(7, 50) });
    let serial = world.enter(7, 1);
    assert_eq!(world.ask(identify(7)), ["0> decide 2: refuse 4004 authentication failed"]);
    assert_eq!(world.resume(resume(7)), [format!("0> decide 3: resume {} on 0", serial.0)]);
    assert!(world.authority.policy(holder(7)).is_some(), "the session still has rules");
}

#[test]
fn a_signed_token_lets_in_with_its_own_channel() {
    let claims = Claims {
        version: 1,
        kind: Kind::Voice,
        server: SERVER,
        channel: ChannelId(50),
        user: UserId(7),
        session: SessionId("session7".into()),
        expires: 1_000_000,
        token: "j".into(),
        permissions: None,
    };
    let ask = |claims: &Claims, key: u8| {
        let mut world = World::new();
        let token = token::mint(&Secret::new(vec![key; 32]), claims);
        let answer = world.ask(Identify { token, channel: Some(ChannelId(51)), ..identify(7) });
        let policy = world.authority.policy(holder(7)).cloned();
        (answer[0].clone(), policy)
    };
    let (answer, policy) = ask(&claims, 7);
    assert_eq!(answer, "0> decide 1: join 1 in 50 on 0");
    assert_eq!(policy.unwrap().room.e2ee, E2ee::Required, "the operator's default");

    let refused = "0> decide 1: refuse 4004 authentication failed";
    assert_eq!(ask(&claims, 8).0, refused);
    let no_connect = Some(crate::sfu::Permissions { connect: false, ..Default::default() });
    for wrong in [
        Claims { server: ServerId(2), ..claims.clone() },
        Claims { user: UserId(8), ..claims.clone() },
        Claims { session: SessionId("other".into()), ..claims.clone() },
        Claims { expires: 999_999, ..claims.clone() },
        Claims { permissions: no_connect, ..claims.clone() },
    ] {
        assert_eq!(ask(&wrong, 7).0, refused, "{wrong:?}");
    }
}

#[test]
fn fresh_channels_take_different_shards_and_a_live_one_keeps_its_own() {
    let mut world = World::new();
    for (user, channel) in [(1, 50), (2, 51), (3, 50), (4, 52)] {
        world.grant(user, channel);
    }
    assert_eq!(world.ask(identify(1)), ["0> decide 1: join 1 in 50 on 0"]);
    assert_eq!(world.ask(identify(2)), ["0> decide 2: join 2 in 51 on 1"]);
    assert_eq!(world.ask(identify(3)), ["0> decide 3: join 3 in 50 on 0"], "still under way");
    assert_eq!(world.ask(identify(4)), ["0> decide 4: join 4 in 52 on 1"]);
}

#[test]
fn an_admission_nobody_follows_up_frees_its_place() {
    let mut world = World::new();
    world.grant(7, 50);
    world.ask(identify(7));
    assert!(world.wait(14_999).is_empty());
    assert_eq!(world.authority.rooms(), 1);
    assert!(world.wait(1).is_empty(), "nobody was told it came, so nobody is told it went");
    world.assert_empty();
    assert_eq!(
        world.tell(0, Event::Identified { serial: Serial(1) }),
        ["0> close 1 4006 Shutdown"],
        "too late"
    );
}

#[test]
fn a_full_channel_refuses_strangers_but_not_its_own_members() {
    let mut world = World::new();
    for user in 1..=3 {
        let mut grant = grant(user, 50);
        grant.policy.room.user_limit = 2;
        world.put(user, grant);
    }
    world.enter(1, 1);
    let second = world.enter(2, 2);
    assert_eq!(world.ask(identify(3)), ["0> decide 3: refuse 4014 the channel is full"]);
    assert_eq!(world.ask(identify(2)), ["0> decide 4: join 3 in 50 on 0"]);
    world.leave(second, DisconnectReason::Replaced);
    world.tell(0, Event::Identified { serial: Serial(3) });
    world.leave(Serial(3), DisconnectReason::ClientLeft);
    assert_eq!(world.ask(identify(3)), ["0> decide 5: join 4 in 50 on 0"]);
}

#[test]
fn a_stream_has_room_for_its_owner_beside_its_viewers() {
    let mut world = World::new();
    for user in 1..=3 {
        let mut grant = Grant { kind: Kind::Stream, ..grant(user, 99) };
        grant.policy.stream = Some(StreamPolicy {
            stream_key: "guild:1:2:3".into(),
            owner_id: UserId(3),
            viewer_limit: 1,
            paused: false,
        });
        world.put(user, grant);
    }
    let viewer = world.enter(1, 1);
    assert_eq!(world.ask(identify(2)), ["0> decide 2: refuse 4014 the channel is full"]);
    world.enter(3, 3);
    assert_eq!(world.wait(200), ["stream.viewers 99 [1]"]);
    assert_eq!(world.authority.shard_of(ChannelId(SERVER.0)), Some(ShardId(0)));
    world.leave(viewer, DisconnectReason::ClientLeft);
    assert_eq!(world.wait(200), ["stream.viewers 99 []"]);
}

#[test]
fn an_identify_storm_is_stopped_for_its_address_only() {
    let mut world = World::new();
    world.grant(7, 50);
    let answers: Vec<_> = (0..11).flat_map(|_| world.ask(identify(7))).collect();
    assert!(answers[..10].iter().all(|answer| answer.contains("join")), "{answers:?}");
    assert_eq!(answers[10], "0> decide 11: refuse 4021 rate limited");
    let identify = AdmissionRequest::Identify(identify(7));
    let elsewhere = world.ask_from("192.0.2.2", identify.clone());
    assert!(elsewhere[0].contains("join"), "a stranger's storm costs nobody else");
    world.wait(1_000);
    assert!(world.ask_from("192.0.2.1", identify)[0].contains("join"), "one a second goes on");
}

#[test]
fn guessing_is_stopped_by_address_whoever_is_guessed() {
    let mut world = World::new();
    world.grant(1_000, 50);
    let guess = |user| AdmissionRequest::Identify(identify(user));
    for user in 0..30 {
        let answer = world.ask_from("2001:db8::1", guess(user));
        assert!(answer[0].contains("refuse 4004"), "{answer:?}");
    }
    let limited = world.ask_from("2001:db8::2", guess(31));
    assert_eq!(limited, ["0> decide 31: refuse 4021 rate limited"], "the same /64");
    assert!(world.ask_from("2001:db8:0:1::1", guess(31))[0].contains("4004"), "another /64");
    let right = world.ask_from("2001:db8::3", guess(1_000));
    assert!(right[0].contains("join"), "a neighbour with a grant is not shut out: {right:?}");
    world.wait(500);
    assert!(world.ask_from("2001:db8::1", guess(32))[0].contains("refuse 4004"));
}

#[test]
fn a_channel_is_one_servers() {
    let mut world = World::new();
    world.join(7, 50);
    let (now, wall) = (world.now, world.wall);
    let stranger = Holder { server: ServerId(9), user: UserId(8) };
    let refusal = world.authority.grant(now, wall, stranger, grant(8, 50));
    assert_eq!(refusal.unwrap_err(), GrantRefusal::OtherServer);
    world.leave(Serial(1), DisconnectReason::ClientLeft);
    let granted = world.authority.grant(now, wall, stranger, grant(8, 50));
    assert_eq!(granted, Ok(false), "once it is empty it may be anybody's");
}

#[test]
fn speaking_is_coalesced_and_published_only_when_it_changed() {
    let mut world = World::new();
    let serial = world.join(7, 50);
    for flags in [1, 0, 5] {
        assert!(world.tell(0, Event::Speaking { serial, flags }).is_empty());
    }
    assert!(world.wait(199).is_empty());
    assert_eq!(world.wait(1), ["speaking 7 50 5"]);
    for flags in [0, 5] {
        world.tell(0, Event::Speaking { serial, flags });
    }
    assert!(world.wait(1_000).is_empty(), "it came back to what is known");

    world.authority.rules.speaking_events = false;
    world.tell(0, Event::Speaking { serial, flags: 1 });
    assert!(world.wait(1_000).is_empty());
}

#[test]
fn a_draining_node_tells_everyone_once_and_lets_nobody_in() {
    let mut world = World::new();
    world.join(7, 50);
    world.authority.drain(world.wall);
    world.authority.drain(world.wall);
    assert_eq!(world.outputs(), ["node.draining", "0> drain 4015", "1> drain 4015"]);
    assert_eq!(world.ask(identify(7)), ["0> decide 2: refuse 4015 the server is stopping"]);
    assert_eq!(world.resume(resume(7)), ["0> decide 3: refuse 4015 the server is stopping"]);
    let refusal = world.authority.grant(world.now, world.wall, holder(8), grant(8, 50));
    assert_eq!(refusal.unwrap_err(), GrantRefusal::Draining);
    world.leave(Serial(1), DisconnectReason::Shutdown);
    world.wait(60_000);
    world.assert_empty();
}

#[test]
fn a_full_ledger_takes_replacements_and_what_has_expired_makes_room() {
    let mut world = World::new();
    world.authority.grants_max = 2;
    let soon = Some(world.wall + Duration::from_secs(1));
    world.put(1, Grant { expires_at: soon, ..grant(1, 50) });
    world.put(2, grant(2, 50));
    let refusal = world.authority.grant(world.now, world.wall, holder(3), grant(3, 50));
    assert_eq!(refusal.unwrap_err(), GrantRefusal::Full);
    assert!(world.put(2, grant(2, 51)), "in its own place");
    world.wall += Duration::from_secs(2);
    assert!(!world.put(3, grant(3, 50)));
}

#[test]
fn a_channel_is_either_a_voice_channel_or_a_stream() {
    let mut world = World::new();
    world.join(7, SERVER.0);
    let stream = Grant { kind: Kind::Stream, ..grant(8, 50) };
    let refusal = world.authority.grant(world.now, world.wall, holder(8), stream);
    assert_eq!(refusal.unwrap_err(), GrantRefusal::OtherKind);
}

#[test]
fn events_about_sessions_nobody_knows_are_ignored() {
    let mut world = World::new();
    let serial = Serial(77);
    for event in [
        Event::Connected { serial, transport: "udp" },
        Event::Video { serial, active: true },
        Event::Speaking { serial, flags: 1 },
        Event::Disconnected { serial, reason: DisconnectReason::ClientLeft, close_code: 1 },
    ] {
        assert!(world.tell(0, event).is_empty());
    }
    assert_eq!(world.authority.poll_timeout(), None);
}
