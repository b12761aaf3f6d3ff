//! songbird 0.6, unmodified, as a foreign client over real TLS: each voice speaks a sine tone of
//! its own, each hearer says which tones it heard under which SSRC, and which RTP packets. Claims
//! are about media heard, never about time; every wait is bounded.

mod support;
#[path = "support/voice.rs"]
mod voice;

use std::collections::BTreeSet;

use songbird::Driver;
use support::{
    client::{Client, shard},
    proxy::Proxy,
    server::Server,
    spacebar::Spacebar,
    tone::VOICES,
    trust::{trusting, trusting_nobody},
};
use voice::{ENOUGH, Voice, config, info, on_one_thread, until};

const CHANNEL: u64 = 127_121_515_262_115_840;
const OTHER_CHANNEL: u64 = 127_121_515_262_115_999;

#[test]
fn two_voices_hear_each_other_with_aes() {
    trusting("two_voices_hear_each_other_with_aes", |state| {
        let server = Server::within(state, &[]);
        everyone_hears_everyone(&server, 2, "aead_aes256_gcm_rtpsize");
    });
}

#[test]
fn two_voices_hear_each_other_with_xchacha() {
    trusting("two_voices_hear_each_other_with_xchacha", |state| {
        let server = Server::within(state, &[("MODES", "aead_xchacha20_poly1305_rtpsize")]);
        // songbird would rather have AES, and takes what is offered.
        everyone_hears_everyone(&server, 2, "aead_xchacha20_poly1305_rtpsize");
    });
}

#[test]
fn five_voices_all_hear_each_other() {
    trusting("five_voices_all_hear_each_other", |state| {
        let server = Server::within(state, &[]);
        everyone_hears_everyone(&server, 5, "aead_aes256_gcm_rtpsize");
    });
}

fn everyone_hears_everyone(server: &Server, count: usize, mode: &str) {
    on_one_thread(async {
        let mut voices = Vec::new();
        for (user, tone) in (10..).zip(VOICES).take(count) {
            voices.push(Voice::join(server, CHANNEL, user, tone).await);
        }
        voices.iter_mut().for_each(Voice::speak);
        for hearer in &voices {
            for speaker in voices.iter().filter(|speaker| speaker.user != hearer.user) {
                hearer.until_hears(speaker).await;
            }
        }
        for hearer in &voices {
            let others: Vec<&Voice> =
                voices.iter().filter(|voice| voice.user != hearer.user).collect();
            hearer.assert_heard_exactly(&others);
        }
        let room = server.api("GET", &format!("/v1/rooms/{CHANNEL}"), None).1;
        let sessions = room["sessions"].as_array().expect("a room has sessions");
        assert_eq!(sessions.len(), count, "{room}");
        assert!(sessions.iter().all(|session| session["mode"] == mode), "{room}");
    });
    assert_eq!(server.metrics().drops("bad_tag"), 0.0, "nothing failed to open");
}

#[test]
fn who_joins_later_hears_those_who_speak_and_is_heard() {
    trusting("who_joins_later_hears_those_who_speak_and_is_heard", |state| {
        let server = Server::within(state, &[]);
        on_one_thread(async {
            let mut first = Voice::join(&server, CHANNEL, 10, VOICES[0]).await;
            let mut second = Voice::join(&server, CHANNEL, 11, VOICES[1]).await;
            first.speak();
            second.speak();
            first.until_hears(&second).await;
            second.until_hears(&first).await;

            let mut late = Voice::join(&server, CHANNEL, 12, VOICES[2]).await;
            late.until_hears(&first).await;
            late.until_hears(&second).await;
            late.speak();
            first.until_hears(&late).await;
            second.until_hears(&late).await;
            first.assert_heard_exactly(&[&second, &late]);
            second.assert_heard_exactly(&[&first, &late]);
            late.assert_heard_exactly(&[&first, &second]);
        });
    });
}

#[test]
fn who_leaves_is_reported_and_heard_no_more() {
    trusting("who_leaves_is_reported_and_heard_no_more", |state| {
        // songbird leaves without a close frame, which holds its place for the resume window.
        let server = Server::within(state, &[("RESUME_WINDOW", "1s")]);
        on_one_thread(async {
            let mut stays = Voice::join(&server, CHANNEL, 10, VOICES[0]).await;
            let mut leaves = Voice::join(&server, CHANNEL, 11, VOICES[1]).await;
            stays.speak();
            leaves.speak();
            stays.until_hears(&leaves).await;
            leaves.until_hears(&stays).await;

            // `leave` would end the media and keep the WebSocket; with the driver both end.
            drop(leaves);
            until("a Client Disconnect", || stays.heard().gone.contains(&11)).await;
            assert_eq!(stays.heard().gone, BTreeSet::from([11]));
            let ssrc = stays.heard().ssrc_of(11).expect("it spoke");
            let heard_before = stays.heard().packets[&ssrc].len();

            let late = Voice::join(&server, CHANNEL, 12, VOICES[2]).await;
            late.until_hears(&stays).await;
            late.assert_heard_exactly(&[&stays]);
            assert_eq!(stays.heard().packets[&ssrc].len(), heard_before);
        });
    });
}

#[test]
fn a_cut_websocket_resumes_and_loses_no_packet() {
    trusting("a_cut_websocket_resumes_and_loses_no_packet", |state| {
        let server = Server::within(state, &[]);
        on_one_thread(async {
            let proxy = Proxy::to(server.gateway());
            let grant = server.grant(CHANNEL, 10);
            let mut cut = Voice::join_at(&grant, &proxy.address().to_string(), VOICES[0]).await;
            let mut other = Voice::join(&server, CHANNEL, 11, VOICES[1]).await;
            cut.speak();
            other.speak();
            cut.until_hears(&other).await;
            other.until_hears(&cut).await;
            let ssrc = other.heard().ssrc_of(10).expect("it spoke");

            proxy.cut();
            until("songbird's reconnection", || cut.heard().reconnected.len() == 1).await;
            assert_eq!(cut.heard().reconnected, [ssrc], "resumed with the SSRC it had");
            assert_eq!(proxy.connections(), 2, "one connection before, one for the resume");
            let mark = (cut.heard().ticks(11), other.heard().ticks(10));
            until("media after the resume", || {
                cut.heard().ticks(11) >= mark.0 + ENOUGH
                    && other.heard().ticks(10) >= mark.1 + ENOUGH
            })
            .await;

            // The resumed socket is alive: news still arrives on it.
            let mut late = Voice::join(&server, CHANNEL, 12, VOICES[2]).await;
            late.speak();
            cut.until_hears(&late).await;

            cut.assert_heard_exactly(&[&other, &late]);
            other.assert_heard_exactly(&[&cut, &late]);
            assert!(other.heard().gone.is_empty(), "a resumed session was never away");
            assert!(cut.heard().lost.is_none() && other.heard().lost.is_none());
        });
    });
}

#[test]
fn channels_on_different_shards_never_hear_each_other() {
    trusting("channels_on_different_shards_never_hear_each_other", |state| {
        let server = Server::within(state, &[("SHARDS", "2")]);
        // Silent members that hold the channels in place; Ready's port tells the shard.
        let here = Client::join(&server, CHANNEL, 100);
        let (_there, there_channel) = (0..32)
            .map(|offset| {
                (
                    Client::join(&server, OTHER_CHANNEL + offset, 101 + offset),
                    OTHER_CHANNEL + offset,
                )
            })
            .find(|(client, _)| shard(&client.ready) != shard(&here.ready))
            .expect("32 channels are not all on one of two shards");
        on_one_thread(async {
            let mut voices = [
                Voice::join(&server, CHANNEL, 10, VOICES[0]).await,
                Voice::join(&server, CHANNEL, 11, VOICES[1]).await,
                Voice::join(&server, there_channel, 12, VOICES[2]).await,
                Voice::join(&server, there_channel, 13, VOICES[3]).await,
            ];
            voices.iter_mut().for_each(Voice::speak);
            let [a, b, c, d] = &voices;
            for (hearer, speaker) in [(a, b), (b, a), (c, d), (d, c)] {
                hearer.until_hears(speaker).await;
            }
            for (hearer, speaker) in [(a, b), (b, a), (c, d), (d, c)] {
                hearer.assert_heard_exactly(&[speaker]);
            }
        });
    });
}

#[test]
fn those_whom_spacebar_lets_in_talk_and_move_and_are_seen_to_leave() {
    trusting("those_whom_spacebar_lets_in_talk_and_move_and_are_seen_to_leave", |state| {
        let spacebar = Spacebar::start();
        let settings = spacebar.settings("unix");
        let mut settings: Vec<(&str, &str)> =
            settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        settings.push(("RESUME_WINDOW", "1s"));
        let server = Server::within(state, &settings);
        on_one_thread(async {
            // What Spacebar names does not resolve; the certificate is for this name.
            let endpoint = format!("localhost:{}", server.gateway().port());
            let grants = [(10, CHANNEL), (11, CHANNEL), (12, OTHER_CHANNEL)]
                .map(|(user, channel)| spacebar.join(user, channel));
            let [a, b, c] = &grants;
            let mut alice = Voice::join_at(a, &endpoint, VOICES[0]).await;
            let mut bob = Voice::join_at(b, &endpoint, VOICES[1]).await;
            let mut carol = Voice::join_at(c, &endpoint, VOICES[2]).await;
            [&mut alice, &mut bob, &mut carol].into_iter().for_each(Voice::speak);
            alice.until_hears(&bob).await;
            bob.until_hears(&alice).await;
            alice.assert_heard_exactly(&[&bob]);

            // The main gateway moves her; her library connects anew with the token it had.
            let moved = spacebar.move_to(a, OTHER_CHANNEL);
            alice.driver.connect(info(&moved, &endpoint)).await.expect("songbird moves");
            until("bob sees her go", || bob.heard().gone.contains(&10)).await;
            alice.until_hears(&carol).await;
            carol.until_hears(&alice).await;

            drop(carol);
            until("alice sees carol go", || alice.heard().gone.contains(&12)).await;
        });
        spacebar.hear_leave(12);
        assert_eq!(spacebar.row(12), "|f|f");
        assert_eq!(spacebar.row(10), format!("{OTHER_CHANNEL}||f"));
    });
}

#[test]
fn a_wrong_token_is_an_authentication_failure() {
    trusting("a_wrong_token_is_an_authentication_failure", |state| {
        let server = Server::within(state, &[]);
        on_one_thread(async {
            let mut grant = server.grant(CHANNEL, 10);
            grant.token.push('x');
            // The driver must outlive the attempt: dropped, it abandons it.
            let mut driver = Driver::new(config());
            let joining = driver.connect(info(&grant, &grant.endpoint));
            let error = joining.await.expect_err("a wrong token is refused");
            assert!(format!("{error:?}").contains("4004"), "{error:?}");
        });
    });
}

#[test]
fn a_certificate_nobody_vouches_for_is_refused() {
    trusting_nobody("a_certificate_nobody_vouches_for_is_refused", |state| {
        let server = Server::within(state, &[]);
        on_one_thread(async {
            let grant = server.grant(CHANNEL, 10);
            let mut driver = Driver::new(config());
            let joining = driver.connect(info(&grant, &grant.endpoint));
            let error = joining.await.expect_err("an unknown certificate is refused");
            assert!(format!("{error:?}").contains("certificate verify failed"), "{error:?}");
        });
    });
}
