//! Any JSON as the policy of a grant: what is read is written as JSON that reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::sfu::Policy;

fuzz_target!(|body: &[u8]| {
    let Ok(policy) = serde_json::from_slice::<Policy>(body) else { return };
    let text = serde_json::to_vec(&policy).expect("a policy is plain values");
    assert_eq!(serde_json::from_slice::<Policy>(&text).ok(), Some(policy));
});
