//! A real browser, for tests that look at pages as people do: Debian's Chromium, driven by its chromedriver.

use std::{
    fmt,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use fantoccini::{
    Client, ClientBuilder, Locator,
    actions::{InputSource, MOUSE_BUTTON_MIDDLE, MouseActions, PointerAction},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::test_hub::{DEADLINE, reqwest_client, within};

const INSTALL: &str =
    "the console is tested in a real browser: apt-get install chromium chromium-driver";

/// How often a chromedriver is started that ends at once.
const STARTS_MAX: usize = 5;

/// A running chromedriver: one for all browsers there are at a time.
struct Driver {
    child: Child,
    /// Stays open, so that nothing it prints later fails.
    _stdout: BufReader<ChildStdout>,
    port: u16,
}

impl Driver {
    /// The one that runs, or a new one.
    async fn get() -> Arc<Self> {
        static RUNNING: tokio::sync::Mutex<Weak<Driver>> =
            tokio::sync::Mutex::const_new(Weak::new());
        let mut running = RUNNING.lock().await;
        if let Some(driver) = running.upgrade() {
            return driver;
        }
        let driver = Arc::new(Self::start().await);
        *running = Arc::downgrade(&driver);
        driver
    }

    /// It chooses a port of IPv6 or IPv4, and ends where another program has the same one of the other.
    async fn start() -> Self {
        for _ in 0..STARTS_MAX {
            if let Some(driver) = Self::try_start().await {
                return driver;
            }
        }
        panic!("chromedriver ended each time it was started; {INSTALL}")
    }

    /// `None` if it ends before it tells its port.
    async fn try_start() -> Option<Self> {
        let mut child = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("chromedriver: {error}; {INSTALL}"));
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let reading = tokio::task::spawn_blocking(move || {
            loop {
                let mut line = String::new();
                if stdout.read_line(&mut line).unwrap() == 0 {
                    return None;
                }
                let told = line.trim().strip_suffix('.');
                if let Some((_, port)) =
                    told.and_then(|told| told.split_once("started successfully on port "))
                {
                    return Some((port.parse().unwrap(), stdout));
                }
            }
        });
        let told = within("chromedriver to tell its port", reading)
            .await
            .unwrap();
        let Some((port, stdout)) = told else {
            child.wait().unwrap();
            return None;
        };
        let driver = Self {
            child,
            _stdout: stdout,
            port,
        };
        let status = driver.url("/status");
        within("chromedriver to be ready", async {
            while !reqwest_client()
                .get(&status)
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        Some(driver)
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A browser with a page open, and a profile of its own. It ends when dropped, also when a test fails.
pub(crate) struct Browser {
    page: Client,
    session: String,
    driver: Arc<Driver>,
    folder: TempDir,
}

/// Ends the sessions of browsers whose test is over, one after the other.
static ENDING: Mutex<()> = Mutex::new(());

impl Browser {
    /// Starts one and opens `url`.
    pub(crate) async fn open(url: &str) -> Self {
        Self::start(url, json!({"browser": "ALL"}), false).await
    }

    /// The same for a hub whose certificate no authority has signed that the browser knows.
    pub(crate) async fn open_insecure(url: &str) -> Self {
        Self::start(url, json!({"browser": "ALL"}), true).await
    }

    /// The same, and notes down what the page sends; see [`requests`](Self::requests).
    pub(crate) async fn open_watched(url: &str) -> Self {
        let logs = json!({"browser": "ALL", "performance": "ALL"});
        Self::start(url, logs, false).await
    }

    async fn start(url: &str, logs: Value, insecure: bool) -> Self {
        let driver = Driver::get().await;
        let folder = tempfile::tempdir().unwrap();
        let Value::Object(mut capabilities) = capabilities(folder.path(), &logs) else {
            unreachable!("an object")
        };
        capabilities.insert("acceptInsecureCerts".into(), insecure.into());
        let page = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities)
            .connect(&driver.url(""))
            .await
            .unwrap_or_else(|error| panic!("chromium: {error}; {INSTALL}"));
        let session = page.session_id().await.unwrap().unwrap();
        let browser = Self {
            page,
            session,
            driver,
            folder,
        };
        browser.go(url).await;
        browser
    }

    pub(crate) async fn go(&self, url: &str) {
        within(format!("the page {url}"), self.page.goto(url))
            .await
            .unwrap();
    }

    /// Goes back to the page before. A script that does so may be gone with its page before its end is told.
    pub(crate) async fn back(&self) {
        within("the page before", self.page.back()).await.unwrap();
    }

    pub(crate) async fn address(&self) -> String {
        self.page.current_url().await.unwrap().to_string()
    }

    /// What an expression of JavaScript gives.
    pub(crate) async fn value(&self, expression: &str) -> Value {
        let script = format!("return ({expression});");
        within(expression, self.page.execute(&script, vec![]))
            .await
            .unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// Waits until an expression gives what is expected; says what it gave at last.
    pub(crate) async fn expect(&self, expression: &str, expected: impl Into<Value>) {
        let expected = expected.into();
        self.wait(expression, |value| *value == expected, &expected)
            .await;
    }

    /// Waits until the text of the element holds `expected`.
    pub(crate) async fn expect_text(&self, element: &str, expected: &str) {
        let expression = format!(
            "document.querySelector({})?.innerText ?? ''",
            json!(element)
        );
        let holds = |value: &Value| value.as_str().is_some_and(|text| text.contains(expected));
        self.wait(&expression, holds, &expected).await;
    }

    async fn wait(
        &self,
        expression: &str,
        is_so: impl Fn(&Value) -> bool,
        expected: &dyn fmt::Display,
    ) {
        let deadline = Instant::now() + 2 * DEADLINE;
        loop {
            let value = self.value(expression).await;
            if is_so(&value) {
                return;
            }
            if Instant::now() > deadline {
                let page = self.value("document.body.innerText").await;
                panic!("{expression}\nis {value}\nand not {expected}\non this page:\n{page}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Clicks where the element is once it has stayed there for two looks: a click aims before it hits, and one that has just come
    /// may still move.
    pub(crate) async fn click(&self, element: &str) {
        let found = self.find(element).await;
        let place =
            format!("JSON.stringify(document.querySelector({element:?}).getBoundingClientRect())");
        let mut last = Value::Null;
        loop {
            let now = self.value(&place).await;
            if now == last {
                break;
            }
            last = now;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        found.click().await.unwrap();
    }

    /// Clicks with the wheel, which opens a link aside, and goes to what was opened.
    pub(crate) async fn click_aside(&self, element: &str) {
        let before = self.page.windows().await.unwrap();
        let found = self.find(element).await;
        let aim = PointerAction::MoveToElement {
            element: found,
            duration: None,
            x: 0.0,
            y: 0.0,
        };
        let button = MOUSE_BUTTON_MIDDLE;
        let click = MouseActions::new("mouse".into())
            .then(aim)
            .then(PointerAction::Down { button })
            .then(PointerAction::Up { button });
        self.page.perform_actions(click).await.unwrap();
        let opened = within("another window", async {
            loop {
                let windows = self.page.windows().await.unwrap();
                if let Some(new) = windows.into_iter().find(|window| !before.contains(window)) {
                    return new;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        self.page.switch_to_window(opened.await).await.unwrap();
    }

    /// Closes what was opened aside, and goes back.
    pub(crate) async fn close_aside(&self) {
        self.page.close_window().await.unwrap();
        let first = self.page.windows().await.unwrap().remove(0);
        self.page.switch_to_window(first).await.unwrap();
    }

    /// Types into a field in place of what is there; `\n` is the enter key.
    pub(crate) async fn fill(&self, element: &str, text: &str) {
        let field = self.find(element).await;
        field.clear().await.unwrap();
        field
            .send_keys(&text.replace('\n', "\u{e007}"))
            .await
            .unwrap();
    }

    /// Presses a key wherever the focus is: `\t`, or `\n` for the enter key.
    pub(crate) async fn press(&self, key: &str) {
        let focused = self.page.active_element().await.unwrap();
        let keys = key.replace('\n', "\u{e007}").replace('\t', "\u{e004}");
        focused.send_keys(&keys).await.unwrap();
    }

    async fn find(&self, element: &str) -> fantoccini::elements::Element {
        within(element, self.page.wait().for_element(Locator::Css(element)))
            .await
            .unwrap_or_else(|error| panic!("{element}: {error}"))
    }

    pub(crate) async fn resize(&self, width: u32, height: u32) {
        self.page.set_window_size(width, height).await.unwrap();
    }

    /// Waits for a file that the page gave to be saved.
    pub(crate) async fn downloaded(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join("downloads").join(name);
        within(format!("the download of {name}"), async {
            loop {
                // There is an empty file of the name until it is whole.
                if let Ok(text) = std::fs::read_to_string(&path)
                    && !text.is_empty()
                {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
    }

    /// What the browser complained about in its console since the last look.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let entries = self.log("browser").await;
        let told = entries
            .iter()
            .map(|entry| format!("{}: {}", entry["level"], entry["message"]));
        told.collect()
    }

    /// Where the page sent requests since the last look; what the browser has in itself is not asked for.
    pub(crate) async fn requests(&self) -> Vec<String> {
        let entries = self.log("performance").await;
        let messages = entries.iter().map(|entry| {
            serde_json::from_str::<Value>(entry["message"].as_str().unwrap()).unwrap()
        });
        messages
            .filter(|message| message["message"]["method"] == "Network.requestWillBeSent")
            .map(|message| {
                let url = &message["message"]["params"]["request"]["url"];
                url.as_str().unwrap().to_owned()
            })
            .filter(|url| url.starts_with("http"))
            .collect()
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.ask("se/log", json!({"type": kind})).await;
        entries.as_array().unwrap().clone()
    }

    /// Sends a command of the DevTools protocol, and gives what it answers.
    pub(crate) async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.ask(
            "goog/cdp/execute",
            json!({"cmd": command, "params": parameters}),
        )
        .await
    }

    /// Asks the driver for what the client has no word for.
    async fn ask(&self, path: &str, body: Value) -> Value {
        let url = self
            .driver
            .url(&format!("/session/{}/{path}", self.session));
        let answer = reqwest_client().post(url).body(body.to_string()).send();
        let answer = within(path, answer).await.unwrap();
        let status = answer.status();
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert!(status.is_success(), "{path} {body}: {answer}");
        answer["value"].clone()
    }

    /// Shows pages in the `light` or the `dark` scheme.
    pub(crate) async fn prefer(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features}))
            .await;
    }

    /// Gives the page this size, in CSS pixels.
    pub(crate) async fn fit(&self, width: u32, height: u32) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size)
            .await;
    }

    /// What is on screen, as PNG.
    pub(crate) async fn screenshot(&self) -> Vec<u8> {
        within("a screenshot", self.page.screenshot())
            .await
            .unwrap()
    }

    /// CPU time that the process of the page has used.
    pub(crate) async fn cpu_time(&self) -> Duration {
        self.devtools("Performance.enable", json!({})).await;
        let metrics = self.devtools("Performance.getMetrics", json!({})).await;
        let metrics = metrics["metrics"].as_array().unwrap();
        let time = metrics
            .iter()
            .find(|metric| metric["name"] == "ProcessTime");
        Duration::from_secs_f64(time.unwrap()["value"].as_f64().unwrap())
    }

    /// Ends it after a look at what it complained about.
    pub(crate) async fn close_without_complaints(self) {
        assert_eq!(self.complaints().await, Vec::<String>::new());
    }
}

fn capabilities(folder: &Path, logs: &Value) -> Value {
    let (profile, downloads) = (folder.join("profile"), folder.join("downloads"));
    std::fs::create_dir(&downloads).unwrap();
    json!({
        "goog:chromeOptions": {
            "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-dev-shm-usage", "--enable-precise-memory-info", "--js-flags=--expose-gc",
                // Names of other sites, which are served here.
                "--host-resolver-rules=MAP *.example 127.0.0.1",
                "--window-size=1280,900", format!("--user-data-dir={}", profile.display()),
            ],
            "prefs": {"download.default_directory": downloads},
        },
        "goog:loggingPrefs": logs,
    })
}

impl Drop for Browser {
    /// Not by the client, which needs a runtime that goes on: this works in a test that panics too.
    fn drop(&mut self) {
        let _one_at_a_time = ENDING.lock();
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.driver.port)) else {
            return;
        };
        _ = stream.set_read_timeout(Some(DEADLINE));
        _ = write!(
            stream,
            "DELETE /session/{} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
            self.session
        );
        _ = stream.read(&mut [0; 1024]);
    }
}
