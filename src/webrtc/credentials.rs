//! ICE credentials (RFC 8445 §5.3): the user name fragment that finds a session, and the password
//! that its checks are signed with. Made here for ourselves, read by `sdp` from a client's offer.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use zeroize::{Zeroize, Zeroizing};

/// Characters of our own `ufrag`: 96 bits, so that it is unique without a look-up and cannot be
/// guessed, and so many that an answer is never longer than the shortest check it answers
/// ([`super::ice::ANSWER_BYTES_MAX`]).
pub const UFRAG_CHARS: usize = 16;

/// Characters of our own password: 144 bits; RFC 8445 §5.3 wants 128.
pub const PWD_CHARS: usize = 24;

/// Random bytes that [`Credentials::generate`] takes: six bits a character.
pub const RANDOM_BYTES: usize = (UFRAG_CHARS + PWD_CHARS) * 6 / 8;

/// Characters that RFC 8839 §5.4 allows in a `ufrag`, and in a password.
const UFRAG_RANGE: std::ops::RangeInclusive<usize> = 4..=256;
const PWD_RANGE: std::ops::RangeInclusive<usize> = 22..=256;

/// One side's `ufrag` and password. The password is never printed, and zeroed on drop.
#[derive(Clone)]
pub struct Credentials {
    ufrag: Box<str>,
    pwd: Zeroizing<String>,
}

impl Credentials {
    /// Makes our own from bytes of a cryptographic random source. They consist of `[A-Za-z0-9+/]`,
    /// because one client splits lines at `=` (protocol.md §3.2).
    pub fn generate(mut random: [u8; RANDOM_BYTES]) -> Self {
        let mut text = Zeroizing::new(STANDARD_NO_PAD.encode(random));
        random.zeroize();
        let pwd = Zeroizing::new(text.split_off(UFRAG_CHARS));
        Self { ufrag: text.as_str().into(), pwd }
    }

    /// Takes a client's; `None` if RFC 8839 §5.4 does not allow them.
    pub fn parse(ufrag: &str, pwd: &str) -> Option<Self> {
        (is_ufrag(ufrag) && is_pwd(pwd))
            .then(|| Self { ufrag: ufrag.into(), pwd: Zeroizing::new(pwd.to_owned()) })
    }

    /// The user name fragment.
    pub fn ufrag(&self) -> &str {
        &self.ufrag
    }

    /// The password.
    pub fn pwd(&self) -> &str {
        &self.pwd
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, …)", self.ufrag)
    }
}

pub(super) fn is_ufrag(text: &str) -> bool {
    UFRAG_RANGE.contains(&text.len()) && text.bytes().all(is_ice_char)
}

pub(super) fn is_pwd(text: &str) -> bool {
    PWD_RANGE.contains(&text.len()) && text.bytes().all(is_ice_char)
}

fn is_ice_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_password_is_not_printed() {
        let text = format!("{:?}", Credentials::generate([0xA5; RANDOM_BYTES]));
        assert_eq!(text, "Credentials(paWlpaWlpaWlpaWl, …)");
    }

    #[test]
    fn what_rfc_8839_forbids_is_no_credential() {
        let pwd = "0123456789012345678901";
        assert!(Credentials::parse("abcd", pwd).is_some());
        assert!(Credentials::parse("abc", pwd).is_none());
        assert!(Credentials::parse(&"a".repeat(257), pwd).is_none());
        assert!(Credentials::parse("abcd", &pwd[1..]).is_none());
        assert!(Credentials::parse("abcd", &"a".repeat(257)).is_none());
        for wrong in ["ab:d", "ab=d", "ab d", "abcé"] {
            assert!(Credentials::parse(wrong, pwd).is_none(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn our_own_are_allowed_and_hold_every_random_bit(random in any::<[u8; RANDOM_BYTES]>()) {
            let ours = Credentials::generate(random);
            prop_assert_eq!((ours.ufrag().len(), ours.pwd().len()), (UFRAG_CHARS, PWD_CHARS));
            prop_assert!(Credentials::parse(ours.ufrag(), ours.pwd()).is_some());
            let text = format!("{}{}", ours.ufrag(), ours.pwd());
            prop_assert_eq!(STANDARD_NO_PAD.decode(text).unwrap(), random.to_vec());
        }
    }
}
