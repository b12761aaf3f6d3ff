//! The media threads of a run as the run sees them: started on their cores, given orders, heard
//! out. The bare loop is beside them, since it needs their ports.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
};

use super::{
    bound::Bound,
    clock::Clock,
    media::{self, Account, Order, Orders, Report},
    ports::Addressing,
    schedule::Cast,
    server_cost::{Probe, drops_at},
    stage::{END_TIMEOUT, RunError, Stage, system},
    tally::Seconds,
};

/// The media threads, and the bare loop beside them.
pub struct Players {
    /// The way to each; client `n` is played by thread `n` modulo their number.
    pub orders: Vec<Orders>,
    reports: Receiver<Report>,
    /// Their UDP ports.
    pub ports: BTreeSet<u16>,
    /// Datagrams that the kernel had dropped at these ports before.
    pub drops_before: u64,
    /// What they have told of each second so far.
    pub seconds: Seconds,
    /// What they have told at the end.
    pub accounts: Vec<Account>,
    /// The bare loop, if there is one, and what reads its cost.
    pub bound: Option<(Bound, Probe)>,
}

impl Players {
    /// Starts as many as the stage wants, and the bare loop if it wants one.
    ///
    /// # Errors
    /// The kernel gives no ring, no socket or no thread.
    pub fn start(
        stage: &Stage,
        cast: &Arc<Cast>,
        run: u32,
        addressing: Addressing,
        clock: Clock,
        cores: &BTreeSet<usize>,
        probe: Option<&Probe>,
    ) -> Result<Self, RunError> {
        let threads = stage.threads.clamp(1, cast.clients.len());
        let (tell, reports) = mpsc::channel();
        let mut players = Self {
            orders: Vec::new(),
            reports,
            ports: BTreeSet::new(),
            drops_before: 0,
            seconds: Seconds::new(),
            accounts: Vec::new(),
            bound: None,
        };
        for thread in 0..threads {
            let clients = (thread as u32..cast.clients.len() as u32).step_by(threads).collect();
            let core = cores.iter().rev().nth(thread % cores.len().max(1)).copied();
            let part = media::Part { cast: cast.clone(), clients, run, addressing, clock, core };
            let orders = media::start(part, tell.clone()).map_err(system("a media thread"))?;
            players.orders.push(orders);
        }
        let started: Vec<Vec<u16>> = (0..threads)
            .map(|_| match players.reports.recv_timeout(END_TIMEOUT) {
                Ok(Report::Started(ports)) => Ok(ports),
                Ok(Report::Failed(error)) => Err(error.into()),
                _ => Err(RunError::Died),
            })
            .collect::<Result<_, _>>()?;
        players.ports = started.iter().flatten().copied().collect();
        players.drops_before = drops_at(&players.ports);
        if stage.bound_slice_s.is_some() {
            // On loopback every thread has one port.
            let hearers = (0..cast.clients.len()).filter_map(|client| {
                let address = addressing.address_of(client as u32)?;
                Some(SocketAddr::from((address, started.get(client % threads)?[0])))
            });
            let core = probe.and_then(|probe| probe.pinned_cores().first().copied());
            let bound = Bound::start(cast.clone(), hearers.collect(), core)
                .map_err(system("the bare loop"))?;
            let address = bound.address();
            players.order(|| Order::Bound(address));
            let probe = Probe::own_thread(bound.thread_id());
            players.bound = Some((bound, probe));
        }
        Ok(players)
    }

    /// Gives all of them an order.
    pub fn order(&self, order: impl Fn() -> Order) {
        self.orders.iter().for_each(|orders| orders.give(order()));
    }

    /// Takes what they have told.
    ///
    /// # Errors
    /// One of them could not go on.
    pub fn hear(&mut self) -> Result<(), RunError> {
        while let Ok(report) = self.reports.try_recv() {
            self.take(report)?;
        }
        Ok(())
    }

    fn take(&mut self, report: Report) -> Result<(), RunError> {
        match report {
            Report::Seconds(seconds) => {
                for (second, tally) in &seconds {
                    self.seconds.entry(*second).or_default().add(tally);
                }
            }
            Report::Finished(account) => self.accounts.push(*account),
            Report::Failed(error) => return Err(error.into()),
            Report::Started(_) => {}
        }
        Ok(())
    }

    /// Waits until all have told the rest.
    ///
    /// # Errors
    /// One of them does not.
    pub fn finish(&mut self) -> Result<(), RunError> {
        while self.accounts.len() < self.orders.len() {
            let report = self.reports.recv_timeout(END_TIMEOUT).map_err(|_| RunError::Died)?;
            self.take(report)?;
        }
        Ok(())
    }
}
