//! `clients/js`, the project's own client for browsers and programs. How it follows through kills and cuts is in `clients`, beside
//! those of others.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use super::{
    browser::Browser,
    clients::installed,
    test_hub::{Port, Program, TestHub, answer, segno},
};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/js/segno.js");

fn node() -> Command {
    let mut command = Command::new(installed().join("node_modules/.bin/node"));
    command.stdin(Stdio::null()).arg("--no-warnings");
    command
}

/// Asks `tests/clients/js_client.mjs`, and gives what it prints.
async fn ask(what: &str, url: &str, arguments: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/js_client.mjs");
    let mut command = node();
    command
        .env("SEGNO_JS", SOURCE)
        .args([script, what, url])
        .args(arguments);
    run(command).await
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
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let url = port.url();
    let publishing = tokio::spawn(async move { ask("publish", &url, &[]).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let program = Program::start_at(folder.path(), &port).await;
    assert_eq!(
        publishing.await.unwrap(),
        "{\"id\":1,\"duplicate\":false}\n{\"id\":2,\"duplicate\":false} {\"id\":2,\"duplicate\":true}\n"
    );
    let first = program.as_hub().get_json("/events/1").await;
    assert!(
        first["key"].is_string(),
        "it could not be sent twice: {first}"
    );
}

#[tokio::test]
async fn slow_javascript_carries_20_000_events_through_kills() {
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let mut program = Program::start_at(folder.path(), &port).await;
    let asked = |what: &'static str| {
        let url = port.url();
        tokio::spawn(async move { ask(what, &url, &["20000"]).await })
    };
    let following = asked("followTicks");
    let publishing = asked("publishTicks");
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        program.kill();
        tokio::time::sleep(Duration::from_millis(200)).await;
        program = Program::start_at(folder.path(), &port).await;
    }
    assert_eq!(publishing.await.unwrap(), "20000\n");
    assert_eq!(following.await.unwrap(), "20000\n");
    drop(program);
}

#[tokio::test]
async fn javascript_throws_what_will_not_pass() {
    let hub = TestHub::start().await;
    assert_eq!(
        ask("refuse", &hub.url(""), &[]).await,
        "[true,false,400,\"invalid_topic\"]\n\
         [true,false,404,\"unknown_event\"]\n\
         [true,false,400,\"invalid_topic\"]\n\
         [false,true,null,null]\n"
    );
}

#[tokio::test]
async fn javascript_looks_back_page_by_page() {
    let hub = TestHub::start().await;
    for topic in ["a", "b", "c", "bb", "a"] {
        hub.publish(topic, ["x"]).await;
    }
    assert_eq!(
        ask("look", &hub.url(""), &[]).await,
        "[1,2,3,4,5] [5,4,2,1]\n\"x\"\n"
    );
}

#[tokio::test]
async fn javascript_keeps_its_cursor_in_a_file_that_tail_reads_as_well() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a", "b", "c"]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cursor");
    let path = path.to_str().unwrap();
    // The second is not had yet when it ends.
    assert_eq!(
        ask("remember", &hub.url(""), &[path, "2"]).await,
        "[\"a\",\"b\"] []\n"
    );
    assert_eq!(
        ask("remember", &hub.url(""), &[path, "2"]).await,
        "[\"b\",\"c\"] []\n"
    );
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
    let other = TestHub::start().await;
    other.publish("t", ["z"]).await;
    assert_eq!(
        ask("remember", &other.url(""), &[path, "1"]).await,
        "true true\n"
    );
    std::fs::write(path, "rubbish").unwrap();
    assert_eq!(
        ask("remember", &hub.url(""), &[path, "1"]).await,
        "false true\n"
    );
}

#[tokio::test]
async fn javascript_calls_a_function_until_it_has_enough() {
    let hub = TestHub::start().await;
    hub.publish("t", ["a", "b", "c"]).await;
    assert_eq!(ask("handle", &hub.url(""), &[]).await, "[\"a\",\"b\"]\n");
    assert_eq!(
        ask("gap", &hub.url(""), &[]).await,
        "{\"reason\":\"ahead\",\"requested\":900,\"first_id\":1,\"last_id\":3} \"a\"\n"
    );
}

#[tokio::test]
async fn the_javascript_package_is_whole_and_the_hub_serves_it() {
    let folder = Path::new(SOURCE).parent().unwrap();
    let mut pack = Command::new("npm");
    pack.args(["pack", "--dry-run", "--json", "--offline"])
        .current_dir(folder)
        .stdin(Stdio::null());
    let packed: serde_json::Value = serde_json::from_str(&run(pack).await).unwrap();
    let files: Vec<&str> = packed[0]["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect();
    for file in [
        "segno.js",
        "segno.d.ts",
        "package.json",
        "README.md",
        "LICENSE-MIT",
    ] {
        assert!(files.contains(&file), "{files:?}");
    }
    let hub = TestHub::start().await;
    let served = answer(hub.get("/segno.js")).await;
    assert_eq!(
        served.header("content-type"),
        "text/javascript; charset=utf-8"
    );
    assert_eq!(served.body, std::fs::read_to_string(SOURCE).unwrap());
}

/// What the types promise is what the module has, and a program that uses them is accepted.
#[tokio::test]
async fn the_types_of_the_javascript_package_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program.ts");
    let types = SOURCE.replace(".js", ".d.ts");
    std::fs::write(
        &program,
        format!(
            r#"import {{ Segno, Refused, browserStore, type Event, type Gap }} from "{SOURCE}";
const hub = new Segno("http://localhost:8000", {{ token: async () => "t" }});
const stored: {{ id: number; duplicate: boolean }} = await hub.publish({{ a: 1 }}, {{ topic: "t", key: "k" }});
const onGap = (gap: Gap) => gap.reason === "trimmed";
for await (const event of hub.follow<{{ a: number }}>({{ topic: ["a", "b"], store: browserStore("c"), onGap }})) {{
  const n: number = event.data.a;
  console.log(n, stored.id);
}}
for await (const event of hub.history({{ order: "desc" }})) {{
  const typed: Event = event;
  console.log(typed.created_at);
}}
try {{ await hub.event(1); }} catch (error) {{ if (error instanceof Refused) console.log(error.code); }}
// @ts-expect-error a start that there is not
hub.follow({{ sinse: "start" }});
"#
        ),
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
    let exported = "import(process.argv[1]).then((module) => console.log(Object.keys(module).sort().join(' ')))";
    let mut keys = node();
    keys.args(["--input-type=module", "-e", exported, SOURCE]);
    let exported = run(keys).await;
    let declared = std::fs::read_to_string(types).unwrap();
    for name in exported.split_whitespace() {
        assert!(
            declared.contains(&format!("class {name} "))
                || declared.contains(&format!("function {name}(")),
            "{name} has no type"
        );
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
