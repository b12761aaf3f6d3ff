//! Who shows video, and what the others are told of it (op 12, protocol.md §4.1). What a client
//! declares is kept even while it may not be shown, so that it is shown once it may. Part of
//! `Shard`.

use std::time::Instant;

use crate::{
    id::{Ssrc, UserId},
    sfu::{
        Event, Shard,
        session::{Session, SessionIndex},
    },
    signalling::{CloseCode, Layer, Refusal, ServerMessage, Video},
};

impl Shard {
    /// A client says which layers it sends, or that it sends none.
    pub(super) fn video(
        &mut self,
        now: Instant,
        index: SessionIndex,
        video: Video,
    ) -> Result<(), Refusal> {
        let video = match self.sessions[index.index()].peer {
            Some(_) => self.learn_video(now, index, video),
            None => self.check_video(index, video)?,
        };
        let session = &mut self.sessions[index.index()];
        let streams = if video.is_active() { video.streams } else { Vec::new() };
        if session.video == streams {
            return Ok(());
        }
        session.video = streams;
        let channel = session.channel;
        if session.shows_video() {
            self.show_video(index);
            self.wants_lowered(now, channel);
        }
        self.settle_cameras(now, channel);
        Ok(())
    }

    /// On plain UDP a client sends under the SSRCs that Ready gave it.
    fn check_video(&self, index: SessionIndex, video: Video) -> Result<Video, Refusal> {
        let session = &self.sessions[index.index()];
        let own = |ssrc| session.stream(ssrc).is_some();
        let named = [video.audio_ssrc, video.video_ssrc, video.rtx_ssrc];
        let layers = video.streams.iter().flat_map(|layer| [layer.ssrc, layer.rtx_ssrc]);
        if !named.into_iter().chain(layers).flatten().all(own) {
            return Err(Refusal { code: CloseCode::BadRequest, why: "an SSRC of somebody else" });
        }
        Ok(video)
    }

    /// Hides who may not be shown any more, then shows who may, as far as there is room. To be
    /// called when that may have changed for anyone in the channel.
    pub(super) fn settle_cameras(&mut self, now: Instant, channel: usize) {
        let members = &self.channels[channel].members;
        let mut showing = members.iter().filter(|it| self.sessions[it.index()].showing).count();
        for wanted in [false, true] {
            for position in 0..self.channels[channel].members.len() {
                let index = self.channels[channel].members[position];
                let session = &mut self.sessions[index.index()];
                let limit = session.admission.policy.room.video_limit as usize;
                let may = session.may_show() && !session.video.is_empty();
                let fits = limit == 0 || showing < limit;
                if session.showing == wanted || may != wanted || (wanted && !fits) {
                    continue;
                }
                session.showing = wanted;
                showing = if wanted { showing + 1 } else { showing - 1 };
                let serial = session.admission.serial;
                if !wanted {
                    self.end_repairs(index);
                }
                self.show_video(index);
                self.event(Event::Video { serial, active: wanted });
                self.wants_lowered(now, channel);
            }
        }
    }

    /// Tells the others what a session shows.
    pub(super) fn show_video(&mut self, index: SessionIndex) {
        let camera = Camera::of(&self.sessions[index.index()]);
        self.tell_others(index, &camera.message());
    }

    /// Tells a session what another one shows.
    pub(super) fn tell_camera(&mut self, index: SessionIndex, of: SessionIndex) {
        let camera = Camera::of(&self.sessions[of.index()]);
        self.tell(index, &camera.message());
    }
}

/// What op 12 says of a session.
pub(super) struct Camera {
    user: UserId,
    audio_ssrc: Ssrc,
    video_ssrc: Option<Ssrc>,
    streams: Vec<Layer>,
}

impl Camera {
    pub(super) fn of(session: &Session) -> Self {
        let primary = session.layers.first().and_then(|layer| layer.ssrc);
        let shown = session.shows_video();
        Self {
            user: session.admission.user,
            audio_ssrc: session.audio_ssrc(),
            video_ssrc: primary.filter(|_| shown),
            streams: if shown { session.video.clone() } else { Vec::new() },
        }
    }

    pub(super) fn message(&self) -> ServerMessage<'_> {
        let Self { user, audio_ssrc, video_ssrc, ref streams } = *self;
        ServerMessage::Video { user, audio_ssrc, video_ssrc, streams }
    }
}
