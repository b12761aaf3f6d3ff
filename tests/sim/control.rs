//! A little model of what control decides: who may join, where a channel lives, which of two
//! sessions of one user stays. Orders reach a shard late but in order, and the moving connection
//! they are about may be later still; so what changed meanwhile is said again once the session
//! exists.

use std::collections::BTreeMap;

use stentor::{
    id::{ChannelId, ConnectionId, Serial, ShardId, UserId},
    sfu::{AdmissionRequest, Command, DisconnectReason, Event, Policy, Verdict},
    signalling::CloseCode,
};

use crate::client::Grant;

#[derive(Debug)]
pub struct Granted {
    pub grant: Grant,
    pub policy: Policy,
}

/// A session from its admission to its end.
#[derive(Debug)]
pub struct Live {
    pub grant: Grant,
    pub shard: usize,
    /// Set once its shard has said Ready.
    identified: bool,
    /// What its shard was told last.
    pub told: Policy,
}

#[derive(Debug)]
pub struct Control {
    shards: usize,
    pub grants: BTreeMap<UserId, Granted>,
    pub live: BTreeMap<Serial, Live>,
    last: u64,
    /// Orders, by shard.
    pub orders: Vec<(usize, Command)>,
}

impl Control {
    pub fn new(shards: usize) -> Self {
        let (grants, live) = Default::default();
        Self { shards, grants, live, last: 0, orders: Vec::new() }
    }

    pub fn shard_of(&self, channel: ChannelId) -> usize {
        channel.0 as usize % self.shards
    }

    /// Answers a connection; gives the session it makes, if it does.
    pub fn admit(
        &mut self,
        asking: usize,
        connection: ConnectionId,
        request: AdmissionRequest,
    ) -> Option<Serial> {
        let (mut made, why) = (None, "no grant");
        let verdict = match request {
            AdmissionRequest::Identify(identify) => {
                let granted = self.grants.get(&identify.user).filter(|granted| {
                    *granted.grant.session == *identify.session.0
                        && granted.grant.token == identify.token.reveal()
                });
                match granted {
                    Some(Granted { grant, policy }) if policy.permissions.connect => {
                        self.last += 1;
                        let serial = Serial(self.last);
                        made = Some(serial);
                        let shard = self.shard_of(grant.channel);
                        let admission = Box::new(grant.admission(self.last, policy.clone()));
                        let (grant, told) = (grant.clone(), policy.clone());
                        self.live.insert(serial, Live { grant, shard, identified: false, told });
                        Verdict::Join { shard: ShardId(shard as u16), admission }
                    }
                    _ => Verdict::Refuse { code: CloseCode::AuthenticationFailed, why },
                }
            }
            AdmissionRequest::Resume(resume) => {
                let session = self.live.iter().rev().find(|(_, live)| {
                    live.identified
                        && *live.grant.session == *resume.session.0
                        && live.grant.token == resume.token.reveal()
                });
                match session {
                    Some((&serial, live)) => {
                        Verdict::Resume { shard: ShardId(live.shard as u16), serial }
                    }
                    None => Verdict::Refuse { code: CloseCode::SessionInvalid, why },
                }
            }
        };
        self.orders.push((asking, Command::Decide { connection, verdict }));
        made
    }

    pub fn hear(&mut self, event: &Event) {
        match event {
            Event::Identified { serial } => self.identified(*serial),
            Event::Disconnected { serial, .. } => {
                self.live.remove(serial).expect("a session ends once");
            }
            _ => {}
        }
    }

    fn identified(&mut self, serial: Serial) {
        let live = self.live.get_mut(&serial).expect("an admitted session");
        live.identified = true;
        let (user, shard) = (live.grant.user, live.shard);
        self.tell(user);
        // On one shard the sessions of a user replace each other; across shards the older goes.
        let mut others = self
            .live
            .iter()
            .filter(|(_, live)| live.identified && live.grant.user == user && live.shard != shard);
        let Some((&other, _)) = others.next_back() else { return };
        let going = other.min(serial);
        self.close(going, CloseCode::Disconnected, DisconnectReason::Replaced);
    }

    pub fn close(&mut self, serial: Serial, code: CloseCode, reason: DisconnectReason) {
        let shard = self.live[&serial].shard;
        self.orders.push((shard, Command::Close { serial, code, reason }));
    }

    /// PATCH: new rules for a user.
    pub fn patch(&mut self, user: UserId, change: impl FnOnce(&mut Policy)) {
        change(&mut self.grants.get_mut(&user).expect("a grant").policy);
        self.tell(user);
    }

    fn tell(&mut self, user: UserId) {
        let policy = &self.grants[&user].policy;
        for (&serial, live) in &mut self.live {
            if live.grant.user == user && live.identified && live.told != *policy {
                live.told = policy.clone();
                let policy = Box::new(policy.clone());
                self.orders.push((live.shard, Command::Update { serial, policy }));
            }
        }
    }

    pub fn close_channel(&mut self, channel: ChannelId, code: CloseCode) {
        let reason = DisconnectReason::RoomClosed;
        let command = Command::CloseChannel { channel, code, reason };
        self.orders.push((self.shard_of(channel), command));
    }

    /// Migrates a channel: its members are to come back by themselves.
    pub fn call_back(&mut self, channel: ChannelId) {
        self.orders.push((self.shard_of(channel), Command::Reconnect { channel }));
    }
}
