//! What may happen about video: cameras film, are turned on and off, and send again what was lost;
//! viewers change their codecs and what they want to see. Part of `World`.

use serde_json::json;
use stentor::id::{Serial, Ssrc};

use crate::{
    checkers::{Takes, VIDEO_HEAD},
    client::{Outgoing, Rtp, codec, message, opus, rtp},
    surfing,
    world::{Attempt, World},
};

impl World {
    pub fn film(&mut self) {
        let has_camera = |world: &Self, who: usize| {
            let attempt = &world.attempts[who];
            surfing::has_keys(attempt) && attempt.client.streams.len() > 1
        };
        let Some(who) = self.someone(has_camera) else { return };
        let Some(serial) = self.attempts[who].stay else { return };
        if !self.checkers.stays[&serial].camera && self.dice.percent(80) {
            self.camera(who, true);
        }
        let (media, retransmission) =
            self.checkers.stays.get(&serial).map_or((103, 104), |stay| stay.takes.numbers());
        for _ in 0..self.dice.within(1..6) {
            match self.dice.percent(85) {
                true => self.send_media(who, 1, media),
                false => self.send_again(who, media, retransmission),
            }
            self.wait(0..10);
        }
    }

    /// The payload of a packet of video, which may be the first of a keyframe.
    pub fn picture(&mut self, who: usize, by: Serial, ssrc: Ssrc, noise: Vec<u8>) -> Vec<u8> {
        let wanted = std::mem::take(&mut self.attempts[who].keyframe_wanted);
        let keyframe = wanted || self.dice.percent(15);
        let takes = self.checkers.stays.get(&by).map(|stay| stay.takes);
        let head: [u8; VIDEO_HEAD] = match (takes, keyframe) {
            (Some(Takes::Listed { codec: "VP8", .. }), true) => [0x10, 0x00],
            (Some(Takes::Listed { codec: "VP8", .. }), false) => [0x10, 0x01],
            (_, true) => [0x65, 0x88],
            (_, false) => [0x41, 0x9A],
        };
        self.checkers.payload_after(&head, by, ssrc, noise, keyframe)
    }

    /// A packet of video is sent once more, as a retransmission or as it was; it may have arrived.
    pub fn send_again(&mut self, who: usize, media: u8, retransmission: u8) {
        let attempt = &self.attempts[who];
        let Attempt { filmed, filmed_under, .. } = attempt;
        if filmed.is_empty() || *filmed_under != surfing::keys(attempt) || self.restarts {
            return;
        }
        let back = self.dice.within(1..filmed.len().min(20) + 1);
        let (lost, timestamp, payload) = filmed[filmed.len() - back].clone();
        let streams = &mut self.attempts[who].client.streams;
        let plain = if self.dice.percent(70) {
            let Outgoing { ssrc, seq, .. } = streams[2];
            streams[2].seq = seq.wrapping_add(1);
            let payload = [&lost.to_be_bytes()[..], &payload].concat();
            let payload_type = retransmission;
            Rtp { payload_type, seq, timestamp, payload: &payload, ..rtp(ssrc) }.plain()
        } else {
            let packet = rtp(streams[1].ssrc);
            let (payload_type, seq) = (media, lost);
            Rtp { payload_type, seq, timestamp, payload: &payload, ..packet }.plain()
        };
        self.send_sealed(who, &plain);
    }

    pub fn turn_camera(&mut self) {
        if let Some(who) = self
            .someone(|world, who| world.is_in(who) && world.attempts[who].client.streams.len() > 1)
        {
            let on = self.dice.percent(60);
            self.camera(who, on);
        }
    }

    /// Those who listed codecs list others.
    pub fn list_codecs(&mut self) {
        let listed = |world: &Self, who: usize| {
            let attempt = &world.attempts[who];
            let camera = attempt.client.streams.len() > 1;
            let listed = attempt.client.profile.codecs.is_some();
            world.is_in(who) && surfing::has_keys(attempt) && listed && camera
        };
        let Some(who) = self.someone(listed) else { return };
        let Some(serial) = self.attempts[who].stay else { return };
        let media = 96 + self.dice.within(0..15) as u8 * 2;
        let name = if self.dice.percent(30) { "VP8" } else { "H264" };
        let codecs = match self.is_browser(who) {
            true => surfing::codecs(Some((name, media))),
            false => json!([opus(), codec(name, 1000, media, Some(media + 1))]),
        };
        let takes = Takes::Listed { codec: name, media, retransmission: media + 1 };
        self.attempts[who].client.profile.codecs = Some(codecs.clone());
        self.checkers.stays.get_mut(&serial).expect("a live session").takes = takes;
        self.say(who, |_| message(14, json!({"codecs": codecs})));
    }

    /// A viewer wants to see more or less of some streams.
    pub fn want(&mut self) {
        let Some(who) = self.someone_in() else { return };
        let mut want = || if self.dice.percent(20) { 0 } else { self.dice.within(1..101) };
        let mut wants = json!({ "any": want() });
        for stay in self.checkers.stays.values() {
            if let [_, video, ..] = stay.ssrcs[..] {
                wants[video.to_string()] = json!(want());
            }
        }
        self.say(who, |_| message(15, wants));
    }
}
