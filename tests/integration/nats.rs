//! NATS servers of a test: each a process of its own, that can be killed and started again.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use segno::{
    hub::ClusterSettings,
    jetstream::{COMMANDS_FORMAT, JetStream, NewStream, Settings},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{
    faults::SmallDisk,
    test_hub::{DEADLINE, within},
};

/// Servers that make one JetStream.
pub(crate) struct Nats {
    folder: TempDir,
    servers: Vec<Server>,
    /// Where their streams are, if that is not beside their configuration.
    disk: Option<SmallDisk>,
    /// User and password, if they ask for one.
    login: Option<&'static str>,
    /// The file that names one and has its key, if they ask for that.
    credentials: Option<PathBuf>,
}

struct Server {
    port: u16,
    process: Option<Child>,
}

pub(crate) fn program() -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/venv/bin/nats-server");
    assert!(program.exists(), "tests/clients/install puts it there");
    program
}

/// A port that was free a moment ago. It is not one that the system gives to whoever connects meanwhile.
pub(crate) fn free_port() -> u16 {
    (0..1000)
        .map(|_| fastrand::u16(20_000..32_000))
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

impl Nats {
    /// Starts `count` servers.
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(count, "").await
    }

    /// The same, with more in the configuration of each.
    pub(crate) async fn start_with(count: usize, more: &str) -> Self {
        Self::make(count, more, None, None)
    }

    /// One server that asks for a user and a password, such as `hub:right`.
    pub(crate) async fn start_with_login(login: &'static str) -> Self {
        let (user, password) = login.split_once(':').unwrap();
        let more = format!("authorization {{ user: {user}, password: {password} }}");
        Self::make(1, &more, None, Some(login))
    }

    /// One server whose streams are on `disk`.
    pub(crate) async fn start_on(disk: SmallDisk) -> Self {
        Self::make(1, "", Some(disk), None)
    }

    pub(crate) fn disk(&self) -> &SmallDisk {
        self.disk.as_ref().unwrap()
    }

    fn make(
        count: usize,
        more: &str,
        disk: Option<SmallDisk>,
        login: Option<&'static str>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let routes: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let route = |port: &u16| format!("\"nats://127.0.0.1:{port}\"");
        let others = routes.iter().map(route).collect::<Vec<_>>().join(", ");
        let mut servers = Vec::new();
        for (n, route) in routes.iter().enumerate() {
            let port = free_port();
            let on = disk.as_ref().map_or(folder.path(), SmallDisk::path);
            let store = on.join(format!("store-{n}"));
            let mut config = format!(
                "server_name: n{n}\nlisten: 127.0.0.1:{port}\nmax_payload: 8MB\n\
                 jetstream {{ store_dir: {store:?}, sync_interval: always }}\n{more}\n",
            );
            if count > 1 {
                config += &format!(
                    "cluster {{ name: segno, listen: 127.0.0.1:{route}, routes: [{others}] }}\n"
                );
            }
            fs::write(folder.path().join(format!("n{n}.conf")), config).unwrap();
            servers.push(Server {
                port,
                process: None,
            });
        }
        let mut nats = Self {
            folder,
            servers,
            disk,
            login,
            credentials: None,
        };
        for n in 0..count {
            nats.start_again(n);
        }
        nats
    }

    /// One server that asks for credentials of `account`.
    pub(crate) async fn start_with_account(account: &Account) -> Self {
        let mut nats = Self::make(1, &account.config(), None, None);
        let credentials = nats.folder.path().join("hub.creds");
        fs::write(&credentials, account.credentials()).unwrap();
        nats.credentials = Some(credentials);
        nats
    }

    pub(crate) fn count(&self) -> usize {
        self.servers.len()
    }

    pub(crate) fn is_running(&self, n: usize) -> bool {
        self.servers[n].process.is_some()
    }

    pub(crate) fn start_again(&mut self, n: usize) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("n{n}.log")))
            .unwrap();
        assert!(self.servers[n].process.is_none());
        let mut command = match &self.disk {
            Some(disk) => disk.run(program()),
            None => Command::new(program()),
        };
        let process = command
            .arg("--config")
            .arg(self.folder.path().join(format!("n{n}.conf")))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.servers[n].process = Some(process.unwrap());
    }

    pub(crate) fn kill(&mut self, n: usize) {
        let mut process = self.servers[n].process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Sends a signal, by its name.
    pub(crate) fn signal(&self, n: usize, signal: &str) {
        let id = self.servers[n].process.as_ref().unwrap().id();
        let sent = Command::new("kill")
            .args([format!("-{signal}"), id.to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Stops a server in an orderly way, and waits for its end.
    pub(crate) fn stop(&mut self, n: usize) {
        self.signal(n, "TERM");
        self.servers[n].process.take().unwrap().wait().unwrap();
    }

    /// Where a server keeps the streams.
    pub(crate) fn store(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("store-{n}"))
    }

    /// Replaces a part of a server's configuration, and waits until it goes by the new one.
    pub(crate) async fn reconfigure(&self, n: usize, old: &str, new: &str) {
        let log = self.folder.path().join(format!("n{n}.log"));
        let reloads = || {
            let log = fs::read_to_string(&log).unwrap();
            log.matches("Reloaded server configuration").count()
        };
        let before = reloads();
        let path = self.folder.path().join(format!("n{n}.conf"));
        let config = fs::read_to_string(&path).unwrap();
        assert!(config.contains(old), "{config}");
        fs::write(path, config.replace(old, new)).unwrap();
        self.signal(n, "HUP");
        within("the server to read its configuration", async {
            while reloads() == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    pub(crate) fn address(&self, n: usize) -> SocketAddr {
        ([127, 0, 0, 1], self.servers[n].port).into()
    }

    /// The server that leads the stream.
    pub(crate) async fn leader(&self, stream: &str) -> usize {
        let client = async_nats::connect(self.urls()).await.unwrap();
        let context = async_nats::jetstream::new(client);
        let asking = async {
            loop {
                if let Ok(stream) = context.get_stream(stream).await
                    && let Some(cluster) = &stream.cached_info().cluster
                    && let Some(leader) = &cluster.leader
                {
                    return leader.strip_prefix('n').unwrap().parse().unwrap();
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        within("a leader of the stream", asking).await
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        let login = self.login.map(|login| format!("{login}@"));
        let login = login.unwrap_or_default();
        let url = |server: &Server| format!("nats://{login}127.0.0.1:{}", server.port);
        self.servers.iter().map(url).collect()
    }

    pub(crate) fn settings(&self, stream: &str) -> Settings {
        Settings {
            servers: self.urls(),
            stream: stream.to_owned(),
            credentials: self.credentials.clone(),
            ca: None,
        }
    }

    /// What a hub is started with.
    pub(crate) fn cluster(&self, stream: &str) -> Option<ClusterSettings> {
        Some(ClusterSettings {
            stream: self.settings(stream),
            advertise: None,
            remove_after: Duration::from_secs(1),
        })
    }

    pub(crate) async fn open(&self, stream: &str) -> JetStream {
        JetStream::open(&self.settings(stream)).await.unwrap()
    }

    /// Makes a stream for a log that begins empty.
    pub(crate) async fn make_stream(&self, stream: &str) -> JetStream {
        self.make_stream_of(stream, 256 << 20).await
    }

    /// The same, for so many bytes of commands.
    pub(crate) async fn make_stream_of(&self, stream: &str, max_bytes: u64) -> JetStream {
        let jetstream = self.open(stream).await;
        let made = async {
            // A cluster has to elect somebody first.
            while let Err(error) = jetstream.create(self.new_stream(max_bytes)).await {
                assert!(
                    !error.to_string().contains("name already in use"),
                    "{error}"
                );
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        within(
            format_args!("a stream in {}", self.folder.path().display()),
            made,
        )
        .await;
        jetstream
    }

    pub(crate) async fn delete_stream(&self, stream: &str) {
        let client = async_nats::connect(self.urls()).await.unwrap();
        let context = async_nats::jetstream::new(client);
        context.delete_stream(stream).await.unwrap();
    }

    /// Removes all commands before `sequence`.
    pub(crate) async fn purge(&self, stream: &str, sequence: u64) {
        let client = async_nats::connect(self.urls()).await.unwrap();
        let context = async_nats::jetstream::new(client);
        let stream = context.get_stream(stream).await.unwrap();
        stream.purge().sequence(sequence).await.unwrap();
    }

    pub(crate) async fn last_sequence(&self, stream: &str) -> u64 {
        let stream = self.open(stream).await;
        let deadline = Duration::from_secs(10);
        stream.about_within(deadline).await.unwrap().last_sequence
    }

    /// Whether any file of a server has `text`.
    pub(crate) fn stores_have(&self, text: &str) -> bool {
        let found = Command::new("grep")
            .args(["--recursive", "--quiet", "--binary-files=text", text])
            .arg(self.folder.path())
            .status()
            .unwrap();
        found.success()
    }

    fn new_stream(&self, max_bytes: u64) -> NewStream {
        NewStream {
            epoch: Uuid::new_v4().to_string(),
            log_id: Uuid::new_v4().to_string(),
            begins_empty: true,
            format: COMMANDS_FORMAT,
            replicas: self.count(),
            max_age: DEADLINE * 100,
            max_bytes,
        }
    }
}

/// An account of NATS with one user, signed as an operator's tools do it.
pub(crate) struct Account {
    operator: KeyPair,
    system: KeyPair,
    account: KeyPair,
    user: KeyPair,
}

impl Account {
    pub(crate) fn new() -> Self {
        Self {
            operator: KeyPair::new_operator(),
            system: KeyPair::new_account(),
            account: KeyPair::new_account(),
            user: KeyPair::new_user(),
        }
    }

    /// A server that trusts the operator.
    fn config(&self) -> String {
        let operator = signed(
            &self.operator,
            &self.operator,
            json!({"type": "operator", "version": 2, "system_account": self.system.public_key()}),
        );
        let system = self.of_account(&self.system, 0, json!({}));
        let (system_id, account_id) = (self.system.public_key(), self.account.public_key());
        let allows = self.allows();
        format!(
            "operator: {operator}\nresolver: MEMORY\n\
             resolver_preload {{ {system_id}: {system}, {account_id}: {allows} }}"
        )
    }

    /// An account that may keep so many bytes of streams; -1: as many as there is room for. That of the system may keep none.
    fn of_account(&self, account: &KeyPair, storage_bytes: i64, revocations: Value) -> String {
        let unlimited = [
            "subs", "data", "payload", "imports", "exports", "conn", "leaf", "streams", "consumer",
        ];
        let mut limits: serde_json::Map<_, _> = unlimited
            .map(|limit| (limit.to_owned(), json!(-1)))
            .into_iter()
            .collect();
        limits.insert("wildcards".into(), json!(true));
        limits.insert("mem_storage".into(), json!(storage_bytes));
        limits.insert("disk_storage".into(), json!(storage_bytes));
        let claims = json!({
            "type": "account", "version": 2, "limits": limits, "default_permissions": {"pub": {}, "sub": {}},
            "revocations": revocations,
        });
        signed(&self.operator, account, claims)
    }

    /// The account, whose user may connect.
    pub(crate) fn allows(&self) -> String {
        self.of_account(&self.account, -1, json!({}))
    }

    /// The account, after all credentials that its user has by now were revoked.
    pub(crate) fn revokes(&self) -> String {
        let user = self.user.public_key();
        self.of_account(&self.account, -1, json!({user: ISSUED_AT + 1}))
    }

    fn credentials(&self) -> String {
        let claims = json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
        let user = signed(&self.account, &self.user, claims);
        format!(
            "-----BEGIN NATS USER JWT-----\n{user}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            self.user.seed().unwrap()
        )
    }
}

/// When all is issued, in seconds since 1970.
const ISSUED_AT: u64 = 1_764_000_000;

/// A token of NATS: what `issuer` says of `subject`.
fn signed(issuer: &KeyPair, subject: &KeyPair, claims: Value) -> String {
    let claims = json!({
        "jti": subject.public_key(), "iat": ISSUED_AT, "iss": issuer.public_key(), "name": "test",
        "sub": subject.public_key(), "nats": claims,
    });
    let head = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let text = [head, claims]
        .map(|part| encode(part.to_string().as_bytes()))
        .join(".");
    let signature = encode(&issuer.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}

/// A line to a server, that can be cut: nothing goes through, and neither end is told.
pub(crate) struct Wire {
    address: SocketAddr,
    is_whole: watch::Sender<bool>,
    _accepting: AbortOnDropHandle<()>,
}

impl Wire {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (is_whole, whole) = watch::channel(true);
        let accepting = async move {
            let mut connections = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let whole = whole.clone();
                connections.spawn(async move {
                    let Ok(far) = TcpStream::connect(server).await else {
                        return;
                    };
                    let ((near_read, near_write), (far_read, far_write)) =
                        (near.into_split(), far.into_split());
                    tokio::select! {
                        () = carry(near_read, far_write, whole.clone()) => (),
                        () = carry(far_read, near_write, whole) => (),
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        };
        Self {
            address,
            is_whole,
            _accepting: AbortOnDropHandle::new(tokio::spawn(accepting)),
        }
    }

    /// What a hub is started with that has no other line.
    pub(crate) fn cluster(&self, stream: &str) -> Option<ClusterSettings> {
        Some(ClusterSettings {
            stream: Settings {
                servers: vec![format!("nats://{}", self.address)],
                stream: stream.to_owned(),
                credentials: None,
                ca: None,
            },
            advertise: None,
            remove_after: Duration::from_secs(1),
        })
    }

    pub(crate) fn cut(&self) {
        self.is_whole.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.is_whole.send_replace(true);
    }
}

/// What was on its way when the line was cut arrives when it is mended.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut whole: watch::Receiver<bool>) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or(0);
        if read == 0 || whole.wait_for(|whole| *whole).await.is_err() {
            return;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

#[expect(
    clippy::print_stdout,
    reason = "what the servers said, of a test that failed"
)]
impl Drop for Nats {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for n in 0..self.count() {
                let log = fs::read_to_string(self.folder.path().join(format!("n{n}.log")));
                let log = log.unwrap_or_default();
                let last = log.lines().rev().take(30).collect::<Vec<_>>();
                println!("server {n}, its last lines first: {last:#?}");
            }
        }
        for server in &mut self.servers {
            if let Some(mut process) = server.process.take() {
                _ = process.kill();
                _ = process.wait();
            }
        }
    }
}
