//! Any bytes from Spacebar's event bus: `piece u8 ‖ stream`. The frames in them do not depend on
//! how the stream is cut, none is longer than the longest, and what is understood is text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::control::spacebar::{
    event,
    frame::{FRAME_BYTES_MAX, Frames, frame},
};

fuzz_target!(|input: &[u8]| {
    let Some((&piece, stream)) = input.split_first() else { return };
    let whole = frames(stream, stream.len().max(1));
    assert_eq!(whole, frames(stream, usize::from(piece) % 32 + 1));
    for content in &whole.0 {
        assert!(content.len() <= FRAME_BYTES_MAX);
        // What is understood is understood again, in a frame of its own.
        let again = frames(&frame(content), 7);
        assert_eq!(again.0, [content.clone()]);
        if event::is_understood(content) {
            assert!(std::str::from_utf8(content).is_ok(), "events are text");
        }
    }
});

fn frames(stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, u64) {
    let mut frames = Frames::default();
    let mut found = Vec::new();
    for piece in stream.chunks(piece) {
        frames.push(piece);
        while let Some(frame) = frames.next_frame() {
            found.push(frame.to_vec());
        }
    }
    (found, frames.passed_over())
}
