//! What puts the events of the suite in order: the hub itself, or with `SEGNO_TEST_ENGINE=jetstream` a NATS server, one for this
//! process, with a stream for each file.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use segno::{
    hub::{ClusterSettings, find_beats},
    jetstream::{JetStream, Settings},
};

use super::{
    nats,
    test_hub::{DEADLINE, is_jetstream, segno, within},
};

/// Hubs that were started, so that each has another address.
static STARTS: AtomicU64 = AtomicU64::new(0);

/// Where the server keeps its streams: hundreds of megabytes. Those of processes that have ended are removed.
fn folder() -> PathBuf {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("engines");
    for old in fs::read_dir(&all).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(old.file_name()).exists() {
            _ = fs::remove_dir_all(old.path());
        }
    }
    all.join(std::process::id().to_string())
}

/// The one server. It ends with this process.
fn server() -> SocketAddr {
    static SERVER: OnceLock<SocketAddr> = OnceLock::new();
    *SERVER.get_or_init(|| {
        let address = SocketAddr::from(([127, 0, 0, 1], nats::free_port()));
        let folder = folder();
        fs::create_dir_all(&folder).unwrap();
        let config = format!(
            "server_name: engine\nlisten: \"{address}\"\nmax_payload: 32MB\n\
             jetstream {{ store_dir: {:?}, max_file_store: 100GB }}\n",
            folder.join("store")
        );
        fs::write(folder.join("nats.conf"), config).unwrap();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(nats::program())
            .arg("--config")
            .arg(folder.join("nats.conf"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("log")).unwrap());
        // The server ends with the thread that started it: this one stays.
        thread::spawn(move || {
            let ended = command.spawn().unwrap().wait();
            panic!("the server of the engine ended by itself: {ended:?}");
        });
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(begun.elapsed() < DEADLINE, "the server does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        address
    })
}

/// The cluster of the file at `db`, whose stream is made when it is first asked for; what is in the file is its beginning.
pub(crate) fn cluster_of(db: &Path) -> ClusterSettings {
    static STREAMS: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());
    let url = format!("nats://{}", server());
    let mut streams = STREAMS.lock().unwrap_or_else(|broken| broken.into_inner());
    let next = format!("log-{}", streams.len() + 1);
    let stream = streams.entry(db.to_owned()).or_insert_with(|| {
        let mut init = segno();
        init.args(["cluster", "init", "--cluster", &url])
            .args(["--cluster-stream", &next])
            .args(["--replicas", "1", "--keep-bytes", "268435456"]);
        if db.exists() {
            init.arg("--from").arg(db);
        }
        let made = init.output().unwrap();
        assert!(made.status.success(), "{made:?}");
        next
    });
    ClusterSettings {
        stream: Settings {
            servers: vec![url],
            stream: stream.clone(),
            credentials: None,
            ca: None,
        },
        advertise: Some(format!(
            "http://start-{}",
            STARTS.fetch_add(1, Ordering::Relaxed)
        )),
        remove_after: Duration::from_mins(1),
    }
}

/// The flags that put `segno serve` on the file at `db` into its cluster; none for the engine that needs none.
pub(crate) fn flags(db: &Path) -> Vec<String> {
    if !is_jetstream() {
        return Vec::new();
    }
    let Settings {
        servers, stream, ..
    } = cluster_of(db).stream;
    vec![
        "--cluster".into(),
        servers.join(","),
        "--cluster-stream".into(),
        stream,
    ]
}

/// Waits until the hub that was started with these settings is one of its cluster. Nothing is asked of the hub itself: it may know
/// nobody, or have no room for another connection.
pub(crate) async fn wait_until_joined(member: &ClusterSettings) {
    let stream = JetStream::open(&member.stream).await.unwrap();
    let joined = async {
        loop {
            let beats = find_beats(&stream).await.unwrap_or_default();
            if beats.iter().any(|heard| heard.beat.url == member.advertise) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the hub to join its cluster", joined).await;
}
