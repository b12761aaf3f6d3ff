//! Any text as a signed token, as it is and with a signature that fits: nothing unsigned is
//! believed, and what is minted verifies until it expires.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::{
    config::Secret,
    control::token::{Claims, TokenError, is_signed, mint, verify},
    id::Token,
};
use time::OffsetDateTime;

fuzz_target!(|text: &str| {
    let key = Secret::new([7; 32]);
    let token = Token::new(text);
    let refused = verify(&key, &token, OffsetDateTime::UNIX_EPOCH);
    assert!(refused.is_err(), "nobody knows the key");
    assert!(is_signed(&token) || refused == Err(TokenError::Malformed));

    let Ok(claims) = serde_json::from_str::<Claims>(text) else { return };
    let Ok(end) = OffsetDateTime::from_unix_timestamp(claims.expires) else { return };
    let minted = mint(&key, &claims);
    match verify(&key, &minted, end) {
        Ok(read) => assert_eq!(read, claims),
        Err(error) => assert!(error == TokenError::BadClaims && claims.version != 1),
    }
    assert!(verify(&Secret::new([8; 32]), &minted, end).is_err());
});
