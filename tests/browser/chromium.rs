//! Chromium as Debian packages it, each with a profile and a driver process of its own, and with a
//! microphone that plays a tone. Nothing of it outlives the test, whatever becomes of that.

use std::{
    env,
    f64::consts::TAU,
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use fantoccini::{Client, ClientBuilder, wd::WebDriverCompatibleCommand};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{WAIT, tone::SAMPLE_RATE};

/// Of the tone's file, which is played again and again: whole periods of every whole frequency.
const TONE_SECONDS: u32 = 10;

/// What this Chromium has and may do.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// What its microphone hears, Hz.
    pub tone: f64,
    /// What becomes of a page that asks for them.
    pub devices: Devices,
}

/// Microphone and camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// The user lets pages use them.
    Permitted,
    /// The user does not.
    Refused,
    /// The machine has none.
    Missing,
}

/// A running Chromium.
pub struct Chromium {
    client: Client,
    driver: Driver,
}

impl Chromium {
    /// Starts one. `None`, and loudly so, only where there is none and nobody insists
    /// (`STENTOR_TESTS_FOREIGN=required`).
    pub async fn start(setup: Setup) -> Option<Self> {
        let mut driver = Driver::start()?;
        let tone = driver.profile.path().join("tone.wav");
        fs::write(&tone, wave(setup.tone)).expect("a file can be written");
        let capabilities = capabilities(setup, driver.profile.path(), &tone);
        let capabilities = capabilities.as_object().expect("an object").clone();
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let connecting = builder.capabilities(capabilities).connect(&driver.url);
        let client = connecting.await.unwrap_or_else(|error| {
            panic!("Chromium does not start: {error}\n{}", driver.log());
        });
        let process = client.capabilities().and_then(|it| it.get("goog:processID"));
        driver.browser = process.and_then(Value::as_u64);
        assert!(driver.browser.is_some(), "the driver tells the browser's process");
        Some(Self { client, driver })
    }

    /// The WebDriver session.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A command of Chromium's own debugging protocol.
    pub async fn debug(&self, command: &str, parameters: Value) -> Value {
        let debug = Debug(json!({"cmd": command, "params": parameters}).to_string());
        let answer = self.client.issue_cmd(debug).await;
        answer.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// What the pages have written to the console.
    pub async fn console(&self) -> Vec<String> {
        let entries = self.client.issue_cmd(Console).await.unwrap_or(Value::Null);
        let entries = entries.as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["message"].to_string()).collect()
    }

    /// Ends it as people do.
    pub async fn close(self) {
        let _ = self.client.close().await;
        drop(self.driver);
    }
}

fn capabilities(setup: Setup, profile: &Path, tone: &Path) -> Value {
    let mut arguments = vec![
        "--headless=new".to_owned(),
        "--window-size=1100,1000".to_owned(),
        // Tests may run as root, where Chromium's sandbox cannot.
        "--no-sandbox".to_owned(),
        "--disable-gpu".to_owned(),
        "--disable-dev-shm-usage".to_owned(),
        "--disable-quic".to_owned(),
        "--no-first-run".to_owned(),
        "--disable-background-networking".to_owned(),
        "--disable-component-update".to_owned(),
        "--disable-sync".to_owned(),
        "--autoplay-policy=no-user-gesture-required".to_owned(),
        // All tabs of a test are looked at.
        "--disable-background-timer-throttling".to_owned(),
        "--disable-renderer-backgrounding".to_owned(),
        "--disable-backgrounding-occluded-windows".to_owned(),
        format!("--use-file-for-fake-audio-capture={}", tone.display()),
        format!("--user-data-dir={}", profile.join("profile").display()),
    ];
    if setup.devices == Devices::Permitted {
        arguments.push("--use-fake-ui-for-media-stream".to_owned());
    }
    if setup.devices != Devices::Missing {
        arguments.push("--use-fake-device-for-media-stream".to_owned());
    }
    // 1 is for allowed, 2 for blocked.
    let rule = if setup.devices == Devices::Refused { 2 } else { 1 };
    json!({
        "goog:loggingPrefs": {"browser": "ALL"},
        "goog:chromeOptions": {
            "args": arguments,
            "prefs": {
                "profile.default_content_setting_values.media_stream_mic": rule,
                "profile.default_content_setting_values.media_stream_camera": rule,
            },
        },
    })
}

/// chromedriver, and the Chromium it has started.
struct Driver {
    process: Child,
    browser: Option<u64>,
    url: String,
    profile: TempDir,
}

impl Driver {
    fn start() -> Option<Self> {
        // One after the other: the driver looks for a free port and then takes it.
        static STARTING: Mutex<()> = Mutex::new(());
        let _turn = STARTING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let profile = TempDir::new().expect("a temporary directory");
        let log = profile.path().join("driver.log");
        let started = Command::new("chromedriver")
            .arg("--port=0")
            .arg(format!("--log-path={}", log.display()))
            // A browser that is killed leaves temporary files behind.
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        let mut process = match started {
            Ok(process) => process,
            Err(error) => {
                let insists =
                    env::var_os("STENTOR_TESTS_FOREIGN").is_some_and(|value| value == "required");
                assert!(!insists, "no chromedriver: {error}");
                eprintln!("SKIPPED: no chromedriver ({error}); `tests/run setup` installs it");
                return None;
            }
        };
        let output = process.stdout.take().expect("it is piped");
        let port = BufReader::new(output).lines().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.rsplit_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let port = port.expect("chromedriver says its port");
        let url = format!("http://127.0.0.1:{port}");
        Some(Self { process, browser: None, url, profile })
    }

    fn log(&self) -> String {
        fs::read_to_string(self.profile.path().join("driver.log")).unwrap_or_default()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The browser ends its own children, and would leave files behind that are removed below.
        if let Some(browser) = self.browser {
            let kill = format!("kill -KILL {browser}");
            let _ = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status();
            let deadline = Instant::now() + WAIT;
            while Path::new(&format!("/proc/{browser}")).exists() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = (self.process.kill(), self.process.wait());
    }
}

/// `goog/cdp/execute`.
#[derive(Debug)]
struct Debug(String);

impl WebDriverCompatibleCommand for Debug {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.0.clone()))
    }
}

/// `se/log`.
#[derive(Debug)]
struct Console;

impl WebDriverCompatibleCommand for Console {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({"type": "browser"}).to_string()))
    }
}

/// A sine of a quarter of full scale as a WAVE file: 16 bits, one channel.
fn wave(frequency: f64) -> Vec<u8> {
    let count = SAMPLE_RATE * TONE_SECONDS;
    let bytes = count * 2;
    let mut file = Vec::with_capacity(44 + bytes as usize);
    file.extend(b"RIFF");
    file.extend((36 + bytes).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    file.extend(1_u16.to_le_bytes());
    file.extend(1_u16.to_le_bytes());
    file.extend(SAMPLE_RATE.to_le_bytes());
    file.extend((SAMPLE_RATE * 2).to_le_bytes());
    file.extend(2_u16.to_le_bytes());
    file.extend(16_u16.to_le_bytes());
    file.extend(b"data");
    file.extend(bytes.to_le_bytes());
    let step = TAU * frequency / f64::from(SAMPLE_RATE);
    let samples = (0..count).map(|n| ((f64::from(n) * step).sin() * 8_191.0) as i16);
    file.extend(samples.flat_map(i16::to_le_bytes));
    file
}
