//! Media sink wants: what viewers want to see, told to who shows it as the largest over all
//! viewers. Raised at once, lowered after a pause (protocol.md §4.4). Part of `Shard`.

use std::time::{Duration, Instant};

use crate::{
    id::{ChannelId, Ssrc},
    sfu::{
        Shard,
        cursor::Cursor,
        publish::pictures,
        session::{Session, SessionIndex},
        timer::Timer,
    },
    signalling::{ServerMessage, SinkWants},
};

/// How long a want must have been lower before its sender is told (protocol.md §4.4).
const LOWER_AFTER: Duration = Duration::from_millis(250);

impl Shard {
    /// A viewer says what it wants: what it wants nothing of it is not sent any more.
    pub(super) fn want(&mut self, now: Instant, viewer: SessionIndex, wants: SinkWants) {
        let session = &mut self.sessions[viewer.index()];
        session.wants = wants;
        let (channel, position) = (session.channel, session.position);
        for place in 0..self.channels[channel].members.len() {
            let sender = self.channels[channel].members[place];
            for layer in 0..self.sessions[sender.index()].layers.len() {
                let stream = pictures(layer);
                let ssrc = self.sessions[sender.index()].streams[stream].ssrc;
                let shuns = self.sessions[viewer.index()].want(ssrc) == 0;
                let stream = &mut self.sessions[sender.index()].streams[stream];
                if let Some(cursor) = stream.cursors.get_mut(position) {
                    cursor.shun(shuns);
                }
            }
        }
        self.wants_changed(now, viewer);
        self.want_keyframes(now, viewer);
    }

    /// A stream of video begins: who has said that it wants nothing of it is given nothing.
    #[cold]
    pub(super) fn begin_wanted(&mut self, sender: SessionIndex, stream: usize) {
        let session = &self.sessions[sender.index()];
        let ssrc = session.streams[stream].ssrc;
        let wanting = self.channels[session.channel].members.iter().map(|member| {
            let mut cursor = Cursor::default();
            cursor.shun(self.sessions[member.index()].want(ssrc) == 0);
            cursor
        });
        self.sessions[sender.index()].streams[stream].cursors = wanting.collect();
    }

    /// A viewer's wants have changed, or a viewer has come.
    pub(super) fn wants_changed(&mut self, now: Instant, viewer: SessionIndex) {
        let session = &self.sessions[viewer.index()];
        let channel = session.channel;
        if session.payload_types().is_none() {
            return;
        }
        for position in 0..self.channels[channel].members.len() {
            let sender = self.channels[channel].members[position];
            let raised =
                |shard: &Self, ssrc, wanted| shard.sessions[viewer.index()].want(ssrc).max(wanted);
            if sender != viewer && self.sessions[sender.index()].shows_video() {
                self.tell_wants(sender, raised);
            }
        }
        self.wants_lowered(now, channel);
    }

    /// Somebody in the channel may want less than before.
    pub(super) fn wants_lowered(&mut self, now: Instant, channel: usize) {
        let members = &self.channels[channel].members;
        let shown = members.iter().any(|member| self.sessions[member.index()].shows_video());
        let channel = &mut self.channels[channel];
        if shown && !std::mem::replace(&mut channel.wants_due, true) {
            self.timers.set(now + LOWER_AFTER, Timer::SinkWants(channel.id));
        }
    }

    pub(super) fn tell_lowered_wants(&mut self, channel: ChannelId) {
        let Some(&key) = self.by_channel.get(&channel) else { return };
        self.channels[key].wants_due = false;
        let members = self.channels[key].members.clone();
        for &sender in &members {
            if !self.sessions[sender.index()].shows_video() {
                continue;
            }
            let viewers = || {
                let others = members.iter().filter(|member| **member != sender);
                others.map(|member| &self.sessions[member.index()])
            };
            let viewers: Vec<&Session> =
                viewers().filter(|session| session.payload_types().is_some()).collect();
            // Nobody who could watch: a sender that is told so has to start afresh for the first
            // who comes, so it is left as it is.
            if viewers.is_empty() {
                continue;
            }
            let session = &self.sessions[sender.index()];
            let largest = |ssrc| viewers.iter().map(|viewer| viewer.want(ssrc)).max().unwrap_or(0);
            let wants: Vec<u8> = session.primaries().map(largest).collect();
            self.tell_wants(sender, |shard, ssrc, wanted| {
                let mut primaries = shard.sessions[sender.index()].primaries();
                primaries.position(|own| own == ssrc).map_or(wanted, |layer| wants[layer])
            });
        }
    }

    /// Tells a sender what is wanted of each of its layers, if that is not what it was told last.
    fn tell_wants(&mut self, sender: SessionIndex, want: impl Fn(&Self, Ssrc, u8) -> u8) {
        let session = &self.sessions[sender.index()];
        let layers: Vec<(Ssrc, u8)> = session
            .primaries()
            .zip(&session.wanted)
            .map(|(ssrc, wanted)| (ssrc, want(self, ssrc, *wanted)))
            .collect();
        let wanted: Vec<u8> = layers.iter().map(|(_, want)| *want).collect();
        // By the SSRCs that it sends under, as far as a browser has named them.
        let own = |place: usize, given| session.sent_ssrc(1 + 2 * place).unwrap_or(given);
        let layers: Vec<(Ssrc, u8)> = layers
            .into_iter()
            .enumerate()
            .map(|(place, (given, want))| (own(place, given), want))
            .collect();
        if wanted != session.wanted {
            self.sessions[sender.index()].wanted = wanted;
            self.tell(sender, &ServerMessage::SinkWants { any: None, by_ssrc: &layers });
        }
    }
}
