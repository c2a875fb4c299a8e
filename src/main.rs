//! The program `segno`.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use segno::cli::Cli;

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
