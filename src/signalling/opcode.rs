//! The numbers of the voice gateway's opcodes and who may send each (protocol.md §1.3). Their
//! meaning is with `ClientMessage` and `ServerMessage`.

/// C→S.
pub const IDENTIFY: u8 = 0;
/// C→S.
pub const SELECT_PROTOCOL: u8 = 1;
/// S→C.
pub const READY: u8 = 2;
/// Both.
pub const HEARTBEAT: u8 = 3;
/// S→C.
pub const SESSION_DESCRIPTION: u8 = 4;
/// Both.
pub const SPEAKING: u8 = 5;
/// S→C.
pub const HEARTBEAT_ACK: u8 = 6;
/// C→S.
pub const RESUME: u8 = 7;
/// S→C.
pub const HELLO: u8 = 8;
/// S→C.
pub const RESUMED: u8 = 9;
/// S→C.
pub const CLIENTS_CONNECT: u8 = 11;
/// Both.
pub const VIDEO: u8 = 12;
/// S→C.
pub const CLIENT_DISCONNECT: u8 = 13;
/// Both.
pub const SESSION_UPDATE: u8 = 14;
/// Both.
pub const SINK_WANTS: u8 = 15;
/// Both.
pub const BACKEND_VERSION: u8 = 16;
/// S→C.
pub const CLIENT_FLAGS: u8 = 18;
/// S→C.
pub const CLIENT_PLATFORM: u8 = 20;
/// S→C.
pub const DAVE_PREPARE_TRANSITION: u8 = 21;
/// S→C.
pub const DAVE_EXECUTE_TRANSITION: u8 = 22;
/// C→S.
pub const DAVE_TRANSITION_READY: u8 = 23;
/// S→C.
pub const DAVE_PREPARE_EPOCH: u8 = 24;
/// S→C, binary.
pub const MLS_EXTERNAL_SENDER: u8 = 25;
/// C→S, binary.
pub const MLS_KEY_PACKAGE: u8 = 26;
/// S→C, binary.
pub const MLS_PROPOSALS: u8 = 27;
/// C→S, binary.
pub const MLS_COMMIT_WELCOME: u8 = 28;
/// S→C, binary.
pub const MLS_ANNOUNCE_COMMIT: u8 = 29;
/// S→C, binary.
pub const MLS_WELCOME: u8 = 30;
/// C→S.
pub const MLS_INVALID_COMMIT_WELCOME: u8 = 31;
/// C→S.
pub const NO_ROUTE: u8 = 32;

/// Opcodes above this one close the connection; unknown ones up to it are ignored, because clients
/// learn new ones before we do (protocol.md §1.4).
pub const KNOWN_SPACE_MAX: u8 = 64;

/// Whether a client may say it before it has identified (protocol.md §1.8, 4003).
pub fn is_for_strangers(op: u8) -> bool {
    matches!(op, IDENTIFY | HEARTBEAT | RESUME)
}

/// Whether only the server may send this opcode.
pub fn is_server_only(op: u8) -> bool {
    matches!(
        op,
        READY
            | SESSION_DESCRIPTION
            | HEARTBEAT_ACK
            | HELLO
            | RESUMED
            | CLIENTS_CONNECT
            | CLIENT_DISCONNECT
            | CLIENT_FLAGS
            | CLIENT_PLATFORM
            | DAVE_PREPARE_TRANSITION
            | DAVE_EXECUTE_TRANSITION
            | DAVE_PREPARE_EPOCH
            | MLS_EXTERNAL_SENDER
            | MLS_PROPOSALS
            | MLS_ANNOUNCE_COMMIT
            | MLS_WELCOME
    )
}

/// Whether a message of this opcode carries a sequence number from version 8 on: those that carry
/// state (protocol.md §1.7).
pub fn is_numbered(op: u8) -> bool {
    matches!(
        op,
        READY | SESSION_DESCRIPTION | SPEAKING | CLIENTS_CONNECT
            ..=SINK_WANTS
                | CLIENT_FLAGS
                | CLIENT_PLATFORM
                | DAVE_PREPARE_TRANSITION
                | DAVE_EXECUTE_TRANSITION
                | DAVE_PREPARE_EPOCH
                | MLS_EXTERNAL_SENDER
                | MLS_PROPOSALS
                | MLS_ANNOUNCE_COMMIT
                | MLS_WELCOME
    )
}

/// Whether a client sends this opcode as JSON, so that it means nothing in a binary frame.
pub fn is_json_from_client(op: u8) -> bool {
    matches!(
        op,
        IDENTIFY
            | SELECT_PROTOCOL
            | HEARTBEAT
            | SPEAKING
            | RESUME
            | VIDEO
            | SESSION_UPDATE
            | SINK_WANTS
            | BACKEND_VERSION
            | DAVE_TRANSITION_READY
            | MLS_INVALID_COMMIT_WELCOME
            | NO_ROUTE
    )
}
