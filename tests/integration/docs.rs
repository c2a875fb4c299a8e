//! The README and the pages under `docs/` do what they say: their commands run as written, their links lead somewhere, and every
//! fault has its test. The tables of flags are held to the program by `flags`, that of codes by `openapi`.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use clap::CommandFactory;

use super::{
    browser::Browser,
    test_hub::{DEADLINE, Port, Program, TestHub, segno, within},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// The pages for people, by their path in the repository.
fn pages() -> Vec<String> {
    let mut pages = vec![
        "README.md".to_owned(),
        "CONTRIBUTING.md".to_owned(),
        "CHANGELOG.md".to_owned(),
        "examples/README.md".to_owned(),
    ];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        pages.push(format!(
            "docs/{}",
            entry.unwrap().file_name().to_str().unwrap()
        ));
    }
    assert!(pages.len() > 8, "{pages:?}");
    pages
}

/// The blocks of code in one language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    read(page)
        .split(&fence)
        .skip(1)
        .map(|rest| rest.split("```\n").next().unwrap().to_owned())
        .collect()
}

/// A command of a tour and what it prints.
struct Step {
    command: String,
    expected: String,
}

impl Step {
    /// Whether it goes on until it is ended.
    fn is_stream(&self) -> bool {
        self.command.contains("curl -N")
    }
}

/// The commands of a page's `console` blocks, which together are one tour.
fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for line in blocks(page, "console").concat().lines() {
        match line.strip_prefix("$ ") {
            Some(command) => steps.push(Step {
                command: command.to_owned(),
                expected: String::new(),
            }),
            None => steps
                .last_mut()
                .unwrap_or_else(|| panic!("{page}: '{line}' is printed by no command"))
                .expected
                .push_str(&format!("{line}\n")),
        }
    }
    steps
}

/// Runs every step in turn beside a hub, which is started again when it is killed, as a service manager would, and not when it
/// is told to stop. `segno serve` replaces the hub. A stream goes on in the background and is looked at last.
fn script(steps: &[Step]) -> String {
    let mut script = String::from(
        "set -u; ip link set lo up\n\
         ready() { until curl -sf localhost:8000/health/ready > ready.txt; do sleep 0.05; done; }\n\
         gone() { while pgrep -x segno > pids.txt; do sleep 0.05; done; }\n\
         start() { (until \"$@\"; do :; done) >> hub.log 2>&1 & ready; }\n\
         start segno\n",
    );
    for (n, step) in steps.iter().enumerate() {
        let command = step.command.replace("curl ", "curl -s ");
        if command.starts_with("segno serve") {
            script += &format!("pkill -x segno; gone; start {command}\n");
        } else if step.is_stream() {
            script +=
                &format!("{command} > {n}.out &\nuntil test -s {n}.out; do sleep 0.05; done\n");
        } else {
            // In braces, so that a command may write into a file of its own.
            script += &format!("{{ {command}; }} > {n}.out\n");
        }
        match command.as_str() {
            "pkill -9 segno" => script += "sleep 0.2; ready\n",
            "pkill segno" => script += "gone\n",
            // curl's answers have no line end; the shell of a reader begins a new line all the same.
            _ if !step.expected.is_empty() => script += &format!("echo >> {n}.out\n"),
            _ => (),
        }
    }
    script + "sleep 1\n"
}

/// Times, waits and random ids differ from run to run.
fn normalized(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let mut line = line.to_owned();
        for varying in ["retry: ", "date: "] {
            if line.starts_with(varying) {
                line = format!("{varying}…");
            }
        }
        for shape in [
            "0000-00-00T00:00:00.000",
            "0000-00-00 00:00:00.000",
            "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx",
            "\"retry_ms\":0000",
        ] {
            line = without(&line, shape);
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// Replaces what looks like `shape`, in which 0 stands for a digit and x for a hexadecimal one.
fn without(line: &str, shape: &str) -> String {
    let fits = |text: &str| {
        text.len() >= shape.len()
            && text.chars().zip(shape.chars()).all(|(c, s)| match s {
                '0' => c.is_ascii_digit(),
                'x' => c.is_ascii_hexdigit(),
                _ => c == s,
            })
    };
    let mut out = String::new();
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let taken = match fits(rest) {
            true => {
                out.push('…');
                shape.len()
            }
            false => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    out
}

/// Runs the tour of a page in namespaces of its own, where port 8000 is free and there is no other segno to kill.
async fn tour(page: &str) {
    let steps = steps(page);
    assert!(!steps.is_empty(), "{page} has no tour");
    let folder = tempfile::tempdir().unwrap();
    let programs = Path::new(segno().get_program())
        .parent()
        .unwrap()
        .to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    // One that hangs is ended before the test gives up, and says where it was.
    let mut command = Command::new("timeout");
    command
        .args([
            "25",
            "unshare",
            "--user",
            "--map-root-user",
            "--net",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "bash",
            "-xc",
            &script(&steps),
        ])
        .current_dir(folder.path())
        .env("PATH", path)
        .stdin(Stdio::null());
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap());
    let ran = within(format!("the tour of {page}"), ran).await.unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{page}: {}\n{said}", ran.status);
    for (n, step) in steps.iter().enumerate() {
        let Ok(printed) = fs::read_to_string(folder.path().join(format!("{n}.out"))) else {
            continue;
        };
        let (printed, expected) = (normalized(&printed), normalized(&step.expected));
        let is_right = match step.is_stream() {
            true => printed.starts_with(&expected),
            false => printed == expected,
        };
        assert!(
            is_right,
            "{page}: {}\nprints\n{printed}\nnot\n{expected}\n{said}",
            step.command
        );
    }
}

#[tokio::test]
async fn the_tour_of_the_readme_runs_as_written() {
    tour("README.md").await;
}

#[tokio::test]
async fn the_tour_of_http_runs_as_written() {
    tour("docs/http.md").await;
}

#[tokio::test]
async fn the_tour_of_stream_runs_as_written() {
    tour("docs/stream.md").await;
}

#[tokio::test]
async fn the_tour_of_operate_runs_as_written() {
    tour("docs/operate.md").await;
}

#[tokio::test]
async fn the_tour_of_watch_runs_as_written() {
    tour("docs/watch.md").await;
}

#[tokio::test]
async fn the_tour_of_limits_runs_as_written() {
    tour("docs/limits.md").await;
}

#[tokio::test]
async fn the_tour_of_faults_runs_as_written() {
    tour("docs/faults.md").await;
}

#[test]
fn every_page_with_a_tour_is_run() {
    let this_file = read("tests/integration/docs.rs");
    for page in pages() {
        assert!(
            steps(&page).is_empty() || this_file.contains(&format!("tour(\"{page}\").await;")),
            "nothing runs the tour of {page}"
        );
    }
}

/// The README's Python client, following the hub at `address`. It is killed when dropped, also when a test fails: it would go on
/// for ever.
struct Python {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Python {
    fn follow(address: &str, change: impl Fn(String) -> String) -> Self {
        let source = blocks("README.md", "python").concat();
        let mut child = Command::new("python3")
            .args(["-u", "-c"])
            .arg(change(source.replace("localhost:8000", address)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (printed, lines) = mpsc::channel();
        let outputs: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for output in outputs {
            let printed = printed.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    _ = printed.send(line);
                }
            });
        }
        Self { child, lines }
    }

    fn next_line(&self) -> String {
        let line = self.lines.recv_timeout(DEADLINE);
        line.expect("the client prints something, and goes on")
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_of_the_readme_follows_and_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let port = Port::reserve();
    let program = Program::start_at(folder.path(), &port).await;
    program.as_hub().publish("orders.eu", ["1"]).await;
    let python = Python::follow(&port.address().to_string(), |source| source);
    assert_eq!(python.next_line(), "1 message 1");
    program.kill();
    let program = Program::start_at(folder.path(), &port).await;
    program.as_hub().publish("orders.eu", ["2"]).await;
    assert_eq!(python.next_line(), "2 message 2");
}

/// Python raises an error of HTTP, and none of the system, when a chunk is cut.
#[test]
fn the_python_of_the_readme_survives_a_chunk_that_is_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let whole = "id: 7\ndata: 7\n\n";
        let mut requests = Vec::new();
        for body in [
            format!("{:x}\r\n{whole}\r\nff\r\nid: 8\ndata: 8\n", whole.len()),
            "e\r\nid: 8\ndata: 8\n\r\n1\r\n\n\r\n".into(),
        ] {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let bytes = client.read(&mut request).unwrap();
            requests.push(String::from_utf8_lossy(&request[..bytes]).to_lowercase());
            client
                .write_all(format!("{head}{body}").as_bytes())
                .unwrap();
        }
        requests
    });
    let python = Python::follow(&address, |source| source);
    assert_eq!(python.next_line(), "7 message 7");
    assert_eq!(python.next_line(), "8 message 8");
    drop(python);
    let requests = server.join().unwrap();
    assert!(!requests[0].contains("last-event-id"), "{requests:?}");
    assert!(requests[1].contains("last-event-id: 7\r\n"), "{requests:?}");
}

/// A mistake in the request would be refused for ever.
#[tokio::test(flavor = "multi_thread")]
async fn the_python_of_the_readme_ends_when_it_is_refused() {
    let hub = TestHub::start().await;
    let python = Python::follow(hub.address(), |source| {
        source.replace("since=start", "since=never")
    });
    while !python.next_line().contains("HTTP Error 400") {}
}

#[tokio::test]
async fn the_scripts_for_browsers_follow_and_resume() {
    let hub = TestHub::start().await;
    for page in ["README.md", "docs/stream.md"] {
        let script = blocks(page, "js")
            .concat()
            .replace("http://localhost:8000", &hub.url(""));
        let browser = Browser::open(&hub.url("/")).await;
        let run = format!(
            "(() => {{ const said = window.said = []; \
               const console = {{ log: (...words) => said.push(words), warn: (...words) => said.push(words) }};\n\
               {script}\n window.events = events; return true; }})()"
        );
        assert_eq!(browser.value(&run).await, true, "{page}");
        browser.expect("window.events.readyState", 1).await;
        let ids = hub.publish("orders.eu", ["{\"order\":1}"]).await;
        browser.expect("window.said.length", 1).await;
        browser.expect("window.said[0].at(-1).order", 1).await;
        if page == "docs/stream.md" {
            browser.go(&hub.url("/")).await;
            hub.publish("orders.eu", ["{\"order\":2}"]).await;
            assert_eq!(browser.value(&run).await, true, "{page}");
            browser.expect("window.said[0]?.[0].order", 2).await;
            let stored = browser
                .value("Number(localStorage.getItem('cursor'))")
                .await;
            assert!(stored.as_u64() > Some(ids[0]), "{stored}");
        }
    }
}

/// The words of a line of the shell up to where it ends or goes on to another program, without quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for word in line.split_whitespace() {
        if word.starts_with(['#', '|', '&', '>', ';']) {
            break;
        }
        words.push(word.trim_matches('\'').to_owned());
    }
    words
}

#[test]
fn what_the_pages_tell_a_shell_can_be_read_by_it_and_by_segno() {
    let mut commands = 0;
    for page in pages() {
        for block in blocks(&page, "sh") {
            let checked = Command::new("bash")
                .args(["-n", "-c", &block])
                .output()
                .unwrap();
            assert!(checked.status.success(), "{page}: {block}\n{checked:?}");
            for line in block.lines() {
                let words = words(line);
                if words.first().is_some_and(|word| word == "segno") {
                    commands += 1;
                    let read = segno::cli::Cli::command().try_get_matches_from(&words);
                    assert!(read.is_ok(), "{page}: {line}\n{}", read.unwrap_err());
                }
            }
        }
    }
    assert!(commands > 8, "{commands}");
}

#[test]
fn every_fault_that_was_tried_has_its_test() {
    let mut tests = String::new();
    for entry in fs::read_dir(root().join("tests/integration")).unwrap() {
        tests += &fs::read_to_string(entry.unwrap().path()).unwrap();
    }
    let page = read("docs/faults.md");
    let rows = page
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    let mut count = 0;
    for row in rows {
        let names: Vec<_> = row.rsplit('|').nth(1).unwrap().split('`').collect();
        assert!(names.len() > 1, "no test in {row}");
        for name in names.iter().skip(1).step_by(2) {
            assert!(tests.contains(&format!("fn {name}")), "no test {name}");
        }
        count += 1;
    }
    assert!(count > 20, "{count}");
    for page in ["README.md", "docs/faults.md"] {
        assert!(
            read(page).contains(&format!("{count} faults")),
            "{page} does not say that there are {count} faults"
        );
    }
}

/// Holds what stands between `<!-- name -->` and `<!-- end -->` to `expected`, or with `SEGNO_WRITE_DOCS=1` writes it.
pub(crate) fn written_from_the_code(page: &str, name: &str, expected: &str) {
    let text = read(page);
    let begin = format!("<!-- {name} -->\n");
    let (before, rest) = text
        .split_once(&begin)
        .unwrap_or_else(|| panic!("{page} has no {begin}"));
    let (found, after) = rest.split_once("<!-- end -->").unwrap();
    if found == expected {
        return;
    }
    assert!(
        std::env::var_os("SEGNO_WRITE_DOCS").is_some(),
        "{page}: what stands behind {begin} is stale; write it anew with \
         `SEGNO_WRITE_DOCS=1 cargo test --locked --test integration -- the_table`"
    );
    let text = format!("{before}{begin}{expected}<!-- end -->{after}");
    fs::write(root().join(page), text).unwrap();
}

/// The name by which a link finds a heading.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// The lines of a page that are not code.
fn prose(page: &str) -> Vec<String> {
    let mut is_code = false;
    let mut prose = Vec::new();
    for line in read(page).lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            prose.push(line.to_owned());
        }
    }
    prose
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for page in pages() {
        let folder = Path::new(&page).parent().unwrap();
        for line in prose(&page) {
            for target in line
                .split("](")
                .skip(1)
                .map(|rest| rest.split(')').next().unwrap())
                .filter(|target| !target.contains("://"))
            {
                links += 1;
                let (file, heading) = target.split_once('#').unwrap_or((target, ""));
                let file = match file {
                    "" => PathBuf::from(&page),
                    file => folder.join(file),
                };
                assert!(root().join(&file).exists(), "{page}: {target}");
                let headings: BTreeSet<String> = match heading {
                    "" => continue,
                    _ => prose(file.to_str().unwrap())
                        .iter()
                        .filter(|line| line.starts_with('#'))
                        .map(|line| anchor(line))
                        .collect(),
                };
                assert!(headings.contains(heading), "{page}: {target}: {headings:?}");
            }
        }
    }
    assert!(links > 20, "{links}");
}

#[test]
fn each_page_says_first_whom_it_is_for() {
    for page in pages().iter().filter(|page| page.starts_with("docs/")) {
        let text = read(page);
        let mut lines = text.lines();
        assert!(lines.next().unwrap().starts_with("# "), "{page}");
        assert_eq!(lines.next(), Some(""), "{page}");
        assert!(lines.next().unwrap().starts_with("For "), "{page}");
        let name = format!("({page})");
        assert!(read("README.md").contains(&name), "no link to {page}");
    }
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 200, "{lines}");
}

/// What the map of the code says is in `src/`, there is.
#[test]
fn the_map_names_files_that_exist() {
    let map = read("src/lib.rs");
    let files: Vec<&str> = map
        .lines()
        .filter(|line| line.starts_with("//! |"))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect();
    assert!(files.len() > 8, "{files:?}");
    for file in files {
        assert!(root().join("src").join(file).exists(), "{file}");
    }
}
