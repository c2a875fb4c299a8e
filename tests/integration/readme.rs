//! The README does what it says: its tour runs as written, and it knows every flag.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use super::test_hub::{segno, within};

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The blocks of one language.
fn blocks(readme: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    readme
        .split(&fence)
        .skip(1)
        .map(|rest| rest.split("```\n").next().unwrap().to_owned())
        .collect()
}

/// A command of the tour and what it prints.
struct Step {
    command: String,
    expected: String,
}

fn steps(readme: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for line in blocks(readme, "console").concat().lines() {
        match line.strip_prefix("$ ") {
            Some(command) => steps.push(Step {
                command: command.to_owned(),
                expected: String::new(),
            }),
            None => steps
                .last_mut()
                .unwrap()
                .expected
                .push_str(&format!("{line}\n")),
        }
    }
    steps
}

/// Runs every step in turn, in namespaces of its own, where port 8000 is free and there is no other segno to kill. The hub
/// is started again when it dies, as a service manager would. A stream goes on in the background and is looked at last.
fn script(steps: &[Step]) -> String {
    let mut script = String::from(
        "set -u; ip link set lo up\n\
         (while true; do segno; done) > hub.log 2>&1 &\n\
         ready() { until curl -sf localhost:8000/health/ready > ready.txt; do sleep 0.05; done; }\n\
         ready\n",
    );
    for (n, step) in steps.iter().enumerate() {
        let command = step.command.replace("curl ", "curl -s ");
        if command.contains("curl -s -N") {
            script +=
                &format!("{command} > {n}.out &\nuntil test -s {n}.out; do sleep 0.05; done\n");
        } else {
            script += &format!("{command} > {n}.out\n");
        }
        if command.starts_with("pkill") {
            script += "sleep 0.2; ready\n";
        } else if !step.expected.is_empty() {
            // curl's answers have no line end; the shell of a reader begins a new line all the same.
            script += &format!("echo >> {n}.out\n");
        }
    }
    script + "sleep 1\n"
}

/// What stands before the id of a log.
const LOG: &str = "\"log\":\"";

/// Times, waits and logs differ from run to run.
fn normalized(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let mut line = line.to_owned();
        if line.starts_with("retry: ") {
            line = "retry: …".into();
        }
        if let Some(at) = line.find(LOG) {
            line.replace_range(at + LOG.len()..at + LOG.len() + 36, "…");
        }
        while let Some(at) = line.find("20").filter(|&at| is_time(&line[at..])) {
            line.replace_range(at..at + 23, "(time)");
        }
        lines.push(line);
    }
    lines.join("\n")
}

fn is_time(text: &str) -> bool {
    let shape: String = text
        .chars()
        .take(23)
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    matches!(
        shape.as_str(),
        "0000-00-00T00:00:00.000" | "0000-00-00 00:00:00.000"
    )
}

#[tokio::test]
async fn the_tour_runs_as_written() {
    let steps = steps(&readme());
    assert!(steps.len() > 12);
    let folder = tempfile::tempdir().unwrap();
    let programs = Path::new(segno().get_program())
        .parent()
        .unwrap()
        .to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("unshare");
    command
        .args([
            "--user",
            "--map-root-user",
            "--net",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "bash",
            "-c",
            &script(&steps),
        ])
        .current_dir(folder.path())
        .env("PATH", path)
        .stdin(Stdio::null());
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap());
    let ran = within("the tour", ran).await.unwrap();
    assert!(ran.status.success(), "{ran:?}");
    for (n, step) in steps.iter().enumerate() {
        let printed = fs::read_to_string(folder.path().join(format!("{n}.out"))).unwrap();
        let (printed, expected) = (normalized(&printed), normalized(&step.expected));
        if step.command.contains("curl -N") {
            assert!(
                printed.starts_with(&expected),
                "{}\nprints\n{printed}\nnot\n{expected}",
                step.command
            );
        } else {
            assert_eq!(printed, expected, "{}", step.command);
        }
    }
}

#[tokio::test]
async fn the_python_of_the_readme_follows_and_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let port = super::test_hub::Port::reserve();
    let program = super::test_hub::Program::start_at(folder.path(), &port).await;
    program.as_hub().publish("orders.eu", ["1"]).await;
    let source = blocks(&readme(), "python")
        .concat()
        .replace("localhost:8000", &port.address().to_string());
    let mut python = Command::new("python3")
        .args(["-u", "-c", &source])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(python.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "1 message 1");
    program.kill();
    let program = super::test_hub::Program::start_at(folder.path(), &port).await;
    program.as_hub().publish("orders.eu", ["2"]).await;
    let next = tokio::task::spawn_blocking(move || lines.next().unwrap().unwrap());
    assert_eq!(within("the next event", next).await.unwrap(), "2 message 2");
    python.kill().unwrap();
    python.wait().unwrap();
}

#[test]
fn every_fault_that_was_tried_has_its_test() {
    let mut tests = String::new();
    for entry in
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration")).unwrap()
    {
        tests += &fs::read_to_string(entry.unwrap().path()).unwrap();
    }
    let readme = readme();
    let (_, table) = readme.split_once("## When something breaks\n").unwrap();
    let rows = table
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    let mut count = 0;
    for row in rows {
        let name = row.rsplit('`').nth(1).unwrap();
        assert!(tests.contains(&format!("fn {name}")), "no test {name}");
        count += 1;
    }
    assert!(count > 20, "{count}");
}
