//! A process under test: the hub as it is shipped, or a floor.

use segno::auth::TokenHash;
use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

/// Ticks in which the kernel counts processor time. Source: proc(5), `sysconf(_SC_CLK_TCK)`, 100 on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process that listens. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    /// Held open: a process that writes more must find a reader.
    stdout: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts the hub on the file in `folder`.
    pub(crate) fn hub(folder: &Path) -> Self {
        Self::hub_at("127.0.0.1:0", folder)
    }

    /// Starts the hub on the file in `folder`, at an address of one's own.
    pub(crate) fn hub_at(address: &str, folder: &Path) -> Self {
        Self::start(Self::serve(address, folder))
    }

    /// Starts the hub on the file in `folder`, with more flags.
    pub(crate) fn hub_with(folder: &Path, flags: &[&str]) -> Self {
        let mut command = Self::serve("127.0.0.1:0", folder);
        command.args(flags);
        Self::start(command)
    }

    fn serve(address: &str, folder: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_segno"));
        command
            .args(["serve", "--listen", address, "--db"])
            .arg(folder.join("segno.db"))
            // All come from one address here.
            .args(["--max-connections-per-address", "1000000"])
            .args(["--max-streams-per-address", "1000000"]);
        command
    }

    /// Starts the hub on the file in `folder`, with an access file that lets `token` publish, among a hundred others.
    pub(crate) fn hub_with_access(folder: &Path, token: &str) -> Self {
        let access = folder.join("access.toml");
        let others = (0..100).map(|number| format!("segno_{number}"));
        let tokens = others.chain([token.to_owned()]).enumerate();
        let entries = tokens.map(|(number, token)| {
            let hash = TokenHash::of(&token);
            format!("[[token]]\nname = \"{number}\"\nsha256 = \"{hash}\"\npublish = [\"**\"]\n")
        });
        std::fs::write(&access, entries.collect::<String>()).unwrap();
        let mut command = Self::serve("127.0.0.1:0", folder);
        command.arg("--access").arg(access);
        Self::start(command)
    }

    /// Starts the hub on the file in `folder`, which encrypts with `cert.pem` and `key.pem` of another folder.
    pub(crate) fn hub_with_certificate(folder: &Path, certificate: &Path) -> Self {
        let mut command = Self::serve("127.0.0.1:0", folder);
        for (flag, file) in [("--tls-cert", "cert.pem"), ("--tls-key", "key.pem")] {
            command.arg(flag).arg(certificate.join(file));
        }
        Self::start(command)
    }

    /// Starts this program again, as a floor.
    pub(crate) fn floor(kind: super::floor::Kind) -> Self {
        Self::start(Self::as_floor(kind))
    }

    /// The same, for a floor that reads `cert.pem` and `key.pem` where it is started.
    pub(crate) fn encrypting_floor(kind: super::floor::Kind, certificate: &Path) -> Self {
        let mut command = Self::as_floor(kind);
        command.current_dir(certificate);
        Self::start(command)
    }

    fn as_floor(kind: super::floor::Kind) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(super::floor::VARIABLE, kind.name());
        command
    }

    /// Waits until the process has said where it listens.
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        // Made before anything can fail: a child that outlived this would hold the pipe that our output goes to.
        let mut process = Self {
            child,
            stdout,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
        };
        process.address = process.read_address();
        process
    }

    /// Reads what the process says first, until it names an address.
    fn read_address(&mut self) -> SocketAddr {
        let mut line = String::new();
        loop {
            line.clear();
            let bytes = self.stdout.read_line(&mut line).unwrap();
            assert!(bytes > 0, "the process ended before it listened");
            if let Some((_, address)) = line.split_once("://") {
                let is_of_address = |c: char| c.is_ascii_hexdigit() || ".:[]".contains(c);
                let end = address.find(|c| !is_of_address(c)).unwrap_or(address.len());
                return address[..end].parse().unwrap();
            }
        }
    }

    /// Processor time it has taken so far, in seconds, its own and the kernel's for it.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name in brackets may hold spaces; behind it stand state, then 10 fields, then utime and stime.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        ticks / TICKS_PER_SECOND
    }

    /// Memory it holds now.
    pub(crate) fn memory_bytes(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kilobytes * 1024.0
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(mut self) {
        let sent = Command::new("kill")
            .arg(self.child.id().to_string())
            .status()
            .unwrap();
        assert!(sent.success());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
