//! NATS servers of a test: each a process of its own, that can be killed and started again.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use segno::{
    hub::ClusterSettings,
    jetstream::{COMMANDS_FORMAT, JetStream, NewStream, Settings},
};
use tempfile::TempDir;
use uuid::Uuid;

use super::test_hub::{DEADLINE, within};

/// Servers that make one JetStream.
pub(crate) struct Nats {
    folder: TempDir,
    servers: Vec<Server>,
}

struct Server {
    port: u16,
    process: Option<Child>,
}

fn program() -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/venv/bin/nats-server");
    assert!(program.exists(), "tests/clients/install puts it there");
    program
}

/// A port that was free a moment ago. It is not one that the system gives to whoever connects meanwhile.
fn free_port() -> u16 {
    (0..1000)
        .map(|_| fastrand::u16(20_000..32_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

impl Nats {
    /// Starts `count` servers, and waits for the first to be asked.
    pub(crate) async fn start(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let routes: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let route = |port: &u16| format!("\"nats://127.0.0.1:{port}\"");
        let others = routes.iter().map(route).collect::<Vec<_>>().join(", ");
        let mut servers = Vec::new();
        for (n, route) in routes.iter().enumerate() {
            let port = free_port();
            let store = folder.path().join(format!("store-{n}"));
            let mut config = format!(
                "server_name: n{n}\nlisten: 127.0.0.1:{port}\nmax_payload: 8MB\n\
                 jetstream {{ store_dir: {store:?}, sync_interval: always }}\n",
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
        let mut nats = Self { folder, servers };
        for n in 0..count {
            nats.start_again(n);
        }
        nats
    }

    pub(crate) fn count(&self) -> usize {
        self.servers.len()
    }

    pub(crate) fn start_again(&mut self, n: usize) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("n{n}.log")))
            .unwrap();
        let server = &mut self.servers[n];
        assert!(server.process.is_none());
        let process = Command::new(program())
            .arg("--config")
            .arg(self.folder.path().join(format!("n{n}.conf")))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        server.process = Some(process.unwrap());
    }

    pub(crate) fn kill(&mut self, n: usize) {
        let mut process = self.servers[n].process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        let url = |server: &Server| format!("nats://127.0.0.1:{}", server.port);
        self.servers.iter().map(url).collect()
    }

    pub(crate) fn settings(&self, stream: &str) -> Settings {
        Settings {
            servers: self.urls(),
            stream: stream.to_owned(),
            credentials: None,
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

    /// Makes a stream for a log that begins empty.
    pub(crate) async fn make_stream(&self, stream: &str) -> JetStream {
        let jetstream = JetStream::open(&self.settings(stream)).await.unwrap();
        let made = async {
            // A cluster has to elect somebody first.
            while let Err(error) = jetstream.create(self.new_stream()).await {
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
        let stream = JetStream::open(&self.settings(stream)).await.unwrap();
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

    fn new_stream(&self) -> NewStream {
        NewStream {
            epoch: Uuid::new_v4().to_string(),
            log_id: Uuid::new_v4().to_string(),
            begins_empty: true,
            format: COMMANDS_FORMAT,
            replicas: self.count(),
            max_age: DEADLINE * 100,
            max_bytes: 1 << 30,
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        for server in &mut self.servers {
            if let Some(mut process) = server.process.take() {
                _ = process.kill();
                _ = process.wait();
            }
        }
    }
}
