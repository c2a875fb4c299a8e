//! The program as a person runs it.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Command, Output, Stdio},
};

use clap::CommandFactory;
use serde_json::Value;

use super::test_hub::{Port, Program, TestHub, answer, segno, within};

/// Runs to its end with `input` on standard input.
pub(crate) async fn run(mut command: Command, input: &str) -> Output {
    let input = input.to_owned();
    let running = tokio::task::spawn_blocking(move || {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    });
    within("the program to end", running).await.unwrap()
}

fn command(args: &[&str], url: &str) -> Command {
    let mut command = segno();
    command.args(args).env("SEGNO_URL", url);
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_command_line_is_well_formed() {
    segno::cli::Cli::command().debug_assert();
}

#[tokio::test]
async fn bad_usage_is_told_with_exit_code_2() {
    for args in [
        &["--nonsense"][..],
        &["tail", "--since", "1h", "--last", "2"],
        &["serve", "--listen", "x"],
        &["serve", "--heartbeat", "soon"],
    ] {
        let output = run(command(args, "http://127.0.0.1:1"), "").await;
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[tokio::test]
async fn a_wrong_value_is_told_with_its_flag_and_its_rule() {
    let rule = "have no white space and no control characters";
    for (args, told) in [
        (
            &["publish", "x", "--topic", "a b"][..],
            format!("--topic 'a b': topics {rule}"),
        ),
        (
            &["tail", "--topic", "a b"],
            format!("--topic 'a b': topics {rule}"),
        ),
        (
            &["publish", "x", "--type", "a\tb"],
            format!("--type 'a\tb': types {rule}"),
        ),
        (
            &["tail", "--type", ""],
            "--type '': types are not empty".into(),
        ),
        (
            &["publish", "x", "--topic", "a.*"],
            "--topic 'a.*': topics have no '*'; only `segno tail` takes patterns".into(),
        ),
        (
            &["serve", "--keep-age", "soon"],
            "--keep-age 'soon': an age looks like 90s, 12h or 30d".into(),
        ),
        (
            &["serve", "--max-queue-bytes", "1kB"],
            "--max-queue-bytes '1kB': it must be from 2097152 to 4294967295 bytes".into(),
        ),
    ] {
        let output = run(command(args, "http://127.0.0.1:1"), "").await;
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let first = text(&output.stderr).lines().next().unwrap();
        assert_eq!(first, format!("error: {told}"));
    }
}

#[tokio::test]
async fn an_address_in_use_is_told_with_the_way_out() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let why =
        format!("{address} is in use; is another segno running? choose another with --listen");
    let mut command = segno();
    command
        .args(["serve", "--listen", &address])
        .current_dir(&folder);
    let output = run(command, "").await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), format!("segno: {why}\n"));

    // Where every line must be JSON, the last one is too.
    let mut command = segno();
    let json = ["serve", "--listen", &address, "--log-format", "json"];
    command.args(json).current_dir(&folder);
    let output = run(command, "").await;
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<Value> = text(&output.stderr)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["message"], &last["error"]),
        (&"stopped".into(), &why.into())
    );
}

#[tokio::test]
async fn a_level_that_is_none_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = segno();
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env("SEGNO_LOG", "segno=loud")
        .current_dir(&folder);
    let output = run(command, "").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("SEGNO_LOG=\"segno=loud\" is no level"),
        "{output:?}"
    );
}

#[tokio::test]
async fn man_pages_and_completions_are_made_of_the_flags() {
    let page = run(command(&["man", "serve"], ""), "").await;
    assert!(page.status.success(), "{page:?}");
    let page = text(&page.stdout);
    assert!(
        page.contains(".TH segno-serve 1")
            && page.contains("keep\\-age")
            && page.contains("RETENTION"),
        "{page}"
    );
    let whole = run(command(&["man"], ""), "").await;
    assert!(text(&whole.stdout).contains("segno\\-tail(1)"), "{whole:?}");
    assert_eq!(
        run(command(&["man", "nonsense"], ""), "")
            .await
            .status
            .code(),
        Some(1)
    );

    let completions = run(command(&["completions", "bash"], ""), "").await;
    let script = text(&completions.stdout);
    let complete = "COMP_WORDS=(segno serve --keep); COMP_CWORD=2; _segno segno --keep serve; echo ${COMPREPLY[*]}";
    let completed = Command::new("bash")
        .arg("-c")
        .arg(format!("{script}\n{complete}"))
        .output()
        .unwrap();
    assert_eq!(
        text(&completed.stdout).trim(),
        "--keep-age --keep-events --keep-bytes --keep",
        "{completed:?}"
    );
}

/// A unit or a script that was written for a full build must not find the flag unknown.
#[cfg(not(all(feature = "acme", feature = "otlp")))]
#[tokio::test]
async fn a_flag_whose_feature_is_missing_says_how_to_get_it() {
    for (feature, is_there, flag, value) in [
        (
            "acme",
            cfg!(feature = "acme"),
            "--acme-domain",
            "hub.example",
        ),
        (
            "otlp",
            cfg!(feature = "otlp"),
            "--otlp-endpoint",
            "http://localhost:4318",
        ),
    ] {
        if is_there {
            continue;
        }
        let output = run(command(&["serve", flag, value], ""), "").await;
        assert_eq!(output.status.code(), Some(2));
        let expected = format!("build it with `--features {feature}`");
        assert!(text(&output.stderr).contains(&expected), "{output:?}");
    }
}

#[tokio::test]
async fn a_bare_segno_serves_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = segno()
        .env("SEGNO_LISTEN", "127.0.0.1:0")
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let greeting: Vec<String> = (0..5).map(|_| lines.next().unwrap().unwrap()).collect();
    assert!(greeting[0].starts_with("segno 0."), "{greeting:?}");
    let address = |line: usize, name: &str| {
        let words: Vec<&str> = greeting[line].split_whitespace().collect();
        assert!(words.len() == 2 && words[0] == name, "{greeting:?}");
        words[1].to_owned()
    };
    let console = address(1, "console");
    assert!(reqwest_get(&console).await.contains("<title>segno"));
    assert_eq!(address(2, "stream"), format!("{console}sse"));
    assert_eq!(address(3, "docs"), format!("{console}docs"));
    assert_eq!(greeting[4].trim(), "file    segno.db (no events yet)");
    assert!(reqwest_get(&address(3, "docs")).await.contains("segno"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(folder.path().join("segno.db").exists());
}

async fn reqwest_get(url: &str) -> String {
    super::test_hub::reqwest_client()
        .get(url)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap()
}

#[tokio::test]
async fn with_log_format_json_every_line_is_json() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = segno()
        .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
        // Few enough that the system has no objection, which would be traced first.
        .args(["--max-connections", "100"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let listening: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(
        (&listening["level"], &listening["message"]),
        (&"INFO".into(), &"listening".into())
    );
    assert!(
        listening["url"]
            .as_str()
            .unwrap()
            .starts_with("http://127.0.0.1:")
    );
    assert!(
        Command::new("kill")
            .arg(child.id().to_string())
            .status()
            .unwrap()
            .success()
    );
    for line in lines {
        serde_json::from_str::<Value>(&line.unwrap()).unwrap();
    }
    assert!(child.wait().unwrap().success());
    let mut printed = String::new();
    child.stdout.unwrap().read_to_string(&mut printed).unwrap();
    assert_eq!(printed, "");
}

#[tokio::test]
async fn traces_have_no_colours_where_no_terminal_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = segno()
        .args(["serve", "--listen", "127.0.0.1:0"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut greeting = BufReader::new(child.stdout.take().unwrap());
    greeting.read_line(&mut String::new()).unwrap();
    assert!(
        Command::new("kill")
            .arg(child.id().to_string())
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    let traces = text(&output.stderr);
    assert!(
        traces.contains("draining") && !traces.contains('\x1b'),
        "{traces:?}"
    );
}

#[tokio::test]
async fn publish_takes_an_argument_or_lines() {
    let hub = TestHub::start().await;
    let url = hub.url("");
    let one = run(
        command(
            &[
                "publish",
                r#"{"a": 1.10}"#,
                "--topic",
                "orders",
                "--type",
                "paid",
            ],
            &url,
        ),
        "",
    )
    .await;
    assert_eq!(text(&one.stdout), "1\n", "{one:?}");
    let lines = run(command(&["publish"], &url), "first\n\n{\"second\":2}\n3").await;
    assert_eq!(text(&lines.stdout), "2\n3\n4\n", "{lines:?}");
    let history = answer(hub.get("/events").header("accept", "application/x-ndjson"))
        .await
        .body;
    let stored = [
        r#""topic":"orders","type":"paid","data":{"a": 1.10}"#,
        r#""topic":"events","type":"message","data":"first""#,
        r#""topic":"events","type":"message","data":{"second":2}"#,
        r#""topic":"events","type":"message","data":3"#,
    ];
    for (line, stored) in history.lines().zip(stored) {
        assert!(line.contains(stored), "{line}");
    }
}

#[tokio::test]
async fn publish_tries_again_and_a_key_keeps_it_one_event() {
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let url = port.url();
    let publishing = tokio::spawn(run(command(&["publish", "patient"], &url), ""));
    let program = Program::start_at(folder.path(), &port).await;
    let output = publishing.await.unwrap();
    assert_eq!(text(&output.stdout), "1\n", "{output:?}");
    let key = run(command(&["publish", "x", "--key", "k"], &url), "").await;
    let again = run(command(&["publish", "x", "--key", "k"], &url), "").await;
    assert_eq!((text(&key.stdout), text(&again.stdout)), ("2\n", "2\n"));
    assert_eq!(program.as_hub().last_id().await, 2);

    let refused = run(
        command(&["publish", "x", "--retry-for", "0s"], "http://127.0.0.1:1"),
        "",
    )
    .await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).starts_with("segno: cannot connect to the hub: connection refused"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn tail_prints_data_or_whole_events() {
    let hub = TestHub::start().await;
    hub.publish("a", ["1", "2"]).await;
    hub.publish("b", ["3"]).await;
    let url = hub.url("");
    let data = run(
        command(
            &["tail", "--since", "start", "--count", "2", "--topic", "a"],
            &url,
        ),
        "",
    )
    .await;
    assert_eq!(text(&data.stdout), "1\n2\n", "{data:?}");
    let json = run(
        command(&["tail", "--json", "--last", "1", "--count", "1"], &url),
        "",
    )
    .await;
    let event: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&event["topic"], &event["data"]), (&"b".into(), &3.into()));
    let after = run(command(&["tail", "--after", "1", "--count", "1"], &url), "").await;
    assert_eq!(text(&after.stdout), "2\n");
}

#[tokio::test]
async fn tail_remembers_its_cursor_across_runs_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let program = Program::start_at(folder.path(), &port).await;
    let url = program.url();
    let state = folder.path().join("cursor");
    let tail = |count: &str| {
        command(
            &[
                "tail",
                "--since",
                "start",
                "--count",
                count,
                "--state",
                state.to_str().unwrap(),
            ],
            &url,
        )
    };
    program.as_hub().publish("t", ["1", "2", "3"]).await;
    assert_eq!(text(&run(tail("2"), "").await.stdout), "1\n2\n");
    assert_eq!(
        fs::read_to_string(&state).unwrap().lines().next(),
        Some("2")
    );

    // Somebody put a link where it writes, or a crash left half a file there.
    let (victim, new) = (folder.path().join("victim"), state.with_extension("new"));
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, &new).unwrap();
    // The hub goes away in the middle of a run, and comes back.
    let following = tokio::spawn(run(tail("3"), ""));
    program.as_hub().publish("t", ["4"]).await;
    program.kill();
    let program = Program::start_at(folder.path(), &port).await;
    program.as_hub().publish("t", ["5"]).await;
    assert_eq!(text(&following.await.unwrap().stdout), "3\n4\n5\n");
    assert_eq!(
        fs::read_to_string(&state).unwrap().lines().next(),
        Some("5")
    );
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(state.symlink_metadata().unwrap().is_file());

    fs::write(&state, "rubbish").unwrap();
    let refused = run(tail("1"), "").await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("does not hold a cursor"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn ready_waits_for_the_hub() {
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let url = port.url();
    let refused = run(command(&["ready"], &url), "").await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).starts_with("segno: cannot connect to the hub: connection refused"),
        "{refused:?}"
    );

    let waiting = tokio::spawn(run(command(&["ready", "--wait", "10m"], &url), ""));
    let program = Program::start_at(folder.path(), &port).await;
    let ready = waiting.await.unwrap();
    assert_eq!((ready.status.code(), text(&ready.stderr)), (Some(0), ""));
    assert_eq!(
        run(command(&["ready"], &url), "").await.status.code(),
        Some(0)
    );

    program.signal("STOP");
    let stopped = run(command(&["ready"], &url), "").await;
    assert_eq!(stopped.status.code(), Some(1));
    assert_eq!(
        text(&stopped.stderr),
        "segno: nothing came from the hub for 3s\n"
    );
}

#[tokio::test]
async fn ready_does_not_wait_for_what_is_no_hub() {
    let hub = TestHub::start().await;
    let nowhere = hub.url("/nowhere");
    let output = run(command(&["ready", "--wait", "10m"], &nowhere), "").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("(unknown_path)"),
        "{output:?}"
    );
}

/// As in a small container. TLS was set up also where nobody asked for it, and that failed.
#[tokio::test]
async fn without_any_certificate_a_hub_on_plain_http_is_reached() {
    let hub = TestHub::start().await;
    let without_certificates = |args: &[&str], url: &str| {
        let mut command = command(args, url);
        command
            .env("SSL_CERT_FILE", "/dev/null")
            .env_remove("SSL_CERT_DIR");
        command
    };
    for (args, printed) in [
        (&["publish", "hello", "--topic", "t"][..], "1\n"),
        (&["ready"], ""),
        (&["tail", "--since", "start", "--count", "1"], "\"hello\"\n"),
    ] {
        let output = run(without_certificates(args, &hub.url("")), "").await;
        assert!(output.status.success(), "{args:?}: {output:?}");
        assert_eq!(text(&output.stdout), printed, "{args:?}");
    }
    let output = run(without_certificates(&["ready"], "https://127.0.0.1:1"), "").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("certificates"),
        "{:?}",
        text(&output.stderr)
    );
}

#[tokio::test]
async fn openapi_prints_the_document() {
    let output = run(command(&["openapi"], ""), "").await;
    assert_eq!(text(&output.stdout), segno::http::openapi_document());
}

/// What `--check-config` says, by line, and its exit code.
pub(crate) async fn checked(folder: &Path, args: &[&str]) -> (Vec<String>, Option<i32>) {
    let mut command = segno();
    command.args(args).arg("--check-config").current_dir(folder);
    let output = run(command, "").await;
    let lines = text(&output.stdout).lines().map(str::to_owned).collect();
    (lines, output.status.code())
}

pub(crate) fn problems(lines: &[String]) -> Vec<&str> {
    let problems = lines
        .iter()
        .filter_map(|line| line.strip_prefix("problem: "));
    problems.collect()
}

#[tokio::test]
async fn a_check_prints_the_configuration_and_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for serve in [&["serve"][..], &[]] {
        let args = [serve, &["--listen", "127.0.0.1:0", "--keep", "a.*=1h"]].concat();
        let mut command = segno();
        command
            .args(args)
            .arg("--check-config")
            .current_dir(folder.path())
            .env("SEGNO_HEARTBEAT", "7s")
            .env("SEGNO_HEARTBAET", "7s");
        let output = run(command, "").await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let lines: Vec<Vec<&str>> = text(&output.stdout)
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        for line in [
            &["listen", "127.0.0.1:0", "command", "line"][..],
            &["db", "segno.db"],
            &["heartbeat", "7s", "SEGNO_HEARTBEAT"],
            &["keep", "a.*=1h", "command", "line"],
            &["keep-age", "-"],
            &["note:", "segno.db", "will", "be", "created"],
            &["the", "configuration", "is", "good"],
        ] {
            assert!(lines.iter().any(|found| found == line), "{lines:?}");
        }
        assert!(text(&output.stdout).contains("segno knows no variable SEGNO_HEARTBAET"));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_check_tells_everything_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let args = [
        "--listen",
        &address,
        "--db",
        "nowhere/segno.db",
        "--heartbeat",
        "soon",
        "--keep",
        "all",
        "--cors-origin",
        "https://shop.example/",
        "--trusted-proxy",
        "proxy",
        "--max-queue-bytes",
        "4MiB",
        "--max-connections",
        "4000000000",
    ];
    let (lines, code) = checked(folder.path(), &args).await;
    assert_eq!(code, Some(1), "{lines:?}");
    let problems = problems(&lines);
    assert_eq!(problems.len(), 8, "{lines:?}");
    for problem in [
        "--heartbeat 'soon': ",
        "--keep 'all': ",
        "--cors-origin 'https://shop.example/': ",
        "--trusted-proxy 'proxy': ",
        "cannot open nowhere/segno.db: No such file",
        "is in use; is another segno running?",
        "--max-queue-bytes 4194304 is less than",
        "too few for --max-connections 4000000000",
    ] {
        let told = problems.iter().filter(|told| told.contains(problem));
        assert_eq!(told.count(), 1, "{problem}: {lines:?}");
    }
    drop(taken);
    let (lines, code) = checked(folder.path(), &["--nonsense"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(lines, ["problem: unexpected argument '--nonsense' found"]);
    let publish = run(command(&["publish", "--check-config"], "http://x"), "").await;
    assert_eq!(
        publish.status.code(),
        Some(2),
        "it is a flag of serve alone"
    );
}

#[tokio::test]
async fn a_check_leaves_what_a_killed_hub_left() {
    let folder = tempfile::tempdir().unwrap();
    let left =
        || ["segno.db", "segno.db-wal"].map(|name| fs::read(folder.path().join(name)).unwrap());
    // A hub that has just started empties the WAL once, and that may be the last it did.
    let mut before = Default::default();
    for _ in 0..10 {
        let program = Program::start(folder.path()).await;
        program.as_hub().publish("t", ["x"]).await;
        program.kill();
        before = left();
        if !before[1].is_empty() {
            break;
        }
    }
    assert!(!before[1].is_empty(), "the last commits are in the WAL");
    let (lines, code) = checked(folder.path(), &["--listen", "127.0.0.1:0"]).await;
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(before == left());
}

#[tokio::test]
async fn a_check_goes_beside_a_hub_and_leaves_its_file_as_it_is() {
    let hub = TestHub::start().await;
    hub.publish("t", ["x"]).await;
    let folder = hub.db().parent().unwrap().to_owned();
    let args = ["--listen", hub.address()];
    let (lines, code) = checked(&folder, &args).await;
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(
        lines
            .iter()
            .any(|line| line == "note: a hub is running on segno.db")
    );
    assert_eq!(hub.publish("t", ["x"]).await, [2]);

    let folder = hub.stop().await;
    let contents = || {
        let files = fs::read_dir(folder.path()).unwrap().map(|file| {
            let path = file.unwrap().path();
            (path.clone(), fs::read(path).unwrap())
        });
        files.collect::<BTreeMap<_, _>>()
    };
    let before = contents();
    let listen = ["--listen", "127.0.0.1:0"];
    let (lines, code) = checked(folder.path(), &listen).await;
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(before == contents(), "{:?}", contents().keys());

    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (9999, 'newer', 1, x'00', 0)";
    for (change, problem) in [
        (newer, "segno.db was written by a newer segno; run that one"),
        (
            "pragma application_id = 7",
            "segno.db is not a segno file; choose another with --db",
        ),
    ] {
        let mut shell = Command::new("sqlite3");
        let changed = shell.arg("segno.db").arg(change).current_dir(&folder);
        assert!(changed.status().unwrap().success());
        let (lines, code) = checked(folder.path(), &listen).await;
        let told = problems(&lines);
        assert!(told.len() == 1 && told[0].ends_with(problem), "{told:?}");
        assert_eq!(code, Some(1));
    }
}
