//! `clients/python`, the project's own client. How it follows through kills and cuts is in `clients`, beside those of others.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use super::{
    access::{hub_with, token_entry},
    clients::{Follower, expect, installed},
    test_hub::{Port, Program, TestHub, answer, reqwest_client, segno, within},
};

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python")
}

fn python() -> Command {
    let mut command = Command::new(installed().join("venv/bin/python"));
    command.stdin(Stdio::null());
    command
}

/// Runs a function of `tests/clients/python_client.py` with a hub's URL and more arguments.
fn client(what: &str, url: &str, arguments: &[&str]) -> Command {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/clients/python_client.py"
    );
    let mut command = python();
    command
        .env("PYTHONPATH", package().join("src"))
        .args(["-u", script, what, url])
        .args(arguments);
    command
}

async fn output_of(mut command: Command) -> Output {
    let running = tokio::task::spawn_blocking(move || command.output().unwrap());
    // Builds and type checks take their time where others want the processor too.
    let ended = tokio::time::timeout(Duration::from_secs(180), running).await;
    ended.expect("the script ends").unwrap()
}

async fn run(command: Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = output_of(command).await;
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{stderr}");
    String::from_utf8(stdout).unwrap()
}

#[tokio::test]
async fn the_python_package_is_typed_and_builds() {
    let folder = tempfile::tempdir().unwrap();
    let mut mypy = python();
    mypy.current_dir(package())
        .args(["-m", "mypy", "--cache-dir"])
        .arg(folder.path().join("mypy"));
    run(mypy).await;

    let dist = folder.path().join("dist");
    let mut build = python();
    build
        .args(["-m", "build", "--no-isolation", "--outdir"])
        .args([&dist, &package()]);
    run(build).await;
    let wheel = std::fs::read_dir(&dist)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .expect("a wheel");
    let site = folder.path().join("site");
    let mut install = python();
    install
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--target",
        ])
        .args([&site, &wheel]);
    run(install).await;
    let metadata = "import importlib.metadata as m, segno, pathlib; \
                    package = pathlib.Path(segno.__file__).parent; \
                    print(segno.__version__ == m.version('segno'), (package / 'py.typed').exists(), \
                    m.metadata('segno')['License-Expression'], package)";
    let mut import = python();
    import.env("PYTHONPATH", &site).args(["-c", metadata]);
    let expected = format!(
        "True True MIT OR Apache-2.0 {}\n",
        site.join("segno").display()
    );
    assert_eq!(run(import).await, expected);
}

#[tokio::test]
async fn python_publishes_when_the_hub_is_there_and_a_key_keeps_it_one_event() {
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let publishing = tokio::spawn(run(client("publish_once", &port.url(), &[])));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let program = Program::start_at(folder.path(), &port).await;
    let printed = publishing.await.unwrap();
    assert_eq!(
        printed,
        "Stored(id=1, duplicate=False)\n\
         Stored(id=2, duplicate=False) Stored(id=2, duplicate=True)\n\
         Stored(id=2, duplicate=True)\n"
    );
    let first = program.as_hub().get_json("/events/1").await;
    assert!(
        first["key"].is_string(),
        "it could not be sent twice: {first}"
    );
}

#[tokio::test]
async fn slow_python_carries_20_000_events_through_kills() {
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let mut program = Program::start_at(folder.path(), &port).await;
    let stream = format!("{}/sse?topic=ticks&since=start", port.url());
    let followers = ["segno", "segno async"].map(|name| Follower::scripted(name, &stream, 20));
    let publishing = tokio::spawn(run(client("publish_ticks", &port.url(), &["20000"])));
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        program.kill();
        program = Program::start_at(folder.path(), &port).await;
    }
    let printed = publishing.await.unwrap();
    assert_eq!(printed, "20000 True\n");
    expect(&followers, &[], 20_000).await;
    let printed = run(client("history", &port.url(), &[])).await;
    assert_eq!(printed, "20000 True\nTrue\n10000\n");
}

#[tokio::test]
async fn python_keeps_its_cursor_in_a_file_that_tail_reads_as_well() {
    let hub = TestHub::start().await;
    hub.publish("t", ["1", "2", "3", "4", "5", "6"]).await;
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("cursor");
    let follow = |count| {
        client(
            "follow_some",
            &hub.url(""),
            &[count, state.to_str().unwrap()],
        )
    };
    assert_eq!(run(follow("2")).await, "1\n2\n");
    // Somebody put a link where it writes.
    let (victim, new) = (state.with_extension("victim"), state.with_extension("new"));
    std::fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, &new).unwrap();
    // It was at the second when it ended.
    assert_eq!(run(follow("2")).await, "2\n3\n");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    let mut tail = segno();
    tail.args([
        "tail",
        "--topic",
        "t",
        "--count",
        "2",
        "--url",
        &hub.url(""),
        "--state",
    ])
    .arg(&state);
    assert_eq!(run(tail).await, "3\n4\n");
    assert_eq!(run(follow("1")).await, "5\n");
    // A hub that has another log.
    let other = TestHub::start().await;
    let refused = client(
        "follow_some",
        &other.url(""),
        &["1", state.to_str().unwrap()],
    );
    let refused = output_of(refused).await;
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("LogChanged"), "{told}");
    std::fs::write(&state, "rubbish").unwrap();
    let refused = output_of(follow("1")).await;
    assert!(!refused.status.success());
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("does not hold a cursor"), "{told}");
}

#[tokio::test]
async fn python_raises_what_will_not_pass_and_calls_back_what_will() {
    let hub = TestHub::start_with(|config| {
        config.limits.max_streams_per_address = 1.try_into().unwrap();
    })
    .await;
    let url = hub.url("");
    assert_eq!(
        run(client("refusals", &url, &[])).await,
        "400 invalid_topic\n400 invalid_topic\n400 invalid_time\n404 unknown_event\n"
    );
    hub.publish("t", ["1", "2", "3", "4"]).await;
    assert_eq!(
        run(client("follow_with", &url, &["3"])).await,
        "[1, 2, 3]\n"
    );
    let erased = reqwest_client().delete(hub.url("/events/3"));
    assert_eq!(answer(erased).await.status, 200);
    hub.publish("t", ["end"]).await;

    let holding = hub.follow("").await;
    let running = tokio::spawn(run(client("callbacks", &url, &[])));
    within("a refusal", async {
        while hub.get_json("/stats").await["refused"]["streams_of_address"] == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(holding);
    let printed = within("the callbacks", running).await.unwrap();
    assert_eq!(
        printed,
        "refused too_many_streams_of_address\n2\nerased 3\n4\nerased 3\nend\n"
    );
}

#[tokio::test]
async fn python_looks_back_and_hears_what_is_gone() {
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
    let printed = run(client("look_at_what_is_left", &hub.url(""), &[])).await;
    assert_eq!(printed, "['trimmed', 4]\n['trimmed', 4]\n");
}

#[tokio::test]
async fn python_shows_a_token_with_each_request_and_asks_for_it_anew() {
    let all = token_entry("segno_all", "publish = [\"**\"]\nfollow = [\"**\"]");
    let hub = hub_with(&all).await;
    let arguments = ["segno_all", "segno_gone"];
    let printed = run(client("with_tokens", &hub.url(""), &arguments)).await;
    assert_eq!(printed, "1\n401 credential_invalid\n2\n0\n");
}

#[tokio::test]
async fn python_gives_up_in_time() {
    let url = Port::reserve().url();
    assert_eq!(run(client("give_up", &url, &[])).await, "True\n");
}

const CLIENTS: [&str; 2] = ["sync", "async"];

#[tokio::test]
async fn python_hears_of_every_kind_of_gap() {
    let hub = TestHub::start().await;
    hub.publish("t", ["1", "2"]).await;
    hub.publish("u", ["3"]).await;
    let deleted = reqwest_client().delete(hub.url("/topics/t"));
    assert_eq!(answer(deleted).await.status, 200);
    hub.publish("t", ["end"]).await;
    for client_of in CLIENTS {
        let told = run(client("hear", &hub.url(""), &[client_of, "1"])).await;
        assert_eq!(told, "gap trimmed 1 3 5\nend\n", "{client_of}");
        let told = run(client("hear", &hub.url(""), &[client_of, "900"])).await;
        assert_eq!(told, "gap ahead 900 3 5\nend\n", "{client_of}");
        // All that was gone came before.
        let told = run(client("hear", &hub.url(""), &[client_of, "4"])).await;
        assert_eq!(told, "end\n", "{client_of}");
    }
}

#[tokio::test]
async fn python_hears_of_a_refusal_that_passes_and_goes_on() {
    let hub = TestHub::start_with(|config| {
        config.limits.max_streams_per_address = 1.try_into().unwrap();
    })
    .await;
    hub.publish("t", ["1", "end"]).await;
    let refused = async || {
        let stats = hub.get_json("/stats").await;
        stats["refused"]["streams_of_address"].as_u64().unwrap()
    };
    for client_of in CLIENTS {
        let holding = hub.follow("").await;
        let before = refused().await;
        let running = tokio::spawn(run(client("hear", &hub.url(""), &[client_of, "0"])));
        within("a refusal", async {
            while refused().await == before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        drop(holding);
        let told = within("the end", running).await.unwrap();
        let told: Vec<_> = told.lines().collect();
        let (told, events) = told.split_at(told.len() - 2);
        assert_eq!(events, ["1", "end"], "{client_of}");
        // Where the hub was slow to see that the place is free, it has refused once more.
        let times = usize::try_from(refused().await - before).unwrap();
        let expected = vec!["refused too_many_streams_of_address"; times];
        assert_eq!(told, expected, "{client_of}");
    }
}

#[tokio::test]
async fn python_hears_that_its_right_has_ended_and_is_refused_after_that() {
    let token = "segno_short";
    let rights = "publish = [\"t\"]\nfollow = [\"t\"]\noperate = true\n";
    for client_of in CLIENTS {
        let hub = hub_with(&token_entry(token, rights)).await;
        let published = hub.post("/topics/t").bearer_auth(token).body("1");
        assert_eq!(answer(published).await.status, 201);
        let running = tokio::spawn(run(client("hear", &hub.url(""), &[client_of, "0", token])));
        let stats = async || answer(hub.get("/stats").bearer_auth(token)).await.json();
        within("the client to follow", async {
            while stats().await["subscribers"] == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let ended = format!("{rights}expires = 2020-01-01T00:00:00Z");
        let file = hub.db().with_file_name("access.toml");
        std::fs::write(file, token_entry(token, &ended)).unwrap();
        let told = within("the end", running).await.unwrap();
        let expected = "1\nexpired it expired\n401 credential_invalid\n";
        assert_eq!(told, expected, "{client_of}");
    }
}
