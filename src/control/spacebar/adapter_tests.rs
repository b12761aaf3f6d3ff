//! The adapter inside an authority, with a clock of the test's own: what is asked of Spacebar, and
//! what its answers, rows and events do.

use std::{net::IpAddr, time::Instant};

use super::*;
use crate::{
    config::Secret,
    control::{
        authority::{Authority, Output, Rules},
        spacebar::{event::Happening, presence::Presence},
        token::{self, Claims},
    },
    driver::queues::News,
    id::{ConnectionId, Serial, ServerId, ShardId},
    sfu::{AdmissionRequest, Command, Event, Verdict, VoiceState},
    signalling::{Identify, Resume},
};

const GUILD: ServerId = ServerId(1);

struct World {
    authority: Authority,
    now: Instant,
    wall: OffsetDateTime,
    asked: u64,
    orders: Vec<Order>,
    commands: Vec<Command>,
}

impl World {
    fn new() -> Self {
        let rules = Rules {
            shards: 1,
            backends: vec![BackendName::Grants, BackendName::Tokens, BackendName::Spacebar],
            token_key: Secret::new(vec![7; 32]),
            e2ee: E2ee::Optional,
            speaking_events: false,
            clients_have_addresses: true,
            resume_window: Duration::from_secs(60),
        };
        Self {
            authority: Authority::new(rules),
            now: Instant::now(),
            wall: OffsetDateTime::UNIX_EPOCH,
            asked: 0,
            orders: Vec::new(),
            commands: Vec::new(),
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.authority.poll_output() {
            match output {
                Output::Order(order) => self.orders.push(order),
                Output::Command(_, command) => self.commands.push(command),
                Output::Published(_) => {}
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.authority.handle_news(self.now, self.wall, ShardId(0), News::Event(event));
        self.drain();
    }

    /// Identifies; the ticket of the lookup.
    fn ask(&mut self, user: u64, channel: Option<u64>) -> Ticket {
        self.asked += 1;
        let request = AdmissionRequest::Identify(Identify {
            server: GUILD,
            channel: channel.map(ChannelId),
            user: UserId(user),
            session: session(user),
            token: Token::new("t"),
            video: false,
            streams: Vec::new(),
            dave_max: 0,
        });
        let connection = ConnectionId(self.asked);
        let address = IpAddr::from([10, 0, (user >> 8) as u8, user as u8]);
        self.tell(Event::Admission { connection, address, request });
        match self.orders.pop() {
            Some(Order::Lookup { ticket, .. }) => ticket,
            other => panic!("a lookup, not {other:?} {:?}", self.commands.last()),
        }
    }

    fn found(&mut self, ticket: Ticket, found: Found) -> Option<Command> {
        self.authority.hear_found(self.now, self.wall, ticket, found);
        self.drain();
        self.commands.pop()
    }

    /// Identifies, is found, arrives.
    fn join(&mut self, user: u64, channel: u64) -> Serial {
        let ticket = self.ask(user, None);
        let decided = self.found(ticket, Found::Voice(row(user, Some(channel))));
        let Some(Command::Decide { verdict: Verdict::Join { admission, .. }, .. }) = decided else {
            panic!("{decided:?}");
        };
        self.tell(Event::Identified { serial: admission.serial });
        self.commands.clear();
        admission.serial
    }

    fn wait(&mut self, time: Duration) -> Vec<Command> {
        let end = self.now + time;
        while let Some(at) = self.authority.poll_timeout().filter(|at| *at <= end) {
            self.authority.handle_timeout(at, self.wall);
        }
        self.now = end;
        self.authority.handle_timeout(end, self.wall);
        self.drain();
        std::mem::take(&mut self.commands)
    }

    fn event(&mut self, event: Happening) -> Vec<Command> {
        self.authority.hear_event(self.now, self.wall, event);
        self.drain();
        std::mem::take(&mut self.commands)
    }

    fn rows(&mut self, rows: Vec<VoiceRow>) -> Vec<Command> {
        let present = self.authority.presence();
        self.rows_of(&present, rows)
    }

    fn rows_of(&mut self, present: &Presence, rows: Vec<VoiceRow>) -> Vec<Command> {
        self.authority.hear_rows(self.now, self.wall, present, rows, &[]);
        self.drain();
        std::mem::take(&mut self.commands)
    }

    fn leave(&mut self, serial: Serial, reason: DisconnectReason) -> Vec<Order> {
        self.tell(Event::Disconnected { serial, reason, close_code: 1000 });
        std::mem::take(&mut self.orders)
    }
}

fn session(user: u64) -> SessionId {
    SessionId(format!("s{user}").into())
}

fn row(user: u64, channel: Option<u64>) -> VoiceRow {
    VoiceRow {
        user: UserId(user),
        session: session(user),
        token: Some(Token::new("t")),
        guild: channel.map(|_| GUILD),
        channel: channel.map(ChannelId),
        state: VoiceState::default(),
        self_stream: false,
        request_to_speak: None,
    }
}

fn is_kick(commands: &[Command], of: Serial) -> bool {
    matches!(commands, [Command::Close { serial, code, .. }]
        if *serial == of && code.code() == 4014)
}

#[test]
fn an_identify_waits_for_its_row_and_is_answered_once() {
    let mut world = World::new();
    let ticket = world.ask(7, None);
    assert!(world.commands.is_empty(), "nothing is decided yet");
    let decided = world.found(ticket, Found::Voice(row(7, Some(5))));
    assert!(matches!(decided, Some(Command::Decide { verdict: Verdict::Join { .. }, .. })));
    assert!(world.found(ticket, Found::Nothing).is_none());
}

#[test]
fn no_row_is_a_refusal_and_no_answer_is_come_back() {
    let mut world = World::new();
    for (found, expected) in [(Found::Nothing, 4004), (Found::Silence, 4015)] {
        let ticket = world.ask(7, None);
        match world.found(ticket, found) {
            Some(Command::Decide { verdict: Verdict::Refuse { code, .. }, .. }) => {
                assert_eq!(code.code(), expected);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn lookups_are_bounded_and_those_beyond_are_told_to_come_back() {
    let mut world = World::new();
    for user in 0..LOOKUPS_MAX as u64 {
        world.ask(user, None);
    }
    world.asked += 1;
    let request = AdmissionRequest::Identify(Identify {
        server: GUILD,
        channel: None,
        user: UserId(1 << 40),
        session: session(1),
        token: Token::new("t"),
        video: false,
        streams: Vec::new(),
        dave_max: 0,
    });
    let address = IpAddr::from([192, 0, 2, 1]);
    world.tell(Event::Admission { connection: ConnectionId(world.asked), address, request });
    match world.commands.pop() {
        Some(Command::Decide { verdict: Verdict::Refuse { code, .. }, .. }) => {
            assert_eq!(code.code(), 4015);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn from_where_much_was_wrong_a_row_is_looked_for_once_and_still_lets_in() {
    let mut world = World::new();
    let is_patient = |world: &mut World, user: u64| {
        world.asked += 1;
        let request = AdmissionRequest::Identify(Identify {
            server: GUILD,
            channel: None,
            user: UserId(user),
            session: session(user),
            token: Token::new("t"),
            video: false,
            streams: Vec::new(),
            dave_max: 0,
        });
        let address = IpAddr::from([192, 0, 2, 1]);
        world.tell(Event::Admission { connection: ConnectionId(world.asked), address, request });
        match world.orders.pop() {
            Some(Order::Lookup { ticket, is_patient, .. }) => (ticket, is_patient),
            other => panic!("{other:?}"),
        }
    };
    for user in 0..30 {
        let (ticket, patient) = is_patient(&mut world, user);
        assert!(patient, "{user}");
        world.found(ticket, Found::Nothing);
    }
    let (ticket, patient) = is_patient(&mut world, 99);
    assert!(!patient);
    let decided = world.found(ticket, Found::Voice(row(99, Some(5))));
    assert!(matches!(decided, Some(Command::Decide { verdict: Verdict::Join { .. }, .. })));
}

#[test]
fn a_move_is_followed_within_two_seconds_or_ends_the_session() {
    let mut world = World::new();
    let serial = world.join(7, 5);
    assert!(world.event(Happening::Moved(row(7, Some(6)))).is_empty());
    assert!(world.wait(Duration::from_millis(1_900)).is_empty());
    assert!(is_kick(&world.wait(Duration::from_millis(200)), serial));
}

#[test]
fn who_is_moved_back_in_time_stays() {
    let mut world = World::new();
    world.join(7, 5);
    world.event(Happening::Moved(row(7, None)));
    world.wait(Duration::from_secs(1));
    world.event(Happening::Moved(row(7, Some(5))));
    assert!(world.wait(Duration::from_secs(60)).is_empty());
}

#[test]
fn an_emptied_row_ends_a_session_soon_and_a_wiped_one_late() {
    let mut world = World::new();
    let (kicked, wiped) = (world.join(7, 5), world.join(8, 5));
    assert!(world.rows(vec![row(7, None)]).is_empty());
    assert!(is_kick(&world.wait(Duration::from_secs(2)), kicked));
    assert!(world.wait(Duration::from_millis(27_900)).is_empty());
    // Reading the empty table again and again is no new beginning.
    world.rows(vec![]);
    assert!(is_kick(&world.wait(Duration::from_millis(200)), wiped));
}

#[test]
fn a_row_that_comes_back_under_the_same_session_keeps_its_session() {
    let mut world = World::new();
    world.join(7, 5);
    world.rows(vec![]);
    world.wait(Duration::from_secs(29));
    world.rows(vec![row(7, Some(5))]);
    assert!(world.wait(Duration::from_secs(120)).is_empty());
}

#[test]
fn another_main_session_takes_over_within_two_seconds() {
    let mut world = World::new();
    let serial = world.join(7, 5);
    let other = VoiceRow { session: SessionId("other".into()), ..row(7, Some(5)) };
    world.rows(vec![other]);
    assert!(is_kick(&world.wait(Duration::from_secs(2)), serial));
}

#[test]
fn what_was_asked_before_a_session_came_says_nothing_of_it() {
    let mut world = World::new();
    let old = world.join(7, 5);
    let present = world.authority.presence();
    let new = world.join(7, 6);
    // The rows are from before the move.
    world.rows_of(&present, vec![row(7, Some(5))]);
    assert!(world.wait(Duration::from_secs(60)).is_empty(), "{old:?} {new:?}");
}

#[test]
fn mutes_reach_the_session_and_nothing_else_changes() {
    let mut world = World::new();
    let serial = world.join(7, 5);
    let muted = VoiceState { mute: true, suppress: true, ..VoiceState::default() };
    let commands = world.rows(vec![VoiceRow { state: muted, ..row(7, Some(5)) }]);
    match &commands[..] {
        [Command::Update { serial: which, policy }] => {
            assert_eq!((*which, policy.state), (serial, muted));
            assert_eq!(policy.room.e2ee, E2ee::Optional);
        }
        other => panic!("{other:?}"),
    }
    let same = VoiceRow { state: muted, ..row(7, Some(5)) };
    assert!(world.rows(vec![same]).is_empty(), "told once");
}

#[test]
fn only_final_ends_are_written_and_lost_ones_wait_for_a_resume() {
    let mut world = World::new();
    for (reason, pause) in [
        (DisconnectReason::ClientLeft, Some(1)),
        (DisconnectReason::ResumeTimeout, Some(0)),
        (DisconnectReason::HeartbeatTimeout, Some(0)),
        (DisconnectReason::Kicked, Some(1)),
        (DisconnectReason::ProtocolError, Some(1)),
        (DisconnectReason::Shutdown, Some(61)),
        (DisconnectReason::Replaced, None),
    ] {
        let serial = world.join(7, 5);
        let orders = world.leave(serial, reason);
        match (&orders[..], pause) {
            ([], None) => {}
            ([Order::Depart { departure, pause }], Some(expected)) => {
                assert_eq!(pause.as_secs(), expected, "{reason:?}");
                assert_eq!(departure.stay, Stay::Voice(ChannelId(5)));
                assert_eq!(departure.was_lost, reason == DisconnectReason::Shutdown);
            }
            other => panic!("{reason:?}: {other:?}"),
        }
    }
}

#[test]
fn who_is_back_or_on_his_way_has_not_departed() {
    let mut world = World::new();
    let serial = world.join(7, 5);
    let orders = world.leave(serial, DisconnectReason::ClientLeft);
    let [Order::Depart { departure, .. }] = &orders[..] else { panic!("{orders:?}") };
    assert!(!world.authority.has_returned(departure));
    let ticket = world.ask(7, None);
    assert!(!world.authority.has_returned(departure), "it is not known yet who that is");
    world.found(ticket, Found::Voice(row(7, Some(5))));
    assert!(world.authority.has_returned(departure), "before it has arrived");
    let elsewhere = Departure { stay: Stay::Voice(ChannelId(6)), ..departure.clone() };
    assert!(!world.authority.has_returned(&elsewhere));
}

#[test]
fn departures_are_bounded_and_counted() {
    let mut world = World::new();
    let serial = world.join(7, 5);
    let orders = world.leave(serial, DisconnectReason::ClientLeft);
    let [Order::Depart { departure, .. }] = &orders[..] else { panic!("{orders:?}") };
    world.authority.expect(vec![departure.clone(); DEPARTURES_MAX]);
    assert_eq!(world.authority.departures(), (DEPARTURES_MAX, 1));
    world.authority.hear_departed();
    assert_eq!(world.authority.departures(), (DEPARTURES_MAX - 1, 1));
}

#[test]
fn a_stream_that_is_gone_closes_for_everyone_in_it() {
    let mut world = World::new();
    let ticket = world.ask(7, None);
    let stream = StreamRow {
        stream: ChannelId(1),
        owner: UserId(7),
        channel: ChannelId(5),
        guild: Some(ServerId(3)),
    };
    let decided = world.found(ticket, Found::Stream(stream));
    let Some(Command::Decide { verdict: Verdict::Join { admission, .. }, .. }) = decided else {
        panic!("{decided:?}");
    };
    assert_eq!(admission.policy.stream.as_ref().unwrap().stream_key, "guild:3:5:7");
    world.tell(Event::Identified { serial: admission.serial });
    world.commands.clear();
    let commands = world.rows(vec![]);
    assert!(
        matches!(&commands[..], [Command::CloseChannel { channel: ChannelId(1), code, .. }]
            if code.code() == 4022),
        "{commands:?}"
    );
    let orders = world.leave(admission.serial, DisconnectReason::RoomClosed);
    let [Order::Depart { departure, .. }] = &orders[..] else { panic!("{orders:?}") };
    assert!(matches!(departure.stay, Stay::Stream { is_owner: true, .. }));
}

#[test]
fn who_was_let_in_and_never_came_is_given_up_in_the_end() {
    let mut world = World::new();
    let ticket = world.ask(7, None);
    let decided = world.found(ticket, Found::Voice(row(7, Some(5))));
    let Some(Command::Decide { verdict: Verdict::Join { admission, .. }, .. }) = decided else {
        panic!("{decided:?}");
    };
    let orders = world.leave(admission.serial, DisconnectReason::ClientLeft);
    let [Order::Depart { departure, pause }] = &orders[..] else { panic!("{orders:?}") };
    assert_eq!((departure.holder.user, pause.as_secs()), (UserId(7), 61));
    assert!(departure.was_lost, "a server that stops leaves him to the next");
}

impl World {
    /// Shows a session that is not here; the lookup's ticket, if there is one.
    fn resume(&mut self, user: u64) -> Option<Ticket> {
        self.asked += 1;
        let (session, token) = (session(user), Token::new("t"));
        let resume = Resume { server: GUILD, channel: None, session, token, seq_ack: Some(4) };
        let (connection, address) = (ConnectionId(self.asked), IpAddr::from([192, 0, 2, 1]));
        let request = AdmissionRequest::Resume(resume);
        self.tell(Event::Admission { connection, address, request });
        match self.orders.pop() {
            Some(Order::Lookup { ticket, user, is_patient, .. }) => {
                assert_eq!((user, is_patient), (None, false), "a Resume names nobody");
                Some(ticket)
            }
            other => {
                assert!(other.is_none(), "{other:?}");
                None
            }
        }
    }

    /// The same, found in channel 5; the new session's serial.
    fn revive(&mut self, user: u64) -> Serial {
        let ticket = self.resume(user).expect("it is looked up");
        let decided = self.found(ticket, Found::Voice(row(user, Some(5))));
        let Some(Command::Decide { verdict: Verdict::Join { admission, .. }, .. }) = decided else {
            panic!("{decided:?}");
        };
        assert_eq!(admission.user, UserId(user));
        self.tell(Event::Identified { serial: admission.serial });
        self.commands.clear();
        admission.serial
    }
}

fn is_refusal(command: Option<Command>, expected: u16) -> bool {
    matches!(command, Some(Command::Decide { verdict: Verdict::Refuse { code, .. }, .. })
        if code.code() == expected)
}

#[test]
fn a_resume_of_a_session_lost_to_a_restart_becomes_a_new_one() {
    let mut world = World::new();
    world.wait(Duration::ZERO);
    let serial = world.revive(7);
    let is_in = |world: &World| world.authority.is_in(UserId(7), ChannelId(5));
    assert!(!is_in(&world), "he may have to be called yet");
    world.tell(Event::Connected { serial, transport: "udp" });
    assert!(is_in(&world));
    assert!(world.wait(Duration::from_secs(20)).is_empty(), "it has taken it up");
    // Who is here cannot be brought back.
    let ticket = world.resume(8).expect("it is looked up");
    let decided = world.found(ticket, Found::Voice(row(7, Some(5))));
    assert!(is_refusal(decided, 4006));
}

#[test]
fn who_does_not_take_up_his_new_session_is_told_to_identify() {
    let mut world = World::new();
    world.wait(Duration::ZERO);
    let serial = world.revive(7);
    assert!(world.wait(Duration::from_millis(2_900)).is_empty());
    let commands = world.wait(Duration::from_millis(200));
    assert!(
        matches!(&commands[..], [Command::Close { serial: which, code, .. }]
            if *which == serial && code.code() == 4006),
        "{commands:?}"
    );
    // He may well be on his way: nothing is written yet.
    let orders = world.leave(serial, DisconnectReason::Shutdown);
    let [Order::Depart { departure, pause }] = &orders[..] else { panic!("{orders:?}") };
    assert!(departure.was_lost && pause.as_secs() == 61);
}

#[test]
fn nobody_comes_back_again_and_again() {
    let mut world = World::new();
    world.wait(Duration::ZERO);
    for _ in 0..10 {
        let serial = world.revive(7);
        world.leave(serial, DisconnectReason::ClientLeft);
    }
    let ticket = world.resume(7).expect("it is looked up");
    let decided = world.found(ticket, Found::Voice(row(7, Some(5))));
    assert!(is_refusal(decided, 4021));
}

#[test]
fn a_resume_that_nobody_knows_is_refused_as_ever() {
    let mut world = World::new();
    world.wait(Duration::ZERO);
    let ticket = world.resume(7).expect("it is looked up");
    let decided = world.found(ticket, Found::Nothing);
    assert!(is_refusal(decided, 4006));
    let ticket = world.resume(7).expect("it is looked up");
    let decided = world.found(ticket, Found::Silence);
    assert!(is_refusal(decided, 4015), "nobody can tell");
    // Guesses are not looked up without end.
    let mut guesses = 1;
    while let Some(ticket) = world.resume(7) {
        world.found(ticket, Found::Nothing);
        guesses += 1;
    }
    assert_eq!(guesses, 30);
    assert!(is_refusal(world.commands.pop(), 4006));
}

#[test]
fn nobody_resumes_what_was_lost_too_long_ago() {
    let mut world = World::new();
    world.wait(Duration::ZERO);
    world.wait(Duration::from_secs(61));
    assert!(world.resume(7).is_none());
    assert!(is_refusal(world.commands.pop(), 4006));
    // A shard that has lost its sessions is a restart too.
    world.authority.handle_news(world.now, world.wall, ShardId(0), News::Restarted);
    world.drain();
    world.revive(7);
}

#[test]
fn a_signed_token_resumes_without_asking_spacebar() {
    let mut world = World::new();
    world.wait(Duration::ZERO);
    let claims = Claims {
        version: 1,
        kind: Kind::Voice,
        server: GUILD,
        channel: ChannelId(5),
        user: UserId(7),
        session: session(7),
        expires: world.wall.unix_timestamp() + 60,
        token: String::new(),
        permissions: None,
    };
    let token = token::mint(&Secret::new(vec![7; 32]), &claims);
    let mut resume = |shown: &str| {
        let session = SessionId(shown.into());
        let resume =
            Resume { server: GUILD, channel: None, session, token: token.clone(), seq_ack: None };
        let (connection, address) = (ConnectionId(1), IpAddr::from([192, 0, 2, 1]));
        let request = AdmissionRequest::Resume(resume);
        world.tell(Event::Admission { connection, address, request });
        (world.commands.pop(), world.orders.pop())
    };
    let (decided, asked) = resume("s7");
    assert!(matches!(decided, Some(Command::Decide { verdict: Verdict::Join { .. }, .. })));
    assert!(asked.is_none());
    // Not while he is here, or on his way.
    assert!(is_refusal(resume("s7").0, 4006));
    // Of another session it says nothing, and Spacebar is asked.
    assert!(matches!(resume("other"), (None, Some(Order::Lookup { user: None, .. }))));
}
