//! `segno topics`.

use clap::Args;

use super::{HubAddress, print, terminal::table};
use crate::client::TopicFigures;

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
    let heads = [
        "TOPIC",
        "EVENTS",
        "FIRST ID",
        "LAST ID",
        "LAST EVENT",
        "SUBSCRIBERS",
    ];
    let mut rows = vec![heads.map(str::to_owned)];
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
                let subscribers = subscribers(&figures);
                [
                    figures.topic,
                    figures.events.to_string(),
                    figures.first_id.to_string(),
                    figures.last_id.to_string(),
                    figures.last_created_at,
                    subscribers,
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

/// Such as `12`; `12+` where there may be more, and `-` where the hub does not tell.
fn subscribers(figures: &TopicFigures) -> String {
    let Some(least) = figures.subscribers else {
        return "-".into();
    };
    match figures.subscribers_at_least {
        Some(true) => format!("{least}+"),
        Some(false) | None => least.to_string(),
    }
}
