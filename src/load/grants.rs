//! Where clients get their way in: from the server's control API, from a file that `stentor grant`
//! has printed, or signed here with the server's token key. Gives one ticket for every client of a
//! cast.

use std::{collections::BTreeMap, path::Path, time::Duration};

use time::OffsetDateTime;

use super::schedule::Cast;
use crate::{
    config::{ControlAccess, Secret, hex},
    control::token::{self, Claims},
    grant::{self, GrantError, GrantRequest, Ticket},
    id::{ChannelId, ServerId, SessionId, UserId},
    sfu::Kind,
};

/// Grants asked for on one connection: it has ten seconds for all of them.
const GRANTS_AT_ONCE: usize = 500;

/// How long signed tokens are good for: the longest run, and its joins.
const TOKEN_LIFETIME: Duration = Duration::from_secs(2 * 3_600);

/// Where tickets come from.
#[derive(Debug, Clone)]
pub enum Grants {
    /// The control API.
    Control(ControlAccess),
    /// A file's.
    Tickets(Vec<Ticket>),
    /// Signed here.
    Key {
        /// The server's `token.key`.
        key: Secret,
        /// Its gateway, `host:port`.
        endpoint: String,
    },
}

/// Why there are not enough tickets.
#[derive(Debug, thiserror::Error)]
pub enum GrantsError {
    /// The control API.
    #[error(transparent)]
    Control(#[from] GrantError),
    /// The file.
    #[error("grants {path}: {problem}; give the JSON that `stentor grant` prints")]
    File {
        /// Which.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The file's tickets do not suffice.
    #[error(
        "the grants have {have} channels with members enough, and the scenario wants {want}: \
         channel {channel} of it has {members} members"
    )]
    TooFew {
        /// Channels that could be filled.
        have: usize,
        /// Channels of the scenario.
        want: usize,
        /// The first that could not, counted from 0.
        channel: usize,
        /// Its members.
        members: usize,
    },
    /// A scenario without clients.
    #[error("the scenario has no clients")]
    Nobody,
}

/// Reads a file that `stentor grant` has printed.
///
/// # Errors
/// It cannot be read or is something else.
pub fn read(path: &Path) -> Result<Vec<Ticket>, GrantsError> {
    let failed = |problem: String| GrantsError::File { path: path.display().to_string(), problem };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
}

impl Grants {
    /// A ticket for every client of the cast, in its order. `run` makes the ids of one run differ
    /// from those of others. Asks the control API and waits, if that is where they come from.
    ///
    /// # Errors
    /// The server refuses, or the file has too few.
    pub fn tickets(&self, cast: &Cast, run: u32) -> Result<Vec<Ticket>, GrantsError> {
        let tickets = match self {
            Grants::Control(access) => ask(access, cast, run)?,
            Grants::Tickets(tickets) => seat(tickets, cast)?,
            Grants::Key { key, endpoint } => sign(key, endpoint, cast, run),
        };
        if tickets.is_empty() { Err(GrantsError::Nobody) } else { Ok(tickets) }
    }
}

/// The ids of a run: server, then channels, then users, in one block that no other run has.
fn server_id(run: u32) -> ServerId {
    ServerId(u64::from(run) << 24)
}

fn channel_id(run: u32, channel: usize) -> ChannelId {
    ChannelId(server_id(run).0 + 1 + channel as u64)
}

fn user_id(run: u32, client: u32) -> UserId {
    UserId(server_id(run).0 + (1 << 23) + u64::from(client))
}

fn ask(access: &ControlAccess, cast: &Cast, run: u32) -> Result<Vec<Ticket>, GrantError> {
    let mut tickets = Vec::with_capacity(cast.clients.len());
    for (index, channel) in cast.channels.iter().enumerate() {
        let users: Vec<_> = channel.clients.clone().map(|client| user_id(run, client)).collect();
        for users in users.chunks(GRANTS_AT_ONCE) {
            let request = GrantRequest {
                server_id: server_id(run),
                channel: channel_id(run, index),
                users: users.to_vec(),
            };
            tickets.append(&mut grant::issue(access, &request)?);
        }
    }
    Ok(tickets)
}

/// Gives each channel of the cast the tickets of one channel of the file.
fn seat(tickets: &[Ticket], cast: &Cast) -> Result<Vec<Ticket>, GrantsError> {
    let mut rooms: BTreeMap<ChannelId, Vec<&Ticket>> = BTreeMap::new();
    for ticket in tickets {
        rooms.entry(ticket.channel_id).or_default().push(ticket);
    }
    let mut seated = Vec::with_capacity(cast.clients.len());
    for (index, channel) in cast.channels.iter().enumerate() {
        let members = channel.clients.len();
        // The smallest that will do, so that the large ones are left for large channels.
        let fitting = rooms.iter().filter(|(_, tickets)| tickets.len() >= members);
        let Some(room) = fitting.min_by_key(|(_, tickets)| tickets.len()).map(|(id, _)| *id) else {
            return Err(GrantsError::TooFew {
                have: index,
                want: cast.channels.len(),
                channel: index,
                members,
            });
        };
        let room = rooms.remove(&room).unwrap_or_default();
        seated.extend(room.into_iter().take(members).cloned());
    }
    Ok(seated)
}

fn sign(key: &Secret, endpoint: &str, cast: &Cast, run: u32) -> Vec<Ticket> {
    let expires = (OffsetDateTime::now_utc() + TOKEN_LIFETIME).unix_timestamp();
    let mut tickets = Vec::with_capacity(cast.clients.len());
    for (index, channel) in cast.channels.iter().enumerate() {
        for client in channel.clients.clone() {
            let (server, channel, user) =
                (server_id(run), channel_id(run, index), user_id(run, client));
            let session: Box<str> = format!("load-{run:08x}-{client}").into();
            let claims = Claims {
                version: 1,
                kind: Kind::Voice,
                server,
                channel,
                user,
                session: SessionId(session.clone()),
                expires,
                token: hex(&[run.to_be_bytes(), client.to_be_bytes()].concat()),
                permissions: None,
            };
            tickets.push(Ticket {
                endpoint: endpoint.to_owned(),
                guild_id: server,
                channel_id: channel,
                user_id: user,
                session_id: session.into(),
                token: token::mint(key, &claims).reveal().to_owned(),
            });
        }
    }
    tickets
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::{id::Token, load::scenario::Scenario};

    fn cast() -> Cast {
        let mut scenario = Scenario::simple(1, 1).unwrap();
        scenario.channels[0].count = 2;
        Cast::new(&scenario)
    }

    fn ticket(channel: u64, user: u64) -> Ticket {
        Ticket {
            endpoint: "localhost:8443".into(),
            guild_id: ServerId(1),
            channel_id: ChannelId(channel),
            user_id: UserId(user),
            session_id: "s".into(),
            token: "t".into(),
        }
    }

    #[test]
    fn signed_tickets_are_what_the_server_verifies() {
        let key = Secret::new(vec![7; 32]);
        let grants = Grants::Key { key: key.clone(), endpoint: "h:1".into() };
        let tickets = grants.tickets(&cast(), 5).unwrap();
        assert_eq!(tickets.len(), 4);
        let now = OffsetDateTime::now_utc();
        for ticket in &tickets {
            let claims = token::verify(&key, &Token::new(ticket.token.as_str()), now).unwrap();
            assert_eq!((claims.user, claims.channel), (ticket.user_id, ticket.channel_id));
            assert_eq!((claims.server, &*claims.session.0), (ticket.guild_id, &*ticket.session_id));
        }
        assert_eq!(tickets[0].channel_id, tickets[1].channel_id);
        assert_ne!(tickets[1].channel_id, tickets[2].channel_id);
    }

    #[test]
    fn a_files_tickets_are_seated_by_channel() {
        let tickets = vec![ticket(9, 1), ticket(8, 2), ticket(9, 3), ticket(8, 4), ticket(9, 5)];
        let seated = Grants::Tickets(tickets.clone()).tickets(&cast(), 0).unwrap();
        let channels: Vec<_> = seated.iter().map(|ticket| ticket.channel_id.0).collect();
        assert_eq!(channels, [8, 8, 9, 9]);
        let few = Grants::Tickets(tickets[..3].to_vec()).tickets(&cast(), 0).unwrap_err();
        assert!(few.to_string().contains("have 1 channels"), "{few}");
    }

    #[test]
    fn what_grant_prints_is_read_back() {
        let tickets = vec![ticket(1, 2)];
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(serde_json::to_string(&tickets).unwrap().as_bytes()).unwrap();
        assert_eq!(read(file.path()).unwrap(), tickets);
        file.write_all(b"rubbish").unwrap();
        assert!(read(file.path()).unwrap_err().to_string().contains("stentor grant"));
    }
}
