//! Any query string of the upgrade request: a version there is, and all that hangs on it agrees.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::signalling::Version;

fuzz_target!(|query: &str| {
    let version = Version::from_query(Some(query));
    assert!(version.number() <= 9 && version.hello() <= 9);
    assert!(!(version.is_legacy() && version.numbered()));
    assert_eq!(version.is_legacy(), version.heartbeat_in_ready());
    // What follows another parameter changes nothing before it.
    assert_eq!(Version::from_query(Some(&format!("v=7&{query}"))).number(), 7);
});
