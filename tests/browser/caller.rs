//! People in tabs who have joined the channel of the tests, two of them as a rule.

use std::ops::Deref;

use crate::{CHANNEL, chromium::Chromium, support::server::Server, tab::Tab};

/// Somebody whose tab is connected.
pub struct Caller<'a> {
    tab: Tab<'a>,
    /// Who it is to the others.
    pub id: String,
}

impl<'a> Caller<'a> {
    /// Comes in this tab under a name.
    pub async fn join(server: &Server, tab: Tab<'a>, name: &str) -> Self {
        tab.open(server, name, CHANNEL).await;
        let id = tab.join_and_connect().await;
        Self { tab, id }
    }
}

impl<'a> Deref for Caller<'a> {
    type Target = Tab<'a>;

    fn deref(&self) -> &Tab<'a> {
        &self.tab
    }
}

/// Ann and Bob in two tabs of one browser.
pub async fn two_tabs<'a>(server: &Server, browser: &'a Chromium) -> [Caller<'a>; 2] {
    let tabs = [Tab::first(browser).await, Tab::another(browser).await];
    two(server, tabs).await
}

/// Ann and Bob, each in a browser of their own.
pub async fn two_browsers<'a>(server: &Server, [one, two]: [&'a Chromium; 2]) -> [Caller<'a>; 2] {
    let tabs = [Tab::first(one).await, Tab::first(two).await];
    self::two(server, tabs).await
}

async fn two<'a>(server: &Server, [ann, bob]: [Tab<'a>; 2]) -> [Caller<'a>; 2] {
    let ann = Caller::join(server, ann, "Ann").await;
    let bob = Caller::join(server, bob, "Bob").await;
    [ann, bob]
}

/// Waits until each of two hears the other's tone and nothing else.
pub async fn hear_each_other([ann, bob]: [&Caller<'_>; 2], [anns, bobs]: [f64; 2]) {
    ann.until_hears(&bob.id, bobs).await;
    bob.until_hears(&ann.id, anns).await;
}
