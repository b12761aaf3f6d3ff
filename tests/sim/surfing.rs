//! Persons who come by browser: they choose their own SSRCs, find their way by checks, and have
//! keys by a handshake. Checks and handshakes are carried at once, because what a handshake weighs
//! differs from run to run; media goes over the network like everybody's. Part of `World`.

use std::time::Duration;

use serde_json::json;
use stentor::id::Ssrc;

use crate::{
    browser::{AEAD_128, AEAD_256, Browser, CHROMIUM, CM_SHA1, Choices, FIREFOX, OPUS},
    client::codec,
    dtls_client::Client as _,
    network::Datagram,
    world::{Attempt, World},
};

/// Between two checks of one pair: often enough for its consent to last.
pub const CHECK_EVERY: Duration = Duration::from_secs(10);

/// `codecs` of a browser: Opus by its own number, and H264 if it has a camera.
pub fn codecs(camera: Option<(&str, u8)>) -> serde_json::Value {
    let opus = json!({"name": "opus", "type": "audio", "priority": 1000, "payload_type": OPUS});
    let video = camera.map(|(name, media)| codec(name, 1000, media, Some(media + 1)));
    [Some(opus), video].into_iter().flatten().collect()
}

impl World {
    /// A browser selects, for the first time or again, and says by which SSRCs it sends.
    pub fn surf(&mut self, who: usize) {
        let Some(serial) = self.attempts[who].stay.filter(|_| self.is_in(who)) else { return };
        let attempt = &mut self.attempts[who];
        attempt.handshakes += 1;
        // Like nobody else's, so that whose a packet is can be told. That two browsers may choose
        // the same is seen elsewhere (`browsers`).
        let first = 1 << 31 | (who as u32) << 12 | (attempt.handshakes as u32) << 2;
        let own = [0, 1, 2].map(|stream| Ssrc(first + stream));
        attempt.client.own = Some(own);
        let choices = Choices {
            profile: self.dice.pick(&[AEAD_128, AEAD_256, CM_SHA1]).expect("three"),
            ssrcs: own.map(|ssrc| ssrc.0),
            extensions: self.dice.pick(&[CHROMIUM, FIREFOX]).expect("two"),
            codecs: attempt.client.profile.codecs.clone().expect("browsers list theirs"),
            version: attempt.client.profile.version,
            layers: attempt.client.profile.layers,
        };
        let transactions = u64::from(first) << 32;
        let address = attempt.client.address;
        let browser = Browser::new(who, address, transactions, choices, self.now);
        for (own, stream) in own.into_iter().zip(&attempt.client.streams) {
            self.named.insert(own, stream.ssrc);
        }
        let frame = browser.select_protocol();
        attempt.browser = Some(Box::new(browser));
        self.checkers.starts_again(serial, own[..attempt.client.streams.len()].to_vec());
        self.say(who, |_| frame);
        let Some(sdp) = self.attempts[who].client.sdp.take() else { return };
        if let Some(browser) = &mut self.attempts[who].browser {
            browser.read(&sdp);
        }
        self.check(who);
        self.shake_hands(who);
        // A camera that is off is named all the same.
        let on = self.checkers.stays.get(&serial).is_some_and(|stay| stay.camera);
        self.camera(who, true);
        if !on {
            self.camera(who, false);
        }
        self.speaking(who, 0);
    }

    /// A browser checks its way, and chooses it.
    pub fn check(&mut self, who: usize) {
        let attempt = &mut self.attempts[who];
        attempt.next_check = self.now + CHECK_EVERY;
        let Some(browser) = attempt.browser.as_mut().filter(|it| !it.pwd.is_empty()) else {
            return;
        };
        browser.address = attempt.client.address;
        let pwd = browser.pwd.clone();
        let check = browser.check_bytes(&pwd, true);
        self.hand(who, check.clone());
        let answers = std::mem::take(&mut self.attempts[who].post);
        if let Some(browser) = &self.attempts[who].browser {
            browser.judge(&check, &answers);
        }
    }

    fn shake_hands(&mut self, who: usize) {
        loop {
            let Some(browser) = &mut self.attempts[who].browser else { return };
            let flight: Vec<_> = std::iter::from_fn(|| browser.dtls.poll_output()).collect();
            for datagram in &flight {
                self.hand(who, datagram.clone());
            }
            let Attempt { browser, post, .. } = &mut self.attempts[who];
            let Some(browser) = browser else { return };
            let answers = std::mem::take(post);
            answers.iter().for_each(|answer| browser.dtls.handle(self.now, answer));
            browser.take_keys();
            if flight.is_empty() && answers.is_empty() {
                assert!(browser.is_connected(), "{:?}", browser.dtls.gave_up());
                return;
            }
        }
    }

    /// Carries a datagram past the network.
    fn hand(&mut self, who: usize, bytes: Vec<u8>) {
        let client = &self.attempts[who].client;
        let (from, to) = (client.address, self.control.shard_of(client.grant.channel));
        self.deliver(Datagram { from, to, bytes, sealed: None });
    }

    /// Whether somebody comes by browser.
    pub fn is_browser(&self, who: usize) -> bool {
        self.attempts[who].surfs
    }

    /// When the next browser checks its way.
    pub fn next_check(&self) -> Option<(std::time::Instant, usize)> {
        let alive = |attempt: &Attempt| {
            attempt.stay.is_some() && attempt.browser.as_ref().is_some_and(|it| it.is_connected())
        };
        let attempts = self.attempts.iter().enumerate().filter(|(_, attempt)| alive(attempt));
        attempts.map(|(who, attempt)| (attempt.next_check, who)).min()
    }

    /// Seals a plain packet or report as a browser does, under its own SSRC.
    pub fn seal_by_browser(&mut self, who: usize, plain: &[u8]) -> Option<Vec<u8>> {
        let mut plain = plain.to_vec();
        let report = (192..=223).contains(&plain[1]);
        let at = if report { 4 } else { 8 };
        let Attempt { client, browser, .. } = &mut self.attempts[who];
        let browser = browser.as_mut().filter(|browser| browser.is_connected())?;
        let given = Ssrc(u32::from_be_bytes(plain[at..at + 4].try_into().expect("four bytes")));
        let stream = client.streams.iter().position(|stream| stream.ssrc == given);
        let own = client.sends_under(stream.expect("a stream of its own"));
        plain[at..at + 4].copy_from_slice(&own.0.to_be_bytes());
        Some(if report { browser.seal_rtcp(&plain) } else { browser.seal(&plain) })
    }
}

/// The number that a browser gives transport-wide numbers in its extensions.
pub fn transport_cc(browser: &Browser) -> u8 {
    if browser.choices.extensions == CHROMIUM { 3 } else { 7 }
}

/// Whether it can seal.
pub fn has_keys(attempt: &Attempt) -> bool {
    match &attempt.browser {
        Some(browser) => browser.is_connected(),
        None => !attempt.client.agreed.is_empty(),
    }
}

/// How many keys it has had.
pub fn keys(attempt: &Attempt) -> usize {
    attempt.client.agreed.len() + attempt.handshakes
}
