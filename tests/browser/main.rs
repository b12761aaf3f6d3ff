//! Real Chromium on the page that a development server serves: tabs hear each other, songbird, and
//! whoever joins later; see each other's cameras; and go on after reloads, cuts and restarts.
//! Claims are about sound heard and pictures decoded, never about time; every wait is bounded.

mod caller;
mod chromium;
mod scenes;
#[path = "../support/mod.rs"]
mod support;
mod tab;
#[path = "../support/voice.rs"]
mod voice;

use std::net::Ipv4Addr;

use caller::{Caller, hear_each_other, two_browsers, two_tabs};
use chromium::{Chromium, Devices, Setup};
use fantoccini::key::Key;
use support::{
    proxy::Proxy,
    relay::Relay,
    server::{GUILD, Server},
    tone::VOICES,
    trust::trusting,
};
use tab::{ENOUGH, Sight, Tab};
use voice::{Voice, on_one_thread};

const CHANNEL: u64 = 127_121_515_262_115_840;

/// Tabs of the test with many.
const MANY: usize = 10;

const fn setup(tone: f64) -> Setup {
    Setup { tone, devices: Devices::Permitted }
}

#[test]
fn two_tabs_of_one_browser_hear_each_other() {
    on_one_thread(async {
        let Some(browser) = Chromium::start(setup(VOICES[0])).await else { return };
        let server = Server::start();
        let [ann, bob] = two_tabs(&server, &browser).await;
        hear_each_other([&ann, &bob], [VOICES[0], VOICES[0]]).await;
        hears_whole(&ann, &bob.id).await;
        let sight = hears_whole(&bob, &ann.id).await;
        let transport = sight.transport.as_ref().expect("there is a transport");
        assert_eq!((transport.dtls.as_str(), transport.ice.as_str()), ("connected", "connected"));
        let srtp = transport.srtp.as_deref();
        assert!(srtp.is_some_and(|it| it.starts_with("SRTP_AEAD_AES_")), "{transport:?}");
        let ann_seen = sight.tile(&ann.id).expect("Ann has a tile");
        assert_eq!((ann_seen.name.as_str(), ann_seen.own), ("Ann", false));

        // Who speaks is shown, and who is mute does not.
        bob.until("Ann is shown to speak", |it| speaks(it, &ann.id)).await;
        ann.click("#mute").await;
        bob.until("Ann is shown to be silent", |it| !speaks(it, &ann.id)).await;
        ann.click("#mute").await;
        bob.until("Ann is shown to speak again", |it| speaks(it, &ann.id)).await;
        bob.until_hears(&ann.id, VOICES[0]).await;

        ann.click("#leave").await;
        bob.until("Ann's tile is gone", |it| it.tile(&ann.id).is_none()).await;
        assert_nothing_lost(&server);
        browser.close().await;
    });
}

#[test]
fn links_let_people_in_where_there_are_no_visitors() {
    on_one_thread(async {
        let Some(browser) = Chromium::start(setup(VOICES[0])).await else { return };
        let state = tempfile::tempdir().expect("a temporary directory");
        let secret = state.path().join("control.secret");
        std::fs::write(&secret, "0123456789abcdef").expect("a file can be written");
        let secret = secret.display().to_string();
        let server = Server::within(state.path(), &[("CONTROL_SECRET_FILE", &secret)]);
        let (ann, bob) = (Tab::first(&browser).await, Tab::another(&browser).await);
        let eve = Tab::another(&browser).await;
        eve.open_gateway(&server).await;
        eve.until("the page says who is let in", |it| {
            it.alert.as_ref().is_some_and(|words| words.contains("stentor grant"))
        })
        .await;
        ann.open_link(&server, 10, "Ann").await;
        bob.open_link(&server, 11, "Bob").await;
        assert_eq!(ann.join_and_connect().await, "10");
        assert_eq!(bob.join_and_connect().await, "11");
        ann.until_hears("11", VOICES[0]).await;
        bob.until_hears("10", VOICES[0]).await;
        ann.click("#camera").await;
        sees(&bob, &ann, "10").await;
        let seen = bob.look().await;
        assert_eq!(seen.tile("10").map(|tile| tile.name.as_str()), Some("user 10"));

        // A link can be opened again, until the grant is taken away.
        ann.reload().await;
        assert_eq!(ann.join_and_connect().await, "10");
        bob.until_hears("10", VOICES[0]).await;
        server.api("DELETE", &format!("/v1/grants/{GUILD}/10"), None);
        ann.until("Ann is told", |it| it.alert.is_some()).await;
        ann.join().await;
        ann.until("the link is of no use", |it| {
            it.alert.as_ref().is_some_and(|words| words.contains("a new one"))
        })
        .await;
        browser.close().await;
    });
}

#[test]
fn two_browsers_hear_each_others_tone_and_no_other() {
    on_one_thread(async {
        let Some(one) = Chromium::start(setup(VOICES[0])).await else { return };
        let Some(two) = Chromium::start(setup(VOICES[3])).await else { return };
        let server = Server::start();
        let [ann, bob] = two_browsers(&server, [&one, &two]).await;
        hear_each_other([&ann, &bob], [VOICES[0], VOICES[3]]).await;
        hears_whole(&ann, &bob.id).await;
        hears_whole(&bob, &ann.id).await;
        assert_nothing_lost(&server);
        one.close().await;
        two.close().await;
    });
}

#[test]
fn a_tab_and_songbird_hear_each_others_tone() {
    trusting("a_tab_and_songbird_hear_each_others_tone", |state| {
        let server = Server::within(state, &[]);
        on_one_thread(async {
            let Some(browser) = Chromium::start(setup(VOICES[0])).await else { return };
            let tab = Caller::join(&server, Tab::first(&browser).await, "Ann").await;
            let ann = tab.id.parse().expect("a user id");
            let mut bird = Voice::join(&server, CHANNEL, 10, VOICES[2]).await;
            bird.speak();
            tab.until_hears("10", VOICES[2]).await;
            hears_whole(&tab, "10").await;
            voice::until("songbird hears the tab", || bird.heard().ticks(ann) >= voice::ENOUGH)
                .await;
            bird.assert_hears_tone(ann, VOICES[0]);
            assert_nothing_lost(&server);
            browser.close().await;
        });
    });
}

#[test]
fn a_camera_is_seen_as_large_as_it_is_sent() {
    on_one_thread(async {
        let Some(browser) = Chromium::start(setup(VOICES[0])).await else { return };
        let server = Server::start();
        let [ann, bob] = two_tabs(&server, &browser).await;
        ann.click("#camera").await;
        sees(&bob, &ann, &ann.id).await;
        bob.click("#camera").await;
        sees(&ann, &bob, &bob.id).await;

        // A newcomer sees both, though no picture of theirs begins when it comes.
        let eve = Caller::join(&server, Tab::another(&browser).await, "Eve").await;
        sees(&eve, &ann, &ann.id).await;
        sees(&eve, &bob, &bob.id).await;

        ann.click("#camera").await;
        bob.until("Ann's camera is off", |it| !it.tile(&ann.id).is_some_and(|it| it.picture)).await;
        ann.click("#camera").await;
        sees(&bob, &ann, &ann.id).await;

        // Nobody looks while the browser shows Ann's own tab, so that nothing need be sent.
        let is_sent = |it: &Sight| it.outbound("video").is_some_and(|it| it.active);
        ann.until("the camera rests", |it| !is_sent(it)).await;
        sees(&bob, &ann, &ann.id).await;
        browser.close().await;
    });
}

#[test]
fn who_joins_later_hears_those_who_speak_already() {
    on_one_thread(async {
        let Some(one) = Chromium::start(setup(VOICES[0])).await else { return };
        let Some(two) = Chromium::start(setup(VOICES[1])).await else { return };
        let Some(three) = Chromium::start(setup(VOICES[2])).await else { return };
        let server = Server::start();
        let [ann, bob] = two_browsers(&server, [&one, &two]).await;
        hear_each_other([&ann, &bob], [VOICES[0], VOICES[1]]).await;
        let eve = Caller::join(&server, Tab::first(&three).await, "Eve").await;
        hear_each_other([&ann, &eve], [VOICES[0], VOICES[2]]).await;
        hear_each_other([&bob, &eve], [VOICES[1], VOICES[2]]).await;
        for (hearer, others) in [(&ann, [&bob, &eve]), (&bob, [&ann, &eve]), (&eve, [&ann, &bob])] {
            for other in others {
                hears_whole(hearer, &other.id).await;
            }
        }
        assert_nothing_lost(&server);
        for browser in [one, two, three] {
            browser.close().await;
        }
    });
}

#[test]
fn a_tab_that_is_loaded_again_leaves_and_comes_back() {
    on_one_thread(async {
        let Some(browser) = Chromium::start(setup(VOICES[1])).await else { return };
        let server = Server::start();
        let [ann, bob] = two_tabs(&server, &browser).await;
        bob.until_hears(&ann.id, VOICES[1]).await;
        ann.reload().await;
        // At once, not when the resume window is over.
        bob.until("Ann's tile is gone", |it| it.tile(&ann.id).is_none()).await;
        let ann_after = ann.join_and_connect().await;
        assert_ne!(ann_after, ann.id);
        ann.until_hears(&bob.id, VOICES[1]).await;
        bob.until_hears(&ann_after, VOICES[1]).await;
        browser.close().await;
    });
}

#[test]
fn a_cut_websocket_resumes_while_sound_goes_on() {
    on_one_thread(async {
        let Some(browser) = Chromium::start(setup(VOICES[1])).await else { return };
        let proxy = Proxy::open();
        let endpoint = proxy.address().to_string();
        let server = Server::with(&[("GATEWAY_PUBLIC_ENDPOINT", &endpoint)]);
        proxy.lead_to(server.gateway());
        let [ann, bob] = two_tabs(&server, &browser).await;
        hear_each_other([&ann, &bob], [VOICES[1], VOICES[1]]).await;
        let mark = packets(&ann.look().await, &bob.id);
        assert_eq!(proxy.connections(), 2, "one each");

        proxy.cut();
        support::wait_until("both come back", || proxy.connections() == 4);
        for tab in [&ann, &bob] {
            tab.until("resumed", Sight::is_connected).await;
        }
        let later = |it: &Sight| packets(it, &bob.id) > mark + ENOUGH;
        let sight = ann.until("sound after the cut", later).await;
        assert_eq!(sight.user.as_deref(), Some(ann.id.as_str()), "it is the same session");
        hears_whole(&ann, &bob.id).await;
        hears_whole(&bob, &ann.id).await;

        // The resumed connection brings news.
        bob.click("#camera").await;
        sees(&ann, &bob, &bob.id).await;
        assert_eq!(proxy.connections(), 4, "and it holds");
        browser.close().await;
    });
}

#[test]
fn a_network_that_changes_does_not_end_the_call() {
    on_one_thread(async {
        let Some(browser) = Chromium::start(setup(VOICES[2])).await else { return };
        let relay = Relay::open();
        let port = relay.port().to_string();
        let server = Server::with(&[("MEDIA_PUBLIC_BASE_PORT", &port)]);
        relay.lead_to((Ipv4Addr::LOCALHOST, server.media_port()).into());
        let [ann, bob] = two_tabs(&server, &browser).await;
        hear_each_other([&ann, &bob], [VOICES[2], VOICES[2]]).await;
        let (ann_mark, bob_mark) =
            (packets(&ann.look().await, &bob.id), packets(&bob.look().await, &ann.id));

        // Both are somewhere else now; what was under way is lost, and no more.
        relay.move_clients();
        ann.until("sound after the move", |it| packets(it, &bob.id) > ann_mark + 3 * ENOUGH).await;
        bob.until("sound after the move", |it| packets(it, &ann.id) > bob_mark + 3 * ENOUGH).await;
        for (tab, own) in [(&ann, &ann.id), (&bob, &bob.id)] {
            let sight = tab.until("connected", Sight::is_connected).await;
            assert_eq!(sight.user.as_ref(), Some(own), "it is the same session");
        }
        browser.close().await;
    });
}

#[test]
fn tabs_come_back_to_a_server_that_was_started_again() {
    on_one_thread(async {
        let Some(browser) = Chromium::start(setup(VOICES[1])).await else { return };
        let mut server = Server::start();
        let [ann, bob] = two_tabs(&server, &browser).await;
        assert!(server.terminate().success());
        ann.until("the page says so", |it| it.alert.is_some() && it.state == "reconnecting").await;
        server.start_again();
        let ann_id = ann.until("Ann is back", Sight::is_connected).await.user.expect("a user");
        let bob_id = bob.until("Bob is back", Sight::is_connected).await.user.expect("a user");
        ann.until_hears(&bob_id, VOICES[1]).await;
        bob.until_hears(&ann_id, VOICES[1]).await;
        let sight = ann.look().await;
        assert_eq!((sight.tiles.len(), sight.alert), (2, None), "nobody is there twice");
        browser.close().await;
    });
}

#[test]
fn ten_tabs_in_one_channel_all_hear_each_other() {
    on_one_thread(async {
        let Some(browser) = Chromium::start(setup(VOICES[4])).await else { return };
        let server = Server::start();
        let mut callers = Vec::new();
        while callers.len() < MANY {
            let tab = match callers.len() {
                0 => Tab::first(&browser).await,
                _ => Tab::another(&browser).await,
            };
            callers.push(Caller::join(&server, tab, &format!("Tab {}", callers.len())).await);
        }
        for caller in &callers {
            let users = callers.iter().map(|it| it.id.as_str());
            let others: Vec<&str> = users.filter(|user| *user != caller.id).collect();
            caller.until_hears_each(&others, VOICES[4]).await;
            let sight = caller.look().await;
            assert_eq!(sight.tiles.len(), MANY);
            assert_eq!(sight.inbound.len(), MANY - 1, "{:#?}", sight.inbound);
        }
        assert_nothing_lost(&server);
        browser.close().await;
    });
}

#[test]
fn a_refused_microphone_is_said_in_words_and_one_can_still_listen() {
    on_one_thread(async {
        let refused = Setup { tone: VOICES[0], devices: Devices::Refused };
        let Some(deaf_ears) = Chromium::start(refused).await else { return };
        let Some(browser) = Chromium::start(setup(VOICES[2])).await else { return };
        let server = Server::start();
        let ann = Tab::first(&deaf_ears).await;
        ann.open(&server, "Ann", CHANNEL).await;
        ann.join().await;
        let sight = ann.until("words", |it| it.alert.is_some()).await;
        let words = sight.alert.expect("there is one");
        assert!(words.contains("refused the microphone") && words.contains("Allow it"), "{words}");
        assert_eq!(sight.state, "idle");

        ann.click("#alert-act").await;
        let ann_id = ann.until("connected", Sight::is_connected).await.user.expect("a user");
        let bob = Caller::join(&server, Tab::first(&browser).await, "Bob").await;
        ann.until_hears(&bob.id, VOICES[2]).await;
        let sight = ann.look().await;
        assert_eq!(sight.tile(&ann_id).expect("Ann has a tile").mark, "listens");

        // The camera is refused as clearly, and the call goes on.
        ann.click("#camera").await;
        let sight = ann.until("words", |it| it.alert.is_some()).await;
        assert!(sight.alert.expect("there is one").contains("refused the camera"));
        assert_eq!(sight.state, "connected");
        deaf_ears.close().await;
        browser.close().await;
    });
}

#[test]
fn the_page_can_be_used_without_a_mouse_and_says_who_comes_and_goes() {
    on_one_thread(async {
        let Some(browser) = Chromium::start(setup(VOICES[0])).await else { return };
        let server = Server::start();
        let ann = Tab::first(&browser).await;
        ann.open(&server, "", CHANNEL).await;
        ann.press(&Key::Tab).await;
        assert_eq!(ann.look().await.focus, "name");
        ann.press("Ann").await;
        ann.press(&Key::Enter).await;
        let ann_id = ann.until("connected", Sight::is_connected).await.user.expect("a user");
        assert_eq!(ann.look().await.focus, "mute");
        ann.press(" ").await;
        let mark = |it: &Sight| it.tile(&ann_id).map(|tile| tile.mark.clone()).unwrap_or_default();
        ann.until("muted", |it| mark(it) == "muted").await;
        ann.press(&Key::Tab).await;
        ann.press(" ").await;
        ann.until("deafened", |it| mark(it) == "deafened").await;
        ann.press(&Key::Tab).await;
        ann.press(&Key::Enter).await;
        ann.until("camera", |it| it.tile(&ann_id).is_some_and(|tile| tile.picture)).await;

        let bob = Caller::join(&server, Tab::another(&browser).await, "Bob").await;
        ann.until("Bob's coming is said", |it| it.news == "Bob has joined").await;
        bob.click("#leave").await;
        ann.until("Bob's going is said", |it| it.news == "Bob has left").await;

        ann.press(&Key::Tab).await;
        ann.press(&Key::Enter).await;
        let sight = ann.until("left", |it| it.state == "idle").await;
        assert_eq!((sight.focus.as_str(), sight.news.as_str()), ("join-button", "You have left."));
        browser.close().await;
    });
}

#[test]
fn a_missing_microphone_is_said_in_words() {
    on_one_thread(async {
        let missing = Setup { tone: VOICES[0], devices: Devices::Missing };
        let Some(browser) = Chromium::start(missing).await else { return };
        let server = Server::start();
        let ann = Tab::first(&browser).await;
        ann.open(&server, "Ann", CHANNEL).await;
        ann.join().await;
        let sight = ann.until("words", |it| it.alert.is_some()).await;
        let words = sight.alert.expect("there is one");
        assert!(words.contains("There is no microphone on this machine"), "{words}");
        assert_eq!(sight.state, "idle");
        browser.close().await;
    });
}

/// As behind a firewall that lets no UDP through, and then does.
#[test]
fn media_that_does_not_come_through_is_said_and_tried_again() {
    on_one_thread(async {
        let Some(one) = Chromium::start(setup(VOICES[0])).await else { return };
        let Some(two) = Chromium::start(setup(VOICES[1])).await else { return };
        let relay = Relay::open();
        let port = relay.port().to_string();
        let server = Server::with(&[("MEDIA_PUBLIC_BASE_PORT", &port)]);
        let ann = Tab::first(&one).await;
        ann.open(&server, "Ann", CHANNEL).await;
        ann.join().await;
        let sight = ann.until("words", |it| it.alert.is_some()).await;
        let words = sight.alert.expect("there is one");
        assert!(words.contains("Media does not come through"), "{words}");
        relay.lead_to((Ipv4Addr::LOCALHOST, server.media_port()).into());
        let sight = ann.until("connected", Sight::is_connected).await;
        assert_eq!(sight.alert, None, "what was said is no longer so");
        let ann_id = sight.user.expect("a user");
        let bob = Caller::join(&server, Tab::first(&two).await, "Bob").await;
        ann.until_hears(&bob.id, VOICES[1]).await;
        bob.until_hears(&ann_id, VOICES[0]).await;
        one.close().await;
        two.close().await;
    });
}

fn speaks(sight: &Sight, user: &str) -> bool {
    sight.tile(user).is_some_and(|tile| tile.speaking)
}

fn packets(sight: &Sight, user: &str) -> u64 {
    sight.inbound(user, "audio").map_or(0, |it| it.packets)
}

/// Waits for a second of the user's sound, of which nothing is lost.
async fn hears_whole(tab: &Tab<'_>, user: &str) -> Sight {
    let sight = tab.until("a second of sound", |it| packets(it, user) >= ENOUGH).await;
    let heard = sight.inbound(user, "audio").expect("it is heard");
    assert_eq!(heard.lost, 0, "{heard:?}");
    assert!(heard.level.is_some_and(|level| level > 0.05), "{heard:?}");
    sight
}

/// Waits until one tab shows moving pictures of another one's camera, as large as they are sent.
async fn sees(viewer: &Tab<'_>, shower: &Tab<'_>, user: &str) {
    let of = |sight: &Sight| sight.inbound(user, "video").and_then(|it| it.frames).unwrap_or(0);
    let before = of(&viewer.look().await);
    viewer.until("moving pictures", |it| of(it) >= before + 30).await;
    // Congestion control changes the size while it learns what the network carries.
    let deadline = std::time::Instant::now() + support::WAIT;
    loop {
        let (seen, sent) = (viewer.look().await, shower.look().await);
        let seen = seen.tile(user).map(|tile| (tile.width, tile.height));
        let sent = sent.outbound("video").and_then(|it| it.width.zip(it.height));
        if sent.is_some_and(|(width, _)| width >= 320) && seen == sent {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "seen {seen:?}, sent {sent:?}");
    }
}

/// The server dropped nothing that it should have forwarded.
fn assert_nothing_lost(server: &Server) {
    let metrics = server.metrics();
    for reason in ["bad_tag", "replayed", "too_old", "foreign_ssrc", "egress_full", "socket_full"] {
        assert_eq!(metrics.drops(reason), 0.0, "{reason}");
    }
}
