//! Any frame a client may send, text and binary: read or refused, in bounded memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::{
    limits::{CODECS_MAX, CREDENTIAL_BYTES_MAX, LAYERS_MAX},
    signalling::ClientMessage,
};

fuzz_target!(|frame: &[u8]| {
    let _ = ClientMessage::parse_binary(frame);
    let Ok(text) = std::str::from_utf8(frame) else { return };
    match ClientMessage::parse(text) {
        Ok(ClientMessage::Identify(identify)) => {
            assert!(identify.token.reveal().len() <= CREDENTIAL_BYTES_MAX);
            assert!(identify.session.0.len() <= CREDENTIAL_BYTES_MAX);
            assert!(identify.streams.len() <= LAYERS_MAX);
        }
        Ok(ClientMessage::SessionUpdate { codecs: Some(codecs) }) => {
            assert!(codecs.len() <= CODECS_MAX)
        }
        Ok(_) | Err(_) => {}
    }
});
