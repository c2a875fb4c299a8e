//! What a person reads and erases from a terminal: columns, colours, topics, figures, exit codes.

use std::{
    os::fd::OwnedFd,
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::{io::AsyncReadExt, net::unix::pipe};

use super::{
    access::{hub_with, token_entry},
    test_hub::{TestHub, segno, within},
};

async fn ended(mut command: Command) -> Output {
    command.stdin(Stdio::null());
    let running = tokio::task::spawn_blocking(move || command.output().unwrap());
    within("the program to end", running).await.unwrap()
}

/// Runs it with pipes, as a script does.
async fn run(url: &str, args: &[&str]) -> Output {
    let mut command = segno();
    command.args(args).env("SEGNO_URL", url);
    ended(command).await
}

/// Runs it on a terminal, and gives what the terminal got, with LF at the end of lines, and the exit code.
async fn on_terminal(url: &str, line: &str, no_color: &str, typed: &str) -> (String, Option<i32>) {
    let mut command = Command::new("sh");
    let script =
        r#"printf '%s\n' "$TYPED" | script --quiet --return --flush --command "$LINE" /dev/null"#;
    command
        .args(["-c", script])
        .env("LINE", format!("{} {line}", env!("CARGO_BIN_EXE_segno")))
        .env("TYPED", typed)
        .env("SEGNO_URL", url)
        .env("TERM", "xterm")
        .env("NO_COLOR", no_color);
    let output = ended(command).await;
    let shown = String::from_utf8(output.stdout).unwrap();
    (shown.replace("\r\n", "\n"), output.status.code())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_terminal_gets_columns_and_a_pipe_data_alone() {
    let hub = TestHub::start().await;
    hub.publish("a", ["1"]).await;
    // A C1 control, which JSON may hold as it is: a terminal would take it for the start of a sequence.
    hub.publish("longer?type=paid", ["\"\u{9b}31m\""]).await;
    hub.publish("a", ["3"]).await;
    let url = hub.url("");
    let events = hub.get_json("/events").await;
    let time = |n: usize| {
        events["events"][n]["created_at"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let tail = "tail --since start --count 3";
    let (shown, code) = on_terminal(&url, tail, "1", "").await;
    let expected = format!(
        "{}  a  message  1\n{}  longer  paid     \"\\u009b31m\"\n{}  a       message  3\n",
        time(0),
        time(1),
        time(2)
    );
    // The terminal echoes what was typed.
    assert!(shown.trim_start().ends_with(&expected), "{shown:?}");
    assert_eq!(code, Some(0));

    let colored = format!(
        "\x1b[2m{}\x1b[0m  \x1b[36ma\x1b[0m  \x1b[33mmessage\x1b[0m  1\n",
        time(0)
    );
    let (shown, _) = on_terminal(&url, tail, "", "").await;
    assert!(shown.contains(&colored), "{shown:?}");
    let (shown, _) = on_terminal(&url, &format!("{tail} --color always"), "1", "").await;
    assert!(shown.contains(&colored), "{shown:?}");
    let (shown, _) = on_terminal(&url, &format!("{tail} --color never"), "", "").await;
    assert!(shown.contains(&expected), "{shown:?}");

    let args: Vec<&str> = tail.split(' ').collect();
    let piped = run(&url, &args).await;
    assert_eq!(text(&piped.stdout), "1\n\"\u{9b}31m\"\n3\n");
    let piped = run(&url, &[&args[..], &["--color", "always"]].concat()).await;
    assert!(text(&piped.stdout).starts_with(&colored), "{piped:?}");
}

#[tokio::test]
async fn topics_are_listed() {
    let hub = TestHub::start().await;
    hub.publish("a/b", ["1", "2"]).await;
    hub.publish("c", ["3"]).await;
    let url = hub.url("");
    let _streams = [hub.follow("?topic=c").await, hub.follow("?topic=c").await];
    let topics = hub.get_json("/topics").await;
    let time = |n: usize| topics["topics"][n]["last_created_at"].as_str().unwrap();
    let listed = run(&url, &["topics"]).await;
    let expected = format!(
        "TOPIC  EVENTS  FIRST ID  LAST ID  LAST EVENT                SUBSCRIBERS\n\
         a/b         2         1        2  {}            0\n\
         c           1         3        3  {}            2\n",
        time(0),
        time(1)
    );
    assert_eq!(text(&listed.stdout), expected, "{listed:?}");
    let lines = run(&url, &["topics", "--json"]).await;
    let lines: Vec<Value> = text(&lines.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(Value::from(lines), topics["topics"]);
}

/// More than the hub gives in one answer.
#[tokio::test]
async fn all_topics_are_listed() {
    let hub = TestHub::start().await;
    hub.publish_many(2_500, |n| format!("t{n}")).await;
    let listed = run(&hub.url(""), &["topics", "--json"]).await;
    assert_eq!(text(&listed.stdout).lines().count(), 2_500);
}

#[tokio::test]
async fn erasing_asks_first() {
    let hub = TestHub::start().await;
    hub.publish("a/b", ["1", "2", "3"]).await;
    let url = hub.url("");
    let nobody = run(&url, &["erase", "1"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert_eq!(
        text(&nobody.stderr),
        "segno: nobody can be asked whether to erase 1 event; say so with --yes\n"
    );
    let (shown, code) = on_terminal(&url, "erase 1", "", "n").await;
    assert!(shown.contains("Erase 1 event for good? [y/N]"), "{shown}");
    assert!(shown.ends_with("segno: nothing was erased\n"), "{shown}");
    assert_eq!(code, Some(1));
    assert_eq!(hub.get_json("/events/1").await["data"], 1);

    let (shown, code) = on_terminal(&url, "erase 1", "", "y").await;
    assert!(shown.ends_with("event 1 erased\n"), "{shown}");
    assert_eq!(code, Some(0));
    assert_eq!(hub.get_json("/events/1").await["type"], "segno.erased");

    let missing = run(&url, &["erase", "--yes", "2", "999"]).await;
    assert_eq!(text(&missing.stdout), "event 2 erased\n");
    assert_eq!(missing.status.code(), Some(1));
    let told = text(&missing.stderr);
    assert!(
        told.starts_with("segno: event 999 is not erased: ") && told.contains("unknown_event"),
        "{told}"
    );

    let topic = run(&url, &["erase", "--yes", "-t", "a/b"]).await;
    assert!(topic.status.success(), "{topic:?}");
    let told = text(&topic.stdout);
    assert!(
        told.ends_with(" events of the topic a/b erased\n"),
        "{told}"
    );
    let both = run(&url, &["erase", "1", "-t", "a"]).await;
    assert_eq!(both.status.code(), Some(2));
}

#[tokio::test]
async fn figures_are_shown_as_text_or_as_json() {
    let hub = TestHub::start().await;
    hub.publish("t", ["1", "2"]).await;
    let url = hub.url("");
    let once = run(&url, &["stats"]).await;
    let told = text(&once.stdout);
    let line = |name: &str| told.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(line("last id ").ends_with(" 2"), "{told}");
    assert!(line("file ").ends_with("iB"), "{told}");
    let json = run(&url, &["stats", "--json"]).await;
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["last_id"], 2);
}

/// Runs a line of shell in which `$SEGNO` is the program.
async fn shell(url: &str, line: &str) -> Output {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", line])
        .env("SEGNO", env!("CARGO_BIN_EXE_segno"))
        .env("SEGNO_URL", url);
    ended(shell).await
}

#[tokio::test]
async fn a_pipe_gets_figures_as_lines_until_its_reader_leaves() {
    let hub = TestHub::start().await;
    hub.publish("t", ["1", "2"]).await;
    let url = hub.url("");
    let watched = shell(
        &url,
        r#""$SEGNO" stats --watch --interval 100ms | head -n 2"#,
    )
    .await;
    assert!(watched.stderr.is_empty(), "{watched:?}");
    let lines: Vec<Value> = text(&watched.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((lines.len(), &lines[1]["events"]), (2, &2.into()));
    // The next line would come in an hour, or, from a hub that is gone, never. The shell waits for both sides of the pipe.
    let code = r#"{ "$SEGNO" stats --watch --interval 1h; echo $? >&2; } | head -n 1"#;
    let watched = shell(&url, code).await;
    assert_eq!(text(&watched.stderr), "0\n", "{watched:?}");
    drop(hub.stop().await);
    let code = r#"{ "$SEGNO" stats --watch --interval 100ms; echo "code $?" >&2; } | sleep 0.5"#;
    let watched = shell(&url, code).await;
    let told = text(&watched.stderr);
    assert!(
        told.contains("; trying again\n") && told.ends_with("code 0\n"),
        "{watched:?}"
    );
}

/// It ends with its terminal, also where nobody is told that the terminal hung up, as under `nohup`.
#[tokio::test]
async fn a_terminal_shows_the_newest_figures_in_place_until_it_is_closed() {
    let hub = TestHub::start().await;
    hub.publish("t", ["1", "2"]).await;
    for ignored in ["", "trap '' HUP; "] {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let line = format!(
            "{ignored}echo $$ >{}; exec {} stats --watch --interval 100ms",
            pid.display(),
            env!("CARGO_BIN_EXE_segno")
        );
        let mut terminal = Command::new("script");
        terminal
            .args(["--quiet", "--flush", "--command", &line, "/dev/null"])
            .env("SEGNO_URL", hub.url(""))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut terminal = terminal.spawn().unwrap();
        let out = OwnedFd::from(terminal.stdout.take().unwrap());
        let mut out = pipe::Receiver::from_owned_fd(out).unwrap();
        let mut shown = String::new();
        let mut shows = async |what: &str| {
            within(what, async {
                // What stands on the screen is what came since it was cleared.
                while !shown
                    .rsplit("\x1b[H\x1b[2J")
                    .any(|screen| screen.contains(what))
                {
                    let mut some = [0; 4096];
                    let read = out.read(&mut some).await.unwrap();
                    assert!(read > 0, "{shown:?}");
                    shown.push_str(text(&some[..read]));
                }
            })
            .await;
            std::mem::take(&mut shown)
        };
        let screen = shows("events per second  ").await;
        assert!(screen.contains("\x1b[H\x1b[2J"), "{screen:?}");
        let [id] = hub.publish("t", ["3"]).await;
        let screen = shows(&format!("{id}\r\n")).await;
        assert!(screen.contains("last id "), "{screen:?}");
        // The terminal goes with the program that made it.
        terminal.kill().unwrap();
        terminal.wait().unwrap();
        let pid = std::fs::read_to_string(&pid).unwrap();
        let alive = format!("/proc/{}/exe", pid.trim());
        within("the program to end with its terminal", async {
            while std::fs::read_link(&alive).is_ok_and(|exe| exe.ends_with("segno")) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn short_addresses_are_understood_by_every_command() {
    let hub = TestHub::start().await;
    let port = hub.address().split_once(':').unwrap().1.to_owned();
    for url in [
        port.clone(),
        format!(":{port}"),
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
    ] {
        let bench = [
            "bench",
            "publish",
            "--duration",
            "100ms",
            "--connections",
            "1",
        ];
        for args in [
            &["publish", "-t", "t", "1"][..],
            &["tail", "--since", "start", "--count", "1"],
            &["topics"],
            &["stats"],
            &["erase", "--yes", "1"],
            &["ready"],
            &bench,
        ] {
            let args = [args, &["--url", &url]].concat();
            let output = run("http://127.0.0.1:1", &args).await;
            assert!(output.status.success(), "{args:?}: {output:?}");
        }
    }
}

#[tokio::test]
async fn exit_codes_are_those_that_the_help_lists() {
    let hub = hub_with(&token_entry("segno_secret", r#"follow = ["**"]"#)).await;
    let url = hub.url("");
    for command in ["publish", "tail", "topics", "erase", "stats", "ready"] {
        let help = run(&url, &[command, "--help"]).await;
        assert_eq!(help.status.code(), Some(0));
        let help = text(&help.stdout);
        for code in ["0  done", "1  not done", "2  the command line is wrong"] {
            assert!(help.contains(code), "{command}: {help}");
        }
        let wrong = run(&url, &[command, "--nonsense"]).await;
        assert_eq!(wrong.status.code(), Some(2), "{command}");
    }
    for (args, code, told) in [
        (&["topics"][..], 1, "(credential_missing)"),
        (&["topics", "--token", "segno_secret"], 0, ""),
        (&["erase", "--yes", "1", "--token", "segno_secret"], 1, ""),
        (&["stats", "--token", "segno_secret"], 1, "(not_allowed)"),
        (
            &["stats", "--url", "ftp://x"],
            1,
            "is not the address of a hub",
        ),
    ] {
        let output = run(&url, args).await;
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert!(text(&output.stderr).contains(told), "{args:?}: {output:?}");
    }
}

/// Each with what its right covers, the token from the variable, a flag or a file, and not a word of it when it is refused.
#[tokio::test]
async fn commands_do_what_their_token_may() {
    const READER: &str = "segno_reader";
    const CLEANER: &str = "segno_cleaner";
    let rules = [
        token_entry("segno_writer", "publish = [\"**\"]"),
        token_entry(READER, "follow = [\"orders.*\"]"),
        token_entry(
            CLEANER,
            "follow = [\"**\"]\nerase = [\"orders.*\"]\noperate = true",
        ),
    ];
    let hub = hub_with(&rules.concat()).await;
    let url = hub.url("");
    let file = hub.db().with_file_name("token");
    std::fs::write(&file, format!("{CLEANER}\n")).unwrap();
    let as_whom = async |token: &str, args: &[&str]| {
        let mut command = segno();
        command.args(args).env("SEGNO_URL", &url);
        match token {
            "file" => command.env("SEGNO_TOKEN_FILE", &file),
            token => command.env("SEGNO_TOKEN", token),
        };
        let output = ended(command).await;
        let told = [text(&output.stdout), text(&output.stderr)].concat();
        assert!(!told.contains("segno_"), "{args:?}: {told}");
        (output.status.code(), told)
    };
    for topic in ["orders.eu", "secret"] {
        let args = ["publish", "x", "--topic", topic];
        assert_eq!(as_whom("segno_writer", &args).await.0, Some(0));
    }
    for (token, args, code, told) in [
        (READER, &["topics"][..], 0, "orders.eu"),
        (READER, &["erase", "--yes", "1"], 1, "(not_allowed)"),
        (READER, &["erase", "--yes", "2"], 1, "(unknown_event)"),
        (
            READER,
            &["erase", "--yes", "--topic", "secret"],
            1,
            "(unknown_topic)",
        ),
        (READER, &["stats"], 1, "(not_allowed)"),
        (READER, &["ready"], 1, "(not_allowed)"),
        (READER, &["tail", "--topic", "secret"], 1, "(not_allowed)"),
        (READER, &["publish", "x"], 1, "(not_allowed)"),
        (CLEANER, &["topics"], 0, "secret"),
        (CLEANER, &["stats"], 0, "last id"),
        (CLEANER, &["ready"], 0, ""),
        ("file", &["erase", "--yes", "1"], 0, "event 1 erased"),
        (
            "file",
            &["erase", "--yes", "--topic", "secret"],
            1,
            "(not_allowed)",
        ),
        (
            "file",
            &["erase", "--yes", "--topic", "orders.eu"],
            0,
            "orders.eu",
        ),
        ("segno_unknown", &["topics"], 1, "(credential_invalid)"),
    ] {
        let (ended, shown) = as_whom(token, args).await;
        assert_eq!(ended, Some(code), "{token} {args:?}: {shown}");
        assert!(shown.contains(told), "{token} {args:?}: {shown}");
        let is_hidden = token == READER && args == ["topics"];
        assert!(!is_hidden || !shown.contains("secret"), "{shown}");
    }
}
