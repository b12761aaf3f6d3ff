//! Plain per-shard counters. A shard counts into its own copy without atomics; the control thread
//! asks for copies, merges and prints them (`control/exposition.rs`).

use std::ops::AddAssign;

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a datagram, or one hearer's copy of it, went no further. Every early return on the
        /// packet path names exactly one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &[DropReason] = &[$(DropReason::$name,)*];

            /// The reason's value of the metrics label `reason`.
            pub fn label(self) -> &'static str {
                match self { $(DropReason::$name => $label,)* }
            }
        }
    };
}

drop_reasons! {
    /// Neither RTP, RTCP, discovery, ping, STUN nor DTLS, and from an unbound source.
    Noise = "noise",
    /// A client's keepalive, consumed in silence (protocol.md §2.2).
    Keepalive = "keepalive",
    /// The header contradicts the datagram's length or version.
    Malformed = "malformed",
    /// Longer than any voice packet, or cut off by the receive buffer.
    Oversize = "oversize",
    /// Media from an address that belongs to no session and an SSRC that no session owns.
    UnknownSource = "unknown_source",
    /// More unbound media in one turn than is worth decrypting.
    UnknownSourceFlood = "unknown_source_flood",
    /// Discovery for an SSRC that no session owns.
    UnknownDiscovery = "unknown_discovery",
    /// More discovery or ping requests in one turn than are worth an answer.
    RequestFlood = "request_flood",
    /// STUN that is no check of a browser's, or one whose fingerprint is wrong.
    BadStun = "bad_stun",
    /// A check for a `ufrag` that no session has.
    UnknownUfrag = "unknown_ufrag",
    /// A check that was not signed with the session's password.
    BadIntegrity = "bad_integrity",
    /// The session has not selected a protocol yet, so there is no key.
    NoKey = "no_key",
    /// The tag did not verify.
    BadTag = "bad_tag",
    /// The packet was seen before.
    Replayed = "replayed",
    /// The packet is older than the replay window.
    TooOld = "too_old",
    /// A single packet far from the sequence; a second in a row would be a restart of the source.
    SequenceJump = "sequence_jump",
    /// The SSRC is not one of the sender's.
    ForeignSsrc = "foreign_ssrc",
    /// The sender is muted, suppressed or may not speak.
    Muted = "muted",
    /// The sender may not send video, or has declared none.
    VideoNotAllowed = "video_not_allowed",
    /// A media type or payload type the channel has no use for.
    UnknownPayloadType = "unknown_payload_type",
    /// Nothing but header and padding.
    EmptyPayload = "empty_payload",
    /// A packet from before a restart of its source, or from before silence was put in its place.
    LateAfterCut = "late_after_cut",
    /// The channel had nobody to hear it.
    NoHearer = "no_hearer",
    /// A hearer is deafened.
    Deafened = "deafened",
    /// A hearer's address is not known yet, or its key is not agreed.
    NotConnected = "not_connected",
    /// A retransmission of a packet that has come, or is too long gone to be of use.
    UselessRetransmission = "useless_retransmission",
    /// A hearer has not had a keyframe yet, without which it can make nothing of the packet.
    AwaitingKeyframe = "awaiting_keyframe",
    /// A hearer has said that it wants nothing of the stream.
    Unwanted = "unwanted",
    /// A hearer does not take this codec.
    CodecNotSupported = "codec_not_supported",
    /// A packet from before a gap the hearer was given no share of.
    LateAfterGap = "late_after_gap",
    /// The key has sealed as many packets as its nonces allow.
    NonceExhausted = "nonce_exhausted",
    /// The egress batch was full.
    EgressFull = "egress_full",
    /// The kernel's send buffer was full.
    SocketFull = "socket_full",
    /// The kernel refused to send.
    SendFailed = "send_failed",
    /// More datagrams of handshakes than are dealt with soon enough.
    HandshakeFlood = "handshake_flood",
    /// A browser's packets under an SSRC of which it did not say in time what it is.
    Unannounced = "unannounced",
    /// DTLS that changes nothing about a connection: replayed, forged, or data nobody asked for.
    DtlsUseless = "dtls_useless",
    /// DTLS after its handshake failed or its connection was closed.
    DtlsOver = "dtls_over",
    /// More RTCP from one session than its streams can mean.
    RtcpFlood = "rtcp_flood",
    /// RTCP nobody is due.
    RtcpConsumed = "rtcp_consumed",
}

impl DropReason {
    /// Whether it ends one hearer's copy of a packet rather than the datagram that came. In a shard
    /// every datagram is answered, opened, or dropped for one reason that is not a hearer's; every
    /// copy of an opened one is forwarded, or dropped for one reason that is. What the kernel
    /// refuses to send was forwarded before.
    pub fn is_hearers(self) -> bool {
        matches!(
            self,
            DropReason::Deafened
                | DropReason::NotConnected
                | DropReason::AwaitingKeyframe
                | DropReason::Unwanted
                | DropReason::CodecNotSupported
                | DropReason::LateAfterGap
                | DropReason::NonceExhausted
                | DropReason::EgressFull
                | DropReason::SocketFull
                | DropReason::SendFailed
        )
    }
}

/// How many drop reasons there are.
pub const DROP_REASONS: usize = DropReason::ALL.len();

/// What one shard has counted since it started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams received.
    pub packets_in: u64,
    /// Bytes of UDP payload received.
    pub bytes_in: u64,
    /// Datagrams sent.
    pub packets_out: u64,
    /// Bytes of UDP payload sent.
    pub bytes_out: u64,
    /// Media packets opened and accepted for forwarding.
    pub opened: u64,
    /// Copies sealed for a hearer.
    pub forwarded: u64,
    /// Copies sealed for a hearer that lacked them.
    pub retransmitted: u64,
    /// Packets lost on the way here that their sender sent again when asked.
    pub mended: u64,
    /// Packets that hearers' transport-wide feedback reported on.
    pub path_reported: u64,
    /// Those of them that had not arrived.
    pub path_lost: u64,
    /// Passes through the kernel's UDP stack to send: a GSO send of many datagrams is one.
    pub stack_traversals: u64,
    /// Discovery and ping requests answered.
    pub answered: u64,
    /// Times the receive buffers were all taken when the kernel wanted one.
    pub receive_buffers_exhausted: u64,
    /// Address bindings moved by an authenticated packet.
    pub rebound: u64,
    /// Handshakes with browsers that agreed on keys.
    pub handshakes: u64,
    /// Handshakes with browsers that failed, or took too long.
    pub handshakes_failed: u64,
    /// Browsers' transports that ended because nobody confirmed that media was wanted.
    pub consent_expired: u64,
    /// Drops by reason, indexed by `DropReason as usize`.
    pub drops: [u64; DROP_REASONS],
}

/// Written out because the standard library makes no default of an array as long as the reasons.
impl Default for Counters {
    fn default() -> Self {
        Self {
            packets_in: 0,
            bytes_in: 0,
            packets_out: 0,
            bytes_out: 0,
            opened: 0,
            forwarded: 0,
            retransmitted: 0,
            mended: 0,
            path_reported: 0,
            path_lost: 0,
            stack_traversals: 0,
            answered: 0,
            receive_buffers_exhausted: 0,
            rebound: 0,
            handshakes: 0,
            handshakes_failed: 0,
            consent_expired: 0,
            drops: [0; DROP_REASONS],
        }
    }
}

impl Counters {
    /// Counts one drop.
    #[inline]
    pub fn dropped(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    /// How often this reason was counted.
    pub fn drops_for(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }
}

impl AddAssign<&Counters> for Counters {
    fn add_assign(&mut self, other: &Counters) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        self.opened += other.opened;
        self.forwarded += other.forwarded;
        self.retransmitted += other.retransmitted;
        self.mended += other.mended;
        self.path_reported += other.path_reported;
        self.path_lost += other.path_lost;
        self.stack_traversals += other.stack_traversals;
        self.answered += other.answered;
        self.receive_buffers_exhausted += other.receive_buffers_exhausted;
        self.rebound += other.rebound;
        self.handshakes += other.handshakes;
        self.handshakes_failed += other.handshakes_failed;
        self.consent_expired += other.consent_expired;
        for (mine, theirs) in self.drops.iter_mut().zip(&other.drops) {
            *mine += theirs;
        }
    }
}

/// Upper bounds of a [`Latency`] histogram's buckets, nanoseconds; one more bucket holds the rest.
pub const LATENCY_BOUNDS_NS: [u64; 19] = [
    2_000,
    5_000,
    10_000,
    20_000,
    35_000,
    50_000,
    60_000,
    75_000,
    100_000,
    150_000,
    200_000,
    350_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    250_000_000,
];

/// A histogram of durations with fixed buckets: plain memory, merged by adding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latency {
    /// Samples per bucket, not cumulated; the last bucket has no upper bound.
    pub counts: [u64; LATENCY_BOUNDS_NS.len() + 1],
    /// Sum of all samples, nanoseconds.
    pub sum_ns: u64,
}

impl Latency {
    /// Counts one sample.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        let bucket = LATENCY_BOUNDS_NS.partition_point(|&bound| bound < ns);
        self.counts[bucket] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// How many samples were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl AddAssign<&Latency> for Latency {
    fn add_assign(&mut self, other: &Latency) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_and_in_counter_order() {
        let mut labels: Vec<_> = DropReason::ALL.iter().map(|reason| reason.label()).collect();
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), DROP_REASONS);
    }
}
