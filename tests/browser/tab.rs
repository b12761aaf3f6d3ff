//! One tab with the page in it: does what a person does, and says what the page shows and what
//! reaches it.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use fantoccini::{Locator, wd::WindowHandle};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    CHANNEL,
    chromium::Chromium,
    support::{
        WAIT,
        server::{GUILD, Grant, Server},
    },
};

/// Between two looks at a tab.
const LOOK: Duration = Duration::from_millis(100);

/// How far from its frequency a tone may be heard, Hz: less than between any two of the tests'.
const TOLERANCE: f64 = 5.0;

/// Packets of one stream that count as having received it: a second of speech.
pub const ENOUGH: u64 = 50;

/// A tab; the browser shows one at a time.
pub struct Tab<'a> {
    browser: &'a Chromium,
    window: WindowHandle,
}

/// What the page knows; see `probe.js`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sight {
    pub state: String,
    pub alert: Option<String>,
    pub news: String,
    pub focus: String,
    pub user: Option<String>,
    pub tiles: Vec<Tile>,
    pub sending: String,
    pub inbound: Vec<Inbound>,
    pub outbound: Vec<Outbound>,
    pub transport: Option<Transport>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Tile {
    pub user: String,
    #[serde(rename = "self")]
    pub own: bool,
    pub name: String,
    pub mark: String,
    pub speaking: bool,
    pub picture: bool,
    pub width: u64,
    pub height: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "printed when a test fails")]
pub struct Inbound {
    pub user: Option<String>,
    pub kind: String,
    pub ssrc: u32,
    pub packets: u64,
    pub lost: i64,
    pub level: Option<f64>,
    pub concealed: Option<u64>,
    pub samples: Option<u64>,
    pub frames: Option<u64>,
    pub key_frames: Option<u64>,
    pub width: Option<u64>,
    pub height: Option<u64>,
    pub codec: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[allow(dead_code, reason = "printed when a test fails")]
pub struct Outbound {
    pub kind: String,
    pub ssrc: u32,
    pub active: bool,
    pub packets: u64,
    pub frames: Option<u64>,
    pub width: Option<u64>,
    pub height: Option<u64>,
    pub codec: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "printed when a test fails")]
pub struct Transport {
    pub dtls: String,
    pub ice: String,
    pub srtp: Option<String>,
    pub dtls_cipher: Option<String>,
    pub tls: Option<String>,
}

impl Sight {
    /// What arrives of a user's microphone or camera.
    pub fn inbound(&self, user: &str, kind: &str) -> Option<&Inbound> {
        let mine = |it: &&Inbound| it.user.as_deref() == Some(user) && it.kind == kind;
        self.inbound.iter().find(mine)
    }

    /// What is sent of one's own.
    pub fn outbound(&self, kind: &str) -> Option<&Outbound> {
        self.outbound.iter().find(|it| it.kind == kind)
    }

    pub fn tile(&self, user: &str) -> Option<&Tile> {
        self.tiles.iter().find(|tile| tile.user == user)
    }

    pub fn is_connected(&self) -> bool {
        self.state == "connected"
    }
}

impl<'a> Tab<'a> {
    /// The browser's first tab, empty.
    pub async fn first(browser: &'a Chromium) -> Self {
        let window = browser.client().window().await.expect("a browser has a window");
        Self { browser, window }
    }

    /// One more, empty.
    pub async fn another(browser: &'a Chromium) -> Self {
        let window = browser.client().new_window(true).await.expect("a tab opens");
        Self { browser, window: window.handle }
    }

    /// Opens the page with a name and a channel filled in.
    pub async fn open(&self, server: &Server, name: &str, channel: u64) {
        let address = server.control();
        let page = format!("http://{address}/?server={GUILD}&channel={channel}&name={name}");
        self.show().await;
        self.browser.client().goto(&page).await.expect("the page opens");
        self.prepare().await;
    }

    /// Opens a link that lets this user in, as `stentor grant --link` prints it but for TLS, and
    /// fills a name in.
    pub async fn open_link(&self, server: &Server, user: u64, name: &str) {
        let Grant { server: guild, channel, user, session, token, .. } =
            server.grant(CHANNEL, user);
        let link = format!(
            "http://{}/#server={guild}&channel={channel}&user={user}&session={session}&token={token}",
            server.gateway()
        );
        self.show().await;
        self.browser.client().goto(&link).await.expect("the page opens");
        self.prepare().await;
        self.script(&format!("document.getElementById('name').value = '{name}'")).await;
    }

    /// Opens the gateway's address without a link.
    pub async fn open_gateway(&self, server: &Server) {
        self.show().await;
        let address = format!("http://{}/", server.gateway());
        self.browser.client().goto(&address).await.expect("the page opens");
        self.prepare().await;
    }

    /// Loads the page again, as with F5.
    pub async fn reload(&self) {
        self.show().await;
        self.browser.client().refresh().await.expect("the page loads again");
        self.prepare().await;
    }

    /// Joins with the form, and the microphone as it is, without what takes tones for noise.
    pub async fn join(&self) {
        self.script(
            "if (document.getElementById('processed').checked) \
                     document.getElementById('processed').click()",
        )
        .await;
        self.click("#join-button").await;
    }

    /// Joins, and waits until media can flow; the user's id.
    pub async fn join_and_connect(&self) -> String {
        self.join().await;
        let sight = self.until("connected", Sight::is_connected).await;
        sight.user.expect("who is connected is somebody")
    }

    /// Clicks what a person would click.
    pub async fn click(&self, selector: &str) {
        self.show().await;
        let element = self.browser.client().find(Locator::Css(selector)).await;
        let element = element.unwrap_or_else(|error| panic!("{selector}: {error}"));
        element.click().await.unwrap_or_else(|error| panic!("{selector}: {error}"));
    }

    /// Presses a key, or types, where the focus is.
    pub async fn press(&self, keys: &str) {
        self.show().await;
        let focused = self.browser.client().active_element().await.expect("something has it");
        focused.send_keys(keys).await.unwrap_or_else(|error| panic!("{keys:?}: {error}"));
    }

    /// What the page knows now.
    pub async fn look(&self) -> Sight {
        let value = self.ask("probe.look()", json!([])).await;
        serde_json::from_value(value).expect("the probe says what it is to say")
    }

    /// Looks until `done` holds.
    pub async fn until(&self, what: &str, done: impl Fn(&Sight) -> bool) -> Sight {
        let deadline = Instant::now() + WAIT;
        loop {
            let sight = self.look().await;
            if done(&sight) {
                return sight;
            }
            if Instant::now() > deadline {
                let console = self.browser.console().await;
                panic!("waited {WAIT:?} in vain: {what}\n{sight:#?}\n{console:#?}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Listens until this user's sound is this tone and nothing else.
    pub async fn until_hears(&self, user: &str, tone: f64) {
        self.until_hears_each(&[user], tone).await;
    }

    /// Listens until each of these users' sound is this tone and nothing else.
    pub async fn until_hears_each(&self, users: &[&str], tone: f64) {
        let deadline = Instant::now() + WAIT;
        loop {
            let heard = self.tones(users).await;
            let is_it = |heard: &Option<(f64, f64)>| {
                heard.is_some_and(|(frequency, share)| {
                    (frequency - tone).abs() < TOLERANCE && share > 0.9
                })
            };
            if heard.len() == users.len() && heard.iter().all(is_it) {
                return;
            }
            if Instant::now() > deadline {
                let (sight, console) = (self.look().await, self.browser.console().await);
                panic!("{users:?}: not {tone} Hz, but {heard:?}\n{sight:#?}\n{console:#?}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What is heard of each user: the strongest frequency, and its share.
    async fn tones(&self, users: &[&str]) -> Vec<Option<(f64, f64)>> {
        let expression = "arguments[0].map((user) => probe.tone(user))";
        let heard = self.ask(expression, json!([users])).await;
        let heard = heard.as_array().expect("one for each").iter();
        heard.map(|it| Some((it["frequency"].as_f64()?, it["share"].as_f64()?))).collect()
    }

    /// A picture of the tab as a file under `target/`, for people to look at.
    pub async fn picture(&self, name: &str) {
        self.show().await;
        let picture = self.browser.client().screenshot().await.expect("a picture");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join(format!("{name}.png")), picture).expect("a file can be written");
    }

    /// Runs a script for what it does.
    pub async fn script(&self, script: &str) {
        self.show().await;
        let done = self.browser.client().execute(script, Vec::new()).await;
        done.unwrap_or_else(|error| panic!("{script}: {error}"));
    }

    async fn ask(&self, expression: &str, arguments: Value) -> Value {
        self.show().await;
        let script = format!(
            "const done = arguments[arguments.length - 1];
             Promise.resolve({expression}).then(done, (error) => done({{error: String(error)}}));"
        );
        let arguments = arguments.as_array().cloned().unwrap_or_default();
        let answer = self.browser.client().execute_async(&script, arguments).await;
        let answer = answer.unwrap_or_else(|error| panic!("{expression}: {error}"));
        assert!(answer.get("error").is_none(), "{expression}: {answer}");
        answer
    }

    async fn prepare(&self) {
        let probe = include_str!("probe.js");
        let done = self.browser.client().execute(probe, Vec::new()).await;
        done.expect("the probe is put in");
    }

    async fn show(&self) {
        let shown = self.browser.client().switch_to_window(self.window.clone()).await;
        shown.expect("the tab is there");
    }
}
