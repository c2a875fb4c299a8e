//! The program `segno`.

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use mimalloc::MiMalloc;
use segno::{
    cli::{Cli, Logged, in_one_line},
    server,
};

/// For SQLite as well, in place of `malloc`. A tenth of what a publish cost was spent in the allocator of the system; and where many
/// replayed at once, the threads waited for its locks: the runtime's for a sixth of its time, behind readers that give way to others.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let run = server::runtime()
        .context("cannot start threads")
        .and_then(|runtime| runtime.block_on(Cli::read_and_run()));
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Logged>() => ExitCode::FAILURE,
        Err(error) => {
            // Where standard error is closed there is nobody to tell.
            _ = writeln!(std::io::stderr(), "segno: {}", in_one_line(&error));
            ExitCode::FAILURE
        }
    }
}
