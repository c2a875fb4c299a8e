//! The operations of the API, a file for each group. The OpenAPI document is derived from them.

mod body;
mod erase;
mod follow;
mod history;
mod parameter;
mod publish;
mod tutorial;

use std::collections::HashMap;

use poem::{endpoint::BoxEndpoint, http::Method};
use poem_openapi::{
    OpenApi, OpenApiService, Tags,
    registry::{MetaApi, MetaPath, Registry},
};

pub use self::follow::Following;
pub(crate) use self::follow::{EventStream, StreamKind};
use self::{
    erase::EraseApi,
    history::HistoryApi,
    parameter::{Checked, TopicPattern, TypePattern, all},
    tutorial::TutorialApi,
};
pub(super) use self::{
    follow::{FollowApi, cursor_of, set_stream_headers, spread},
    publish::PublishApi,
};
use super::{Settings, health::HealthApi, problem::Problem};
use crate::{filter::Filter, hub::Hub};

/// The OpenAPI document, as it stands under `openapi/`.
pub fn openapi_document() -> String {
    let mut document = service(Operations::DESCRIBED).spec();
    document.push('\n');
    document
}

pub(super) fn service(operations: Operations) -> OpenApiService<Operations, ()> {
    OpenApiService::new(operations, "segno", env!("CARGO_PKG_VERSION")).description(
        "A persistent event hub. Publish over REST; follow over Server-Sent Events; resume where you were. Every answer has \
         two headers: `segno-log-id` is the UUID of the event log, and a cursor is valid only in the log it came from; `x-request-id` \
         repeats that of the request if it is 1 to 128 visible ASCII characters, else the hub makes one.",
    )
}

/// All groups, in the order of the document.
type Groups = (
    PublishApi,
    TutorialApi,
    FollowApi,
    HistoryApi,
    EraseApi,
    HealthApi,
);

/// The groups as one API.
pub(super) struct Operations(Option<Groups>);

impl Operations {
    /// The operations of a hub.
    pub(super) fn of(api: &Api) -> Self {
        let api = || api.clone();
        Self(Some((
            PublishApi(api()),
            TutorialApi(api()),
            FollowApi(api()),
            HistoryApi(api()),
            EraseApi(api()),
            HealthApi(api()),
        )))
    }

    /// The operations without a hub behind them: enough to describe them.
    const DESCRIBED: Self = Self(None);
}

impl OpenApi for Operations {
    /// Two groups may have methods of one path, which poem-openapi would write as two entries of one name.
    fn meta() -> Vec<MetaApi> {
        let mut paths: Vec<MetaPath> = Vec::new();
        for path in Groups::meta().into_iter().flat_map(|api| api.paths) {
            match paths.iter_mut().find(|known| known.path == path.path) {
                Some(known) => known.operations.extend(path.operations),
                None => paths.push(path),
            }
        }
        vec![MetaApi { paths }]
    }

    fn register(registry: &mut Registry) {
        Groups::register(registry);
    }

    fn add_routes(self, routes: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {
        if let Some(groups) = self.0 {
            groups.add_routes(routes);
        }
    }
}

#[derive(Tags)]
pub(super) enum Tag {
    /// Send events. A 2xx means that they are committed, synced to disk and announced.
    Publish,
    /// Follow events live, from where you left off.
    Stream,
    /// Read stored events.
    History,
    /// Delete events for good, and tell every subscriber.
    Erase,
    /// For operators of the hub.
    Health,
}

/// What every operation may ask.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) hub: Hub,
    pub(super) settings: Settings,
}

fn filter(
    topics: Vec<Checked<TopicPattern>>,
    types: Vec<Checked<TypePattern>>,
) -> Result<Filter, Problem> {
    let topics = all(topics)?.into_iter().map(|topic| topic.0).collect();
    let types = all(types)?
        .into_iter()
        .map(|event_type| event_type.0)
        .collect();
    Ok(Filter::new(topics, types))
}
