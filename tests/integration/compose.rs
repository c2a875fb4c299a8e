//! `deploy/compose.cluster.yaml`: its commands, run as processes of this machine at other addresses.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_yaml::Value;
use tempfile::TempDir;

use super::{
    nats,
    test_hub::{TestStream, answer, reqwest_client, segno, within},
};

const FILE: &str = "deploy/compose.cluster.yaml";

/// A service that runs; it ends when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// The services of the file, and where each address that they name is here.
struct Services {
    services: Value,
    addresses: BTreeMap<String, String>,
    folder: TempDir,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn free_address() -> SocketAddr {
    ([127, 0, 0, 1], nats::free_port()).into()
}

impl Services {
    fn read() -> Self {
        let text = fs::read_to_string(root().join(FILE)).unwrap();
        let mut file: Value = serde_yaml::from_str(&text).unwrap();
        file.apply_merge().unwrap();
        let mut addresses = BTreeMap::new();
        for n in 1..=3 {
            for name in [
                format!("nats-{n}:4222"),
                format!("nats-{n}:6222"),
                format!("hub-{n}:8000"),
            ] {
                addresses.insert(name, free_address().to_string());
            }
        }
        addresses.insert("proxy:8000".into(), free_address().to_string());
        Self {
            services: file["services"].clone(),
            addresses,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn address(&self, name: &str) -> &str {
        &self.addresses[name]
    }

    /// `text`, with the addresses that are here.
    fn here(&self, text: &str) -> String {
        let mut here = text.to_owned();
        for (name, address) in &self.addresses {
            here = here.replace(name, address);
        }
        here
    }

    fn words(&self, service: &str, field: &str) -> Vec<String> {
        let words = self.services[service][field].as_sequence();
        let words = words.unwrap_or_else(|| panic!("{service} has no {field}"));
        words
            .iter()
            .map(|word| self.here(word.as_str().unwrap()))
            .collect()
    }

    fn environment(&self, service: &str) -> BTreeMap<String, String> {
        let variables = self.services[service]["environment"].as_mapping().unwrap();
        variables
            .iter()
            .map(|(name, value)| {
                (
                    name.as_str().unwrap().into(),
                    self.here(value.as_str().unwrap()),
                )
            })
            .collect()
    }

    /// The file of this machine that a service has at `place`.
    fn mounted(&self, service: &str, place: &str) -> PathBuf {
        let volumes = self.words(service, "volumes");
        let file = volumes
            .iter()
            .find_map(|volume| volume.strip_suffix(&format!(":{place}:ro")));
        root().join("deploy").join(file.unwrap())
    }

    fn own_folder(&self, service: &str) -> PathBuf {
        let folder = self.folder.path().join(service);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn run(&self, mut command: Command, service: &str) -> Running {
        let log = fs::File::create(self.own_folder(service).join("log")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        Running(child.unwrap())
    }

    fn nats(&self, n: usize) -> Running {
        let service = format!("nats-{n}");
        let folder = self.own_folder(&service);
        let arguments = self.words(&service, "command");
        let [flag, place] = &arguments[..] else {
            panic!("{arguments:?}")
        };
        let config = fs::read_to_string(self.mounted(&service, place)).unwrap();
        let config = self
            .here(&config)
            .replace("0.0.0.0:4222", self.address(&format!("{service}:4222")))
            .replace("0.0.0.0:6222", self.address(&format!("{service}:6222")))
            .replace("/data", folder.join("data").to_str().unwrap());
        fs::write(folder.join("nats.conf"), config).unwrap();
        let mut command = Command::new(nats::program());
        command
            .arg(flag)
            .arg(folder.join("nats.conf"))
            .envs(self.environment(&service));
        self.run(command, &service)
    }

    fn segno(&self, service: &str) -> Command {
        let mut command = segno();
        command
            .args(self.words(service, "command"))
            .envs(self.environment(service));
        command
    }

    /// What the image says beside the compose file is said here.
    fn hub(&self, n: usize) -> Running {
        let service = format!("hub-{n}");
        let mut command = self.segno(&service);
        command
            .env("SEGNO_LISTEN", self.address(&format!("{service}:8000")))
            .env("SEGNO_OPEN", "true")
            .env("SEGNO_DB", self.own_folder(&service).join("segno.db"));
        self.run(command, &service)
    }

    fn proxy(&self) -> Running {
        let folder = self.own_folder("proxy");
        let recipe = self.mounted("proxy", "/etc/nginx/conf.d/default.conf");
        let recipe = self.here(&fs::read_to_string(recipe).unwrap());
        let recipe = recipe.replace(
            "listen 8000;",
            &format!("listen {};", self.address("proxy:8000")),
        );
        let config = format!(
            "pid nginx.pid; error_log stderr; events {{}} http {{ access_log off; client_body_temp_path a; proxy_temp_path b;
             fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;\n{recipe}\n}}"
        );
        fs::write(folder.join("nginx.conf"), config).unwrap();
        let mut command = Command::new("nginx");
        command
            .args(["-p", ".", "-c", "nginx.conf", "-g", "daemon off;"])
            .current_dir(folder);
        self.run(command, "proxy")
    }
}

async fn wait_until_ready(address: &str) {
    let http = reqwest_client();
    let ready = async {
        while !http
            .get(format!("http://{address}/health/ready"))
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(format_args!("{address} to be ready"), ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_compose_file_of_a_cluster_starts_one_that_outlives_a_hub() {
    let services = Services::read();
    let servers = [1, 2, 3].map(|n| services.nats(n));
    // The second time it is there already.
    for time in 1..=2 {
        let made = services.segno("stream").output().unwrap();
        assert!(made.status.success(), "{time}: {made:?}");
        assert!(
            !String::from_utf8_lossy(&made.stdout).contains("warning"),
            "{made:?}"
        );
    }
    let mut hubs = Vec::from([1, 2, 3].map(|n| services.hub(n)));
    for n in 1..=3 {
        wait_until_ready(services.address(&format!("hub-{n}:8000"))).await;
    }
    let _proxy = services.proxy();
    let proxy = services.address("proxy:8000");
    wait_until_ready(proxy).await;

    // The tour of the README, a hub less with each step.
    let http = reqwest_client();
    let publish = async |n: u64| {
        let request = http.post(format!("http://{proxy}/topics/greetings"));
        let published = answer(request.body(format!("hello {n}"))).await;
        assert_eq!(published.status, 201, "{published:?}");
        assert_eq!(published.json()["id"], n);
    };
    publish(1).await;
    let follow = |cursor: &str| {
        http.get(format!("http://{proxy}/sse?topic=greetings"))
            .header("last-event-id", cursor)
    };
    let mut stream = TestStream::open(follow("0")).await;
    assert_eq!(stream.next_data().await, ["\"hello 1\""]);
    for (n, left) in [(2, 2), (3, 1)] {
        drop(hubs.pop());
        assert_eq!(hubs.len(), left);
        publish(n).await;
        let mut stream = TestStream::open(follow("1")).await;
        assert_eq!(stream.next_data().await, ["\"hello 2\""]);
    }
    drop(servers);
}

/// Where there is a program that reads such files, it takes this one.
#[test]
fn docker_compose_takes_the_compose_file_of_a_cluster() {
    let standalone = ("docker-compose", vec![]);
    for (program, first) in [standalone, ("docker", vec!["compose"])] {
        let version = Command::new(program).args(&first).arg("version").output();
        if !version.is_ok_and(|version| version.status.success()) {
            continue;
        }
        let read = Command::new(program)
            .args(&first)
            .args(["-f", FILE, "config"])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(read.status.success(), "{read:?}");
    }
}
