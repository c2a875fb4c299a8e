//! Where the hub listens: several addresses, their short forms, and files of sockets.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Stdio,
};

use reqwest::{Client, RequestBuilder, StatusCode};
use segno::server::{ListenAddress, Server, Settings};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use super::{
    command_line::{checked, problems, run},
    proxies::Proxy,
    test_hub::{
        Port, Program, TestHub, TestStream, answer, config, read_until, reqwest_client, segno,
        within,
    },
    tls::{Authority, hub_with},
};

/// The file of a hub that listens at a port too.
fn socket(hub: &TestHub) -> PathBuf {
    hub.db().with_file_name("segno.sock")
}

fn also_at_a_file(settings: &mut Settings) {
    let path = settings.db.with_file_name("segno.sock");
    settings.listen.push(ListenAddress::Unix(path));
}

/// A client whose connections go to the file at `path`, one for each request.
fn client(path: &Path, http2: bool) -> Client {
    reqwest_client(); // Chooses the cryptography.
    let client = Client::builder().unix_socket(path);
    let client = client.pool_max_idle_per_host(0);
    let client = match http2 {
        true => client.http2_prior_knowledge(),
        false => client.http1_only(),
    };
    client.build().unwrap()
}

fn get(client: &Client, path: &str) -> RequestBuilder {
    client.get(format!("http://localhost{path}"))
}

async fn is_answered(path: &Path) -> bool {
    let asked = get(&client(path, false), "/health/live").send();
    let asked = within("an answer by the file", asked).await;
    asked.is_ok_and(|answer| answer.status() == StatusCode::OK)
}

/// Starts the program with `args` in `folder`, and gives it with its start message. Dropped, it is killed.
async fn start(folder: &Path, args: &[&str]) -> (Running, String) {
    let mut child = segno()
        .arg("serve")
        .args(args)
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let running = Running(child);
    let reading = tokio::task::spawn_blocking(move || {
        let mut told = String::new();
        // The last line.
        while !told.contains("\n  access ") {
            let bytes = stdout.read_line(&mut told).unwrap();
            assert_ne!(bytes, 0, "the program ended; it had told {told:?}");
        }
        told
    });
    let told = within("the start message", reading).await.unwrap();
    (running, told)
}

struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_hub_listens_at_several_addresses_and_names_them_all() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--listen", "localhost:0", "--listen", "unix:a.sock"];
    let args = [&args[..], &["--listen", "[::1]:0"]].concat();
    let (program, told) = start(folder.path(), &args).await;
    let listens = told
        .lines()
        .find_map(|line| line.strip_prefix("  listens "));
    let listens: Vec<_> = listens.unwrap().split(" and ").collect();
    assert!(
        listens.len() == 3
            && listens[0].starts_with("127.0.0.1:")
            && listens[1] == "unix:a.sock"
            && listens[2].starts_with("[::1]:"),
        "{told}"
    );
    assert!(
        told.contains(&format!("console http://{}/", listens[0])),
        "{told}"
    );
    assert!(
        told.contains("everybody on this machine may do everything"),
        "{told}"
    );
    for address in [listens[0], listens[2]] {
        let live = reqwest_client().get(format!("http://{address}/health/live"));
        assert_eq!(answer(live).await.status, 200, "{address}");
    }
    assert!(is_answered(&folder.path().join("a.sock")).await);
    drop(program);

    // Files alone: there is nothing for a browser.
    let (_program, told) = start(folder.path(), &["--listen", "unix:a.sock"]).await;
    assert!(told.contains("\n  listens unix:a.sock\n"), "{told}");
    assert!(!told.contains("console"), "{told}");
    assert!(is_answered(&folder.path().join("a.sock")).await);
}

#[tokio::test]
async fn a_port_after_a_colon_is_all_addresses_and_needs_leave() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = segno();
    command
        .args(["serve", "--listen", "8000", "--listen", ":0"])
        .current_dir(&folder);
    let refused = run(command, "").await;
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(told.contains("other machines can reach [::]:0"), "{told}");

    let (_program, told) = start(folder.path(), &["--listen", ":0", "--open"]).await;
    let (_, rest) = told.split_once("console http://localhost:").unwrap();
    let port = rest.split_once('/').unwrap().0;
    for host in ["127.0.0.1", "[::1]"] {
        let live = reqwest_client().get(format!("http://{host}:{port}/health/live"));
        assert_eq!(answer(live).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn what_is_no_address_is_told_with_those_that_are() {
    for (listen, told) in [
        (
            "hub.example:8000",
            "a name other than localhost is not looked up",
        ),
        ("localhost", "localhost:8000 or 8000 (this machine only)"),
        ("unix:", "unix:/run/segno.sock"),
    ] {
        let mut command = segno();
        command.args(["serve", "--listen", listen]);
        let refused = run(command, "").await;
        assert_eq!(refused.status.code(), Some(2), "{listen}");
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert!(stderr.contains(told), "{stderr}");
    }
}

#[tokio::test]
async fn by_a_file_everything_works_as_by_a_port() {
    let hub = TestHub::start_with(also_at_a_file).await;
    for http2 in [false, true] {
        let client = client(&socket(&hub), http2);
        // Several at the same place: an audience, but for HTTP/2.
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(TestStream::open(get(&client, "/sse?topic=t")).await);
        }
        let mut at_port = hub.follow("?topic=t").await;
        let publish = client.post("http://localhost/topics/t").body("by a file");
        let published = answer(publish).await;
        assert_eq!(published.status, 201, "{published:?}");
        let id = published.json()["id"].as_u64().unwrap();
        for stream in streams.iter_mut().chain([&mut at_port]) {
            assert_eq!(stream.next_data().await, ["\"by a file\""]);
            assert_eq!(stream.cursor(), id);
        }
        hub.publish("t", ["by a port"]).await;
        for stream in &mut streams {
            assert_eq!(stream.next_data().await, ["\"by a port\""]);
        }
        let resumed = get(&client, "/sse?topic=t").header("last-event-id", id);
        let mut resumed = TestStream::open(resumed).await;
        assert_eq!(resumed.next_data().await, ["\"by a port\""]);
        let history = answer(get(&client, "/events?topic=t&limit=1&order=desc")).await;
        assert_eq!(history.json()["events"][0]["data"], json!("by a port"));
        // More than the system holds of a file's connection.
        let long = "x".repeat(900_000);
        hub.publish("long", [long.as_str()]).await;
        let read = answer(get(&client, "/events?topic=long&limit=1&order=desc")).await;
        assert_eq!(read.json()["events"][0]["data"], json!(long));
        let mut replay = TestStream::open(get(&client, "/sse?topic=long&last=1")).await;
        assert_eq!(replay.next_data().await, [format!("\"{long}\"")]);
    }
    let http1 = client(&socket(&hub), false);
    let mut stream = TestStream::open(get(&http1, "/sse?topic=t")).await;
    hub.begin_to_stop();
    stream.read_to_end().await.unwrap();
    assert!(stream.received.contains("segno.cursor"));
}

/// A client that closes its side may still read; one that is gone is noticed with the next thing that is sent.
#[tokio::test]
async fn a_client_of_a_file_that_closes_its_side_still_reads_and_one_that_is_gone_counts_no_more() {
    let hub = TestHub::start_with(|settings| {
        also_at_a_file(settings);
        settings.heartbeat = std::time::Duration::from_millis(100);
    })
    .await;
    let mut half = UnixStream::connect(socket(&hub)).await.unwrap();
    let head = b"GET /sse?topic=t HTTP/1.1\r\nhost: x\r\n\r\n";
    half.write_all(head).await.unwrap();
    half.shutdown().await.unwrap();
    let mut received = String::new();
    read_until(&mut half, &mut received, "segno.cursor").await;
    hub.publish("t", ["it still reads"]).await;
    read_until(&mut half, &mut received, "it still reads").await;
    let streams = async || hub.get_json("/stats").await["subscribers"].as_u64();
    assert_eq!(streams().await, Some(1));
    drop(half);
    within("the stream to count no more", async {
        while streams().await != Some(0) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_file_has_its_mode_and_goes_with_the_hub() {
    for mode in ["0600", "0666"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let args = ["--listen", "127.0.0.1:0", "--listen", "unix:a.sock"];
        let args = [&args[..], &["--listen-mode", mode]].concat();
        let mut command = segno();
        command.arg("serve").args(args).current_dir(&folder);
        let mut program = Program::spawn(command).await;
        let found = fs::metadata(&path).unwrap();
        assert!(found.file_type().is_socket());
        let expected = u32::from_str_radix(mode, 8).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, expected);
        program.signal("TERM");
        assert_eq!(program.exit_code().await, Some(0));
        assert!(!path.exists());
    }
    let hub = TestHub::start_with(also_at_a_file).await;
    let mode = fs::metadata(socket(&hub)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[tokio::test]
async fn a_file_that_was_left_is_replaced_and_one_in_use_or_of_somebody_else_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("segno.sock");
    // A hub that was killed.
    drop(UnixListener::bind(&path).unwrap());
    let hub = TestHub::start_in(folder, also_at_a_file).await;
    assert!(is_answered(&path).await);

    let other = tempfile::tempdir().unwrap();
    let second = |path: &Path| Settings {
        listen: vec![ListenAddress::Unix(path.to_owned())],
        ..config(other.path())
    };
    let refused = Server::start(second(&path)).await.unwrap_err().to_string();
    let expected = "segno.sock is in use; is another segno running? choose another with --listen";
    assert!(refused.ends_with(expected), "{refused}");
    assert!(is_answered(&path).await);

    // Somebody has put another in its place: that one stays.
    fs::remove_file(&path).unwrap();
    let others = UnixListener::bind(&path).unwrap();
    let folder = hub.stop().await;
    assert!(path.exists());
    drop(others);

    let file = folder.path().join("notes.txt");
    fs::write(&file, "mine").unwrap();
    let refused = Server::start(second(&file)).await.unwrap_err().to_string();
    assert!(
        refused.contains("notes.txt is there and is no socket"),
        "{refused}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

#[tokio::test]
async fn who_opens_the_file_may_say_for_whom_it_speaks_and_under_which_name() {
    let hub = TestHub::start_with(|settings| {
        also_at_a_file(settings);
        settings.limits.max_connections_per_address = 2.try_into().unwrap();
        settings.limits.max_streams_per_address = 1.try_into().unwrap();
    })
    .await;
    let client = client(&socket(&hub), false);
    let follow = |of: &str| get(&client, "/sse").header("x-forwarded-for", of);
    let mut open = Vec::new();
    for of in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"] {
        open.push(TestStream::open(follow(of)).await);
    }
    let again = follow("192.0.2.1").header("accept", "application/problem+json");
    assert_eq!(answer(again).await.code(), "too_many_streams_of_address");
    // Without the header it is this machine.
    open.push(TestStream::open(get(&client, "/sse")).await);

    // A port could be reached by a name that a page made up; a file cannot.
    let wrong = |request: RequestBuilder| request.header("host", "evil.example");
    let by_file = answer(wrong(get(&client, "/events"))).await;
    assert_eq!(by_file.status, 200, "{by_file:?}");
    let by_port = answer(wrong(hub.get("/events"))).await;
    assert_eq!(by_port.code(), "wrong_host");
    // What a page may have had a proxy's client send is refused all the same.
    let publish = client.post("http://localhost/topics/t").body("x");
    let publish = publish.header("origin", "https://evil.example");
    assert_eq!(answer(publish).await.code(), "cross_site");
}

#[tokio::test]
async fn a_file_is_in_the_clear_beside_a_port_with_tls() {
    let authority = Authority::new("a");
    let hub = hub_with(&authority, also_at_a_file).await;
    assert!(is_answered(&socket(&hub)).await);
    let by_port = authority.client(true).get(hub.url("/health/live"));
    assert_eq!(answer(by_port).await.status, 200);
    let clear = format!("http://{}/health/live", hub.address());
    let refused = answer(reqwest_client().get(clear)).await;
    assert_eq!(refused.code(), "tls_required");
}

#[tokio::test]
async fn the_command_line_finds_a_hub_by_its_file() {
    let hub = TestHub::start_with(also_at_a_file).await;
    let url = format!("unix:{}", socket(&hub).display());
    let told = async |args: &[&str]| {
        let mut command = segno();
        command.args(args).env("SEGNO_URL", &url);
        let ended = run(command, "").await;
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(0), "{args:?}: {stderr}");
        String::from_utf8(ended.stdout).unwrap()
    };
    told(&["ready"]).await;
    told(&["publish", "-t", "t", "by a file"]).await;
    assert_eq!(hub.last_id().await, 1);
    let tail = ["tail", "-t", "t", "--since", "start", "--count", "1"];
    assert_eq!(told(&tail).await, "\"by a file\"\n");
    assert!(told(&["topics"]).await.contains('t'));
    told(&["stats"]).await;
    for http2 in [&[][..], &["--http2"]] {
        let bench = ["bench", "publish", "--duration", "200ms"];
        told(&[&bench[..], http2].concat()).await;
    }

    let folder = hub.stop().await;
    let away = format!("unix:{}", folder.path().join("segno.sock").display());
    let mut command = segno();
    command.args(["ready", "--url", &away]);
    let ended = run(command, "").await;
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        stderr.contains("cannot connect to the hub") && stderr.contains("entity not found"),
        "{stderr}"
    );
}

#[tokio::test]
async fn a_check_looks_at_every_address_and_leaves_files_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    drop(UnixListener::bind(file("left.sock")).unwrap());
    fs::write(file("notes.txt"), "mine").unwrap();
    let _used = UnixListener::bind(file("used.sock")).unwrap();
    let port = Port::reserve();
    let good = format!("{} unix:left.sock unix:new.sock", port.address());
    let (lines, code) = checked(folder.path(), &["--listen", &good]).await;
    assert_eq!(code, Some(0), "{lines:?}");
    let names = || {
        let files = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["left.sock", "notes.txt", "used.sock"]);

    let bad = "unix:notes.txt unix:used.sock unix:nowhere/a.sock 0.0.0.0:0";
    let (lines, code) = checked(folder.path(), &["--listen", bad]).await;
    assert_eq!(code, Some(1));
    let found = problems(&lines);
    for (problem, expected) in found.iter().zip([
        "notes.txt is there and is no socket",
        "unix:used.sock is in use",
        "cannot listen on unix:nowhere/a.sock: No such file",
        "other machines can reach 0.0.0.0:0",
    ]) {
        assert!(problem.starts_with(expected), "{problem}");
    }
    assert_eq!(found.len(), 4, "{found:?}");
    assert_eq!(names(), ["left.sock", "notes.txt", "used.sock"]);
}

/// The recipe of the page on access.
#[tokio::test]
async fn nginx_before_a_file_passes_streams_and_the_addresses_of_clients() {
    let folder = tempfile::tempdir().unwrap();
    // nginx, if root starts it, opens files as another user.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let hub = TestHub::start_in(folder, |settings| {
        also_at_a_file(settings);
        settings.listen_mode = 0o666;
        settings.limits.max_streams_per_address = 1.try_into().unwrap();
    })
    .await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/access.md")).unwrap();
    let (_, recipe) = page.split_once("```nginx\n").unwrap();
    let recipe = recipe.split_once("\n```\n").unwrap().0;
    let (documented, ours) = ("/run/segno/segno.sock", socket(&hub));
    assert!(recipe.contains(documented), "{recipe}");
    let recipe = recipe.replace(documented, &ours.display().to_string());
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::run("nginx", &recipe, folder.path()).await;
    let http = reqwest_client();
    let sse = format!("{}/sse?topic=t", proxy.url);
    let mut stream = TestStream::open(http.get(&sse)).await;
    hub.publish("t", ["through nginx"]).await;
    assert_eq!(stream.next_data().await, ["\"through nginx\""]);
    // It is counted as 127.0.0.1, which nginx names, and the other as what nginx was told.
    let again = http.get(&sse).header("accept", "application/problem+json");
    assert_eq!(answer(again).await.code(), "too_many_streams_of_address");
    let other = http.get(&sse).header("x-forwarded-for", "192.0.2.7");
    let refused = answer(other.header("accept", "application/problem+json")).await;
    // nginx puts its client's address behind what that client says, so nobody can say it is another.
    assert_eq!(refused.code(), "too_many_streams_of_address");
}

/// A client of IPv4 that reaches an address of IPv6 is the same client to the limits.
#[tokio::test]
async fn all_addresses_of_both_versions_of_ip_count_a_client_once() {
    let hub = TestHub::start_with(|settings| {
        settings.listen = vec![":0".parse().unwrap()];
        settings.limits.max_connections_per_address = 1.try_into().unwrap();
    })
    .await;
    let port = hub.address().rsplit_once(':').unwrap().1.to_owned();
    let ask = async |host: &str| {
        let mut socket = TcpStream::connect(format!("{host}:{port}")).await.unwrap();
        let head = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n";
        socket.write_all(head).await.unwrap();
        let mut bytes = vec![0; 4096];
        let count = within("an answer", socket.read(&mut bytes)).await.unwrap();
        let status = str::from_utf8(&bytes[..count]).unwrap()[9..12].to_owned();
        (status, socket)
    };
    let (first, _held) = ask("127.0.0.1").await;
    assert_eq!(first, "200");
    let (second, _refused) = ask("127.0.0.1").await;
    assert_eq!(second, "429");
    let (other, _held) = ask("[::1]").await;
    assert_eq!(other, "200");
}
