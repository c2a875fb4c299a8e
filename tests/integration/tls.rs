//! TLS of the hub's own side: what it shows and to whom, and what is no handshake.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use futures_util::future::join_all;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use segno::server::{CertificateFiles, CertificateSource};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::{
    browser::Browser,
    sight::{Figures, pause},
    test_hub::{
        DEADLINE, Program, TestHub, TestStream, answer, read_until, reqwest_client, segno, within,
    },
};

/// An authority of its own, as a company has.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate, which clients trust.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Writes a certificate for these names, and its key.
    pub(crate) fn issue(&self, names: &[&str], folder: &Path) -> CertificateFiles {
        self.issue_until(names, folder, rcgen::date_time_ymd(4096, 1, 1))
    }

    fn issue_until(
        &self,
        names: &[&str],
        folder: &Path,
        end: time::OffsetDateTime,
    ) -> CertificateFiles {
        self.issue_with(names, folder, |certificate| certificate.not_after = end)
    }

    fn issue_with(
        &self,
        names: &[&str],
        folder: &Path,
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateFiles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let mut certificate = CertificateParams::new(names).unwrap();
        certificate.not_after = rcgen::date_time_ymd(4096, 1, 1);
        change(&mut certificate);
        let certificate = certificate.signed_by(&key, &self.0).unwrap();
        let files = CertificateFiles {
            certificate: folder.join("cert.pem"),
            key: folder.join("key.pem"),
        };
        // The key first: the two must not be read while they do not belong together.
        fs::write(&files.key, key.serialize_pem()).unwrap();
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(folder.join("ca.pem"), self.pem()).unwrap();
        files
    }

    /// A client that trusts this authority alone, with HTTP/2 or without.
    pub(crate) fn client(&self, http2: bool) -> reqwest::Client {
        reqwest_client(); // Chooses the cryptography.
        let trusted = reqwest::Certificate::from_pem(self.pem().as_bytes()).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([trusted])
            // Each request shakes hands, and shows which certificate there is.
            .pool_max_idle_per_host(0);
        let client = if http2 { client } else { client.http1_only() };
        client.build().unwrap()
    }

    /// A connection to the hub whose socket holds little.
    async fn connect(&self, hub: &TestHub) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let address = hub.address().parse().unwrap();
        let socket = socket.connect(address).await.unwrap();
        let name = "127.0.0.1".try_into().unwrap();
        connector.connect(name, socket).await.unwrap()
    }
}

/// The names that tests call the hub by.
pub(crate) const NAMES: [&str; 2] = ["127.0.0.1", "localhost"];

/// A hub with a certificate of `authority`.
pub(crate) async fn hub_with(
    authority: &Authority,
    change: impl FnOnce(&mut segno::server::Settings),
) -> TestHub {
    let folder = tempfile::tempdir().unwrap();
    let files = authority.issue(&NAMES, folder.path());
    TestHub::start_in(folder, |settings| {
        settings.tls = Some(CertificateSource::Files(files));
        change(settings);
    })
    .await
}

fn folder(hub: &TestHub) -> std::path::PathBuf {
    hub.db().parent().unwrap().to_owned()
}

async fn follow(client: &reqwest::Client, hub: &TestHub, query: &str) -> TestStream {
    TestStream::open(client.get(hub.url(&format!("/sse{query}")))).await
}

async fn refusals(hub: &TestHub, code: &str) -> u64 {
    let figures = answer(hub.get("/metrics")).await.body;
    let line = format!("segno_refusals_total{{code=\"{code}\"}} ");
    let count = figures
        .lines()
        .find_map(|figure| figure.strip_prefix(&line));
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn curl_speaks_tls_to_the_hub_in_both_versions_of_http() {
    let hub = hub_with(&Authority::new("a"), |_| ()).await;
    let port = hub.address().rsplit_once(':').unwrap().1.to_owned();
    let ca = folder(&hub).join("ca.pem");
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let (ca, port) = (ca.clone(), port.clone());
        let curl = move |path: &str, data: &[&str]| {
            let mut curl = Command::new("curl");
            curl.args(["-sS", option, "-w", "\n%{http_version}", "--cacert"]);
            curl.arg(&ca).args(data);
            let ended = curl.arg(format!("https://localhost:{port}{path}")).output();
            let ended = ended.unwrap();
            assert_eq!(String::from_utf8(ended.stderr).unwrap(), "");
            String::from_utf8(ended.stdout).unwrap()
        };
        let (published, page) = tokio::task::spawn_blocking(move || {
            let published = curl("/topics/greetings", &["-d", "hello"]);
            (published, curl("/events", &[]))
        })
        .await
        .unwrap();
        assert!(published.contains("\"id\":"), "{published}");
        let end = format!("}}\n\n{version}");
        assert!(page.contains("\"hello\"") && page.ends_with(&end), "{page}");
    }
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_cuts_no_stream() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let hub = hub_with(&old, |_| ()).await;
    let mut streams = vec![
        follow(&old.client(true), &hub, "").await,
        follow(&old.client(false), &hub, "").await,
    ];
    let live = hub.url("/health/live");
    assert!(new.client(true).get(&live).send().await.is_err());
    new.issue(&NAMES, &folder(&hub));
    let trusting = new.client(true);
    within("the new certificate", async {
        while trusting.get(&live).send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(old.client(true).get(&live).send().await.is_err());

    // A key that belongs to another certificate changes nothing.
    let files = CertificateFiles {
        certificate: folder(&hub).join("cert.pem"),
        key: folder(&hub).join("key.pem"),
    };
    fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let again = new.client(true).get(&live).send().await.unwrap();
    assert_eq!(again.status(), 200);
    hub.publish("t", ["x"]).await;
    for stream in &mut streams {
        assert_eq!(stream.next().await.last_event_id, "1");
    }
}

#[tokio::test]
async fn a_hang_up_reads_the_certificate_again_and_a_bad_one_is_logged() {
    let authority = Authority::new("a");
    let folder = tempfile::tempdir().unwrap();
    let files = authority.issue(&NAMES, folder.path());
    let log = folder.path().join("log");
    let mut command = segno();
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.arg("--db").arg(folder.path().join("segno.db"));
    command.arg("--tls-cert").arg(&files.certificate);
    command.arg("--tls-key").arg(&files.key);
    let program = Program::spawn_logging_to(&log, command).await;
    assert!(program.url().starts_with("https://"), "{}", program.url());
    let told = async |what: &str| {
        within(what, async {
            while !fs::read_to_string(&log).unwrap().contains(what) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    };
    program.signal("HUP");
    told("the certificate was read again; new connections get it").await;
    fs::write(&files.certificate, "no certificate").unwrap();
    told("the certificate is refused; the one before it stays").await;
    told("cert.pem has no certificate").await;
    let client = authority.client(true);
    let live = client.get(format!("{}/health/live", program.url()));
    assert_eq!(answer(live).await.status, 200);
}

#[tokio::test]
async fn the_end_of_the_certificate_is_a_metric_as_soon_as_it_is_shown() {
    const NAME: &str = "segno_tls_certificate_expiry_timestamp_seconds ";
    let clear = TestHub::start().await;
    assert!(!answer(clear.get("/metrics")).await.body.contains(NAME));
    let authority = Authority::new("a");
    let hub = hub_with(&authority, |_| ()).await;
    let client = authority.client(false);
    for year in [4096, 2049] {
        let end = rcgen::date_time_ymd(year, 1, 1);
        authority.issue_until(&NAMES, &folder(&hub), end);
        let line = format!("{NAME}{}\n", end.unix_timestamp());
        within(format_args!("the end in {year}"), async {
            while !answer(client.get(hub.url("/metrics")))
                .await
                .body
                .contains(&line)
            {
                pause().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    Authority::new("a").issue(&NAMES, path);
    fs::write(
        path.join("other.pem"),
        KeyPair::generate().unwrap().serialize_pem(),
    )
    .unwrap();
    fs::write(path.join("text.pem"), "hello\n").unwrap();
    fs::write(path.join("half.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    let run = |arguments: &[&str], check: bool| {
        let mut command = segno();
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments);
        command
            .args(check.then_some("--check-config"))
            .current_dir(path);
        let ended = command.output().unwrap();
        assert!(!ended.status.success());
        String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap()
    };
    for (certificate, key, expected) in [
        (
            "none.pem",
            "key.pem",
            "cannot read none.pem: No such file or directory",
        ),
        ("text.pem", "key.pem", "text.pem has no certificate"),
        ("half.pem", "key.pem", "half.pem is not PEM: "),
        ("cert.pem", "cert.pem", "cert.pem has no private key"),
        ("key.pem", "key.pem", "key.pem has no certificate"),
        (
            "cert.pem",
            "other.pem",
            "the certificate in cert.pem and the key in other.pem cannot be used together: ",
        ),
    ] {
        let arguments = ["--tls-cert", certificate, "--tls-key", key];
        let told = run(&arguments, false);
        assert!(
            told.starts_with("segno: ") && told.contains(expected),
            "{told}"
        );
        let told = run(&arguments, true);
        assert!(told.contains(&format!("problem: {expected}")), "{told}");
    }
    let told = run(&["--tls-cert", "cert.pem"], false);
    assert!(told.contains("--tls-key"), "{told}");
    let mut command = segno();
    command.args(["serve", "--listen", "127.0.0.1:0", "--check-config"]);
    command.args(["--tls-cert", "cert.pem", "--tls-key", "key.pem"]);
    let ended = command.current_dir(path).output().unwrap();
    let told = String::from_utf8(ended.stdout).unwrap();
    let note = "note: connections are encrypted, with the certificate in cert.pem\n";
    assert!(told.contains(note), "{told}");
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_cut() {
    let hub = hub_with(&Authority::new("a"), |settings| {
        settings.limits.header_timeout = Duration::from_millis(300);
        settings.limits.max_connections_per_address = 20.try_into().unwrap();
    })
    .await;
    let mut slow = Vec::new();
    // Nothing; the first byte of a record; and a record that says it has 512 bytes.
    for begin in [&b""[..], &[22], &[22, 3, 1, 2, 0, 1, 0, 1, 252]] {
        for _ in 0..5 {
            let mut socket = TcpStream::connect(hub.address()).await.unwrap();
            socket.write_all(begin).await.unwrap();
            slow.push(socket);
        }
    }
    join_all(slow.iter_mut().map(async |socket| {
        let ended = within("an end", socket.read(&mut [0; 16])).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }))
    .await;
    assert!(
        answer(hub.get("/metrics"))
            .await
            .body
            .contains("segno_late_heads_total 15\n")
    );
    // One that is no handshake after all is told so by an alert, and counted.
    let mut socket = TcpStream::connect(hub.address()).await.unwrap();
    socket
        .write_all(&[22, 3, 1, 0, 4, 1, 0, 0, 0])
        .await
        .unwrap();
    let mut told = Vec::new();
    _ = within("an end", socket.read_to_end(&mut told)).await;
    assert_eq!(told.first(), Some(&21), "{told:?}");
    assert_eq!(refusals(&hub, "failed_handshake").await, 1);
}

#[tokio::test]
async fn http_in_the_clear_is_told_to_use_tls() {
    let hub = hub_with(&Authority::new("a"), |_| ()).await;
    let clear = format!("http://{}", hub.address());
    for path in ["/", "/sse"] {
        let refusal = answer(reqwest_client().get(format!("{clear}{path}"))).await;
        assert_eq!(
            (refusal.status.as_u16(), refusal.code()),
            (400, "tls_required".into())
        );
        assert!(
            refusal.json()["detail"]
                .as_str()
                .unwrap()
                .contains("use https://")
        );
        assert!(!refusal.header("segno-log-id").is_empty());
    }
    let post = reqwest_client()
        .post(format!("{clear}/topics/t"))
        .body("x".repeat(500_000));
    assert_eq!(answer(post).await.code(), "tls_required");
    assert_eq!(refusals(&hub, "tls_required").await, 3);
}

#[tokio::test]
async fn a_connection_over_the_limit_is_told_so_through_tls() {
    let authority = Authority::new("a");
    let hub = hub_with(&authority, |settings| {
        settings.limits.max_connections = 2.try_into().unwrap();
    })
    .await;
    let streams = [
        follow(&authority.client(true), &hub, "").await,
        follow(&authority.client(false), &hub, "").await,
    ];
    for http2 in [true, false] {
        let refusal = answer(authority.client(http2).get(hub.url("/events"))).await;
        assert_eq!(refusal.code(), "too_many_connections");
    }
    drop(streams);
}

#[tokio::test]
async fn a_drain_ends_streams_over_tls_as_a_whole() {
    let authority = Authority::new("a");
    let hub = hub_with(&authority, |_| ()).await;
    let mut streams = [
        follow(&authority.client(true), &hub, "").await,
        follow(&authority.client(false), &hub, "").await,
    ];
    // A handshake that has only begun does not hold the drain up.
    let begun = TcpStream::connect(hub.address()).await.unwrap();
    hub.publish("t", ["x"]).await;
    hub.begin_to_stop();
    for stream in &mut streams {
        stream.read_to_end().await.unwrap();
        assert_eq!(stream.take_received().len(), 1);
        assert!(stream.received.trim_end().ends_with("id: 1"), "a farewell");
    }
    hub.stop().await;
    drop(begun);
}

#[tokio::test]
async fn a_page_has_fifty_streams_over_one_connection() {
    let hub = hub_with(&Authority::new("a"), |_| ()).await;
    let address = hub.url("/health/live").replace("127.0.0.1", "localhost");
    let browser = Browser::open_insecure(&address).await;
    let protocol = "performance.getEntriesByType('navigation')[0].nextHopProtocol";
    browser.expect(protocol, "h2").await;
    let open = "(() => {
        window.got = 0;
        window.streams = Array.from({length: 50}, () => new EventSource('/sse?topic=t'));
        streams.forEach(stream => stream.onmessage = () => window.got += 1);
        return streams.length;
    })()";
    assert_eq!(browser.value(open).await, 50);
    browser
        .expect(
            "streams.filter(stream => stream.readyState === 1).length",
            50,
        )
        .await;
    let stats = answer(hub.get("/stats")).await.json();
    assert_eq!(stats["subscribers"], 50, "{stats}");
    assert!(stats["connections"].as_u64().unwrap() < 6, "{stats}");
    hub.publish("t", ["1", "2"]).await;
    browser.expect("got", 100).await;
}

/// The program speaks TLS to a terminal, too: to whoever reads its start message.
#[tokio::test]
async fn the_start_message_tells_of_https() {
    let folder = tempfile::tempdir().unwrap();
    let files = Authority::new("a").issue(&NAMES, folder.path());
    let mut command = segno();
    command.args(["serve", "--listen", "127.0.0.1:0", "--db"]);
    command
        .arg(folder.path().join("segno.db"))
        .stderr(Stdio::null());
    command.arg("--tls-cert").arg(&files.certificate);
    command.arg("--tls-key").arg(&files.key);
    let program = Program::spawn(command).await;
    assert!(program.url().starts_with("https://"), "{}", program.url());
    assert_eq!(program.as_hub().publish("t", ["x"]).await, [1]);
}

/// Whoever is on the way can put a page without TLS at the hub's own name. An old browser says no more of it than `Origin`.
#[tokio::test]
async fn a_page_without_tls_is_another_site() {
    let hub = hub_with(&Authority::new("a"), |_| ()).await;
    let post = |scheme: &str| {
        let origin = format!("{scheme}://{}", hub.address());
        hub.post("/topics/t").header("origin", origin).body("x")
    };
    assert_eq!(answer(post("http")).await.code(), "cross_site");
    assert_eq!(answer(post("https")).await.status, 201);
}

/// Runs a command of the client against the hub at `url`, and gives what it told.
async fn run(url: &str, command: &[&str], ca: Option<&Path>) -> (bool, String) {
    let mut program = segno();
    program.args(command).env("SEGNO_URL", url);
    if let Some(ca) = ca {
        program.env("SEGNO_CA", ca);
    }
    let ended = tokio::task::spawn_blocking(move || program.output().unwrap());
    let ended = within("the command to end", ended).await.unwrap();
    let told = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
    (ended.status.success(), told)
}

#[tokio::test]
async fn commands_of_the_client_speak_tls() {
    let hub = hub_with(&Authority::new("a"), |_| ()).await;
    let ca = folder(&hub).join("ca.pem");
    let url = hub.url("").replace("127.0.0.1", "localhost");
    let published = run(&url, &["publish", "hello", "--topic", "t"], Some(&ca)).await;
    assert_eq!(published, (true, "1\n".into()));
    let tail = ["tail", "--since", "start", "--count", "1"];
    assert_eq!(
        run(&url, &tail, Some(&ca)).await,
        (true, "\"hello\"\n".into())
    );
    assert_eq!(
        run(&url, &["ready"], Some(&ca)).await,
        (true, String::new())
    );
    for (command, printed) in [
        (&["topics", "--json"][..], "\"topic\":\"t\""),
        (&["stats"], "last id"),
        (&["erase", "--yes", "1"], "event 1 erased"),
    ] {
        let (done, told) = run(&url, command, Some(&ca)).await;
        assert!(done && told.contains(printed), "{told}");
    }
    let clear = TestHub::start().await;
    for (url, http2) in [(&*url, true), (&*url, false), (&*clear.url(""), true)] {
        let bench = [
            "bench",
            "follow",
            "--duration",
            "500ms",
            "--connections",
            "10",
            "--json",
            "--http2",
        ];
        let (done, told) = run(url, &bench[..bench.len() - usize::from(!http2)], Some(&ca)).await;
        assert!(done, "{url} {http2}: {told}");
        assert!(!told.contains("\"delivered\":0,"), "{told}");
    }
}

#[tokio::test]
async fn commands_of_the_client_say_what_is_wrong() {
    let authority = Authority::new("a");
    let hub = hub_with(&authority, |_| ()).await;
    let ca = folder(&hub).join("ca.pem");
    let write_other = |file: &str, name: &str| {
        let path = folder(&hub).join(file);
        fs::write(&path, Authority::new(name).pem()).unwrap();
        path
    };
    let (wrong, namesake) = (write_other("wrong.pem", "b"), write_other("same.pem", "a"));
    let hub_showing = async |names: &[&str], change: fn(&mut CertificateParams)| {
        let folder = tempfile::tempdir().unwrap();
        let files = authority.issue_with(names, folder.path(), change);
        TestHub::start_in(folder, |settings| {
            settings.tls = Some(CertificateSource::Files(files))
        })
        .await
    };
    let named = hub_showing(&["hub.example", "10.0.0.1"], |_| ()).await;
    let expired = hub_showing(&NAMES, |certificate| {
        certificate.not_after = rcgen::date_time_ymd(2001, 1, 1);
    })
    .await;
    let early = hub_showing(&NAMES, |certificate| {
        certificate.not_before = rcgen::date_time_ymd(4000, 1, 1);
    })
    .await;
    let of_authority = hub_showing(&NAMES, |certificate| {
        certificate.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    })
    .await;
    let of_client = hub_showing(&NAMES, |certificate| {
        certificate.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    })
    .await;
    let clear = TestHub::start().await;
    let nobody = super::test_hub::Port::reserve();
    let to_https = |url: &str| url.replace("http://", "https://");
    let unsigned = "segno: the hub's certificate was signed by nobody who is trusted here; name the authority that signed it with --ca \
                    FILE\n";
    for (url, ca, expected) in [
        (hub.url(""), None, unsigned),
        (hub.url(""), Some(&wrong), unsigned),
        (hub.url(""), Some(&namesake), unsigned),
        (
            named.url(""),
            Some(&ca),
            "segno: the hub's certificate is for hub.example, 10.0.0.1, and not for 127.0.0.1; use a name that it has in --url, or give \
             the hub a certificate for 127.0.0.1\n",
        ),
        (
            expired.url(""),
            Some(&ca),
            "segno: the hub's certificate, or that of its authority, ended at 2001-01-01T00:00:00Z; here it is 2",
        ),
        (
            early.url(""),
            Some(&ca),
            "segno: the hub's certificate begins at 4000-01-01T00:00:00Z; here it is 2",
        ),
        (
            of_authority.url(""),
            Some(&ca),
            "segno: the hub shows the certificate of an authority as its own, which clients do not take; give it one that is made with \
             basicConstraints=CA:FALSE\n",
        ),
        (
            of_client.url(""),
            Some(&ca),
            "segno: the hub's certificate cannot be trusted; give the hub another: ",
        ),
        (
            to_https(&clear.url("")),
            None,
            "segno: the hub does not speak TLS there; use http:// instead of https://\n",
        ),
        (
            hub.url("").replace("https://", "http://"),
            None,
            "segno: the hub speaks TLS here; use https:// instead of http:// (tls_required)\n",
        ),
        (nobody.url(), None, "segno: cannot connect to the hub: "),
        (
            to_https(&nobody.url()),
            None,
            "segno: cannot connect to the hub: ",
        ),
        (
            "https://nowhere.invalid".into(),
            None,
            "segno: cannot find the address of the hub's name: ",
        ),
    ] {
        let ca = ca.map(std::path::PathBuf::as_path);
        for command in [
            &["ready"][..],
            &["publish", "x", "--retry-for", "0s"],
            &["bench", "publish", "--duration", "100ms"],
        ] {
            let (done, told) = run(&url, command, ca).await;
            let told = told.replace(&format!("cannot reach {url}: "), "");
            assert!(
                !done && told.starts_with(expected),
                "{command:?} {url}: {told}"
            );
        }
    }
    // It does not try again what will not pass.
    assert_eq!(
        run(&hub.url(""), &["tail"], None).await,
        (false, unsigned.into())
    );
    let mut trusting_nobody = segno();
    let empty = ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(|name| (name, "/dev/null"));
    trusting_nobody
        .args(["ready", "--url", &hub.url("")])
        .envs(empty);
    let ended = tokio::task::spawn_blocking(move || trusting_nobody.output().unwrap());
    let told = String::from_utf8(ended.await.unwrap().stderr).unwrap();
    assert_eq!(
        told,
        "segno: this machine trusts no authority; install its certificates (`ca-certificates`), or name one with --ca FILE\n"
    );
    let (_, told) = run(&hub.url(""), &["ready"], Some(Path::new("/none.pem"))).await;
    let expected =
        "segno: cannot use the authorities in /none.pem: it cannot be read: No such file";
    assert!(told.starts_with(expected), "{told}");
}

/// As in the clear: over TLS what waits for the client waits in more places.
#[tokio::test]
async fn an_answer_over_tls_that_nobody_reads_is_cut_and_a_stream_is_not() {
    let authority = Authority::new("a");
    let hub = hub_with(&authority, |settings| {
        settings.limits.write_timeout = Duration::from_millis(300);
    })
    .await;
    let line = format!("{{\"data\":\"{}\"}}\n", "x".repeat(12_000));
    let batch = hub.post("/events").body(line.repeat(1000));
    let batch = batch.header("content-type", "application/x-ndjson");
    assert_eq!(answer(batch).await.status, 201);
    let ask = async |path: &str| {
        let mut stream = authority.connect(&hub).await;
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        stream
    };
    let mut page = ask("/events?limit=1000").await;
    let mut stream = ask("/sse?since=start&format=text&count=1000").await;
    // Without reading: until the connection of the page is gone, and those of the stream and of this question are there. The
    // client may hold another, so there is an end to it, ten times the time in which nothing may move.
    _ = tokio::time::timeout(Duration::from_secs(3), async {
        while Figures::of(&hub).await.get("segno_connections") > 2.0 {
            pause().await;
        }
    })
    .await;
    let mut received = Vec::new();
    _ = within("the end", page.read_to_end(&mut received)).await;
    assert!(received.len() < 4_000_000, "{} bytes", received.len());
    received.clear();
    _ = within("the end", stream.read_to_end(&mut received)).await;
    assert!(received.len() > 12_000_000, "{} bytes", received.len());
}

/// As in the clear: one that has closed its side may still read, and one that has gone is noticed before the next heartbeat.
#[tokio::test]
async fn a_client_over_tls_that_closes_its_side_still_reads_and_one_that_has_gone_counts_no_more() {
    let authority = Authority::new("a");
    let hub = hub_with(&authority, |settings| settings.heartbeat = 10 * DEADLINE).await;
    for takes_leave in [false, true] {
        let mut stream = authority.connect(&hub).await;
        let head = b"GET /sse HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(head).await.unwrap();
        if takes_leave {
            stream.shutdown().await.unwrap();
        }
        let mut received = String::new();
        read_until(&mut stream, &mut received, "segno.cursor").await;
        hub.publish("t", ["it still reads"]).await;
        read_until(&mut stream, &mut received, "it still reads").await;
        let subscribers = async || hub.get_json("/stats").await["subscribers"].clone();
        assert_eq!(subscribers().await, 1);
        drop(stream);
        if !takes_leave {
            within("the stream to count no more", async {
                while subscribers().await != 0 {
                    pause().await;
                }
            })
            .await;
        }
    }
}
