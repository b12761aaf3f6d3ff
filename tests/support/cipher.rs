//! The seven transport encryption modes, once more (protocol.md §2.4): AEADs from RustCrypto, the
//! secretbox put together from XSalsa20 and Poly1305. Allocates freely; knows nothing of sequence
//! or replay.

use aes_gcm::{
    Aes256Gcm,
    aead::{Aead, KeyInit, Payload},
};
use chacha20poly1305::XChaCha20Poly1305;
use poly1305::Poly1305;
use salsa20::{
    XSalsa20,
    cipher::{KeyIvInit, StreamCipher},
};

/// Bytes of an authentication tag in every mode.
const TAG: usize = 16;

/// One way to seal a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    AesRtpsize,
    XChaChaRtpsize,
    Aes,
    SalsaLiteRtpsize,
    SalsaLite,
    SalsaSuffix,
    Salsa,
}

impl Mode {
    /// All seven, the two of today first.
    pub const ALL: [Mode; 7] = [
        Mode::AesRtpsize,
        Mode::XChaChaRtpsize,
        Mode::Aes,
        Mode::SalsaLiteRtpsize,
        Mode::SalsaLite,
        Mode::SalsaSuffix,
        Mode::Salsa,
    ];

    /// Its name in Ready, Select Protocol and Session Description.
    pub fn name(self) -> &'static str {
        match self {
            Mode::AesRtpsize => "aead_aes256_gcm_rtpsize",
            Mode::XChaChaRtpsize => "aead_xchacha20_poly1305_rtpsize",
            Mode::Aes => "aead_aes256_gcm",
            Mode::SalsaLiteRtpsize => "xsalsa20_poly1305_lite_rtpsize",
            Mode::SalsaLite => "xsalsa20_poly1305_lite",
            Mode::SalsaSuffix => "xsalsa20_poly1305_suffix",
            Mode::Salsa => "xsalsa20_poly1305",
        }
    }

    /// Bytes of nonce that travel behind the packet.
    fn suffix(self) -> usize {
        match self {
            Mode::SalsaSuffix => 24,
            Mode::Salsa => 0,
            _ => 4,
        }
    }

    /// Bytes at the front that stay in clear.
    fn clear(self, packet: &[u8]) -> usize {
        if (192..=223).contains(&packet[1]) {
            return 8;
        }
        match self {
            Mode::AesRtpsize | Mode::XChaChaRtpsize | Mode::SalsaLiteRtpsize => {
                let csrcs = usize::from(packet[0] & 0x0f);
                let preamble = if packet[0] & 0x10 != 0 { 4 } else { 0 };
                12 + 4 * csrcs + preamble
            }
            _ => 12,
        }
    }
}

/// A mode with its key.
#[derive(Clone)]
pub struct Cipher {
    mode: Mode,
    key: [u8; 32],
}

impl Cipher {
    pub fn new(mode: Mode, key: [u8; 32]) -> Self {
        Self { mode, key }
    }

    /// Seals a plain packet; `suffix` counts packets of this key and direction.
    pub fn seal(&self, packet: &[u8], suffix: u32) -> Vec<u8> {
        let mut wire = suffix.to_be_bytes().to_vec();
        wire.resize(self.mode.suffix(), 0);
        self.seal_with(packet, &wire)
    }

    /// Seals with the very nonce suffix given.
    pub fn seal_with(&self, packet: &[u8], suffix: &[u8]) -> Vec<u8> {
        let (header, body) = packet.split_at(self.mode.clear(packet));
        let nonce = self.nonce(header, suffix);
        let aead = Payload { msg: body, aad: header };
        let sealed = match self.mode {
            Mode::AesRtpsize | Mode::Aes => {
                self.aes().encrypt(nonce[..12].into(), aead).expect("AES-GCM seals any length")
            }
            Mode::XChaChaRtpsize => {
                self.xchacha().encrypt(nonce[..].into(), aead).expect("XChaCha seals any length")
            }
            _ => self.box_seal(&nonce, body),
        };
        [header, &sealed, suffix].concat()
    }

    /// Opens a datagram into the plain packet; `None` if it is too short or its tag is wrong.
    pub fn open(&self, datagram: &[u8]) -> Option<Vec<u8>> {
        if datagram.len() < 8 {
            return None;
        }
        let end = datagram.len().checked_sub(self.mode.suffix())?;
        let (packet, suffix) = datagram.split_at(end);
        let clear = self.mode.clear(packet);
        if packet.len() < clear + TAG {
            return None;
        }
        let (header, sealed) = packet.split_at(clear);
        let nonce = self.nonce(header, suffix);
        let aead = Payload { msg: sealed, aad: header };
        let body = match self.mode {
            Mode::AesRtpsize | Mode::Aes => self.aes().decrypt(nonce[..12].into(), aead).ok()?,
            Mode::XChaChaRtpsize => self.xchacha().decrypt(nonce[..].into(), aead).ok()?,
            _ => self.box_open(&nonce, sealed)?,
        };
        Some([header, &body].concat())
    }

    /// The nonce, zero-padded to 24 bytes.
    fn nonce(&self, header: &[u8], suffix: &[u8]) -> [u8; 24] {
        let source =
            if self.mode == Mode::Salsa { &header[..header.len().min(12)] } else { suffix };
        let mut nonce = [0; 24];
        nonce[..source.len()].copy_from_slice(source);
        nonce
    }

    fn aes(&self) -> Aes256Gcm {
        Aes256Gcm::new(&self.key.into())
    }

    fn xchacha(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.key.into())
    }

    /// NaCl secretbox: the first 32 bytes of the key stream are the one-time key, the tag goes
    /// first.
    fn box_seal(&self, nonce: &[u8; 24], body: &[u8]) -> Vec<u8> {
        let (mut stream, one_time) = self.salsa(nonce);
        let mut sealed = body.to_vec();
        stream.apply_keystream(&mut sealed);
        let tag = Poly1305::new(&one_time.into()).compute_unpadded(&sealed);
        [&tag[..], &sealed].concat()
    }

    fn box_open(&self, nonce: &[u8; 24], sealed: &[u8]) -> Option<Vec<u8>> {
        let (mut stream, one_time) = self.salsa(nonce);
        let (tag, sealed) = sealed.split_at(TAG);
        if Poly1305::new(&one_time.into()).compute_unpadded(sealed)[..] != *tag {
            return None;
        }
        let mut body = sealed.to_vec();
        stream.apply_keystream(&mut body);
        Some(body)
    }

    fn salsa(&self, nonce: &[u8; 24]) -> (XSalsa20, [u8; 32]) {
        let mut stream = XSalsa20::new(&self.key.into(), nonce.into());
        let mut one_time = [0; 32];
        stream.apply_keystream(&mut one_time);
        (stream, one_time)
    }
}

/// Bytes from hexadecimal text.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes();
    assert!(digits.len().is_multiple_of(2), "odd hexadecimal text");
    let nibble = |digit: u8| char::from(digit).to_digit(16).expect("a hexadecimal digit") as u8;
    digits.chunks(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])).collect()
}
