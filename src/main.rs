//! The program `segno`.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use mimalloc::MiMalloc;
use segno::cli::Cli;

/// A tenth of what a publish cost was spent in the allocator of the system.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse().run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is closed there is nobody to tell.
            _ = writeln!(std::io::stderr(), "segno: {error:#}");
            ExitCode::FAILURE
        }
    }
}
