//! What this process takes of the machine, as Linux tells it. Elsewhere nothing is told.

use std::{fs, num::NonZero, thread};

/// Ticks a second in which `/proc` counts processor time. Source: proc(5) and `USER_HZ`, which is 100 on every architecture that
/// Rust's standard library runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used, and holds now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Seconds of processor time since it started, its own and the kernel's for it.
    pub cpu_seconds: f64,
    /// Bytes of memory it holds.
    pub resident_bytes: u64,
    /// Bytes of addresses it has reserved. More than it holds: the allocator reserves in advance.
    pub virtual_bytes: u64,
    /// Files that are open, connections included.
    pub open_files: u64,
    /// Files that may be open.
    pub max_open_files: u64,
}

impl Usage {
    /// Of this process, now. `None` where the system does not tell.
    pub fn now() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let status = fs::read_to_string("/proc/self/status").ok()?;
        // One entry is the folder itself, which is open while it is read.
        let open_files = fs::read_dir("/proc/self/fd").ok()?.count().checked_sub(1)?;
        Some(Self {
            cpu_seconds: cpu_seconds(&stat)?,
            resident_bytes: status_bytes(&status, "VmRSS:")?,
            virtual_bytes: status_bytes(&status, "VmSize:")?,
            open_files: u64::try_from(open_files).ok()?,
            max_open_files: rlimit::Resource::NOFILE.get().ok()?.0,
        })
    }
}

/// Reads fields 14 and 15 of `/proc/self/stat`, user and system time in ticks. Source: proc(5).
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the program's name in brackets, which may hold spaces and brackets.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(14 - 3);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

/// Reads a line of `/proc/self/status`, which counts in units of 1,024 bytes. Source: proc(5).
fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Processors less the one that a thread beside takes, such as SQLite's or the runtime's; one at the least.
pub(crate) fn processors_but_one() -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    processors.saturating_sub(1).max(1)
}

/// Has the calling thread leave the processor to the other threads of the process, and to others, where there is not enough of it.
///
/// To `nice` 10: it gets a ninth of what one of the others gets, and one that wakes does not wait for it.
#[cfg(target_os = "linux")]
pub(crate) fn give_way() {
    // Linux counts threads as processes here. Whoever runs the hub may have made it nicer than that, and then it stays so.
    if rustix::process::getpriority_process(None).is_ok_and(|nice| nice < GIVE_WAY_NICE) {
        // May always be raised.
        _ = rustix::process::setpriority_process(None, GIVE_WAY_NICE);
    }
}

/// The soak test, 1,000 connections on two processors: the runtime's thread waited 3.0 s for a processor without this, and 0.8 s with it.
#[cfg(target_os = "linux")]
const GIVE_WAY_NICE: i32 = 10;

/// Elsewhere it would concern the whole process.
#[cfg(not(target_os = "linux"))]
pub(crate) fn give_way() {}

/// Processor time of this thread, whatever else the machine does. Source: Linux, scheduler statistics: the first field, in nanoseconds.
#[cfg(test)]
pub(crate) fn thread_cpu_time() -> std::time::Duration {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has it");
    let nanoseconds = statistics.split(' ').next().expect("it has three fields");
    std::time::Duration::from_nanos(nanoseconds.parse().expect("it is a number"))
}

/// Work of this thread between two moments at which others were let in, at the most, until all `tasks` have ended.
#[cfg(test)]
pub(crate) async fn longest_work<T>(tasks: &[tokio::task::JoinHandle<T>]) -> std::time::Duration {
    let mut longest = std::time::Duration::ZERO;
    while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
        let before = thread_cpu_time();
        tokio::task::yield_now().await;
        longest = longest.max(thread_cpu_time() - before);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_moves_no_field() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 99 0 0 0 150 50 0 0 20 0 3 0 100 1000 10";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("7 (a) S 1"), None);
        let status = "Name:\tsegno\nVmSize:\t   2048 kB\nVmRSS:\t     12 kB\n";
        assert_eq!(status_bytes(status, "VmRSS:"), Some(12 * 1024));
        assert_eq!(status_bytes(status, "VmSwap:"), None);
    }
}
