//! Black box: a real server process and clients written for these tests, over TLS and plaintext
//! WebSockets and UDP on loopback. One file per claim's subject.

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod close;
mod handshake;
mod hostile;
mod media;
mod policy;
mod relay;
mod resume;
mod video;
mod webrtc;

use support::client::Client;

/// The channel of most tests.
const CHANNEL: u64 = 127_121_515_262_115_840;

/// What `hearer` hears before a word that `sentinel` now speaks. Loopback keeps order, so what was
/// not heard before that word was not forwarded at all.
fn heard_before(hearer: &mut Client, sentinel: &mut Client) -> Vec<Vec<u8>> {
    let word = support::server::random_hex().into_bytes();
    sentinel.media.speak(&word);
    let mut heard = Vec::new();
    loop {
        let packet = hearer.media.hear();
        if packet.payload == word {
            return heard;
        }
        heard.push(packet.payload);
    }
}
