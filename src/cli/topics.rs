//! `segno topics`.

use clap::Args;

use super::{HubAddress, print, terminal::table};

/// The flags of `segno topics`.
#[derive(Debug, Clone, Args)]
pub(super) struct TopicsFlags {
    /// Print each topic as a JSON object on a line of its own.
    #[arg(long)]
    json: bool,

    /// Where the hub is.
    #[command(flatten)]
    hub: HubAddress,
}

pub(super) async fn run(flags: TopicsFlags) -> anyhow::Result<()> {
    let client = flags.hub.client()?;
    let mut rows =
        vec![["TOPIC", "EVENTS", "FIRST ID", "LAST ID", "LAST EVENT"].map(str::to_owned)];
    let mut after = String::new();
    loop {
        let page = client.topics(&after).await?;
        if flags.json {
            let lines = page.topics.iter().map(serde_json::to_string);
            let lines: Vec<String> = lines.collect::<Result<_, _>>()?;
            print(
                &lines
                    .iter()
                    .map(|line| format!("{line}\n"))
                    .collect::<String>(),
            )?;
        } else {
            rows.extend(page.topics.into_iter().map(|figures| {
                [
                    figures.topic,
                    figures.events.to_string(),
                    figures.first_id.to_string(),
                    figures.last_id.to_string(),
                    figures.last_created_at,
                ]
            }));
        }
        match page.next {
            Some(next) => after = next,
            None if flags.json => return Ok(()),
            None => return print(&table(&rows)),
        }
    }
}
