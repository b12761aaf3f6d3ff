//! A plain RTP packet, taken apart and put together (RFC 3550 §5.1, RFC 8285). No state.

/// Every field of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rtp {
    pub payload_type: u8,
    pub marker: bool,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    pub csrcs: Vec<u32>,
    /// Profile and body, the body a multiple of four bytes.
    pub extension: Option<(u16, Vec<u8>)>,
    pub payload: Vec<u8>,
    /// Bytes of padding, the count included; 0 leaves the P bit clear.
    pub padding: u8,
}

impl Rtp {
    /// An Opus packet as bots send it: `80 78`.
    pub fn opus(ssrc: u32, sequence: u16, timestamp: u32, payload: &[u8]) -> Self {
        Self {
            payload_type: 120,
            marker: false,
            sequence,
            timestamp,
            ssrc,
            csrcs: Vec::new(),
            extension: None,
            payload: payload.to_vec(),
            padding: 0,
        }
    }

    /// The packet's bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = vec![0x80 | self.csrcs.len() as u8, self.payload_type];
        if self.padding > 0 {
            bytes[0] |= 0x20;
        }
        if self.extension.is_some() {
            bytes[0] |= 0x10;
        }
        if self.marker {
            bytes[1] |= 0x80;
        }
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.timestamp.to_be_bytes());
        bytes.extend(self.ssrc.to_be_bytes());
        bytes.extend(self.csrcs.iter().flat_map(|csrc| csrc.to_be_bytes()));
        if let Some((profile, body)) = &self.extension {
            assert!(body.len().is_multiple_of(4), "an extension is whole words");
            bytes.extend(profile.to_be_bytes());
            bytes.extend((body.len() as u16 / 4).to_be_bytes());
            bytes.extend(body);
        }
        bytes.extend(&self.payload);
        if self.padding > 0 {
            bytes.resize(bytes.len() + usize::from(self.padding) - 1, 0);
            bytes.push(self.padding);
        }
        bytes
    }

    /// The packet in these bytes, `None` if they contradict themselves.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (fixed, mut rest) = bytes.split_at_checked(12)?;
        if fixed[0] >> 6 != 2 {
            return None;
        }
        let word = |bytes: &[u8]| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let (csrcs, after) = rest.split_at_checked(4 * usize::from(fixed[0] & 0x0f))?;
        rest = after;
        let mut extension = None;
        if fixed[0] & 0x10 != 0 {
            let (preamble, after) = rest.split_at_checked(4)?;
            let words = usize::from(u16::from_be_bytes([preamble[2], preamble[3]]));
            let (body, after) = after.split_at_checked(4 * words)?;
            extension = Some((u16::from_be_bytes([preamble[0], preamble[1]]), body.to_vec()));
            rest = after;
        }
        let mut padding = 0;
        if fixed[0] & 0x20 != 0 {
            padding = *rest.last()?;
            rest = rest.get(..rest.len().checked_sub(usize::from(padding))?)?;
        }
        Some(Self {
            payload_type: fixed[1] & 0x7f,
            marker: fixed[1] & 0x80 != 0,
            sequence: u16::from_be_bytes([fixed[2], fixed[3]]),
            timestamp: word(&fixed[4..]),
            ssrc: word(&fixed[8..]),
            csrcs: csrcs.chunks(4).map(word).collect(),
            extension,
            payload: rest.to_vec(),
            padding,
        })
    }
}
