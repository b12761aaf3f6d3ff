//! The gateway version a client asked for, and the bytes that depend on it (protocol.md §1.1). Owns
//! the query string's `v`; everything else in the query is ignored.

/// Highest version we speak; a client that asks for more gets this one.
const VERSION_MAX: u8 = 9;

/// Lowest version outside the legacy profile.
const MODERN_FROM: u8 = 4;

/// Lowest version with sequence numbers and buffered resume.
const NUMBERED_FROM: u8 = 8;

/// What Hello says to a client that named no version.
const HELLO_DEFAULT: u8 = 8;

/// Gateway version of one connection. None at all, and anything below 4, is the legacy profile:
/// discordgo and Fermi (protocol.md §1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u8);

impl Version {
    /// The version that a request's raw query string names, such as `v=8&encoding=json`. What is no
    /// decimal number counts as none; above 9 counts as 9. The first `v` decides.
    pub fn from_query(query: Option<&str>) -> Self {
        let asked = query
            .into_iter()
            .flat_map(|query| query.split('&'))
            .find_map(|pair| pair.strip_prefix("v="))
            .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
        match asked {
            None => Self(0),
            // Digits that do not fit a u64 are still a number above 9.
            Some(text) => {
                let number = text.parse::<u64>().unwrap_or(u64::MAX);
                Self(number.min(u64::from(VERSION_MAX)) as u8)
            }
        }
    }

    /// The number, 0 for none.
    pub fn number(self) -> u8 {
        self.0
    }

    /// What Hello says: the version asked for, or 8 if none was.
    pub fn hello(self) -> u8 {
        if self.0 == 0 { HELLO_DEFAULT } else { self.0 }
    }

    /// No version, or one below 4.
    pub fn is_legacy(self) -> bool {
        self.0 < MODERN_FROM
    }

    /// Whether messages carry sequence numbers and a resume replays them.
    pub fn numbered(self) -> bool {
        self.0 >= NUMBERED_FROM
    }

    /// Whether `speaking` towards the client is a boolean rather than a bit mask.
    pub fn boolean_speaking(self) -> bool {
        self.is_legacy()
    }

    /// Whether a close frame without a code says that the client will not be back. Fermi hangs up
    /// so and never resumes; discord.js does so when it hears nothing, and then resumes, but it
    /// names a version.
    pub fn empty_close_is_goodbye(self) -> bool {
        self.0 == 0
    }

    /// Whether Ready repeats `heartbeat_interval`.
    pub fn heartbeat_in_ready(self) -> bool {
        self.is_legacy()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_decides_the_version() {
        let table = [
            (None, 0),
            (Some(""), 0),
            (Some("encoding=json"), 0),
            (Some("v="), 0),
            (Some("v=x"), 0),
            (Some("v=-8"), 0),
            (Some("v=+8"), 0),
            (Some("v=8.0"), 0),
            (Some("V=8"), 0),
            (Some("xv=8"), 0),
            (Some("v=0"), 0),
            (Some("v=3"), 3),
            (Some("v=4"), 4),
            (Some("v=8"), 8),
            (Some("v=08"), 8),
            (Some("encoding=json&v=8"), 8),
            (Some("v=8&encoding=json"), 8),
            (Some("v=9&v=4"), 9),
            (Some("v=10"), 9),
            (Some("v=340282366920938463463374607431768211456"), 9),
        ];
        for (query, number) in table {
            assert_eq!(Version::from_query(query).number(), number, "{query:?}");
        }
    }

    #[test]
    fn each_version_speaks_its_profile() {
        for (number, legacy, numbered, hello) in [
            (0, true, false, 8),
            (1, true, false, 1),
            (3, true, false, 3),
            (4, false, false, 4),
            (7, false, false, 7),
            (8, false, true, 8),
            (9, false, true, 9),
        ] {
            let version = Version::from_query(Some(&format!("v={number}")));
            assert_eq!(version.is_legacy(), legacy, "v{number}");
            assert_eq!(version.boolean_speaking(), legacy, "v{number}");
            assert_eq!(version.heartbeat_in_ready(), legacy, "v{number}");
            assert_eq!(version.numbered(), numbered, "v{number}");
            assert_eq!(version.hello(), hello, "v{number}");
        }
    }
}
