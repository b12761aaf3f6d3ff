//! What becomes of live sessions: replaced, moved, revoked, resumed, lost with their shard.

use super::{
    tests::{World, holder, identify, resume},
    *,
};
use crate::{
    id::{ServerId, SessionId, Token},
    signalling::Resume,
};

#[test]
fn the_newer_session_replaces_the_older() {
    // In one channel the shard does it by itself.
    let mut world = World::new();
    let old = world.join(7, 50);
    assert_eq!(world.ask(identify(7)), ["0> decide 2: join 2 in 50 on 0"]);
    assert_eq!(world.tell(0, Event::Identified { serial: Serial(2) }), ["session.identified 7 50"]);
    assert_eq!(world.resume(resume(7)), ["0> decide 3: resume 2 on 0"], "never the older one");
    assert_eq!(
        world.leave(old, DisconnectReason::Replaced),
        ["session.disconnected 7 50 replaced"],
        "the channel is not empty"
    );

    // Across channels it is told to, when the newer one has arrived.
    world.join(8, 60);
    assert!(world.grant(7, 60).is_empty());
    assert_eq!(world.ask(identify(7)), ["0> decide 5: join 4 in 60 on 1"]);
    assert_eq!(
        world.tell(1, Event::Identified { serial: Serial(4) }),
        ["session.identified 7 60", "0> close 2 4014 Replaced"]
    );
    assert!(world.wait(60_000).is_empty(), "the move's own deadline adds nothing");
}

#[test]
fn an_older_session_that_arrives_late_gives_way() {
    let mut world = World::new();
    world.grant(7, 50);
    world.ask(identify(7));
    world.grant(7, 51);
    world.ask(identify(7));
    world.tell(1, Event::Identified { serial: Serial(2) });
    let late = world.tell(0, Event::Identified { serial: Serial(1) });
    assert_eq!(late.last().unwrap(), "0> close 1 4014 Replaced");
    assert_eq!(world.resume(resume(7)), ["0> decide 3: resume 2 on 1"]);
}

#[test]
fn a_moved_grant_ends_the_old_session_after_five_seconds() {
    let mut world = World::new();
    world.join(7, 50);
    assert!(world.grant(7, 51).is_empty());
    assert!(world.wait(4_999).is_empty());
    assert_eq!(world.wait(1), ["0> close 1 4014 Kicked"]);

    let mut world = World::new();
    world.join(7, 50);
    world.grant(7, 51);
    world.wait(2_000);
    world.grant(7, 50);
    assert!(world.wait(60_000).is_empty(), "moved back in time");
}

#[test]
fn new_rules_reach_the_live_session_at_once() {
    let mut world = World::new();
    world.join(7, 50);
    let mut muted = world.authority.policy(holder(7)).unwrap().clone();
    muted.state.mute = true;
    world.authority.set_policy(holder(7), &muted);
    assert_eq!(world.outputs(), ["0> update 1 mute=true"]);
    assert!(world.authority.policy(holder(7)).unwrap().state.mute);
    world.authority.set_policy(holder(7), &muted);
    assert!(world.outputs().is_empty(), "nothing changed");
    assert_eq!(world.grant(7, 50), ["0> update 1 mute=false"], "a fresh grant counts as well");
}

#[test]
fn rules_that_overtake_a_session_on_its_way_are_told_again_when_it_has_arrived() {
    let mut world = World::new();
    world.grant(7, 50);
    world.ask(identify(7));
    let mut muted = world.authority.policy(holder(7)).unwrap().clone();
    muted.state.mute = true;
    world.authority.set_policy(holder(7), &muted);
    assert_eq!(world.outputs(), ["0> update 1 mute=true"], "its shard may not have it yet");
    let arrived = world.tell(0, Event::Identified { serial: Serial(1) });
    assert_eq!(arrived.last().unwrap(), "0> update 1 mute=true");
}

#[test]
fn a_revoked_grant_ends_its_sessions_even_one_still_on_its_way() {
    let mut world = World::new();
    world.join(7, 50);
    world.ask(identify(7));
    assert!(world.authority.revoke(holder(7), CloseCode::Disconnected));
    assert_eq!(world.outputs(), ["0> close 1 4014 Kicked", "0> close 2 4014 Kicked"]);
    let arrived = world.tell(0, Event::Identified { serial: Serial(2) });
    assert_eq!(arrived, ["session.identified 7 50", "0> close 2 4014 Kicked"]);
    assert_eq!(world.ask(identify(7)), ["0> decide 3: refuse 4004 authentication failed"]);
    assert_eq!(world.resume(resume(7)), ["0> decide 4: refuse 4006 session is no longer valid"]);
    for serial in [1, 2] {
        world.leave(Serial(serial), DisconnectReason::Kicked);
    }
    assert!(!world.authority.revoke(holder(7), CloseCode::Disconnected));
    world.wait(60_000);
    world.assert_empty();
}

#[test]
fn closing_a_channel_takes_its_grants_and_migrating_it_does_not() {
    let mut world = World::new();
    world.join(7, 50);
    world.grant(8, 50);
    world.grant(9, 51);
    let room = ChannelId(50);
    assert!(world.authority.migrate_room(room, CloseCode::ServerCrashed));
    assert_eq!(world.outputs(), ["0> reconnect 50"]);
    assert_eq!(world.resume(resume(7)), ["0> decide 2: resume 1 on 0"], "it may come back");
    assert!(world.authority.migrate_room(room, CloseCode::Disconnected));
    assert_eq!(world.outputs(), ["0> close channel 50 4014 Shutdown"]);
    assert!(world.resume(resume(7))[0].contains("refuse 4006"), "it has to start anew");
    assert_eq!(world.authority.grants(), 3);
    assert!(world.authority.close_room(room, CloseCode::RoomClosed));
    assert_eq!(world.outputs(), ["0> close channel 50 4022 RoomClosed"]);
    assert_eq!(world.authority.grants(), 1);
    world.leave(Serial(1), DisconnectReason::RoomClosed);
    assert!(!world.authority.close_room(room, CloseCode::RoomClosed));
    assert!(!world.authority.migrate_room(room, CloseCode::ServerCrashed));
}

#[test]
fn a_resume_needs_a_live_session_with_the_same_credentials() {
    let mut world = World::new();
    world.join(7, 50);
    assert_eq!(world.resume(resume(7)), ["0> decide 2: resume 1 on 0"]);
    let right = Resume { channel: Some(ChannelId(50)), ..resume(7) };
    assert_eq!(world.resume(right), ["0> decide 3: resume 1 on 0"]);
    let wrong = [
        Resume { server: ServerId(2), ..resume(7) },
        Resume { session: SessionId("other".into()), ..resume(7) },
        Resume { token: Token::new("other"), ..resume(7) },
        Resume { channel: Some(ChannelId(51)), ..resume(7) },
    ];
    for wrong in wrong {
        let answer = world.resume(wrong.clone());
        assert!(answer[0].ends_with("refuse 4006 session is no longer valid"), "{wrong:?}");
    }
    world.leave(Serial(1), DisconnectReason::ResumeTimeout);
    assert!(world.resume(resume(7))[0].contains("refuse 4006"));
}

#[test]
fn a_restarted_shard_loses_its_sessions_and_no_others() {
    let mut world = World::new();
    world.join(1, 50);
    world.join(2, 51);
    world.join(3, 50);
    world.grant(4, 50);
    world.ask(identify(4));
    world.authority.handle_news(world.now, world.wall, ShardId(0), News::Restarted);
    assert_eq!(
        world.outputs(),
        [
            "session.disconnected 1 50 shutdown",
            "session.disconnected 3 50 shutdown",
            "room.empty 50"
        ]
    );
    assert_eq!(world.authority.sessions(), 1);
    assert_eq!(world.resume(resume(2)), ["0> decide 5: resume 2 on 1"]);
    assert_eq!(world.ask(identify(1)), ["0> decide 6: join 5 in 50 on 0"]);
}
