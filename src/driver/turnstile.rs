//! How many connections one address may have, over all shards. Touched when a connection comes and
//! goes, never for a packet or a message.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{config::ConnectionsPerAddress, id::guest};

/// Counts connections by address.
#[derive(Debug)]
pub struct Turnstile {
    limit: ConnectionsPerAddress,
    by_address: Mutex<HashMap<IpAddr, u32>>,
}

/// One connection's place; given back on drop.
#[derive(Debug)]
pub struct Permit(Option<(Arc<Turnstile>, IpAddr)>);

impl Permit {
    /// No place: nothing is given back.
    pub fn none() -> Self {
        Self(None)
    }
}

impl Turnstile {
    /// Nobody has come yet.
    pub fn new(limit: ConnectionsPerAddress) -> Arc<Self> {
        Arc::new(Self { limit, by_address: Mutex::default() })
    }

    /// A place for one more connection from `address`, if it has one left.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Permit> {
        if self.limit.loopback_exempt && address.is_loopback() {
            return Some(Permit::none());
        }
        let key = guest(address);
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(key).or_default();
        if *count >= self.limit.max.get() {
            return None;
        }
        *count += 1;
        Some(Permit(Some((self.clone(), key))))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some((turnstile, key)) = self.0.take() else { return };
        let mut by_address = turnstile.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn turnstile(max: u32, loopback_exempt: bool) -> Arc<Turnstile> {
        let max = NonZeroU32::new(max).unwrap();
        Turnstile::new(ConnectionsPerAddress { max, loopback_exempt })
    }

    #[test]
    fn a_place_is_free_again_when_its_holder_has_gone() {
        let turnstile = turnstile(2, true);
        let address: IpAddr = "203.0.113.7".parse().unwrap();
        let first = turnstile.enter(address).unwrap();
        let _second = turnstile.enter(address).unwrap();
        assert!(turnstile.enter(address).is_none());
        assert!(turnstile.enter("203.0.113.8".parse().unwrap()).is_some());
        drop(first);
        assert!(turnstile.enter(address).is_some());
    }

    #[test]
    fn one_ipv6_network_counts_as_one() {
        let turnstile = turnstile(1, true);
        let _held = turnstile.enter("2001:db8::1".parse().unwrap()).unwrap();
        assert!(turnstile.enter("2001:db8::2".parse().unwrap()).is_none());
        assert!(turnstile.enter("2001:db8:0:1::1".parse().unwrap()).is_some());
    }

    #[test]
    fn loopback_is_exempt_only_by_default() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let (exempt, counted) = (turnstile(1, true), turnstile(1, false));
        let _held = (exempt.enter(loopback).unwrap(), counted.enter(loopback).unwrap());
        assert!(exempt.enter(loopback).is_some());
        assert!(counted.enter(loopback).is_none());
    }
}
