//! Every compile-time bound of the server, with its reason. Bounds that an operator may need to
//! move are settings (`config.rs`); these are not. Relations between them are asserted below.

use std::time::Duration;

/// Largest datagram we accept or send, bytes of UDP payload. Clients keep RTP below 1,200 bytes
/// plus overhead and their own receive buffers start at 1,460 (protocol.md §2.3); an Ethernet frame
/// holds 1,472. What is longer is no voice packet.
pub const DATAGRAM_BYTES_MAX: usize = 1_472;

/// Longest plain packet we forward, bytes: what every encryption mode can seal into one datagram;
/// the longest adds 40 (protocol.md §2.4). One that opened may have grown by our own extension.
pub const PLAIN_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - 40;

/// Sessions in one channel. One datagram's fan-out must fit the egress at once, since a sans-IO
/// core cannot flush in mid-loop. More than one core can forward to at 50 packets a second: a
/// channel bigger than a core needs other means.
pub const CHANNEL_SESSIONS_MAX: usize = 4_096;

/// Sessions on one shard: 16 bits of flow table and 50 B of counters each; ten times what a core
/// carries when they talk.
pub const SHARD_SESSIONS_MAX: usize = 65_536;

/// Bytes of the egress arena: one full-size video datagram to the largest channel, and a margin of
/// one batch. Pages that are never filled are never touched.
pub const EGRESS_BYTES_MAX: usize = (CHANNEL_SESSIONS_MAX + EGRESS_FLUSH_AT) * DATAGRAM_BYTES_MAX;

/// Datagrams the egress holds: the largest fan-out, after a batch that was just short of flushing.
pub const EGRESS_DATAGRAMS_MAX: usize = CHANNEL_SESSIONS_MAX + EGRESS_FLUSH_AT;

/// Filled datagrams at which the driver flushes rather than handle the next one. Fewer flushes
/// group more video segments per destination; more keep the arena in the second-level cache
/// (512 × 200 bytes of voice = 100 KiB).
pub const EGRESS_FLUSH_AT: usize = 512;

/// Datagrams handled before a shard looks at its WebSockets again.
pub const MEDIA_BATCH_MAX: usize = 64;

/// Receive buffers of one ring: sixteen batches, 2 MiB. While all are taken datagrams wait in the
/// socket's own buffer and nothing is lost; more would only move the queue from there to here.
pub const RECEIVE_BUFFERS: u16 = 1_024;

/// Bytes of one receive buffer: 128 for header, address and control messages, 1,920 of payload.
/// More than the largest datagram we accept, so that one that is longer is seen to be.
pub const RECEIVE_BUFFER_BYTES: usize = 2_048;

/// Send calls handed to the kernel at once. What one needs (message, submission, completion) is
/// about 350 bytes, so a batch stays in the first-level cache, and the cost of entering the kernel
/// is spread over all of them.
pub const SEND_BATCH_MAX: usize = 64;

/// Pieces that the send calls of one batch gather from: every call may have one, and several the
/// most.
pub const SEND_PIECES_MAX: usize = 1_024;

/// Datagrams the kernel cuts from one send: `UDP_MAX_SEGMENTS` before Linux 6.9.
pub const GSO_SEGMENTS_MAX: usize = 64;

/// Bytes of one send, all datagrams of it: the largest UDP payload of an IPv4 packet (65,535 less
/// two headers, 20 + 8).
pub const GSO_BYTES_MAX: usize = 65_507;

/// Segmented sends that fail in a row, while the same datagrams pass alone, before a ring gives
/// segmentation up. One may be a route that has just changed; eight are a device that cannot.
pub const GSO_FAILURES_MAX: u32 = 8;

/// Bytes asked for as the socket's receive and send buffer. The kernel charges a small datagram
/// with up to about 2 KiB (memory, not payload) and doubles what was asked: 4,000 datagrams, 20 ms
/// at 200,000 a second. What has waited longer is no longer worth hearing.
pub const SOCKET_BUFFER_BYTES: usize = 4 * 1_024 * 1_024;

/// Datagrams of DTLS handshakes that wait at once: a client's whole handshake is five, so two
/// hundred browsers that join in the same moment. Each is dealt with in its turn, between batches
/// of media; one that waits for longer than a flight's retransmission is worth nothing.
pub const HANDSHAKE_DATAGRAMS_MAX: usize = 1_024;

/// Those of one session: a ClientHello in two, a client's last flight in up to five, each twice.
pub const SESSION_HANDSHAKE_DATAGRAMS_MAX: usize = 16;

/// Largest DTLS datagram we send, bytes. WebRTC's usual 1,200 less headers of tunnels: every path
/// on the Internet takes it whole, and a flight of ours with a P-256 certificate needs one.
pub const DTLS_DATAGRAM_BYTES_MAX: usize = 1_200;

/// Records in one DTLS datagram of a peer, what the library takes: a client's longest flight has
/// five.
pub const DTLS_RECORDS_MAX: usize = 8;

/// Datagrams of one handshake held until what comes before them has come. A ClientHello with a
/// post-quantum key is two, a client's last flight one or two, at the smallest MTU eight; what is
/// sent again takes no second place. One that is full of small records costs the library 42 KiB,
/// so that a hostile handshake costs two thirds of a megabyte.
pub const DTLS_HELD_DATAGRAMS_MAX: usize = 16;

/// Datagrams of one DTLS session that wait to be sent: two flights. They are sent within the turn
/// they were made in, so more would be a mistake of ours; the oldest then counts as lost.
pub const DTLS_UNSENT_DATAGRAMS_MAX: usize = 16;

/// Time until a DTLS flight that brought no answer is sent again; doubles each time. RFC 6347
/// §4.2.4.1 says a second for want of knowledge, and asks for less where delay matters: a join that
/// loses a packet is then heard a second later. Most round trips are shorter than this.
pub const DTLS_RETRANSMIT_AFTER: Duration = Duration::from_millis(250);

/// Times a DTLS flight is sent again: by doubling they reach past the handshake's deadline.
pub const DTLS_RETRANSMITS_MAX: usize = 7;

/// Time from the first ClientHello to the last Finished. The time in which ICE gives a transport up
/// that nobody answers on (protocol.md §3.3): who takes longer has no transport any more.
pub const DTLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest WebSocket message from a client, bytes: the largest legitimate one is an MLS welcome of
/// 44 KB at 100 members (protocol.md §1.1).
pub const MESSAGE_BYTES_MAX: usize = 256 * 1_024;

/// Largest message before Identify was accepted, bytes: session id and token have
/// [`CREDENTIAL_BYTES_MAX`] each, and a few layers; more is work for a stranger.
pub const STRANGER_MESSAGE_BYTES_MAX: usize = 16 * 1_024;

/// Bytes that may come over a WebSocket without making a message whole: the largest message in
/// frames of a few bytes. Empty fragments, of which a message may have any number, end here.
pub const UNFINISHED_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;

/// Deepest JSON nesting a client may send: the deepest legitimate message has five levels
/// (op 12, `streams[].max_resolution`).
pub const JSON_DEPTH_MAX: usize = 16;

/// Time from accept to a valid Identify or Resume, TLS and upgrade included (protocol.md §1.5).
pub const IDENTIFY_TIMEOUT: Duration = Duration::from_secs(10);

/// Heartbeat interval announced in Hello, milliseconds: Discord's own (protocol.md §1.4, op 8).
pub const HEARTBEAT_INTERVAL_MS: u64 = 41_250;

/// Silence after which a connection is closed 4009: two intervals and a margin (protocol.md §1.6).
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(2 * HEARTBEAT_INTERVAL_MS + 10_000);

/// Messages a client may send at once, and then per second, before it is closed 4021. The busiest
/// legitimate clients send a few speaking updates and sink wants a second.
pub const MESSAGE_BURST_MAX: u32 = 120;
/// See [`MESSAGE_BURST_MAX`].
pub const MESSAGES_PER_SECOND: u32 = 20;

/// Messages a client may send between Identify and the answer: the busiest send four (op 1, 5, 12
/// and 15), and what comes before the answer is from a stranger.
pub const HELD_MESSAGES_MAX: usize = 16;
/// Bytes of those messages: one of the largest size.
pub const HELD_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

/// Opcodes of the server's own that a client may send before it is closed 4001: a slip is forgiven,
/// a client that mistakes its role is not (protocol.md §1.8).
pub const SERVER_ONLY_OPCODES_MAX: u32 = 3;

/// Length of a heartbeat's number, bytes of text, for it is echoed as written: the longest shortest
/// form of a double has 24.
pub const HEARTBEAT_NONCE_BYTES_MAX: usize = 32;

/// Messages kept for a numbered resume (protocol.md §1.7).
pub const REPLAY_MESSAGES_MAX: usize = 1_024;
/// Bytes kept for a numbered resume (protocol.md §1.7).
pub const REPLAY_BYTES_MAX: usize = 1_024 * 1_024;

/// Unsent bytes towards one WebSocket before its reader counts as gone. Twice the replay bound: a
/// full replay must fit beside live traffic.
pub const OUTBOX_BYTES_MAX: usize = 2 * REPLAY_BYTES_MAX;

/// Longest HTTP upgrade request, bytes: browsers send about 1 KiB, with cookies a few.
pub const REQUEST_BYTES_MAX: usize = 16 * 1_024;

/// Files of the page that one connection may ask for: it has fewer than twenty, and a browser loads
/// them again with the page.
pub const FILES_MAX: usize = 64;

/// Time a visitor of the page has for asking for the next file; they follow each other within a
/// round trip.
pub const VISIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections of one shard that have not opened their WebSocket yet. A join storm brings a
/// thousand within seconds; each costs a TLS state of about 20 KiB and is gone within
/// [`IDENTIFY_TIMEOUT`].
pub const HANDSHAKES_MAX: usize = 2_048;

/// Time to take all that waits for a WebSocket, [`OUTBOX_BYTES_MAX`] at most, before its reader
/// counts as gone. A mobile network's hand-over takes a few seconds.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time a client has to take our close frame, and then again to close its side.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Length of `session_id` and `token` in Identify, Resume and grants, bytes: signed tokens are a
/// few hundred characters (protocol.md §6.4).
pub const CREDENTIAL_BYTES_MAX: usize = 2_048;

/// Video layers one client may declare: Discord's clients declare two, simulcast has three.
pub const LAYERS_MAX: usize = 4;
/// Length of a layer's `rid`, bytes: what a one-byte RTP header extension holds (RFC 8285 §4.2).
pub const RID_BYTES_MAX: usize = 16;
/// Codecs one client may list: a browser lists about fifteen with all profiles.
pub const CODECS_MAX: usize = 64;
/// Entries in one Media Sink Wants: every layer and audio stream of a full channel's video senders.
pub const SINK_WANTS_MAX: usize = 512;

/// Longest SDP of Select Protocol, bytes: a message holds it twice (protocol.md §3.1). A browser's
/// whole offer with twenty m-lines has about 100 KB, a fragment 2 KB.
pub const OFFER_BYTES_MAX: usize = 128 * 1_024;

/// Fingerprints taken from one offer: one for each hash function, and one more in case a client
/// changes its certificate. Each may cost a hash of that certificate.
pub const FINGERPRINTS_MAX: usize = 4;

/// Pairs that one session's ICE remembers, those checked last: a laptop has three networks with two
/// address families and a relay, and each datagram of DTLS looks at all of them.
pub const ICE_PAIRS_MAX: usize = 8;

/// Time without a check on the selected pair after which a transport has ended, and which a client
/// has to nominate one at first (RFC 7675 §5.1).
pub const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Time since the selected pair was last nominated after which one of lower priority may take its
/// place. Chromium nominates the pair it uses with each of its checks, one in 2.5 s at least: after
/// more it has another one in mind.
pub const ICE_NOMINATION_QUIET: Duration = Duration::from_secs(3);

/// Time without a check on the selected pair after which another nominated one takes its place as
/// soon as it is checked. Consent is asked for every 6 s at least (RFC 7675 §5.1): two were missed.
pub const ICE_CHECK_QUIET: Duration = Duration::from_secs(12);
/// Packets of one stream of video kept for those who ask again. As many as the replay window looks
/// back on, and as a hearer's numbers stay the same after a gap: older ones could not be named.
pub const RETRANSMISSION_PACKETS_MAX: usize = 1_024;

/// Bytes of them: half a second at 8 Mbit/s, 1.6 s at 2.5 Mbit/s. Who asks later than that has
/// asked for a keyframe by then.
pub const RETRANSMISSION_BYTES_MAX: usize = 512 * 1_024;

/// Streams of video on one shard whose packets are kept, 256 MiB in all. A core that forwards more
/// streams than that to anyone has run out of time long before; the rest are not sent again.
pub const RETRANSMISSION_STREAMS_MAX: usize = 512;

/// Channels a node keeps at once, sessions it admits in all, grants it stores: bounds on what a
/// backend's mistake can cost in memory (1 KiB a grant).
pub const GRANTS_MAX: usize = 1_000_000;

const _: () = assert!(CHANNEL_SESSIONS_MAX <= SHARD_SESSIONS_MAX);
const _: () = assert!(EGRESS_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(REPLAY_BYTES_MAX >= MESSAGE_BYTES_MAX);
const _: () = assert!(STRANGER_MESSAGE_BYTES_MAX >= 3 * CREDENTIAL_BYTES_MAX);
const _: () = assert!(OUTBOX_BYTES_MAX >= REPLAY_BYTES_MAX + MESSAGE_BYTES_MAX);
const _: () = assert!(DATAGRAM_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(RECEIVE_BUFFERS.is_power_of_two() && RECEIVE_BUFFERS <= 32_768);
const _: () = assert!(RECEIVE_BUFFER_BYTES > 128 + DATAGRAM_BYTES_MAX);
const _: () = assert!(SEND_PIECES_MAX >= SEND_BATCH_MAX + GSO_SEGMENTS_MAX);
const _: () = assert!(DATAGRAM_BYTES_MAX <= GSO_BYTES_MAX);
const _: () = assert!(2 * OFFER_BYTES_MAX <= MESSAGE_BYTES_MAX);
const _: () = assert!(ICE_CHECK_QUIET.as_secs() < CONSENT_TIMEOUT.as_secs());
const _: () = assert!(65_536 % RETRANSMISSION_PACKETS_MAX == 0);
const _: () = assert!(RETRANSMISSION_BYTES_MAX >= PLAIN_BYTES_MAX);
const _: () = assert!(DTLS_DATAGRAM_BYTES_MAX <= DATAGRAM_BYTES_MAX);
