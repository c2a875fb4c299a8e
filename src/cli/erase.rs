//! `segno erase`.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, bail};
use clap::Args;

use super::{HubAddress, counted, print, usage};

/// The flags of `segno erase`.
#[derive(Debug, Clone, Args)]
pub(super) struct EraseFlags {
    /// Ids of the events to erase.
    #[arg(
        value_name = "ID",
        required_unless_present = "topic",
        conflicts_with = "topic"
    )]
    ids: Vec<u64>,

    /// Topic to erase, with all its events.
    #[arg(long, short, value_name = "TOPIC", value_parser = usage::topic)]
    topic: Option<String>,

    /// Do not ask first. Needed where standard input is no terminal.
    #[arg(long, short)]
    yes: bool,

    /// Where the hub is.
    #[command(flatten)]
    hub: HubAddress,
}

pub(super) async fn run(flags: EraseFlags) -> anyhow::Result<()> {
    let client = flags.hub.client()?;
    let what = match &flags.topic {
        Some(topic) => format!("all events of the topic {topic}"),
        None => counted(u64::try_from(flags.ids.len())?),
    };
    if !flags.yes {
        ask(&what)?;
    }
    if let Some(topic) = &flags.topic {
        let events = client.erase_topic(topic).await?;
        return print(&format!(
            "{} of the topic {topic} erased\n",
            counted(events)
        ));
    }
    for id in &flags.ids {
        let erased = client.erase(*id).await;
        erased.with_context(|| format!("event {id} is not erased"))?;
        print(&format!("event {id} erased\n"))?;
    }
    Ok(())
}

/// Ends with an error unless somebody says yes.
fn ask(what: &str) -> anyhow::Result<()> {
    if !io::stdin().is_terminal() {
        bail!("nobody can be asked whether to erase {what}; say so with --yes");
    }
    _ = write!(io::stderr(), "Erase {what} for good? [y/N] ");
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was erased"),
    }
}
