//! Secret bytes of the operator: the control secret, the webhook secret, the token key. Owns that
//! they are never printed, are compared in constant time and are zeroed on drop.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Fewest bytes of a key that signs tokens: as many as its HMAC-SHA256 gives out (RFC 2104 §3).
pub const KEY_BYTES_MIN: usize = 32;

/// Bytes that must not leak.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes as they are.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// Reads pairs of hexadecimal digits; `None` if the text is anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|value| value as u8);
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes: Option<Vec<u8>> =
            pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect();
        bytes.filter(|_| rest.is_empty()).map(Self::new)
    }

    /// The bytes themselves, for keying a MAC or for showing them to who may know.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }

    /// Whether `other` is the same, told in a time that depends on the lengths only.
    pub fn matches(&self, other: &[u8]) -> bool {
        self.0.ct_eq(other).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Lower-case hexadecimal of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_read_back_and_anything_else_is_refused() {
        let secret = Secret::from_hex("00ff7F").unwrap();
        assert_eq!(secret.reveal(), [0x00, 0xff, 0x7f]);
        assert_eq!(hex(secret.reveal()), "00ff7f");
        for wrong in ["0", "0g", "é0", "+1"] {
            assert!(Secret::from_hex(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_secret_matches_itself_only_and_never_prints() {
        let secret = Secret::new("hunter2");
        assert!(secret.matches(b"hunter2"));
        assert!(!secret.matches(b"hunter") && !secret.matches(b"hunter3") && !secret.matches(b""));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
}
