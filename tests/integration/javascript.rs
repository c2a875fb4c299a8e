//! `clients/js`, the project's own client for browsers and programs. How it follows through kills and cuts is in `clients`, beside
//! those of others.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use futures_util::future::join_all;

use super::{
    access::{hub_with, token_entry},
    browser::Browser,
    clients::{BROWSERS, Follower, Pages, expect, installed, publish},
    test_hub::{Port, Program, TestHub, answer, reqwest_client, segno, within},
};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/js/segno.js");

/// What runs programs in JavaScript outside of a browser, in the versions of `tests/clients/package.json`.
#[derive(Debug, Clone, Copy)]
enum Runtime {
    Node,
    Deno,
    Bun,
}

const RUNTIMES: [Runtime; 3] = [Runtime::Node, Runtime::Deno, Runtime::Bun];

impl Runtime {
    /// To be given a script and its arguments.
    fn command(self) -> Command {
        let modules = installed().join("node_modules");
        let is_arm = cfg!(target_arch = "aarch64");
        let program = match (self, is_arm) {
            (Self::Node, _) => ".bin/node",
            (Self::Deno, false) => "@deno/linux-x64-glibc/deno",
            (Self::Deno, true) => "@deno/linux-arm64-glibc/deno",
            (Self::Bun, false) => "@oven/bun-linux-x64/bin/bun",
            (Self::Bun, true) => "@oven/bun-linux-aarch64/bin/bun",
        };
        let mut command = Command::new(modules.join(program));
        command.stdin(Stdio::null());
        match self {
            Self::Node => command.arg("--no-warnings"),
            Self::Deno => command
                .env("DENO_DIR", installed().join("deno"))
                .env("DENO_NO_UPDATE_CHECK", "1")
                .args(["run", "--allow-all", "--no-config", "--quiet"]),
            Self::Bun => command.env("DO_NOT_TRACK", "1"),
        };
        command
    }
}

fn node() -> Command {
    Runtime::Node.command()
}

/// Asks `tests/clients/js_client.mjs`, and gives what it prints.
async fn ask(runtime: Runtime, what: &str, url: &str, arguments: &[&str]) -> String {
    run(asked(runtime, what, url, arguments, &[])).await
}

fn asked(
    runtime: Runtime,
    what: &str,
    url: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Command {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/js_client.mjs");
    let mut command = runtime.command();
    command
        .env("SEGNO_JS", SOURCE)
        .envs(variables.iter().copied())
        .args([script, what, url])
        .args(arguments);
    command
}

async fn run(mut command: Command) -> String {
    let running = tokio::task::spawn_blocking(move || command.output().unwrap());
    let ended = tokio::time::timeout(Duration::from_secs(180), running).await;
    let Output {
        status,
        stdout,
        stderr,
    } = ended.expect("it ends").unwrap();
    let said = String::from_utf8(stdout).unwrap();
    let errors = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{said}{errors}");
    said
}

#[tokio::test]
async fn javascript_publishes_when_the_hub_is_there_and_a_key_keeps_it_one_event() {
    let publishing = RUNTIMES.map(async |runtime| {
        let folder = tempfile::tempdir().unwrap();
        let port = Port::reserve();
        let url = port.url();
        let publishing = tokio::spawn(async move { ask(runtime, "publish", &url, &[]).await });
        tokio::time::sleep(Duration::from_millis(500)).await;
        let program = Program::start_at(folder.path(), &port).await;
        assert_eq!(
            publishing.await.unwrap(),
            "{\"id\":1,\"duplicate\":false}\n{\"id\":2,\"duplicate\":false} {\"id\":2,\"duplicate\":true}\n",
            "{runtime:?}"
        );
        let first = program.as_hub().get_json("/events/1").await;
        assert!(
            first["key"].is_string(),
            "{runtime:?} could not send it twice: {first}"
        );
    });
    join_all(publishing).await;
}

/// What its page begins with, and what the README shows. The module is named as a package, or from the clone; here it is the file of the
/// repository.
#[tokio::test]
async fn what_the_pages_show_of_it_publishes_and_follows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (page, fence, module, told) in [
        (
            "clients/js/README.md",
            "```js\n",
            "segno",
            "1 paid { order: 1001, total: 19.9 }\n",
        ),
        (
            "README.md",
            "```javascript\n",
            "./clients/js/segno.js",
            "1 paid { order: 1003 }\n",
        ),
    ] {
        let page = std::fs::read_to_string(root.join(page)).unwrap();
        let (_, rest) = page.split_once(fence).unwrap();
        let script = rest.split_once("```\n").unwrap().0;
        let from = format!("from \"{module}\"");
        assert!(script.contains(&from) && script.contains("http://localhost:8000"));
        for runtime in RUNTIMES {
            let hub = TestHub::start().await;
            let script = script
                .replace(&from, &format!("from \"{SOURCE}\""))
                .replace("http://localhost:8000", &hub.url(""))
                // It follows for ever.
                .replace(
                    "console.log(",
                    "setTimeout(() => process.exit(0), 100), console.log(",
                );
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("readme.mjs");
            std::fs::write(&file, script).unwrap();
            let mut command = runtime.command();
            command.arg(&file).env("NO_COLOR", "1");
            let printed = run(command).await;
            // Bun prints an object in lines.
            let words = |text: &str| {
                let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
                words.join(" ").replace(", }", " }")
            };
            assert_eq!(words(&printed), words(told), "{runtime:?}");
        }
    }
}

#[tokio::test]
async fn slow_javascript_carries_20_000_events_through_kills() {
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let mut program = Program::start_at(folder.path(), &port).await;
    let asked = |runtime, what: &'static str| {
        let url = port.url();
        tokio::spawn(async move { ask(runtime, what, &url, &["20000"]).await })
    };
    let following = RUNTIMES.map(|runtime| asked(runtime, "followTicks"));
    let publishing = asked(Runtime::Node, "publishTicks");
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        program.kill();
        tokio::time::sleep(Duration::from_millis(200)).await;
        program = Program::start_at(folder.path(), &port).await;
    }
    assert_eq!(publishing.await.unwrap(), "20000\n");
    for (runtime, following) in RUNTIMES.iter().zip(following) {
        assert_eq!(following.await.unwrap(), "20000\n", "{runtime:?}");
    }
    drop(program);
}

#[tokio::test]
async fn javascript_throws_what_will_not_pass() {
    let hub = TestHub::start().await;
    for runtime in RUNTIMES {
        assert_eq!(
            ask(runtime, "refuse", &hub.url(""), &[]).await,
            "[true,false,400,\"invalid_topic\"]\n\
             [true,false,404,\"unknown_event\"]\n\
             [true,false,400,\"invalid_topic\"]\n\
             [false,true,null,null]\n",
            "{runtime:?}"
        );
    }
}

#[tokio::test]
async fn javascript_looks_back_page_by_page() {
    let hub = TestHub::start().await;
    for topic in ["a", "b", "c", "bb", "a"] {
        hub.publish(topic, ["x"]).await;
    }
    for runtime in RUNTIMES {
        assert_eq!(
            ask(runtime, "look", &hub.url(""), &[]).await,
            "[1,2,3,4,5] [5,4,2,1]\n\"x\"\n",
            "{runtime:?}"
        );
    }
}

#[tokio::test]
async fn javascript_keeps_its_cursor_in_a_file_that_tail_reads_as_well() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a", "b", "c"]).await;
    let other = TestHub::start().await;
    other.publish("t", ["z"]).await;
    for runtime in RUNTIMES {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        let path = path.to_str().unwrap();
        let remember = async |hub: &TestHub, count| {
            ask(runtime, "remember", &hub.url(""), &[path, count]).await
        };
        // The second is not had yet when it ends.
        assert_eq!(
            remember(&hub, "2").await,
            "[\"a\",\"b\"] []\n",
            "{runtime:?}"
        );
        // Somebody put a link where it writes.
        let (victim, new) = (format!("{path}.victim"), format!("{path}.new"));
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &new).unwrap();
        assert_eq!(
            remember(&hub, "2").await,
            "[\"b\",\"c\"] []\n",
            "{runtime:?}"
        );
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        let mut tail = segno();
        tail.args([
            "tail",
            "--url",
            &hub.url(""),
            "--state",
            path,
            "--count",
            "1",
        ]);
        assert_eq!(run(tail).await, "\"c\"\n");
        // A hub that has another log.
        assert_eq!(remember(&other, "1").await, "true true\n", "{runtime:?}");
        std::fs::write(path, "rubbish").unwrap();
        assert_eq!(remember(&hub, "1").await, "false true\n", "{runtime:?}");
    }
}

#[tokio::test]
async fn javascript_calls_a_function_until_it_has_enough() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a", "b", "c"]).await;
    for runtime in RUNTIMES {
        assert_eq!(
            ask(runtime, "handle", &hub.url(""), &[]).await,
            "[\"a\",\"b\"]\n",
            "{runtime:?}"
        );
        assert_eq!(
            ask(runtime, "gap", &hub.url(""), &[]).await,
            "{\"reason\":\"ahead\",\"requested\":900,\"first_id\":1,\"last_id\":3} \"a\"\n",
            "{runtime:?}"
        );
    }
}

#[tokio::test]
async fn javascript_calls_back_what_will_pass_and_what_was_erased() {
    let hub = TestHub::start_with(|config| {
        config.limits.max_streams_per_address = 1.try_into().unwrap();
    })
    .await;
    hub.publish("t", ["1", "2", "3", "4"]).await;
    let erased = reqwest_client().delete(hub.url("/events/3"));
    assert_eq!(answer(erased).await.status, 200);
    hub.publish("t", ["end"]).await;
    let holding = hub.follow("").await;
    let url = hub.url("");
    let running = tokio::spawn(async move { ask(Runtime::Node, "callbacks", &url, &[]).await });
    within("a refusal", async {
        while hub.get_json("/stats").await["refused"]["streams_of_address"] == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(holding);
    assert_eq!(
        within("the callbacks", running).await.unwrap(),
        "\"refused\" \"too_many_streams_of_address\"\n2\n\"erased\" 3\n4\n\"erased\" 3\n\"end\"\n"
    );
}

#[tokio::test]
async fn javascript_hears_that_its_right_has_ended_and_then_throws() {
    let operator = token_entry("segno_operator", "publish = [\"**\"]\noperate = true");
    let reader = token_entry("segno_reader", "follow = [\"t\"]");
    let hub = hub_with(&(operator.clone() + &reader)).await;
    let operating =
        |request: reqwest::RequestBuilder| answer(request.bearer_auth("segno_operator"));
    let published = operating(hub.post("/topics/t").body("1")).await;
    assert_eq!(published.status, 201);
    let url = hub.url("");
    let script = asked(
        Runtime::Node,
        "expire",
        &url,
        &[],
        &[("TOKEN", "segno_reader")],
    );
    let running = tokio::spawn(run(script));
    within("the reader to follow", async {
        while operating(hub.get("/stats")).await.json()["subscribers"] != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    std::fs::write(hub.db().with_file_name("access.toml"), operator).unwrap();
    let told = within("the end", running).await.unwrap();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[0], "1", "{told}");
    assert!(lines[1].starts_with("\"expired\" \""), "{told}");
    assert_eq!(lines[2], "true 401 \"credential_invalid\"", "{told}");
}

#[tokio::test]
async fn javascript_looks_back_and_hears_what_is_gone() {
    let hub = TestHub::start().await;
    for topic in ["a", "b", "a", "b"] {
        hub.publish(topic, ["x"]).await;
    }
    for path in ["/topics/a", "/events/2"] {
        assert_eq!(
            answer(reqwest_client().delete(hub.url(path))).await.status,
            200
        );
    }
    assert_eq!(
        ask(Runtime::Node, "lookAtWhatIsLeft", &hub.url(""), &[]).await,
        "[\"trimmed\",4]\n"
    );
}

/// Packs the package, and puts it into a project of its own, as npm does for who installs it.
async fn project_with_the_package() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut pack = Command::new("npm");
    pack.args(["pack", "--json", "--offline", "--pack-destination"])
        .arg(folder.path())
        .current_dir(Path::new(SOURCE).parent().unwrap())
        .stdin(Stdio::null());
    let packed: serde_json::Value = serde_json::from_str(&run(pack).await).unwrap();
    std::fs::write(
        folder.path().join("package.json"),
        r#"{"private": true, "type": "module"}"#,
    )
    .unwrap();
    let mut install = Command::new("npm");
    install
        .args(["install", "--offline", "--no-audit", "--no-fund"])
        .arg(folder.path().join(packed[0]["filename"].as_str().unwrap()))
        .current_dir(folder.path())
        .stdin(Stdio::null());
    run(install).await;
    folder
}

/// What is installed has its files, its metadata and its types, and a program that uses them is accepted.
#[tokio::test]
async fn the_javascript_package_installs_and_its_types_are_right() {
    let project = project_with_the_package().await;
    let package = project.path().join("node_modules/segno");
    for file in [
        "segno.js",
        "segno.d.ts",
        "README.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
    ] {
        assert!(package.join(file).exists(), "{file}");
    }
    let metadata = std::fs::read_to_string(package.join("package.json")).unwrap();
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    assert_eq!(metadata["license"], "MIT OR Apache-2.0");
    assert_eq!(metadata["version"], env!("CARGO_PKG_VERSION"));

    let program = project.path().join("program.ts");
    std::fs::write(
        &program,
        r#"import { Segno, Refused, browserStore, type Event, type Gap } from "segno";
const hub = new Segno("http://localhost:8000", { token: async () => "t" });
const stored: { id: number; duplicate: boolean } = await hub.publish({ a: 1 }, { topic: "t", key: "k" });
const onGap = (gap: Gap) => gap.reason === "trimmed";
for await (const event of hub.follow<{ a: number }>({ topic: ["a", "b"], store: browserStore("c"), onGap })) {
  const n: number = event.data.a;
  console.log(n, stored.id);
}
for await (const event of hub.history({ order: "desc", onGap })) {
  const typed: Event = event;
  console.log(typed.created_at);
}
try { await hub.event(1); } catch (error) { if (error instanceof Refused) console.log(error.code); }
// @ts-expect-error a start that there is not
hub.follow({ sinse: "start" });
"#,
    )
    .unwrap();
    let mut check = node();
    check
        .arg(installed().join("node_modules/typescript/bin/tsc"))
        .args([
            "--noEmit", "--strict", "--target", "es2022", "--module", "esnext",
        ])
        .args([
            "--moduleResolution",
            "bundler",
            "--lib",
            "es2022,dom,dom.asynciterable",
        ])
        .arg(&program);
    run(check).await;

    let exported =
        "import('segno').then((module) => console.log(Object.keys(module).sort().join(' ')))";
    let mut keys = node();
    keys.args(["--input-type=module", "-e", exported])
        .current_dir(project.path());
    let exported = run(keys).await;
    let declared = std::fs::read_to_string(package.join("segno.d.ts")).unwrap();
    for name in exported.split_whitespace() {
        assert!(
            declared.contains(&format!("class {name} "))
                || declared.contains(&format!("function {name}(")),
            "{name} has no type"
        );
    }
    let exported: Vec<&str> = exported.split_whitespace().collect();
    assert!(exported.contains(&"Segno"), "{exported:?}");

    let hub = TestHub::start().await;
    let served = answer(hub.get("/segno.js")).await;
    assert_eq!(
        served.header("content-type"),
        "text/javascript; charset=utf-8"
    );
    let packed = std::fs::read_to_string(package.join("segno.js")).unwrap();
    assert_eq!(served.body, packed);
}

/// A page of another origin, with the module that the hub serves, as an iterator and as a callback, and with a cursor that outlives the
/// page.
#[tokio::test]
async fn slow_pages_of_another_origin_follow_in_both_browsers_through_kills() {
    let (folder, port, pages) = (
        tempfile::tempdir().unwrap(),
        Port::reserve(),
        Pages::start().await,
    );
    let origin = format!("http://{}", pages.address);
    let hub = || {
        let mut command = segno();
        command
            .args(["serve", "--listen", &port.address().to_string(), "--db"])
            .arg(folder.path().join("segno.db"))
            .args(["--cors-origin", &origin])
            .stderr(Stdio::null());
        Program::spawn(command)
    };
    let mut program = hub().await;
    publish(&port.url(), 1..=3).await;
    let page = format!("{origin}/client");
    let url = port.url();
    let mut followers = Vec::new();
    for browser in BROWSERS {
        for how in ["iterator", "callback"] {
            // A cursor that the hub does not have: they are told, and get everything.
            let parameters = [("hub", url.as_str()), ("how", how), ("after", "900")];
            followers.push(Follower::browser(browser, &page, &parameters, &pages));
        }
        let parameters = [("hub", url.as_str()), ("how", "store")];
        followers.push(Follower::browser(browser, &page, &parameters, &pages));
    }
    expect(&followers, &[], 3).await;
    for last in [6, 9] {
        program.kill();
        tokio::time::sleep(Duration::from_millis(500)).await;
        program = hub().await;
        publish(&url, last - 2..=last).await;
        expect(&followers, &[], last).await;
    }
    for of_browser in followers.chunks(3) {
        for follower in &of_browser[..2] {
            assert_eq!(follower.errors(), ["gap ahead 900"]);
        }
        // The one that keeps its cursor is loaded anew after every second event.
        assert_eq!(of_browser[2].errors(), ["loaded"; 5]);
    }
}

/// From the module that the hub serves, under the strict policy of its own page.
#[tokio::test]
async fn a_page_publishes_and_follows_with_what_the_hub_serves() {
    let hub = TestHub::start().await;
    let browser = Browser::open(&hub.url("/")).await;
    let got = browser
        .value(
            "import('/segno.js').then(async ({Segno, browserStore}) => {
                const hub = new Segno();
                await hub.publishMany([1, 2, 3].map((data) => ({topic: 't', data})));
                const got = [];
                for (let turn = 0; turn < 2; turn += 1) {
                    for await (const {data} of hub.follow({since: 'start', store: browserStore('t')})) {
                        got.push(data);
                        if (got.length % 2 === 0) break;
                    }
                }
                return got;
            })",
        )
        .await;
    // The second was not had yet when the first turn ended.
    assert_eq!(got, serde_json::json!([1, 2, 2, 3]));
    browser.close_without_complaints().await;
}
