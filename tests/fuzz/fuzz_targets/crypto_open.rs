//! Any datagram under any mode: `mode u8 ‖ key [u8; 32] ‖ datagram`. What opens must seal again to
//! itself where the suffix is ours to give, and what we seal must open.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stentor::crypto::{Cipher, Mode, SecretKey};

fuzz_target!(|input: &[u8]| {
    let Some((&[mode, ref key @ ..], datagram)) = input.split_first_chunk::<33>() else { return };
    let mode = Mode::ALL[usize::from(mode) % Mode::ALL.len()];
    let cipher = Cipher::new(mode, &SecretKey::new(*key), [7; 20]);

    let mut opened = datagram.to_vec();
    if let Ok(found) = cipher.open(&mut opened) {
        let plain = &opened[found.range];
        assert_eq!(plain.len() + mode.overhead(), datagram.len());
        if let Some(suffix) = found.suffix {
            let mut sealed = vec![0; datagram.len()];
            sealed[..plain.len()].copy_from_slice(plain);
            assert_eq!(cipher.seal(&mut sealed, plain.len(), suffix), Some(datagram.len()));
            assert_eq!(sealed, datagram);
        }
    }

    let mut sealed = datagram.to_vec();
    sealed.resize(datagram.len() + mode.overhead(), 0);
    if let Some(length) = cipher.seal(&mut sealed, datagram.len(), [1, 2, 3, 4]) {
        assert_eq!(length, sealed.len());
        let found = cipher.open(&mut sealed).expect("what we seal opens");
        assert_eq!(&sealed[found.range], datagram);
    }
});
