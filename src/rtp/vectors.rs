//! Reads the fixtures of `tests/vectors` for unit tests of `rtp` and `crypto`.

use serde_json::Value;

/// A fixture file.
pub(crate) fn load(name: &str) -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    let text = std::fs::read_to_string(&path).expect("the fixture is in the repository");
    serde_json::from_str(&text).expect("the fixture is JSON")
}

/// Bytes written as a JSON string of hexadecimal digits.
pub(crate) fn hex(text: &Value) -> Vec<u8> {
    unhex(text.as_str().expect("a string"))
}

/// Bytes written as hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "an even number of digits");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}
