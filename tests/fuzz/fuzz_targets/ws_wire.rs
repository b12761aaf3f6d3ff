//! Any bytes from a TCP connection: `piece u8 ‖ bytes`. What they amount to does not depend on how
//! the network cuts them into pieces.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use stentor::{
    control::LinkPage,
    driver::wire::{Terms, Wire},
};

static PAGE: LazyLock<Arc<LinkPage>> =
    LazyLock::new(|| Arc::new(LinkPage::new("voice.example.org:443")));

fuzz_target!(|input: &[u8]| {
    let Some((&piece, bytes)) = input.split_first() else { return };
    let whole = outcome(bytes, bytes.len().max(1));
    assert_eq!(whole, outcome(bytes, usize::from(piece) % 32 + 1));
});

/// All that is received, up to and with the fault that ends it, and what is answered.
fn outcome(bytes: &[u8], piece: usize) -> (Vec<String>, Vec<u8>) {
    let page = Some(PAGE.clone());
    let mut wire = Wire::new(Terms { tls: None, plaintext: true, page });
    let mut seen = Vec::new();
    let mut answer = Vec::new();
    'connection: for piece in bytes.chunks(piece) {
        if let Err(fault) = wire.feed(piece) {
            seen.push(fault.to_string());
            break;
        }
        loop {
            match wire.receive() {
                Ok(Some(received)) => seen.push(format!("{received:?}")),
                Ok(None) => break,
                Err(fault) => {
                    seen.push(fault.to_string());
                    break 'connection;
                }
            }
        }
        wire.drain(&mut answer);
    }
    wire.drain(&mut answer);
    (seen, answer)
}
