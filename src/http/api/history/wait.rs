//! Waiting for events that are not there yet, for clients that can hold no stream open.

use std::time::Duration;

use poem_openapi::registry::MetaSchema;

use super::HistoryQuery;
use crate::{
    auth::Pass,
    http::{
        api::{
            Api,
            parameter::{Parameter, shown},
        },
        caller::Caller,
        problem::{Code, Problem},
    },
    hub::{Delivery, Gap, Start},
};

/// The longest wait. Most proxies cut an answer that takes longer.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long a request may wait.
#[derive(Debug)]
pub(super) struct Wait(pub(super) Duration);

impl Parameter for Wait {
    fn schema() -> MetaSchema {
        MetaSchema {
            pattern: Some("^([1-5]?[0-9]|60)s$".into()),
            ..MetaSchema::new("string")
        }
    }

    fn read(text: &str) -> Result<Self, Problem> {
        let wait = humantime::parse_duration(text).ok();
        let wait = wait.filter(|wait| *wait <= WAIT_MAX);
        wait.map(Self).ok_or_else(|| {
            Problem::new(
                Code::InvalidTime,
                format_args!(
                    "wait '{}' is not a time of at most 60s, such as 30s",
                    shown(text)
                ),
            )
        })
    }
}

/// Waits until something that `query` wants is there, the time is over or the hub drains. Gives the gap, if what comes next lies
/// behind one.
///
/// Counts as a stream meanwhile. Dropping the future is safe.
pub(super) async fn wait_for_events(
    api: &Api,
    query: &HistoryQuery,
    caller: &Caller,
    longest: Duration,
) -> Result<Option<Gap>, Problem> {
    let access = &api.settings.access;
    let pass = caller.pass(access)?;
    let _permit = caller.open_stream(&query.filter)?;
    let filter = query.filter.clone();
    let start = Start::After(query.range.after);
    let mut subscription = api.hub.subscribe(filter, start, caller.peer).await?;
    let _counted = subscription.count_subscriber();
    tokio::select! {
        delivery = subscription.next() => Ok(match delivery? {
            Some(Delivery::Gap(gap)) => Some(gap),
            // What was delivered is read again, as a page with its limit and its link.
            Some(Delivery::Events(_)) | None => None,
        }),
        () = tokio::time::sleep(longest) => Ok(None),
        _ = Pass::wait(pass.as_ref()) => {
            caller.pass(access)?;
            Ok(None)
        }
    }
}
