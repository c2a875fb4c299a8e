//! Whether a file belongs to the stream that it is to follow.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::wire;
use crate::{
    db::Reached,
    jetstream::{COMMANDS_FORMAT, JetStream},
};

/// Rest before the stream is asked again at a start.
const COMPARE_AGAIN: Duration = Duration::from_millis(250);

/// How long a stream may end before what was applied: the server that answers may just have been elected, or not know that
/// another one was.
const ELECTED_WITHIN: Duration = Duration::from_secs(10);

/// Whether the stream is the one that the file was made by, and has at the file's place the command that was applied there.
pub(super) async fn compare(
    stream: JetStream,
    log_id: String,
    reached: Reached,
) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let about = match stream.about().await {
            Ok(about) => about,
            Err(error) => {
                tracing::debug!(%error, "the stream of the cluster cannot be asked yet");
                sleep(COMPARE_AGAIN).await;
                continue;
            }
        };
        if about.log_id != log_id || about.epoch != reached.epoch {
            return Err("the stream orders another log, or was made anew".into());
        }
        if about.format > COMMANDS_FORMAT {
            return Err(format!(
                "the stream has commands of format {}, and this version knows {COMMANDS_FORMAT}",
                about.format
            ));
        }
        if about.last_sequence < reached.sequence {
            if begun.elapsed() < ELECTED_WITHIN {
                sleep(COMPARE_AGAIN).await;
                continue;
            }
            return Err(format!(
                "the stream was taken back: it ends at {}, and this hub has applied {}",
                about.last_sequence, reached.sequence
            ));
        }
        if reached.sequence + 1 < about.first_sequence {
            return Err(format!(
                "the stream begins at {}, and this hub has applied {}; stop it, and take the file of another one with \
                 `segno cluster join`",
                about.first_sequence, reached.sequence
            ));
        }
        if reached.sequence < about.first_sequence {
            return Ok(());
        }
        match stream.entry(reached.sequence).await {
            Ok(Some(entry)) => {
                let there = wire::decode(&entry.payload).map(|command| command.id);
                return match there {
                    Ok(id) if id == reached.command_id => Ok(()),
                    _ => Err(format!(
                        "the stream was taken back: number {} is another command than the one applied",
                        reached.sequence
                    )),
                };
            }
            // It was removed, with what was erased. That the chains are equal has to do.
            Ok(None) if about.deleted > 0 => return Ok(()),
            Ok(None) | Err(_) => sleep(COMPARE_AGAIN).await,
        }
    }
}
