//! Which channel lives on which shard, and how loaded the shards are. Owns placement; knows nothing
//! of grants. Called by `authority`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    id::{ChannelId, Serial, ServerId, ShardId},
    limits::{CHANNEL_SESSIONS_MAX, SHARD_SESSIONS_MAX},
    sfu::Kind,
};

/// A channel with at least one session, or one under way.
#[derive(Debug)]
pub(crate) struct Place {
    /// Where it lives until it is empty.
    pub(crate) shard: ShardId,
    /// Voice channel or stream; what its first session was.
    pub(crate) kind: Kind,
    /// Whose channel it is: ids of channels are unique, whatever a backend's mistake says.
    pub(crate) server: ServerId,
    /// Everyone in it or admitted to it.
    pub(crate) sessions: BTreeSet<Serial>,
    /// Whether anyone has arrived yet.
    pub(crate) opened: bool,
}

/// What a shard carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    sessions: usize,
    channels: usize,
}

/// Every live channel of the node.
#[derive(Debug)]
pub(crate) struct Directory {
    places: BTreeMap<ChannelId, Place>,
    loads: Vec<Load>,
}

impl Directory {
    /// No channels, on so many shards.
    pub(crate) fn new(shards: usize) -> Self {
        assert!(shards > 0, "a node has at least one shard");
        Self { places: BTreeMap::new(), loads: vec![Load::default(); shards] }
    }

    pub(crate) fn get(&self, channel: ChannelId) -> Option<&Place> {
        self.places.get(&channel)
    }

    pub(crate) fn channels(&self) -> usize {
        self.places.len()
    }

    /// Whether one more session fits into the channel and onto its shard.
    pub(crate) fn has_place(&self, channel: ChannelId) -> bool {
        let place = self.places.get(&channel);
        let load = match place {
            Some(place) => self.loads[place.shard.index()],
            None => self.loads[self.emptiest().index()],
        };
        load.sessions < SHARD_SESSIONS_MAX
            && place.is_none_or(|place| place.sessions.len() < CHANNEL_SESSIONS_MAX)
    }

    /// Adds a session and gives the channel's shard. A new channel goes to the shard with the
    /// fewest sessions, then the fewest channels, then the lowest index.
    pub(crate) fn enter(
        &mut self,
        channel: ChannelId,
        kind: Kind,
        server: ServerId,
        serial: Serial,
    ) -> ShardId {
        let shard = self.emptiest();
        let place = self.places.entry(channel).or_insert_with(|| {
            self.loads[shard.index()].channels += 1;
            Place { shard, kind, server, sessions: BTreeSet::new(), opened: false }
        });
        if place.sessions.insert(serial) {
            self.loads[place.shard.index()].sessions += 1;
        }
        place.shard
    }

    fn emptiest(&self) -> ShardId {
        let loads = self.loads.iter().enumerate();
        let (index, _) = loads.min_by_key(|(_, load)| **load).expect("there is a shard");
        ShardId(u16::try_from(index).expect("shards are numbered in 16 bits"))
    }

    /// Marks that someone has arrived; tells whether it was the first.
    pub(crate) fn open(&mut self, channel: ChannelId) -> bool {
        match self.places.get_mut(&channel) {
            Some(place) => !std::mem::replace(&mut place.opened, true),
            None => false,
        }
    }

    /// Removes a session; gives the channel if that was its last.
    pub(crate) fn leave(&mut self, channel: ChannelId, serial: Serial) -> Option<Place> {
        let place = self.places.get_mut(&channel)?;
        let load = &mut self.loads[place.shard.index()];
        if place.sessions.remove(&serial) {
            load.sessions -= 1;
        }
        if !place.sessions.is_empty() {
            return None;
        }
        load.channels -= 1;
        self.places.remove(&channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(directory: &mut Directory, channel: u64, serial: u64) -> u16 {
        directory.enter(ChannelId(channel), Kind::Voice, ServerId(1), Serial(serial)).0
    }

    #[test]
    fn fresh_channels_spread_and_a_live_one_stays() {
        let mut directory = Directory::new(2);
        assert_eq!(enter(&mut directory, 1, 1), 0);
        assert_eq!(enter(&mut directory, 2, 2), 1);
        assert_eq!(enter(&mut directory, 1, 3), 0);
        assert_eq!(enter(&mut directory, 3, 4), 1, "the shard with fewer sessions");
        assert_eq!(enter(&mut directory, 4, 5), 0, "equal sessions, fewer channels");
    }

    #[test]
    fn a_full_channel_has_no_place_and_others_on_its_shard_have() {
        let mut directory = Directory::new(1);
        for serial in 0..CHANNEL_SESSIONS_MAX as u64 {
            assert!(directory.has_place(ChannelId(1)));
            enter(&mut directory, 1, serial);
        }
        assert!(!directory.has_place(ChannelId(1)));
        assert!(directory.has_place(ChannelId(2)));
        directory.leave(ChannelId(1), Serial(0));
        assert!(directory.has_place(ChannelId(1)));
    }

    #[test]
    fn a_full_shard_has_no_place_and_a_new_channel_goes_to_another() {
        let mut directory = Directory::new(2);
        enter(&mut directory, 1, 0);
        enter(&mut directory, 2, 1);
        directory.loads[0].sessions = SHARD_SESSIONS_MAX;
        assert!(!directory.has_place(ChannelId(1)));
        assert!(directory.has_place(ChannelId(2)) && directory.has_place(ChannelId(3)));
        directory.loads[1].sessions = SHARD_SESSIONS_MAX;
        assert!(!directory.has_place(ChannelId(2)) && !directory.has_place(ChannelId(3)));
    }

    #[test]
    fn an_empty_channel_leaves_nothing_behind() {
        let mut directory = Directory::new(2);
        enter(&mut directory, 1, 1);
        enter(&mut directory, 1, 2);
        assert!(directory.open(ChannelId(1)) && !directory.open(ChannelId(1)));
        assert!(directory.leave(ChannelId(1), Serial(1)).is_none());
        assert!(directory.leave(ChannelId(1), Serial(2)).is_some_and(|place| place.opened));
        assert!(directory.get(ChannelId(1)).is_none());
        assert_eq!(directory.loads, [Load::default(); 2]);
        assert!(directory.leave(ChannelId(1), Serial(2)).is_none());
    }
}
