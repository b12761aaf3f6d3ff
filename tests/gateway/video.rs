//! Video state and sink wants, kept and relayed, and RTP of declared streams (protocol.md §4.1,
//! §4.4).

use serde_json::{Value, json};

use crate::{
    CHANNEL,
    support::{
        cipher::Mode,
        client::{Client, key, shard, u32_of},
        gateway::{Door, Gateway},
        media::Media,
        rtp::Rtp,
        server::Server,
    },
};

/// H264's payload type in the official example.
const H264: u8 = 103;

/// Identifies with two layers, selects with codecs.
fn join_with_video(server: &Server, user: u64) -> Client {
    let grant = server.grant(CHANNEL, user);
    let mut gateway = Gateway::open(server, Door::plain(9));
    let layers = json!([{ "type": "video", "rid": "100", "quality": 100 },
                        { "type": "video", "rid": "50", "quality": 50 }]);
    gateway.identify_with(&grant, json!({ "video": true, "streams": layers }));
    let ready = gateway.expect(2);
    let mut media = Media::new(shard(&ready), u32_of(&ready.d["ssrc"]));
    let seen = media.discover();
    gateway.send(
        1,
        json!({
            "protocol": "udp",
            "data": { "address": seen.text, "port": seen.port, "mode": Mode::AesRtpsize.name() },
            "codecs": [
                { "name": "opus", "type": "audio", "priority": 1000, "payload_type": 120 },
                { "name": "H264", "type": "video", "priority": 1000, "payload_type": H264,
                  "rtx_payload_type": 104, "encode": true, "decode": true }
            ]
        }),
    );
    let description = gateway.expect(4);
    media.set_key(Mode::AesRtpsize, key(&description));
    Client { gateway, media, grant, ready, description }
}

/// The primary SSRC of the first layer.
fn layer(client: &Client) -> u32 {
    u32_of(&client.ready.d["streams"][0]["ssrc"])
}

/// op 12 with the first layer on.
fn camera_on(client: &mut Client) {
    let (primary, audio) = (layer(client), client.media.ssrc);
    let stream = json!({ "type": "video", "rid": "100", "ssrc": primary, "active": true, "quality": 100,
                         "rtx_ssrc": primary + 1, "max_bitrate": 2500, "max_framerate": 30,
                         "max_resolution": { "type": "fixed", "width": 1280, "height": 720 } });
    let d = json!({ "audio_ssrc": audio, "video_ssrc": primary, "rtx_ssrc": primary + 1, "streams": [stream] });
    client.gateway.send(12, d);
    let news = client.gateway.drain();
    client.gateway.keep(news);
}

fn without_video(user: u64, audio: u32, d: &Value) {
    assert_eq!((&d["user_id"], &d["audio_ssrc"]), (&json!(user.to_string()), &json!(audio)), "{d}");
    let streams = d["streams"].as_array().expect("streams");
    assert!(d["video_ssrc"] == 0 && streams.iter().all(|stream| stream["active"] != true), "{d}");
}

#[test]
fn ready_names_two_ssrcs_per_layer_that_follow_each_other() {
    let server = Server::start();
    let client = join_with_video(&server, 10);
    let streams = client.ready.d["streams"].as_array().expect("streams");
    assert_eq!(streams.len(), 2);
    for (stream, (rid, quality)) in streams.iter().zip([("100", 100), ("50", 50)]) {
        assert_eq!((&stream["type"], &stream["rid"]), (&json!("video"), &json!(rid)));
        assert_eq!((&stream["quality"], &stream["active"]), (&json!(quality), &json!(false)));
        assert_eq!(u32_of(&stream["rtx_ssrc"]), u32_of(&stream["ssrc"]) + 1);
    }
    let mut ssrcs = vec![client.media.ssrc];
    ssrcs.extend(
        streams.iter().flat_map(|stream| [u32_of(&stream["ssrc"]), u32_of(&stream["rtx_ssrc"])]),
    );
    ssrcs.sort_unstable();
    ssrcs.dedup();
    assert_eq!(ssrcs.len(), 5, "all different");
}

#[test]
fn a_screen_that_asks_for_layers_is_answered_with_video() {
    let server = Server::start();
    let grant = server.grant(CHANNEL, 10);
    let mut gateway = Gateway::open(&server, Door::plain(8));
    let layers = json!([{ "type": "screen", "rid": "100", "quality": 100 }]);
    gateway.identify_with(&grant, json!({ "video": true, "streams": layers }));
    assert_eq!(gateway.expect(2).d["streams"][0]["type"], "video");
}

#[test]
fn camera_on_and_off_are_relayed_and_told_to_newcomers() {
    let server = Server::start();
    let mut present = Client::join(&server, CHANNEL, 11);
    let mut sender = join_with_video(&server, 10);
    let audio = sender.media.ssrc;
    sender.speaking(0);
    camera_on(&mut sender);
    let on = present.gateway.expect(12);
    assert_eq!(on.d["user_id"], "10");
    assert_eq!(on.d["audio_ssrc"], audio);
    assert_eq!(on.d["video_ssrc"], layer(&sender));
    assert!(on.d.get("rtx_ssrc").is_none(), "no top-level rtx_ssrc to clients: {on:?}");
    let stream = &on.d["streams"][0];
    assert_eq!((&stream["ssrc"], &stream["active"]), (&json!(layer(&sender)), &json!(true)));
    assert_eq!(stream["rtx_ssrc"], layer(&sender) + 1);
    assert!(stream.get("max_bitrate").is_none(), "{on:?}");

    let mut newcomer = Client::join(&server, CHANNEL, 12);
    let news = newcomer.gateway.drain();
    let video: Vec<_> = news.iter().filter(|message| message.op == 12).collect();
    assert_eq!(video.len(), 1, "{news:?}");
    assert_eq!(video[0].d["video_ssrc"], layer(&sender));

    let off = json!({ "audio_ssrc": audio, "video_ssrc": 0, "rtx_ssrc": 0, "streams": [] });
    sender.gateway.send(12, off);
    for hearer in [&mut present, &mut newcomer] {
        without_video(10, audio, &hearer.gateway.expect(12).d);
    }
    let mut later = Client::join(&server, CHANNEL, 13);
    let news = later.gateway.drain();
    for message in news.iter().filter(|message| message.op == 12) {
        without_video(10, audio, &message.d);
    }
}

#[test]
fn a_video_message_with_only_an_audio_ssrc_is_no_video() {
    let server = Server::start();
    let mut client = Client::join(&server, CHANNEL, 10);
    client.gateway.send(12, json!({ "audio_ssrc": client.media.ssrc }));
    let _ = client.gateway.drain();
}

#[test]
fn video_taken_away_by_the_backend_is_cleared_for_the_others() {
    let server = Server::start();
    let mut present = Client::join(&server, CHANNEL, 11);
    let mut sender = join_with_video(&server, 10);
    camera_on(&mut sender);
    let _ = present.gateway.expect(12);
    server.patch(10, json!({ "permissions": { "video": false } }));
    without_video(10, sender.media.ssrc, &present.gateway.expect(12).d);
}

#[test]
fn declared_video_reaches_who_declared_video_and_nobody_else() {
    let server = Server::start();
    let mut sender = join_with_video(&server, 10);
    let mut viewer = join_with_video(&server, 11);
    let mut bot = Client::join(&server, CHANNEL, 12);
    sender.start_speaking();
    camera_on(&mut sender);
    viewer.gateway.send(15, json!({ "any": 100 }));
    let _ = viewer.gateway.drain();

    let frame = |sequence: u16| Rtp {
        payload_type: H264,
        marker: true,
        // An IDR slice, so that a server that waits for a keyframe has one.
        payload: vec![0x65, 0x88, sequence as u8],
        ..Rtp::opus(layer(&sender), sequence, 3_000 * u32::from(sequence), &[])
    };
    let frames = [frame(1), frame(2), frame(3)];
    for frame in &frames {
        sender.media.send(frame);
    }
    for frame in &frames {
        let heard = viewer.media.hear();
        assert_eq!((heard.ssrc, heard.payload_type, heard.marker), (layer(&sender), H264, true));
        assert_eq!(heard.payload, frame.payload);
    }
    assert!(crate::heard_before(&mut bot, &mut sender).is_empty(), "a bot gets no video");
}

#[test]
fn video_that_was_not_declared_is_dropped() {
    let server = Server::start();
    let mut sender = join_with_video(&server, 10);
    let mut viewer = join_with_video(&server, 11);
    sender.start_speaking();
    let mut packet = Rtp::opus(layer(&sender), 1, 1, &[0x65, 1, 2]);
    packet.payload_type = H264;
    sender.media.send(&packet);
    assert!(crate::heard_before(&mut viewer, &mut sender).is_empty());
    assert_eq!(server.metrics().drops("video_not_allowed"), 1.0);
}

#[test]
fn sink_wants_reach_the_sender_as_integers_for_its_own_ssrcs() {
    let server = Server::start();
    let mut sender = join_with_video(&server, 10);
    let mut viewer = join_with_video(&server, 11);
    camera_on(&mut sender);
    let _ = viewer.gateway.expect(12);
    let own = layer(&sender).to_string();
    let mut wants = json!({ "any": 0, "pixelCounts": { own.as_str(): 921_600.0 } });
    wants[&own] = 50.into();
    viewer.gateway.send(15, wants);
    let told = sender.gateway.expect_where("a sink want for the layer", |message| {
        message.op == 15 && message.d.get(&own).is_some_and(|quality| *quality == 50)
    });
    let values = told.d.as_object().expect("an object").values();
    assert!(values.into_iter().all(Value::is_u64), "integers only: {told:?}");
}
