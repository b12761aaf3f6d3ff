//! Keeps watch over Spacebar: events as they come, and the tables again and again, for what events
//! do not tell: those that were lost, and columns that an operator has set by hand. What is seen
//! goes to `authority`; a database that does not answer changes nothing for those who are here.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use async_channel::Receiver;
use tracing::{debug, warn};

use super::{
    bus::Unsaid,
    errands::Desk,
    event::{Happening, Notice},
    notify, rabbitmq,
    settling::Settling,
    tally::count,
    unix_bus,
};
use crate::{config::SpacebarEvents, id::UserId};

/// How often the tables are read where nothing else tells of changes.
const POLL_PERIOD: Duration = Duration::from_secs(1);

/// How often they are read where something does.
const CHECK_PERIOD: Duration = Duration::from_secs(5);

/// Time after a notification in which others are gathered.
const GATHER: Duration = Duration::from_millis(20);

/// Users whose rows are to be read; more, and everybody's are.
const MARKED_MAX: usize = 1_024;

/// Users who were lately told where to connect, remembered at most.
const ANNOUNCED_MAX: usize = 16_384;

/// Time in which Spacebar tells a user where to connect, and the user does. Who still is nowhere
/// then was not told (protocol.md §8, trap 9).
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(2);

/// What is yet to be looked at.
#[derive(Debug, Default)]
pub(super) struct Marks(Mutex<Marked>);

#[derive(Debug, Default)]
struct Marked {
    everybody: bool,
    users: BTreeSet<UserId>,
    /// Users whose rows will be read when they have settled.
    settling: Settling,
    announced: std::collections::BTreeMap<UserId, Instant>,
}

impl Marks {
    fn lock(&self) -> std::sync::MutexGuard<'_, Marked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches until the node has finished.
pub(super) async fn keep(desk: Arc<Desk>, notices: Option<Receiver<Unsaid>>) {
    let events = async {
        match (&desk.settings().events, notices) {
            (SpacebarEvents::Unix(directory), _) => unix_bus::listen(&desk, directory).await,
            (SpacebarEvents::RabbitMq { broker, exchanges }, Some(notices)) => {
                rabbitmq::converse(&desk, broker, *exchanges, &notices).await;
            }
            (SpacebarEvents::Notify, _) => notify::listen(&desk).await,
            (SpacebarEvents::Poll | SpacebarEvents::RabbitMq { .. }, _) => {
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        () = events => {}
        () = check(&desk) => {}
    }
}

/// Everybody's rows are to be read soon.
pub(super) fn look_again(desk: &Desk) {
    desk.marks().lock().everybody = true;
    desk.marked().notify_one();
}

/// This user's rows are to be read soon.
pub(super) fn look_at(desk: &Desk, user: UserId) {
    let mut marks = desk.marks().lock();
    if marks.users.len() < MARKED_MAX {
        marks.users.insert(user);
    } else {
        marks.everybody = true;
    }
    drop(marks);
    desk.marked().notify_one();
}

/// An event has come.
pub(super) fn hear(desk: &Arc<Desk>, happening: Happening) {
    count(&desk.tally().heard);
    match &happening {
        Happening::Announced { user } => {
            let mut marks = desk.marks().lock();
            if marks.announced.len() >= ANNOUNCED_MAX {
                marks.announced.retain(|_, at| at.elapsed() < 2 * ANNOUNCE_PAUSE);
            }
            if marks.announced.len() < ANNOUNCED_MAX {
                marks.announced.insert(*user, Instant::now());
            }
            return;
        }
        Happening::Moved(row) => {
            settle(desk, row.user);
            if row.channel.is_some() {
                tokio::spawn(announce_if_missing(desk.clone(), row.clone()));
            }
        }
        _ => {}
    }
    desk.node().act(|authority, now, wall| authority.hear_event(now, wall, happening));
}

/// What was said of somebody who is here is compared with his row, once it is there.
fn settle(desk: &Arc<Desk>, user: UserId) {
    if !desk.node().look(|authority| authority.is_here(user)) {
        return;
    }
    let mut next = desk.marks().lock().settling.hear(Instant::now(), user);
    if next.is_some() {
        let desk = desk.clone();
        tokio::spawn(async move {
            while let Some(due) = next {
                tokio::time::sleep_until(due.into()).await;
                next = desk.marks().lock().settling.handle_due(user);
                look_at(&desk, user);
            }
        });
    }
}

/// Spacebar tells a user where to connect only when his channel changes. A library that has lost
/// its voice connection and asks for the same channel again waits for that for ever, so it is told
/// by us.
async fn announce_if_missing(desk: Arc<Desk>, row: super::row::VoiceRow) {
    let Some(channel) = row.channel else { return };
    if !desk.may_announce() || desk.node().look(|authority| authority.is_in(row.user, channel)) {
        return;
    }
    let Ok(_place) = desk.announcing().try_acquire() else { return };
    let since = Instant::now() - ANNOUNCE_PAUSE;
    tokio::time::sleep(ANNOUNCE_PAUSE).await;
    let was_announced = desk.marks().lock().announced.get(&row.user).is_some_and(|at| *at >= since);
    if was_announced || desk.node().look(|authority| authority.is_in(row.user, channel)) {
        return;
    }
    let found = match desk.database().one(row.user, &row.session, channel).await {
        Ok(Some(found)) => found,
        Ok(None) => return,
        Err(error) => {
            debug!(%error, "cannot see whether somebody waits for a voice server");
            return;
        }
    };
    let Some(regions) = desk.regions().await else { return };
    let endpoint = desk.endpoint();
    if regions.endpoint(found.region.as_deref()) != Some(endpoint) {
        return;
    }
    if let Some(token) = &found.row.token {
        debug!(user = %row.user, "telling somebody who waits where to connect");
        for notice in Notice::call(&found.row, token, endpoint) {
            desk.say(notice).await;
        }
    }
}

/// Reads the tables, of everybody now and then, and of those that something was said about.
async fn check(desk: &Arc<Desk>) {
    let period = match desk.settings().events {
        SpacebarEvents::Poll => POLL_PERIOD,
        _ => CHECK_PERIOD,
    };
    let mut failures = 0_u64;
    let mut due = Instant::now() + period;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            () = desk.marked().notified() => tokio::time::sleep(GATHER).await,
        }
        let (everybody, users) = {
            let mut marks = desk.marks().lock();
            (std::mem::take(&mut marks.everybody), std::mem::take(&mut marks.users))
        };
        let everybody = everybody || due <= Instant::now();
        if everybody {
            due = Instant::now() + period;
        }
        let mut present = desk.node().look(|authority| authority.presence());
        if !everybody {
            present.users.retain(|user| users.contains(user));
            present.streams.clear();
        }
        if present.users.is_empty() && present.streams.is_empty() {
            continue;
        }
        let read = desk.database().rows(&present.users, &present.streams).await;
        desk.tally().database_up.store(read.is_ok(), Ordering::Relaxed);
        match read {
            Ok((rows, streams)) => {
                if failures > 0 {
                    warn!(failures, "the database answers again");
                }
                failures = 0;
                desk.node().act(|authority, now, wall| {
                    authority.hear_rows(now, wall, &present, rows, &streams);
                });
            }
            Err(error) => {
                count(&desk.tally().database_failures);
                if failures == 0 {
                    warn!(%error, "the database does not answer; those who talk go on");
                }
                failures += 1;
                if !users.is_empty() {
                    // What they were marked for is not read yet.
                    desk.marks().lock().everybody = true;
                }
            }
        }
    }
}
