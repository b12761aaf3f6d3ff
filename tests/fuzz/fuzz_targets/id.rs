//! Snowflakes from JSON and from text: whatever is accepted comes back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::id::UserId;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(id) = serde_json::from_slice::<UserId>(bytes) {
        let text = serde_json::to_string(&id).expect("a snowflake is always JSON");
        assert_eq!(serde_json::from_str::<UserId>(&text).ok(), Some(id));
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(id) = text.parse::<UserId>()
    {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
});
