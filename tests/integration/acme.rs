//! Certificates of an authority: Pebble, the server that Let's Encrypt tests clients with, looks whether the name leads to the hub.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use segno::server::{AcmeSettings, CertificateSource, ListenAddress};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::{TcpStream, UdpSocket};

use super::{
    sight::pause,
    test_hub::{Port, TestHub, TestStream, answer, reqwest_client, segno, within},
    tls::{Authority, NAMES},
};

/// Names of a hub that has several.
const DOMAINS: [&str; 2] = ["hub.example", "events.example"];

/// An authority, and the folder with its files.
struct Pebble {
    child: Child,
    manager: Port,
    folder: TempDir,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Answers every question for an address with that of this machine, for ever, as the DNS of a hub's names would. Source: RFC 1035, 4.
async fn serve_names(socket: UdpSocket) {
    let mut question = [0; 512];
    loop {
        let (bytes, asker) = socket.recv_from(&mut question).await.unwrap();
        // The name's labels end with an empty one; type and class follow.
        let name = question[12..bytes].iter().position(|byte| *byte == 0);
        let end = 12 + name.unwrap() + 5;
        let is_for_ipv4 = question[end - 4..end] == [0, 1, 0, 1];
        let mut answer = question[..end].to_vec();
        answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_for_ipv4), 0, 0, 0, 0]);
        if is_for_ipv4 {
            // The name of the question, for a minute.
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
        }
        socket.send_to(&answer, asker).await.unwrap();
    }
}

impl Pebble {
    /// Starts it at `port`. Its certificates live for `lifetime_seconds`; it looks for names at the port of `hub`.
    async fn start(port: &Port, hub: &Port, lifetime_seconds: u32) -> Self {
        Self::start_asking(port, hub, lifetime_seconds, None).await
    }

    /// The same, which asks `names` for addresses.
    async fn start_asking(
        port: &Port,
        hub: &Port,
        lifetime_seconds: u32,
        names: Option<SocketAddr>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // For its own side, which the hub is told to trust.
        let files = Authority::new("acme").issue(&NAMES, folder.path());
        let manager = Port::reserve();
        let config = json!({"pebble": {
            "listenAddress": port.address().to_string(),
            "managementListenAddress": manager.address().to_string(),
            "certificate": files.certificate,
            "privateKey": files.key,
            "httpPort": 1,
            "tlsPort": hub.address().port(),
            "certificateValidityPeriod": lifetime_seconds,
        }});
        let path = folder.path().join("pebble.json");
        fs::write(&path, config.to_string()).unwrap();
        let child = Command::new("pebble")
            .arg("-config")
            .arg(&path)
            .args(
                names
                    .iter()
                    .flat_map(|names| ["-dnsserver".into(), names.to_string()]),
            )
            // Looks at once, each time, and for the proof that is asked for.
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_AUTHZREUSE", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pebble = Self {
            child,
            manager,
            folder,
        };
        within("Pebble to listen", async {
            while TcpStream::connect(port.address()).await.is_err()
                || TcpStream::connect(pebble.manager.address()).await.is_err()
            {
                pause().await;
            }
        })
        .await;
        pebble
    }

    fn trusted(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A client that trusts who is trusted for the hub's certificate.
    async fn client(&self) -> reqwest::Client {
        reqwest_client(); // Chooses the cryptography.
        let own = fs::read(self.trusted()).unwrap();
        let root = format!("https://{}/roots/0", self.manager.address());
        let root = answer(trusting(&own).get(root)).await.body;
        trusting(root.as_bytes())
    }
}

fn trusting(pem: &[u8]) -> reqwest::Client {
    let trusted = reqwest::Certificate::from_pem(pem).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([trusted]);
    let here = ([127, 0, 0, 1], 0).into();
    let client = client.resolve(DOMAINS[0], here).resolve(DOMAINS[1], here);
    // Each request shakes hands, and shows which certificate there is.
    client.pool_max_idle_per_host(0).build().unwrap()
}

/// A hub at `port` that asks the authority at `authority` for its certificate.
async fn hub(folder: TempDir, port: &Port, authority: &Port, trusted: &Path) -> TestHub {
    hub_named(&["localhost"], folder, port, authority, trusted).await
}

async fn hub_named(
    domains: &[&str],
    folder: TempDir,
    port: &Port,
    authority: &Port,
    trusted: &Path,
) -> TestHub {
    let domains = domains.iter().map(|name| (*name).to_owned()).collect();
    let directory = format!("https://{}/dir", authority.address());
    TestHub::start_in(folder, |settings| {
        settings.listen = vec![ListenAddress::Ip(port.address())];
        let kept = settings.db.with_extension("db-acme");
        settings.tls = Some(CertificateSource::Acme(AcmeSettings {
            email: Some("operator@hub.example".into()),
            ca: Some(trusted.to_owned()),
            first_retry: Duration::from_millis(100),
            ..AcmeSettings::new(domains, directory, kept)
        }));
    })
    .await
}

fn named(port: &Port, path: &str) -> String {
    under("localhost", port, path)
}

fn under(domain: &str, port: &Port, path: &str) -> String {
    format!("https://{domain}:{}{path}", port.address().port())
}

async fn wait_for_certificate(client: &reqwest::Client, port: &Port) {
    wait_for_certificate_of("localhost", client, port).await;
}

async fn wait_for_certificate_of(domain: &str, client: &reqwest::Client, port: &Port) {
    within("the first certificate", async {
        while client
            .get(under(domain, port, "/health/live"))
            .send()
            .await
            .is_err()
        {
            pause().await;
        }
    })
    .await;
}

async fn expiry(client: &reqwest::Client, port: &Port) -> Option<f64> {
    let figures = answer(client.get(named(port, "/metrics"))).await.body;
    let name = "segno_tls_certificate_expiry_timestamp_seconds ";
    let figure = figures.lines().find_map(|line| line.strip_prefix(name))?;
    Some(figure.parse().unwrap())
}

fn kept(hub: &TestHub) -> (PathBuf, Vec<u8>) {
    let folders = fs::read_dir(hub.db().with_extension("db-acme")).unwrap();
    let folder = folders.map(|found| found.unwrap().path()).next().unwrap();
    let certificate = fs::read(folder.join("certificate.pem")).unwrap();
    (folder, certificate)
}

#[tokio::test]
async fn a_certificate_is_had_when_the_authority_is_there_and_renewed_without_cutting_a_stream() {
    let (port, authority) = (Port::reserve(), Port::reserve());
    let away = tempfile::tempdir().unwrap();
    let ca = away.path().join("ca.pem");
    fs::write(&ca, Authority::new("other").pem()).unwrap();
    // The authority is away, and there is no certificate yet: a handshake fails, and the hub stands.
    let without = hub(tempfile::tempdir().unwrap(), &port, &authority, &ca).await;
    let any = reqwest::Client::builder().tls_danger_accept_invalid_certs(true);
    let any = any.build().unwrap();
    let refused = any.get(named(&port, "/health/live")).send().await;
    assert!(format!("{:?}", refused.unwrap_err()).contains("AccessDenied"));
    let folder = without.stop().await;

    let pebble = Pebble::start(&authority, &port, 9).await;
    let hub = hub(folder, &port, &authority, &pebble.trusted()).await;
    let client = pebble.client().await;
    wait_for_certificate(&client, &port).await;
    let mut stream = TestStream::open(client.get(named(&port, "/sse?topic=t"))).await;
    let (folder, first) = kept(&hub);
    let first_expiry = expiry(&client, &port).await.unwrap();
    within("another certificate", async {
        while expiry(&client, &port).await.unwrap() <= first_expiry {
            pause().await;
        }
    })
    .await;
    assert_ne!(kept(&hub).1, first);
    let published = client.post(named(&port, "/topics/t")).body("hello");
    assert_eq!(answer(published).await.status, 201);
    assert_eq!(stream.next_data().await, ["\"hello\""]);

    // Nobody else may read it, and nothing else lies there.
    let mut files = Vec::new();
    for found in fs::read_dir(&folder).unwrap() {
        let found = found.unwrap();
        let mode = found.metadata().unwrap().permissions().mode() & 0o777;
        files.push((found.file_name().into_string().unwrap(), mode));
    }
    files.sort();
    let expected = [("account.json", 0o600), ("certificate.pem", 0o600)];
    assert_eq!(files, expected.map(|(name, mode)| (name.to_owned(), mode)));
    for folder in [folder.as_path(), folder.parent().unwrap()] {
        let mode = fs::metadata(folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    // The authority goes away while another is due: what there is stays, and the stream goes on.
    drop(pebble);
    let last = kept(&hub).1;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let published = any.post(named(&port, "/topics/t")).body("still here");
    assert_eq!(answer(published).await.status, 201);
    assert_eq!(stream.next_data().await, ["\"still here\""]);
    assert_eq!(kept(&hub).1, last);
}

/// One certificate for all of them, and each is the hub's own name, also where nobody shows a credential.
#[tokio::test]
async fn every_name_that_was_ordered_leads_to_the_hub() {
    let (port, authority) = (Port::reserve(), Port::reserve());
    let names = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let asked = names.local_addr().unwrap();
    let answering = tokio::spawn(serve_names(names));
    let pebble = Pebble::start_asking(&authority, &port, 86_400, Some(asked)).await;
    let folder = tempfile::tempdir().unwrap();
    let hub = hub_named(&DOMAINS, folder, &port, &authority, &pebble.trusted()).await;
    let client = pebble.client().await;
    wait_for_certificate_of(DOMAINS[0], &client, &port).await;
    for (n, domain) in (1..).zip(DOMAINS) {
        let published = client.post(under(domain, &port, "/topics/t"));
        let published = answer(published.body("x")).await;
        assert_eq!(published.status, 201, "{domain}: {}", published.body);
        let read = answer(client.get(under(domain, &port, "/events"))).await;
        let events = read.json()["events"].as_array().unwrap().len();
        assert_eq!((read.status.as_u16(), events), (200, n), "{domain}");
    }
    // A name that somebody else made to lead here.
    let other = "evil.example";
    let any = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .resolve(other, ([127, 0, 0, 1], 0).into());
    let rebound = any.build().unwrap().get(under(other, &port, "/events"));
    assert_eq!(answer(rebound).await.code(), "wrong_host");
    hub.stop().await;
    answering.abort();
}

#[tokio::test]
async fn a_hub_that_comes_back_orders_nothing_and_one_that_has_no_proof_shows_none() {
    let (port, authority) = (Port::reserve(), Port::reserve());
    let pebble = Pebble::start(&authority, &port, 86_400).await;
    let kept_ca = tempfile::tempdir().unwrap();
    let trusted = kept_ca.path().join("ca.pem");
    fs::copy(pebble.trusted(), &trusted).unwrap();
    let first = hub(tempfile::tempdir().unwrap(), &port, &authority, &trusted).await;
    let client = pebble.client().await;
    wait_for_certificate(&client, &port).await;
    let certificate = kept(&first).1;

    // Whoever asks for a proof that nobody ordered, or for one beside HTTP, gets no proof.
    let shown = |protocols: Vec<Vec<u8>>| {
        let address = port.address();
        async move {
            let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
            let roots = rustls::RootCertStore::empty();
            let config = rustls::ClientConfig::builder_with_provider(provider);
            let config = config.with_safe_default_protocol_versions().unwrap();
            let mut config = config.with_root_certificates(roots).with_no_client_auth();
            config.alpn_protocols = protocols;
            let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
            let socket = TcpStream::connect(address).await.unwrap();
            let name = "localhost".try_into().unwrap();
            connector
                .connect(name, socket)
                .await
                .unwrap_err()
                .to_string()
        }
    };
    let proof = shown(vec![b"acme-tls/1".to_vec()]).await;
    assert!(proof.contains("AccessDenied"), "{proof}");
    let beside = shown(vec![b"acme-tls/1".to_vec(), b"http/1.1".to_vec()]).await;
    assert!(beside.contains("UnknownIssuer"), "{beside}");

    // Away, the authority cannot be asked: what is served was kept.
    drop(pebble);
    let second = hub(first.stop().await, &port, &authority, &trusted).await;
    let live = answer(client.get(named(&port, "/health/live"))).await;
    assert_eq!(live.status, 200);
    assert_eq!(kept(&second).1, certificate);

    // The authority has lost everything, as Pebble does when it ends, and a file is broken: both are had anew.
    let (folder, _) = kept(&second);
    let account = fs::read(folder.join("account.json")).unwrap();
    let stopped = second.stop().await;
    fs::write(folder.join("certificate.pem"), "broken").unwrap();
    let pebble = Pebble::start(&authority, &port, 86_400).await;
    let third = hub(stopped, &port, &authority, &pebble.trusted()).await;
    let client = pebble.client().await;
    wait_for_certificate(&client, &port).await;
    assert_ne!(fs::read(folder.join("account.json")).unwrap(), account);
    assert_ne!(kept(&third).1, certificate);
}

#[tokio::test]
async fn a_name_that_does_not_lead_to_the_hub_is_told_with_what_to_do() {
    let (port, elsewhere, authority) = (Port::reserve(), Port::reserve(), Port::reserve());
    let pebble = Pebble::start(&authority, &elsewhere, 86_400).await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let told = |expected: &'static str, ca: PathBuf| {
        let mut command = segno();
        command
            .args(["serve", "--acme-domain", "localhost", "--acme-directory"])
            .arg(format!("https://{}/dir", authority.address()))
            .arg("--acme-ca")
            .arg(ca)
            .arg("--listen")
            .arg(port.address().to_string())
            .current_dir(folder.path())
            .stdout(fs::File::create(folder.path().join("greeting")).unwrap())
            .stderr(fs::File::create(&log).unwrap());
        let log = log.clone();
        async move {
            let mut child = command.spawn().unwrap();
            within(format_args!("the log to say {expected:?}"), async {
                while !fs::read_to_string(&log).unwrap().contains(expected) {
                    pause().await;
                }
            })
            .await;
            child.kill().unwrap();
            child.wait().unwrap();
            fs::read_to_string(&log).unwrap()
        }
    };
    let unproved = "the authority could not see that localhost leads here, ";
    let lines = told(unproved, pebble.trusted()).await;
    for part in [
        "its DNS must name this machine, and port 443 must lead to the hub",
        "no certificate could be had; until there is one, every TLS handshake fails",
        "retry_in_ms=1",
    ] {
        assert!(lines.contains(part), "{part}: {lines}");
    }
    let greeting = fs::read_to_string(folder.path().join("greeting")).unwrap();
    assert!(greeting.contains("https://localhost/sse"), "{greeting}");
    let other = folder.path().join("other.pem");
    fs::write(&other, Authority::new("other").pem()).unwrap();
    let untrusted =
        "the authority's own certificate is not trusted; name who signed it with --acme-ca FILE";
    told(untrusted, other).await;
    let ca = folder.path().join("ca.pem");
    fs::copy(pebble.trusted(), &ca).unwrap();
    drop(pebble);
    told("the authority cannot be reached; ", ca).await;
}

#[test]
fn flags_that_do_not_go_together_are_refused_and_a_check_asks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    Authority::new("a").issue(&NAMES, folder.path());
    let run = |arguments: &[&str]| {
        let mut command = segno();
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        command.args(arguments).current_dir(folder.path());
        let ended = command.output().unwrap();
        String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap()
    };
    let both = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];
    let domain = ["--acme-domain", "hub.example"];
    let told = run(&[&both[..], &domain].concat());
    assert!(told.contains("cannot be used with"), "{told}");
    let told = run(&["--acme-email", "a@hub.example"]);
    assert!(told.contains("--acme-domain"), "{told}");
    let told = run(&["--acme-domain", "*.example"]);
    assert!(told.contains("name each domain"), "{told}");
    let check = ["--check-config", "--acme-ca", "none.pem"];
    let told = run(&[&domain[..], &check].concat());
    for part in [
        "note: connections are encrypted; https://acme-v02.api.letsencrypt.org/directory is asked for the certificate, and must reach \
         the hub at port 443 of hub.example",
        "problem: cannot read none.pem: ",
    ] {
        assert!(told.contains(part), "{told}");
    }
    assert!(!folder.path().join("segno.db-acme").exists());
}
