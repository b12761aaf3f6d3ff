//! The seam to who knows who may join: one trait, and what passes through it. A backend answers
//! Identifies (`authenticate`), says what has changed (`watch`) and hears what became of those it
//! let in (`report`). Three are built in: grants (`ledger`), signed tokens (`token`) and an
//! unmodified Spacebar (`spacebar`). Sans-IO like its caller, `authority`: who must ask somebody
//! else says so, and gives the answer as a [`Change`].

use std::time::Duration;

use time::OffsetDateTime;

use super::{ledger::Holder, roster::Live};
use crate::{
    config::BackendName,
    id::{ChannelId, Serial, ServerId, SessionId, Token, UserId},
    sfu::{DisconnectReason, Kind, Policy, VoiceState},
};

/// Who may join, what changed, and whom to tell.
pub(super) trait Backend {
    /// Under which name its sessions are kept.
    fn name(&self) -> BackendName;

    /// Whether the Identify is one of this backend's.
    fn authenticate(&mut self, wall: OffsetDateTime, question: &Question<'_>) -> Answer;

    /// The next thing that changed since it was last asked.
    fn watch(&mut self) -> Option<Change>;

    /// Hears what became of an Identify it said yes to.
    fn report(&mut self, report: &Report<'_>);
}

/// One Identify, or Resume of a lost session, that waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What a connection showed, and the name under which a late answer finds it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) ticket: Ticket,
    pub(super) server: ServerId,
    /// Who identifies. Nobody is named by a Resume, of a session that went with an earlier process:
    /// session and token alone must tell.
    pub(super) user: Option<UserId>,
    pub(super) session: &'a SessionId,
    pub(super) token: &'a Token,
    /// The channel the client believes it joins.
    pub(super) channel: Option<ChannelId>,
    /// Whether it comes from where much was shown that was wrong: worth one look and no more.
    pub(super) is_suspect: bool,
}

/// A backend's answer to an Identify.
#[derive(Debug)]
pub(super) enum Answer {
    /// It may join.
    Yes(Entitlement),
    /// It is none of this backend's: another may know it.
    No,
    /// The answer follows as [`Change::Answered`].
    Later,
    /// Nobody can tell now: the client may come back.
    Unavailable,
}

/// The rights an Identify turned out to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entitlement {
    /// Whose they are.
    pub user: UserId,
    /// A voice channel or a stream.
    pub kind: Kind,
    /// The channel as the backend calls it.
    pub channel: ChannelId,
    /// What the session may do.
    pub policy: Policy,
}

/// Something a backend has decided about people who may be here.
#[derive(Debug)]
pub(super) enum Change {
    /// The answer to an earlier question.
    Answered { ticket: Ticket, answer: Answer },
    /// Where somebody may be from now on. Who is elsewhere must leave within `grace`.
    Stands { who: Who, standings: Vec<Standing>, grace: Duration },
    /// A channel is no more: its session and its streams' end.
    ChannelClosed(ChannelId),
    /// A server is no more.
    ServerClosed(ServerId),
    /// A stream is no more.
    StreamClosed(ChannelId),
    /// Somebody watches the stream no more.
    StreamLeft { key: String, user: UserId },
}

/// Whose sessions a change is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// All of this holder, whichever backend let them in.
    Holder(Holder),
    /// The voice sessions of this user that Spacebar let in, up to a serial: those that came after
    /// it was asked are not meant.
    User { user: UserId, until: Serial },
}

/// A place somebody may be in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    /// The channel, as shards call it.
    pub(super) room: ChannelId,
    /// The main gateway session; any if none is named.
    pub(super) session: Option<SessionId>,
    pub(super) terms: Terms,
}

/// How much of a policy a backend decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Terms {
    Policy(Box<Policy>),
    State(VoiceState),
}

/// What became of an accepted Identify.
#[derive(Debug, Clone, Copy)]
pub(super) enum Report<'a> {
    /// It got its place; the connection is on its way there.
    Admitted(Holder),
    /// The session is finally gone.
    Gone { live: &'a Live, reason: DisconnectReason },
}

impl Terms {
    /// The policy with these terms in it.
    pub(super) fn over(&self, policy: &Policy) -> Policy {
        match self {
            Terms::Policy(policy) => (**policy).clone(),
            Terms::State(state) => Policy { state: *state, ..policy.clone() },
        }
    }
}

impl Standing {
    /// Whether it is this session's.
    pub(super) fn is_of(&self, live: &Live) -> bool {
        self.room == live.room
            && self.session.as_ref().is_none_or(|session| *session == live.session)
    }
}
