//! What is under `examples/` runs: each program and page is started beside a real hub, as `examples/README.md` says.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use serde_json::json;

use super::{
    browser::Browser,
    clients::installed,
    test_hub::{DEADLINE, Port, Program, TestHub, answer, reqwest_client, segno, within},
};

fn example(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name);
    assert!(path.exists(), "{}", path.display());
    path
}

/// A program that goes on, and what it prints. It ends when dropped, with all that it started.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (printed, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                _ = printed.send(line);
            }
        });
        Self { child, lines }
    }

    fn next_line(&self) -> String {
        let line = self.lines.recv_timeout(DEADLINE);
        line.expect("the program prints something, and goes on")
    }

    /// Reads on to a line that begins so.
    fn line_that_begins(&self, with: &str) -> String {
        loop {
            let line = self.next_line();
            if line.starts_with(with) {
                return line;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = Command::new("kill")
            .args(["-KILL", "--", &format!("-{}", self.child.id())])
            .status();
        _ = self.child.wait();
    }
}

/// Runs a program to its end; what it prints, and its exit code.
async fn run(mut command: Command) -> (String, Option<i32>) {
    command.stdin(Stdio::null());
    let name = format!("{command:?}");
    let running = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = within(&name, running).await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() != Some(127) && !told.contains("Error"),
        "{name}: {told}"
    );
    (
        String::from_utf8(output.stdout).unwrap(),
        output.status.code(),
    )
}

/// Serves the pages as their README says, and gives their address.
fn pages() -> (Running, String) {
    let mut command = Command::new("python3");
    command
        .args(["-u", "-m", "http.server", "--bind", "127.0.0.1"])
        .arg("--directory")
        .arg(example(""))
        .arg("0");
    let server = Running::start(command);
    let told = server.line_that_begins("Serving HTTP on ");
    let port = told.split_whitespace().nth(5).unwrap();
    let address = format!("http://127.0.0.1:{port}");
    (server, address)
}

/// A hub that pages of `origin` may use.
async fn hub_for(folder: &Path, port: &Port, origin: &str) -> Program {
    let mut command = segno();
    command
        .args(["serve", "--listen", &port.address().to_string(), "--db"])
        .arg(folder.join("segno.db"))
        .args(["--cors-origin", origin])
        .stderr(Stdio::null());
    Program::spawn(command).await
}

/// What the browser complained about, but for the icon that these pages do not have.
async fn complaints(browser: &Browser) -> Vec<String> {
    let mut complaints = browser.complaints().await;
    complaints.retain(|complaint| !complaint.contains("favicon.ico"));
    complaints
}

#[tokio::test]
async fn the_guestbook_shows_what_is_written_into_it_through_a_kill() {
    let (_server, origin) = pages();
    let (folder, port) = (tempfile::tempdir().unwrap(), Port::reserve());
    let hub = hub_for(folder.path(), &port, &origin).await;
    let page = format!("{origin}/guestbook.html?hub={}", port.url());
    let browser = Browser::open(&page).await;
    browser.expect_text("#state", "Connected").await;
    browser.fill("[name=name]", "Ada").await;
    browser.fill("[name=text]", "<b>first</b>\n").await;
    browser.expect_text("li", "Ada <b>first</b>").await;
    browser
        .expect("document.querySelector('[name=text]').value", "")
        .await;
    assert_eq!(complaints(&browser).await, [""; 0]);

    hub.kill();
    browser.expect_text("#state", "Connecting again").await;
    let hub = hub_for(folder.path(), &port, &origin).await;
    let entry = json!({"name": "Bo", "text": "second"}).to_string();
    let entry = hub
        .as_hub()
        .post("/topics/guestbook?type=entry")
        .body(entry);
    assert_eq!(answer(entry).await.status, 201);
    let names = "[...document.querySelectorAll('li strong')].map((name) => name.textContent)";
    browser.expect(names, json!(["Bo", "Ada"])).await;

    let erased = reqwest_client().delete(format!("{}/events/1", hub.url()));
    assert_eq!(answer(erased).await.status, 200);
    browser.expect(names, json!(["Bo"])).await;
    // Who comes later sees the same.
    browser.go("about:blank").await;
    browser.go(&page).await;
    browser.expect(names, json!(["Bo"])).await;

    // A refusal is told in the hub's words.
    drop(hub);
    let _strict = Program::start_at(folder.path(), &port).await;
    browser
        .expect_text("#state", "does not let this page follow")
        .await;
}

#[tokio::test]
async fn the_dashboard_shows_the_newest_of_each_topic_through_a_kill() {
    let (_server, origin) = pages();
    let (folder, port) = (tempfile::tempdir().unwrap(), Port::reserve());
    let program = hub_for(folder.path(), &port, &origin).await;
    let hub = program.as_hub();
    hub.publish("orders", ["1", "2"]).await;
    hub.publish("alarms/door", ["\"open\""]).await;
    let browser = Browser::open(&format!("{origin}/dashboard.html?hub={}", port.url())).await;
    browser.expect_text("#state", "Live").await;
    let cards = "[...document.querySelectorAll('article')].map((card) => [card.querySelector('h2').textContent, card.querySelector('pre').textContent])";
    browser
        .expect(cards, json!([["alarms/door", "open"], ["orders", "2"]]))
        .await;
    hub.publish("orders", ["3"]).await;
    hub.publish("machines/a", ["{\"load\":0.5}"]).await;
    let expected = json!([
        ["alarms/door", "open"],
        ["machines/a", "{\n  \"load\": 0.5\n}"],
        ["orders", "3"]
    ]);
    browser.expect(cards, expected).await;
    assert_eq!(complaints(&browser).await, [""; 0]);

    program.kill();
    browser.expect_text("#state", "Connecting again").await;
    let program = hub_for(folder.path(), &port, &origin).await;
    let hub = program.as_hub();
    hub.publish("orders", ["4"]).await;
    for path in ["/topics/alarms/door", "/events/5"] {
        let erased = reqwest_client().delete(hub.url(path));
        assert_eq!(answer(erased).await.status, 200);
    }
    browser.expect(cards, json!([["orders", "4"]])).await;
}

#[tokio::test]
async fn rows_of_a_file_are_imported_once_by_node() {
    let hub = TestHub::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("orders.csv");
    let import = || {
        let mut command = Command::new(installed().join("node_modules/.bin/node"));
        command
            .arg(example("import.mjs"))
            .arg(&file)
            .env("SEGNO_URL", hub.url(""));
        run(command)
    };
    std::fs::write(&file, "order,total\n1001,19.90\n1002,5\n").unwrap();
    assert_eq!(
        import().await,
        ("2 stored, 0 were there already\n".into(), Some(0))
    );
    std::fs::write(&file, "order,total\n1001,19.90\n1002,5\n1003,7\n").unwrap();
    assert_eq!(
        import().await,
        ("1 stored, 2 were there already\n".into(), Some(0))
    );
    let event = hub.get_json("/events/1").await;
    assert_eq!(event["topic"], "orders.import");
    assert_eq!(event["key"], "1001");
    assert_eq!(event["data"], json!({"order": "1001", "total": "19.90"}));
}

#[tokio::test]
async fn the_load_of_a_machine_is_published_by_python() {
    let hub = TestHub::start().await;
    let mut command = Command::new(installed().join("venv/bin/python"));
    command
        .arg(example("load.py"))
        .args(["--every", "0.1", "--count", "3"])
        .env("PYTHONPATH", example("../clients/python/src"))
        .env("SEGNO_URL", hub.url(""));
    let (printed, code) = run(command).await;
    assert_eq!(code, Some(0));
    let ids: Vec<_> = printed.lines().map(|line| &line[..2]).collect();
    assert_eq!(ids, ["1 ", "2 ", "3 "]);
    let event = hub.get_json("/events/3").await;
    assert!(event["topic"].as_str().unwrap().starts_with("machines/"));
    assert!(event["data"]["load"].is_number(), "{event}");
}

#[tokio::test]
async fn the_job_of_cron_prints_what_is_new_since_its_last_run() {
    let (folder, port) = (tempfile::tempdir().unwrap(), Port::reserve());
    let program = Program::start_at(folder.path(), &port).await;
    let programs = Path::new(segno().get_program())
        .parent()
        .unwrap()
        .to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let digest = |topic: &str, url: &str| {
        let mut command = Command::new(example("digest.sh"));
        command
            .arg(topic)
            .arg(folder.path().join("digest"))
            .arg("2")
            .env("SEGNO_URL", url)
            .env("PATH", &path);
        run(command)
    };
    let hub = program.as_hub();
    hub.publish("orders.eu", ["1001", "1002"]).await;
    hub.publish("other", ["x"]).await;
    let expected = "2 new events on orders.*:\n1001\n1002\n";
    assert_eq!(
        digest("orders.*", &port.url()).await,
        (expected.into(), Some(0))
    );
    assert_eq!(digest("orders.*", &port.url()).await, ("".into(), Some(0)));
    hub.publish("orders.us", ["1003"]).await;
    // Where the hub is away there is nothing new, and nothing is forgotten.
    assert_eq!(
        digest("orders.*", "http://127.0.0.1:1").await,
        ("".into(), Some(0))
    );
    // What a run that was cut has left is printed by the next.
    std::fs::write(folder.path().join("digest/new"), "1002\n").unwrap();
    let expected = "2 new events on orders.*:\n1002\n1003\n";
    assert_eq!(
        digest("orders.*", &port.url()).await,
        (expected.into(), Some(0))
    );
    // What `tail` refuses is the job's end.
    assert_eq!(digest("a b", &port.url()).await, ("".into(), Some(2)));
}

/// Starts a program of `examples/tutorial` in the folder of Python's packages that it needs.
fn tutorial(program: &str, arguments: &[&str], hub: &str) -> Running {
    let mut command = Command::new(installed().join("tutorial/bin").join(program));
    command
        .args(arguments)
        .current_dir(example("tutorial"))
        .env("HOME", installed().join("tutorial"))
        .env("SEGNO_URL", hub);
    Running::start(command)
}

#[tokio::test]
async fn the_page_of_the_tutorial_sends_by_both_buttons_and_its_client_prints_the_events() {
    let (folder, port) = (tempfile::tempdir().unwrap(), Port::reserve());
    let hub = Program::start_at(folder.path(), &port).await;
    let client = tutorial("python", &["-u", "client.py"], &port.url());
    let page = Port::reserve();
    let listen = format!("--server.port={}", page.address().port());
    let arguments = [
        "run",
        "page.py",
        "--server.address=127.0.0.1",
        &listen,
        "--server.headless=true",
        "--server.fileWatcherType=none",
        "--browser.gatherUsageStats=false",
    ];
    let _streamlit = tutorial("streamlit", &arguments, &port.url());
    within("the page to be served", async {
        let http = reqwest_client();
        while http.get(page.url()).send().await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    let browser = Browser::open(&page.url()).await;
    browser.click(".st-key-sse button").await;
    browser
        .expect(
            "document.querySelector('[data-testid=stAlert]')?.innerText",
            "Received",
        )
        .await;
    // Over the whole text: emptying the field by the driver goes unseen by the page.
    browser.click(".st-key-message input").await;
    browser.press("\u{e009}a\u{e000}how are you?\n").await;
    browser.click(".st-key-rest button").await;
    browser
        .expect_text("[data-testid=stAlert]", "Received via REST")
        .await;
    assert_eq!(client.next_line(), "1: Received: Hello");
    assert_eq!(client.next_line(), "2: Received via REST: how are you?");

    // The client goes on after a kill where it was; the page says that there is no hub.
    hub.kill();
    browser.click(".st-key-sse button").await;
    browser
        .expect_text("[data-testid=stAlert]", "No hub at")
        .await;
    let _hub = Program::start_at(folder.path(), &port).await;
    browser.click(".st-key-sse button").await;
    browser
        .expect(
            "document.querySelector('[data-testid=stAlert]')?.innerText",
            "Received",
        )
        .await;
    assert_eq!(client.line_that_begins("3"), "3: Received: how are you?");
}
