//! Does what the adapter orders: looks Identifies up, and writes down who has left. Every errand is
//! a task of its own, so that a slow one delays no other; how many there are the adapter bounds.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use async_channel::Receiver;
use tokio::{
    sync::{Notify, RwLock, Semaphore},
    task::JoinSet,
};
use tracing::{debug, info, warn};

use super::{
    adapter::{Departure, Found, Order, Stay},
    bus::Bus,
    database::{CONNECTIONS_MAX, Database, DatabaseError, Known},
    event::Notice,
    rabbitmq,
    region::Regions,
    row::{StreamRow, VoiceRow},
    tally::{Tally, count},
    vigil::{self, Marks},
};
use crate::{
    config::{SpacebarEvents, SpacebarSettings},
    control::{backend::Ticket, ledger::Holder, node::Node},
    id::{ChannelId, ServerId, SessionId, Token, UserId},
};

/// Time in which an Identify is answered, whatever the database does: with that on its way to the
/// client it is under five seconds.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(4);

/// Time in which a row that is not there may yet appear: Spacebar tells its clients after it has
/// saved, but a replica may lag, and so may the row of a move (protocol.md §6.5).
const APPEARANCE: Duration = Duration::from_secs(1);

/// Pause before a row is looked for again; doubled each time.
const LOOK_AGAIN_MIN: Duration = Duration::from_millis(60);

/// Pause before a departure that could not be written is tried again; doubled each time.
const WRITE_AGAIN_MIN: Duration = Duration::from_millis(250);
const WRITE_AGAIN_MAX: Duration = Duration::from_secs(15);

/// Locks that keep a user's lookups and departures apart; users share them by chance.
const GATES: usize = 256;

/// Time in which those who were here before a restart may come back by themselves.
const RETURN_PAUSE: Duration = Duration::from_secs(2);

/// Pause between two of those who are called back: a full house comes within a minute and not
/// within a second.
const CALL_PACE: Duration = Duration::from_millis(5);

/// Who may be waiting at once to be told where to connect.
const ANNOUNCING_MAX: usize = 1_024;

/// Departures written at once: half of the connections stay for those who come.
const WRITING_MAX: usize = CONNECTIONS_MAX / 2;

/// Time for what a stopping node has yet to write and say.
const LAST_WORDS: Duration = Duration::from_secs(4);

/// What all errands share.
pub(in crate::control) struct Desk {
    node: Arc<Node>,
    settings: SpacebarSettings,
    database: Database,
    bus: Bus,
    marks: Marks,
    marked: Notify,
    announcing: Semaphore,
    writing: Semaphore,
    gates: Vec<RwLock<()>>,
}

impl Desk {
    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    pub(super) fn settings(&self) -> &SpacebarSettings {
        &self.settings
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.node.spacebar
    }

    pub(super) fn marks(&self) -> &Marks {
        &self.marks
    }

    pub(super) fn marked(&self) -> &Notify {
        &self.marked
    }

    pub(super) fn announcing(&self) -> &Semaphore {
        &self.announcing
    }

    /// What Spacebar's region must name for its guilds to be ours.
    pub(super) fn endpoint(&self) -> &str {
        self.node.config.gateway.public_endpoint.as_str()
    }

    pub(super) fn gateway_port(&self) -> u16 {
        self.node.config.gateway.listen.port()
    }

    /// Whether we hear all that Spacebar says, and can say something.
    pub(super) fn may_announce(&self) -> bool {
        self.bus.has_voice() && self.settings.events.hears_everything()
    }

    pub(super) async fn say(&self, notice: Notice) {
        self.bus.say(self.tally(), notice).await;
    }

    /// Spacebar's regions; `None` if they cannot be read now.
    pub(super) async fn regions(&self) -> Option<Regions> {
        read_regions(&self.settings, &self.database).await.ok()
    }

    fn gate(&self, user: UserId) -> &RwLock<()> {
        let mut hasher = DefaultHasher::new();
        user.hash(&mut hasher);
        &self.gates[hasher.finish() as usize % self.gates.len()]
    }
}

/// The regions of the settings file, if one is named, else of the table.
pub(super) async fn read_regions(
    settings: &SpacebarSettings,
    database: &Database,
) -> Result<Regions, DatabaseError> {
    let Some(path) = &settings.config_file else {
        return Ok(Regions::from_pairs(&database.regions().await?));
    };
    let named = |problem: String| DatabaseError::Setup(format!("{}: {problem}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
    Regions::from_json(&text).ok_or_else(|| named("no settings of Spacebar's".to_owned()))
}

/// Whether the settings name what can be used; connects to nothing.
pub(in crate::control) fn check(settings: &SpacebarSettings) -> Result<(), String> {
    if let SpacebarEvents::RabbitMq { broker, .. } = &settings.events {
        rabbitmq::check(broker).map_err(|error| format!("spacebar.rabbitmq: {error}"))?;
    }
    Database::new(&settings.database)
        .map(drop)
        .map_err(|error| format!("spacebar.database: {error}"))
}

/// Runs the backend until the node has finished, and then until what it knew has been written.
pub(in crate::control) fn run(
    node: Arc<Node>,
    settings: SpacebarSettings,
    orders: Receiver<Order>,
) -> Result<impl Future<Output = ()> + Send, String> {
    check(&settings)?;
    let (bus, notices) = Bus::new(&settings.events);
    let desk = Arc::new(Desk {
        database: Database::new(&settings.database).map_err(|error| error.to_string())?,
        node,
        bus,
        settings,
        marks: Marks::default(),
        marked: Notify::new(),
        announcing: Semaphore::new(ANNOUNCING_MAX),
        writing: Semaphore::new(WRITING_MAX),
        gates: (0..GATES).map(|_| RwLock::new(())).collect(),
    });
    Ok(async move {
        let mut watching = JoinSet::new();
        watching.spawn(vigil::keep(desk.clone(), notices));
        watching.spawn(remember(desk.clone()));
        let mut errands = JoinSet::new();
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Ok(order) => {
                        errands.spawn(carry_out(desk.clone(), order));
                        while errands.try_join_next().is_some() {}
                    }
                    Err(_) => break,
                },
                () = desk.node.finished() => break,
            }
        }
        // The last sessions' ends were ordered before the node had finished.
        while let Ok(order) = orders.try_recv() {
            errands.spawn(carry_out(desk.clone(), order));
        }
        let last_words = async {
            while errands.join_next().await.is_some() {}
            while !desk.bus.is_idle() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(LAST_WORDS, last_words).await.is_err() {
            warn!("not everything could be written back to Spacebar before the end");
        }
    })
}

async fn carry_out(desk: Arc<Desk>, order: Order) {
    match order {
        Order::Lookup { ticket, server, user, session, token, channel, is_patient } => {
            let wanted = Wanted { server, user, session, token, channel };
            look_up(&desk, ticket, &wanted, is_patient).await;
        }
        Order::Depart { departure, pause } => depart(&desk, &departure, pause).await,
    }
}

/// What an Identify or a Resume showed.
struct Wanted {
    server: ServerId,
    user: Option<UserId>,
    session: SessionId,
    token: Token,
    channel: Option<ChannelId>,
}

async fn look_up(desk: &Desk, ticket: Ticket, wanted: &Wanted, is_patient: bool) {
    let appearance = if is_patient { APPEARANCE } else { Duration::ZERO };
    let began = Instant::now();
    let answered = tokio::time::timeout(LOOKUP_TIMEOUT, async {
        let mut pause = LOOK_AGAIN_MIN;
        loop {
            // Answered before the gate opens again, so that no departure slips in between.
            let (gate, looked) = match whose(desk, wanted).await {
                Ok(Some(user)) => {
                    let gate = desk.gate(user).read().await;
                    (Some(gate), look_up_once(desk, wanted, user).await)
                }
                Ok(None) => (None, Ok(None)),
                Err(error) => (None, Err(error)),
            };
            desk.tally().database_up.store(looked.is_ok(), Ordering::Relaxed);
            let found = match looked {
                Ok(Some(Known::Voice(row))) => Some(Found::Voice(row)),
                Ok(Some(Known::Stream(row))) => Some(Found::Stream(row)),
                Ok(None) if began.elapsed() >= appearance => Some(Found::Nothing),
                Ok(None) => None,
                Err(error) => {
                    count(&desk.tally().database_failures);
                    debug!(%error, "an Identify could not be looked up");
                    None
                }
            };
            if let Some(found) = found {
                answer(desk, ticket, found);
                return;
            }
            drop(gate);
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    });
    if answered.await.is_err() {
        answer(desk, ticket, Found::Silence);
    }
}

/// Who wants in: he says so, or his session and token do.
async fn whose(desk: &Desk, wanted: &Wanted) -> Result<Option<UserId>, DatabaseError> {
    match wanted.user {
        Some(user) => Ok(Some(user)),
        None => desk.database.whose(wanted.server, &wanted.session, &wanted.token).await,
    }
}

async fn look_up_once(
    desk: &Desk,
    wanted: &Wanted,
    user: UserId,
) -> Result<Option<Known>, DatabaseError> {
    let holder = Holder { server: wanted.server, user };
    desk.database.look_up(holder, &wanted.session, &wanted.token, wanted.channel).await
}

fn answer(desk: &Desk, ticket: Ticket, found: Found) {
    count(match found {
        Found::Voice(_) | Found::Stream(_) => &desk.tally().found,
        Found::Nothing => &desk.tally().absent,
        Found::Silence => &desk.tally().silent,
    });
    desk.node.act(|authority, now, wall| authority.hear_found(now, wall, ticket, found));
}

async fn depart(desk: &Desk, departure: &Departure, pause: Duration) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = desk.node.finished() => {}
    }
    let mut pause = WRITE_AGAIN_MIN;
    let mut is_retry = false;
    loop {
        // Whoever was lost to a restart may be back when nobody here is left to see it.
        if departure.was_lost && desk.node.is_finished() {
            break;
        }
        match write(desk, departure, is_retry).await {
            Ok(notices) => {
                count(match notices.is_empty() {
                    true => &desk.tally().overtaken,
                    false => &desk.tally().written,
                });
                for notice in notices {
                    desk.say(notice).await;
                }
                break;
            }
            Err(error) => {
                count(&desk.tally().database_failures);
                debug!(%error, "a departure could not be written; trying again");
                is_retry = true;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(WRITE_AGAIN_MAX);
    }
    desk.node.act(|authority, _, _| authority.hear_departed());
}

/// Writes a departure unless its user is back; gives what others are to be told.
async fn write(
    desk: &Desk,
    departure: &Departure,
    is_retry: bool,
) -> Result<Vec<Notice>, DatabaseError> {
    let _place = desk.writing.acquire().await;
    let _gate = desk.gate(departure.holder.user).write().await;
    if desk.node.look(|authority| authority.has_returned(departure)) {
        return Ok(Vec::new());
    }
    let Departure { holder, stay, .. } = departure;
    match stay {
        Stay::Voice(channel) => {
            // In a call the server is the channel itself.
            let guild = (holder.server != ServerId(channel.0)).then_some(holder.server);
            let left = desk.database.leave(departure, *channel, is_retry).await?;
            Ok(left.iter().map(|row| Notice::left(row, guild, *channel)).collect())
        }
        Stay::Stream { is_owner, key } => {
            let Some(ended) = desk.database.leave_stream(departure).await? else {
                // An attempt whose answer was lost may have been carried out.
                let is_over = *is_owner && is_retry;
                let told = is_over.then(|| StreamRow::of_key(holder.server, key)).flatten();
                return Ok(told.iter().map(Notice::stream_ended).collect());
            };
            let stream = &ended.stream;
            let owner = ended.owner.as_ref();
            let owner = owner.filter(|row| row.channel.is_some());
            let owner = owner.map(|row| Notice::is_now(row, stream.guild, stream.channel));
            Ok([Notice::stream_ended(stream)].into_iter().chain(owner).collect())
        }
    }
}

/// Remembers whom the tables believe here: this process has just started and knows nobody. Those
/// who do not come back within a resume have left while nobody looked.
async fn remember(desk: Arc<Desk>) {
    let mut pause = WRITE_AGAIN_MIN;
    let (rows, streams, regions) = loop {
        let read = async {
            let regions = read_regions(&desk.settings, &desk.database).await?;
            let (rows, streams) = desk.database.expected(desk.endpoint()).await?;
            Ok::<_, DatabaseError>((rows, streams, regions))
        };
        match read.await {
            Ok(read) => break read,
            Err(error) => {
                warn!(%error, ?pause, "cannot read who is in Spacebar's voice channels");
                desk.tally().database_up.store(false, Ordering::Relaxed);
            }
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(WRITE_AGAIN_MAX);
    };
    desk.tally().database_up.store(true, Ordering::Relaxed);
    let endpoint = desk.endpoint();
    if !regions.iter().any(|(_, at)| at == endpoint) {
        warn!(
            endpoint,
            "no region of Spacebar's points here: nobody will be sent to this server, and whoever \
             was left over by an earlier run stays in his channel; see `stentor doctor --spacebar`"
        );
    }
    let voices = rows
        .into_iter()
        .filter(|expected| regions.endpoint(expected.region.as_deref()) == Some(endpoint));
    let voices: Vec<VoiceRow> = voices.map(|expected| expected.row).collect();
    let left = voices.iter().filter_map(|row| {
        Some(Departure {
            holder: Holder { server: row.server()?, user: row.user },
            stay: Stay::Voice(row.channel?),
            session: row.session.clone(),
            token: row.token.clone()?,
            was_lost: true,
        })
    });
    let streams = streams.into_iter().map(|stream| Departure {
        holder: Holder { server: ServerId(stream.stream.0), user: stream.owner },
        session: SessionId("".into()),
        token: Token::new(""),
        stay: Stay::Stream { is_owner: true, key: stream.key() },
        was_lost: true,
    });
    let expected: Vec<Departure> = left.chain(streams).collect();
    if !expected.is_empty() {
        info!(people = expected.len(), "waiting for those who were here before");
    }
    desk.node.act(|authority, _, _| authority.expect(expected));
    call_back(&desk, voices).await;
}

/// Some libraries ask Spacebar for their channel anew as soon as they have lost it, and wait to be
/// told where to connect; nobody was there to tell them when they did.
async fn call_back(desk: &Desk, voices: Vec<VoiceRow>) {
    if !desk.bus.has_voice() {
        return;
    }
    tokio::time::sleep(RETURN_PAUSE).await;
    for row in voices {
        let (Some(channel), Some(token)) = (row.channel, &row.token) else { continue };
        if !desk.node.look(|authority| authority.is_in(row.user, channel)) {
            // He may have gone elsewhere since the tables were read.
            if let Ok(Some(_)) = desk.database.one(row.user, &row.session, channel).await {
                for notice in Notice::call(&row, token, desk.endpoint()) {
                    desk.say(notice).await;
                }
            }
            tokio::time::sleep(CALL_PACE).await;
        }
    }
}
