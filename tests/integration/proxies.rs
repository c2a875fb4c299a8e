//! Proxies before a hub that is away: their answer must not end the streams of browsers.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    browser::Browser,
    clients::{Follower, Pages, expect, publish},
    test_hub::{Port, Program, reqwest_client, segno, within},
};

/// How long the hub is away: long enough for each proxy to give up several times.
const AWAY: Duration = Duration::from_secs(6);

/// A proxy that runs by its recipe; ends when dropped.
pub(crate) struct Proxy {
    child: Child,
    pub(crate) url: String,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// The recipe of the page on streams for `proxy`, for a hub at `hub` instead of its usual port.
fn recipe(proxy: &str, hub: &Port) -> String {
    let recipe = recipe_of("docs/stream.md", proxy);
    assert!(recipe.contains("127.0.0.1:8000"), "{recipe}");
    recipe.replace("127.0.0.1:8000", &hub.address().to_string())
}

/// What `page` says for `proxy`.
pub(crate) fn recipe_of(page: &str, proxy: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join(page)).unwrap();
    let fence = format!("```{proxy}\n");
    let (_, recipe) = page.split_once(&fence).unwrap();
    recipe.split_once("\n```\n").unwrap().0.to_owned()
}

/// What stands around the recipe for `proxy`, at `port`, and the command that runs it in the foreground.
fn surrounded(proxy: &str, recipe: &str, port: u16) -> (String, &'static str) {
    match proxy {
        "nginx" => (
            format!(
                "pid nginx.pid; error_log stderr; events {{}} http {{ access_log off; gzip on; gzip_types *;
                 client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;
                 server {{ listen 127.0.0.1:{port};\n{recipe}\n}} }}"
            ),
            "exec nginx -p . -c proxy.conf -g 'daemon off;'",
        ),
        "haproxy" => (
            format!(
                "defaults\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\n\
                 frontend all\n  bind 127.0.0.1:{port}\n{recipe}\n"
            ),
            "exec haproxy -f proxy.conf",
        ),
        "caddyfile" => (
            format!(
                "{{\nadmin off\nauto_https off\n}}\nhttp://127.0.0.1:{port} {{\nencode gzip\n{recipe}\n}}\n"
            ),
            "HOME=. exec caddy run --config proxy.conf --adapter caddyfile",
        ),
        _ => unreachable!("no such proxy"),
    }
}

impl Proxy {
    async fn start(proxy: &str, hub: &Port, folder: &Path) -> Self {
        Self::run(proxy, &recipe(proxy, hub), folder).await
    }

    /// Runs `proxy` by `recipe`, and waits until it reaches the hub.
    pub(crate) async fn run(proxy: &str, recipe: &str, folder: &Path) -> Self {
        let folder = folder.join(proxy);
        std::fs::create_dir(&folder).unwrap();
        let reserved = Port::reserve();
        let address = reserved.address();
        let (file, command) = surrounded(proxy, recipe, address.port());
        std::fs::write(folder.join("proxy.conf"), file).unwrap();
        // Those who do not set `SO_REUSEADDR` could not listen on a port that is bound.
        drop(reserved);
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let child = Command::new("sh")
            .args(["-c", command])
            .current_dir(&folder)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let proxy = Self {
            child,
            url: format!("http://{address}"),
        };
        let ready = format!("{}/health/ready", proxy.url);
        let http = reqwest_client();
        within("the proxy to reach the hub", async {
            while !http
                .get(&ready)
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        proxy
    }

    /// While the hub is away the answer is a stream that only says when to come back. Without a blank line it leaves a
    /// client's cursor alone.
    async fn answers_for_the_hub(&self) {
        let request = reqwest_client().get(format!("{}/sse?topic=t", self.url));
        let request = request.header("origin", "https://shop.example");
        let answer = within("the proxy to answer", request.send()).await.unwrap();
        assert_eq!(answer.status(), 200, "{}", self.url);
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert!(header("content-type").starts_with("text/event-stream"));
        assert_eq!(header("access-control-allow-origin"), "*");
        assert_eq!(answer.text().await.unwrap(), "retry: 2000\n");
        let other = format!("{}/events", self.url);
        let other = reqwest_client().get(other).send();
        let other = within("the proxy to answer", other).await.unwrap();
        assert!(other.status().is_server_error(), "{}", self.url);
    }
}

#[tokio::test]
async fn slow_a_browser_behind_a_proxy_outlives_a_hub_that_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let serve = async || {
        let mut command = segno();
        let listen = port.address().to_string();
        // The pages of Firefox are of another origin.
        command.args(["serve", "--cors-origin", "*", "--listen", &listen, "--db"]);
        command.arg(folder.path().join("segno.db"));
        Program::spawn(command).await
    };
    let program = serve().await;
    let mut proxies = Vec::new();
    let mut browsers = Vec::new();
    let (mut foxes, pages) = (Vec::new(), Pages::start().await);
    for name in ["nginx", "haproxy", "caddyfile"] {
        let proxy = Proxy::start(name, &port, folder.path()).await;
        let browser = Browser::open(&format!("{}/health/live", proxy.url)).await;
        browser
            .value(
                "(() => {
                    window.ids = [];
                    window.source = new EventSource('/sse?topic=t');
                    source.onmessage = ({ lastEventId }) => ids.push(Number(lastEventId));
                    source.addEventListener('segno.cursor', () => window.opened = true);
                    source.addEventListener('segno.gap', () => ids.push('gap'));
                })()",
            )
            .await;
        browser.expect("window.opened ?? false", true).await;
        let stream = format!("{}/sse?topic=ticks&since=start", proxy.url);
        let page = format!("http://{}/page", pages.address);
        foxes.push(Follower::browser(
            "firefox",
            &page,
            &[("url", &stream)],
            &pages,
        ));
        proxies.push(proxy);
        browsers.push(browser);
    }

    program.as_hub().publish("t", ["before"]).await;
    for browser in &browsers {
        browser.expect("ids", json!([1])).await;
    }
    publish(&port.url(), 1..=1).await;
    expect(&foxes, &[], 1).await;
    program.kill();
    let killed = Instant::now();
    for proxy in &proxies {
        proxy.answers_for_the_hub().await;
    }
    let closed: Value = 2.into();
    while killed.elapsed() < AWAY {
        for (browser, proxy) in browsers.iter().zip(&proxies) {
            let state = browser.value("source.readyState").await;
            assert_ne!(state, closed, "the browser gave up behind {}", proxy.url);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    let program = serve().await;
    program.as_hub().publish("t", ["meanwhile", "after"]).await;
    for browser in &browsers {
        browser.expect("ids", json!([1, 3, 4])).await;
    }
    publish(&port.url(), 2..=3).await;
    expect(&foxes, &[], 3).await;
}
