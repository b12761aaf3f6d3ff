//! How a channel's media is encrypted, by which its costs are told apart: a mode of plain UDP, or
//! the SRTP profile of browsers. A name in profiles and calibrations. Called by all of `plan` that
//! counts bytes or members.

use crate::{
    crypto::{Mode, Profile},
    load::scenario::{CHROMIUM_PROFILE, profile_named},
};

/// What members of a channel carry media with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Plain UDP in a mode of the protocol's own (protocol.md §2.4).
    Udp(Mode),
    /// ICE, DTLS and SRTP, as browsers do (protocol.md §3.3).
    Browsers(Profile),
}

impl Encryption {
    /// What browsers and this server agree on, and what is calibrated.
    pub const BROWSERS: Self = Self::Browsers(CHROMIUM_PROFILE);

    /// Its name: the mode's, or the profile's in the registry of DTLS.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp(mode) => mode.name(),
            Self::Browsers(profile) => profile.name(),
        }
    }

    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Mode::from_name(name).map(Self::Udp).or_else(|| profile_named(name).map(Self::Browsers))
    }

    /// Every name, for those who ask for another.
    pub fn names() -> String {
        let modes = Mode::ALL.iter().map(|mode| mode.name());
        let profiles = Profile::PREFERRED.iter().map(|profile| profile.name());
        modes.chain(profiles).collect::<Vec<_>>().join(", ")
    }

    /// Whether members are browsers, who have more to do to join and to stay.
    pub fn is_browsers(self) -> bool {
        matches!(self, Self::Browsers(_))
    }

    /// How many bytes longer a sealed packet is than a plain one.
    pub fn overhead(self) -> usize {
        match self {
            Self::Udp(mode) => mode.overhead(),
            Self::Browsers(profile) => profile.overhead(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_again() {
        let names = Encryption::names();
        for name in names.split(", ") {
            let found = Encryption::from_name(name).unwrap();
            assert_eq!(found.name(), name);
            assert_eq!(found.is_browsers(), name.starts_with("SRTP_"));
        }
        assert_eq!(names.split(", ").count(), Mode::ALL.len() + Profile::PREFERRED.len());
        assert_eq!(Encryption::from_name("rot13"), None);
        assert_eq!(Encryption::BROWSERS.overhead(), 16);
    }
}
