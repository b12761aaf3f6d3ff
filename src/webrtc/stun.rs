//! STUN messages (RFC 8489) as far as ICE's connectivity checks need them (RFC 8445 §7): a view
//! over a datagram, checked once, and a writer into the caller's buffer. Which request deserves
//! which answer is `ice`'s decision. Verifying a message's integrity is the only thing here that
//! costs more than reading it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;

/// Bytes of a message without attributes.
pub const HEADER_BYTES: usize = 20;

/// The method of every check.
pub const BINDING: u16 = 0x001;

/// Attribute types that mean something to us. Below 0x8000 a receiver must understand them.
mod attribute {
    pub(super) const USERNAME: u16 = 0x0006;
    pub(super) const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub(super) const ERROR_CODE: u16 = 0x0009;
    pub(super) const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
    pub(super) const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
    pub(super) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub(super) const PRIORITY: u16 = 0x0024;
    pub(super) const USE_CANDIDATE: u16 = 0x0025;
    pub(super) const FINGERPRINT: u16 = 0x8028;
    pub(super) const ICE_CONTROLLED: u16 = 0x8029;
    pub(super) const ICE_CONTROLLING: u16 = 0x802A;
}

/// First of the attribute types that may be ignored (RFC 8489 §14).
const OPTIONAL: u16 = 0x8000;

/// Unknown attributes that an answer lists; a client that sends more knows what is wrong after so
/// many.
pub const UNKNOWN_MAX: usize = 16;

const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
/// What a fingerprint's CRC is combined with, "STUN" in ASCII.
const FINGERPRINT_XOR: u32 = 0x5354_554E;
/// Bytes of MESSAGE-INTEGRITY: its head and an HMAC-SHA1.
const INTEGRITY_BYTES: usize = 4 + TAG_BYTES;
const TAG_BYTES: usize = 20;
const IPV4: u8 = 1;
const IPV6: u8 = 2;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// A request succeeded.
    Success,
    /// A request failed.
    Error,
}

/// What pairs an answer with its request, chosen by who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transaction(pub [u8; 12]);

/// The role that a check's sender claims, with its tie-breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It nominates.
    Controlling(u64),
    /// It waits for us to nominate.
    Controlled(u64),
}

/// The key of a message's integrity: a password of the side that answers. Never printed.
#[derive(Clone)]
pub struct Key(hmac::Key);

impl Key {
    /// Prepares a short-term password (RFC 8489 §9.1.1). ICE's have no characters that preparing
    /// would change.
    pub fn new(pwd: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, pwd.as_bytes()))
    }

    /// The tag over `head`, a message up to its MESSAGE-INTEGRITY. The header is read as if the
    /// message ended with that attribute (RFC 8489 §14.5).
    fn tag(&self, head: &[u8]) -> [u8; TAG_BYTES] {
        let len = (head.len() - HEADER_BYTES + INTEGRITY_BYTES) as u16;
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&head[..2]);
        context.update(&len.to_be_bytes());
        context.update(&head[4..]);
        context.sign().as_ref().try_into().expect("HMAC-SHA1 has 20 bytes")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// A view over one message. Its shape was checked, nothing else: what it says is to be believed
/// only if [`Message::is_authentic`]. Attributes behind MESSAGE-INTEGRITY are not covered by it and
/// were not read (RFC 8489 §14.5); of several of one type the first counts.
///
/// ```text
///  0                   1                   2                   3
/// | 0 (6)     | class, method (10)|  length of attributes (16)    |
/// |                   magic cookie 2112A442                       |
/// |                   transaction (96)                            |
/// |          type (16)            |         length (16)           |  each attribute,
/// |          value, padded to a multiple of four                  |  FINGERPRINT last
/// ```
#[derive(Debug, Clone)]
pub struct Message<'a> {
    datagram: &'a [u8],
    username: Option<&'a [u8]>,
    priority: Option<u32>,
    role: Option<Role>,
    use_candidate: bool,
    mapped_address: Option<SocketAddr>,
    error_code: Option<u16>,
    unknown: [u16; UNKNOWN_MAX],
    unknown_count: usize,
    /// Where MESSAGE-INTEGRITY and FINGERPRINT begin.
    integrity: Option<usize>,
    fingerprint: Option<usize>,
}

impl<'a> Message<'a> {
    /// Checks the shape of a datagram that is one message and nothing more.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (header, mut rest) = datagram.split_first_chunk::<HEADER_BYTES>()?;
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        // Methods above 0x0FF would make a first byte that is DTLS's or RTP's (RFC 7983 §7).
        if header[0] > 3 || header[4..8] != COOKIE || len != rest.len() {
            return None;
        }
        let mut message = Self {
            datagram,
            username: None,
            priority: None,
            role: None,
            use_candidate: false,
            mapped_address: None,
            error_code: None,
            unknown: [0; UNKNOWN_MAX],
            unknown_count: 0,
            integrity: None,
            fingerprint: None,
        };
        while !rest.is_empty() {
            let offset = datagram.len() - rest.len();
            let ([a, b, c, d], tail) = rest.split_first_chunk()?;
            let len = usize::from(u16::from_be_bytes([*c, *d]));
            message.read(u16::from_be_bytes([*a, *b]), tail.get(..len)?, offset)?;
            rest = tail.get(len.next_multiple_of(4)..)?;
        }
        Some(message)
    }

    fn read(&mut self, kind: u16, value: &'a [u8], offset: usize) -> Option<()> {
        if self.fingerprint.is_some() {
            return None;
        }
        if self.integrity.is_some() && kind != attribute::FINGERPRINT {
            return Some(());
        }
        match kind {
            attribute::USERNAME => {
                self.username.get_or_insert(value);
            }
            attribute::PRIORITY => {
                self.priority.get_or_insert(u32::from_be_bytes(value.try_into().ok()?));
            }
            attribute::ICE_CONTROLLING => {
                let tie_breaker = u64::from_be_bytes(value.try_into().ok()?);
                self.role.get_or_insert(Role::Controlling(tie_breaker));
            }
            attribute::ICE_CONTROLLED => {
                let tie_breaker = u64::from_be_bytes(value.try_into().ok()?);
                self.role.get_or_insert(Role::Controlled(tie_breaker));
            }
            attribute::USE_CANDIDATE => self.use_candidate = true,
            attribute::XOR_MAPPED_ADDRESS => {
                let address = read_address(value, self.transaction())?;
                self.mapped_address.get_or_insert(address);
            }
            attribute::ERROR_CODE => {
                let [_, _, class, number, ..] = value else { return None };
                let code = u16::from(class & 7) * 100 + u16::from(*number);
                self.error_code.get_or_insert(code);
            }
            attribute::MESSAGE_INTEGRITY => {
                self.integrity = (value.len() == TAG_BYTES).then_some(offset);
                self.integrity?;
            }
            attribute::FINGERPRINT => {
                self.fingerprint = (value.len() == 4).then_some(offset);
                self.fingerprint?;
            }
            // Understood, and of no use beside the other one.
            attribute::MESSAGE_INTEGRITY_SHA256 | attribute::UNKNOWN_ATTRIBUTES => {}
            OPTIONAL.. => {}
            unknown => {
                if let Some(place) = self.unknown.get_mut(self.unknown_count) {
                    *place = unknown;
                    self.unknown_count += 1;
                }
            }
        }
        Some(())
    }

    /// What the message is.
    pub fn class(&self) -> Class {
        match (self.datagram[0] & 1, self.datagram[1] & 0x10) {
            (0, 0) => Class::Request,
            (0, _) => Class::Indication,
            (_, 0) => Class::Success,
            (_, _) => Class::Error,
        }
    }

    /// What it is about: [`BINDING`] in ICE.
    pub fn method(&self) -> u16 {
        let kind = u16::from_be_bytes([self.datagram[0], self.datagram[1]]);
        kind & 0x000F | (kind & 0x00E0) >> 1 | (kind & 0x0200) >> 2
    }

    /// What pairs it with its answer.
    pub fn transaction(&self) -> Transaction {
        Transaction(self.datagram[8..HEADER_BYTES].try_into().expect("twelve bytes"))
    }

    /// The `ufrag` of who is asked, and of who asks.
    pub fn username(&self) -> Option<(&'a [u8], &'a [u8])> {
        let username = self.username?;
        let colon = username.iter().position(|byte| *byte == b':')?;
        Some((&username[..colon], &username[colon + 1..]))
    }

    /// What the sender would give this path as a candidate's priority.
    pub fn priority(&self) -> Option<u32> {
        self.priority
    }

    /// The role that the sender claims.
    pub fn role(&self) -> Option<Role> {
        self.role
    }

    /// Whether the sender nominates this path.
    pub fn use_candidate(&self) -> bool {
        self.use_candidate
    }

    /// In an answer: where the request came from.
    pub fn mapped_address(&self) -> Option<SocketAddr> {
        self.mapped_address
    }

    /// In an answer: what was wrong, 300 to 699 by the book.
    pub fn error_code(&self) -> Option<u16> {
        self.error_code
    }

    /// Attributes that must be understood and are not, [`UNKNOWN_MAX`] at most.
    pub fn unknown_attributes(&self) -> &[u16] {
        &self.unknown[..self.unknown_count]
    }

    /// Whether it has a FINGERPRINT and this is right: no packet of another protocol by chance.
    /// Proves nothing about who sent it.
    pub fn has_fingerprint(&self) -> bool {
        self.fingerprint.is_some_and(|at| {
            let crc = crc32fast::hash(&self.datagram[..at]) ^ FINGERPRINT_XOR;
            self.datagram[at + 4..at + 8] == crc.to_be_bytes()
        })
    }

    /// Whether it has a MESSAGE-INTEGRITY and this was made with `key`. One HMAC, compared in
    /// constant time.
    pub fn is_authentic(&self, key: &Key) -> bool {
        self.integrity.is_some_and(|at| {
            let tag = &self.datagram[at + 4..at + INTEGRITY_BYTES];
            key.tag(&self.datagram[..at]).ct_eq(tag).into()
        })
    }
}

/// Writes one message into the caller's buffer, attribute by attribute.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut [u8],
    /// `None` once something did not fit.
    len: Option<usize>,
}

impl<'a> Writer<'a> {
    /// Starts a message at the start of `out`. Methods end at 0x0FF (RFC 7983 §7).
    pub fn new(out: &'a mut [u8], class: Class, method: u16, transaction: Transaction) -> Self {
        let class = match class {
            Class::Request => 0x0000,
            Class::Indication => 0x0010,
            Class::Success => 0x0100,
            Class::Error => 0x0110,
        };
        let kind = method & 0x000F | (method & 0x0070) << 1 | (method & 0x0080) << 2 | class;
        let mut writer = Self { out, len: Some(0) };
        writer.put(&kind.to_be_bytes());
        writer.put(&[0, 0]);
        writer.put(&COOKIE);
        writer.put(&transaction.0);
        writer
    }

    /// Appends who is asked and who asks.
    pub fn username(&mut self, asked: &str, asking: &str) -> &mut Self {
        let len = asked.len() + 1 + asking.len();
        self.head(attribute::USERNAME, len);
        self.put(asked.as_bytes());
        self.put(b":");
        self.put(asking.as_bytes());
        self.pad(len)
    }

    /// Appends this path's priority.
    pub fn priority(&mut self, priority: u32) -> &mut Self {
        self.push(attribute::PRIORITY, &priority.to_be_bytes())
    }

    /// Appends the sender's role.
    pub fn role(&mut self, role: Role) -> &mut Self {
        match role {
            Role::Controlling(tie) => self.push(attribute::ICE_CONTROLLING, &tie.to_be_bytes()),
            Role::Controlled(tie) => self.push(attribute::ICE_CONTROLLED, &tie.to_be_bytes()),
        }
    }

    /// Nominates this path.
    pub fn use_candidate(&mut self) -> &mut Self {
        self.push(attribute::USE_CANDIDATE, &[])
    }

    /// Appends where the request came from.
    pub fn mapped_address(&mut self, address: SocketAddr) -> &mut Self {
        let port = (address.port() ^ u16::from_be_bytes([COOKIE[0], COOKIE[1]])).to_be_bytes();
        let mut value = [0, IPV4, port[0], port[1], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let len = match address.ip() {
            IpAddr::V4(ip) => {
                value[4..8].copy_from_slice(&ip.octets());
                8
            }
            IpAddr::V6(ip) => {
                value[1] = IPV6;
                value[4..].copy_from_slice(&ip.octets());
                20
            }
        };
        if let Some(mask) = self.out.get(4..HEADER_BYTES) {
            value[4..len].iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        }
        self.push(attribute::XOR_MAPPED_ADDRESS, &value[..len])
    }

    /// Appends what was wrong, without a phrase: nobody reads it, and it would make the answer
    /// longer than the question.
    pub fn error_code(&mut self, code: u16) -> &mut Self {
        self.push(attribute::ERROR_CODE, &[0, 0, (code / 100) as u8, (code % 100) as u8])
    }

    /// Appends which attributes were not understood.
    pub fn unknown_attributes(&mut self, kinds: &[u16]) -> &mut Self {
        let len = 2 * kinds.len();
        self.head(attribute::UNKNOWN_ATTRIBUTES, len);
        for kind in kinds {
            self.put(&kind.to_be_bytes());
        }
        self.pad(len)
    }

    /// Appends any attribute.
    pub fn push(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.head(kind, value.len());
        self.put(value);
        self.pad(value.len())
    }

    /// Signs the message, adds its fingerprint and returns its length. `None` if it did not fit:
    /// then the buffer holds part of it.
    pub fn finish(&mut self, key: &Key) -> Option<usize> {
        let head = self.len?;
        self.push(attribute::MESSAGE_INTEGRITY, &[0; TAG_BYTES]);
        let signed = self.len?;
        let tag = key.tag(&self.out[..head]);
        self.out[head + 4..signed].copy_from_slice(&tag);
        self.push(attribute::FINGERPRINT, &[0; 4]);
        let end = self.len?;
        let len = u16::try_from(end - HEADER_BYTES).ok()?;
        self.out[2..4].copy_from_slice(&len.to_be_bytes());
        let crc = crc32fast::hash(&self.out[..signed]) ^ FINGERPRINT_XOR;
        self.out[signed + 4..end].copy_from_slice(&crc.to_be_bytes());
        Some(end)
    }

    fn head(&mut self, kind: u16, len: usize) {
        match u16::try_from(len) {
            Ok(len) => {
                self.put(&kind.to_be_bytes());
                self.put(&len.to_be_bytes());
            }
            Err(_) => self.len = None,
        }
    }

    fn pad(&mut self, len: usize) -> &mut Self {
        self.put(&[0; 3][..len.next_multiple_of(4) - len]);
        self
    }

    fn put(&mut self, bytes: &[u8]) {
        self.len = self.len.and_then(|start| {
            let end = start + bytes.len();
            self.out.get_mut(start..end)?.copy_from_slice(bytes);
            Some(end)
        });
    }
}

/// XOR-MAPPED-ADDRESS (RFC 8489 §14.2): the address is combined with the cookie, and a long one
/// with the transaction as well.
fn read_address(value: &[u8], transaction: Transaction) -> Option<SocketAddr> {
    let ([_, family, a, b], address) = value.split_first_chunk()?;
    let port = u16::from_be_bytes([a ^ COOKIE[0], b ^ COOKIE[1]]);
    let ip = match *family {
        IPV4 => {
            let bits = u32::from_be_bytes(address.try_into().ok()?) ^ u32::from_be_bytes(COOKIE);
            IpAddr::V4(Ipv4Addr::from_bits(bits))
        }
        IPV6 => {
            let mut bytes: [u8; 16] = address.try_into().ok()?;
            let mask = COOKIE.iter().chain(&transaction.0);
            bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
            IpAddr::V6(Ipv6Addr::from_octets(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
#[path = "stun_tests.rs"]
mod tests;
