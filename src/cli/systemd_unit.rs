//! `segno systemd-unit`.

use anyhow::Context;

use super::print;

/// The unit; what stands for the program is filled in.
const UNIT: &str = include_str!("segno.service");

pub(super) fn run() -> anyhow::Result<()> {
    let program = std::env::current_exe().context("this program does not know where it is")?;
    let program = program
        .to_str()
        .context("the path of this program is not UTF-8")?;
    // Source: systemd.service(5), command lines, and systemd.unit(5), specifiers.
    let program = program
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%");
    print(&UNIT.replace("{program}", &program))
}
