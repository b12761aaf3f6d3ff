//! Pictures of the page for people to look at, in light and dark and on a narrow screen: written to
//! `target/tmp/page/`. What each shows is asserted before it is taken.

use serde_json::json;

use crate::{
    CHANNEL,
    caller::Caller,
    chromium::{Chromium, Devices, Setup},
    setup,
    support::{server::Server, tone::VOICES},
    tab::{Sight, Tab},
    voice::on_one_thread,
};

#[test]
fn the_page_is_pictured_empty_and_with_an_error() {
    on_one_thread(async {
        let refused = Setup { tone: VOICES[0], devices: Devices::Refused };
        let Some(browser) = Chromium::start(refused).await else { return };
        let server = Server::start();
        let tab = Tab::first(&browser).await;
        tab.open(&server, "Ann", CHANNEL).await;
        assert_eq!(tab.look().await.state, "idle");
        picture(&browser, &tab, "empty").await;
        tab.join().await;
        tab.until("words", |it| it.alert.is_some()).await;
        picture(&browser, &tab, "refused").await;
        browser.close().await;
    });
}

#[test]
fn the_page_is_pictured_while_people_talk() {
    on_one_thread(async {
        let Some(browser) = Chromium::start(setup(VOICES[0])).await else { return };
        let mut server = Server::start();
        let ann = Caller::join(&server, Tab::first(&browser).await, "Ann").await;
        picture(&browser, &ann, "alone").await;
        let tab = Tab::another(&browser).await;
        let bob = Caller::join(&server, tab, "Robert%20Müller").await;
        ann.until("Bob is shown to speak", |it| {
            it.tile(&bob.id).is_some_and(|tile| tile.speaking) && it.sending.ends_with("kbit/s")
        })
        .await;
        picture(&browser, &ann, "talking").await;
        bob.click("#camera").await;
        ann.click("#camera").await;
        ann.until("cameras", |it| it.tiles.iter().all(|tile| tile.width > 0)).await;
        picture(&browser, &ann, "cameras").await;
        server.terminate();
        ann.until("the page says so", |it| it.alert.is_some()).await;
        picture(&browser, &ann, "server_gone").await;
        let back = |it: &Sight| it.state == "reconnecting";
        ann.until("the page still tries", back).await;
        browser.close().await;
    });
}

/// One scene three times: light, dark, and dark on a phone.
async fn picture(browser: &Chromium, tab: &Tab<'_>, scene: &str) {
    for (scheme, width, name) in
        [("light", 1_100, "light"), ("dark", 1_100, "dark"), ("dark", 360, "narrow")]
    {
        tab.look().await;
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        browser.debug("Emulation.setEmulatedMedia", json!({"features": features})).await;
        let metrics =
            json!({"width": width, "height": 1_000, "deviceScaleFactor": 1, "mobile": false});
        browser.debug("Emulation.setDeviceMetricsOverride", metrics).await;
        tab.picture(&format!("{scene}-{name}")).await;
    }
    browser.debug("Emulation.clearDeviceMetricsOverride", json!({})).await;
}
