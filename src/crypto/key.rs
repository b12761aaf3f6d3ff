//! A session's secret key: never printed, zeroed on drop. Made by the signaller, told to the client
//! in Session Description, held by the session's cipher.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of a key, the same in every mode.
pub const KEY_BYTES: usize = 32;

/// The key of one session, used in both directions (protocol.md §2.4).
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; KEY_BYTES]);

impl SecretKey {
    /// Wraps 32 bytes of a cryptographic random source.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The key itself, for Session Description and for a cipher.
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl From<[u8; KEY_BYTES]> for SecretKey {
    fn from(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_not_printed() {
        assert_eq!(format!("{:?}", SecretKey::new([7; 32])), "SecretKey(…)");
    }

    #[test]
    fn a_key_is_zeroed() {
        let mut key = SecretKey::new([7; 32]);
        assert_eq!(key.bytes(), &[7; 32]);
        key.zeroize();
        assert_eq!(key.bytes(), &[0; 32]);
        assert!(std::mem::needs_drop::<SecretKey>());
    }
}
