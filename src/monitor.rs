//! A timer that monitors the hub: sends the canary, and looks for slow subscribers.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::hub::Hub;

/// Monitors the hub, for ever, and calls `alive` after each canary that was answered. To be dropped when the hub drains.
pub async fn run(hub: &Hub, alive: impl Fn()) {
    let every = hub.settings().canary;
    let mut failing = false;
    loop {
        let begun = Instant::now();
        match hub.send_canary().await {
            Ok(()) => {
                if failing {
                    tracing::info!("the canary is answered again");
                }
                failing = false;
                alive();
            }
            Err(error) => {
                // The first of consecutive failures: a lasting one would else fill the log files.
                if !failing {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the canary was not answered"
                    );
                }
                failing = true;
            }
        }
        for slow in hub.find_slow() {
            tracing::warn!(
                subscriber = %slow.peer,
                cursor = slow.cursor.as_i64(),
                lag_events = slow.lag_events,
                behind_for_ms = in_millis(slow.behind_for),
                "a subscriber is slow"
            );
        }
        sleep_until(begun + every).await;
    }
}

fn in_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
