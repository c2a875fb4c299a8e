//! A hub as one of a cluster: how it comes to its file, and what waits for the others.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{
    Hub, Settings, SubscribeError, WorkError, Writer,
    cluster::{Cluster, ClusterStatus, Rules},
    order::{Order, Replicated},
    subscription::{Barrier, pass},
};
use crate::{
    db,
    event::EventId,
    jetstream::{self, About, JetStream},
    metrics::Metrics,
};

/// The cluster that a hub belongs to.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// Where commands are put in order.
    pub stream: jetstream::Settings,
    /// Where the other hubs reach this one.
    pub advertise: Option<String>,
    /// How long after an erasure the command that published the event is removed from the stream: a hub that is started again
    /// meanwhile still finds it.
    pub remove_after: Duration,
}

/// [`ClusterSettings::remove_after`], if nothing else is said.
pub const REMOVE_AFTER: Duration = Duration::from_mins(1);

/// Why a hub did not open its file in a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The stream cannot be used.
    #[error(transparent)]
    Stream(#[from] jetstream::Error),
    /// The file was not opened.
    #[error(transparent)]
    Open(#[from] db::OpenError),
    /// The file could not be changed.
    #[error(transparent)]
    Log(#[from] db::Error),
    /// The file is another log's.
    #[error("{path} is not a file of this cluster; name another with --db, which is made")]
    OtherLog {
        /// The file.
        path: PathBuf,
    },
    /// The file has to come from another hub.
    #[error(
        "the stream has not all of the log: the file of another hub is needed, which `segno cluster join` takes"
    )]
    NeedsFile,
}

/// Longest wait for the cluster before a client is told that what it asks for is not there.
const BARRIER_WITHIN: Duration = Duration::from_secs(10);

/// The same for a single event.
const EVENT_WITHIN: Duration = Duration::from_secs(1);

/// Whether a file without events comes to have them all by what is in the stream.
fn needs_no_file(about: &About) -> Result<(), ClusterError> {
    match about.begins_empty && about.first_sequence == 1 && about.deleted == 0 {
        true => Ok(()),
        false => Err(ClusterError::NeedsFile),
    }
}

impl Hub {
    /// Opens the file at `path` as one of a cluster. A file without events is made the beginning of the log.
    ///
    /// Waits for the cluster only where the file is not yet one of it.
    pub async fn open_in_cluster(
        path: &Path,
        settings: Settings,
        cluster: &ClusterSettings,
        metrics: Metrics,
    ) -> Result<(Self, Writer), ClusterError> {
        let stream = JetStream::open(&cluster.stream).await?;
        if !path.exists() {
            // Before one is made that would have to be taken away again.
            needs_no_file(&stream.about_within(BARRIER_WITHIN).await?)?;
        }
        let (mut log, mut appender) = db::open(path).await?;
        if appender.reached().is_none() {
            let about = stream.about_within(BARRIER_WITHIN).await?;
            if appender.last_id() > EventId::ZERO {
                return Err(ClusterError::OtherLog { path: path.into() });
            }
            if let Err(error) = needs_no_file(&about) {
                log.close().await;
                appender.close().await?;
                return Err(error);
            }
            let beginning = db::Reached {
                epoch: about.epoch,
                sequence: 0,
                command_id: String::new(),
                chain: String::new(),
            };
            appender.found(&about.log_id, &beginning).await?;
            log.close().await;
            appender.close().await?;
            (log, appender) = db::open(path).await?;
        }
        let reached = appender.reached().expect("it was put in order").clone();
        let name = Uuid::new_v4().to_string();
        let known = Arc::new(Cluster::new(
            name,
            cluster.advertise.clone(),
            reached.clone(),
        ));
        let order = Replicated::new(
            stream,
            known.clone(),
            log.id().into(),
            reached,
            cluster.remove_after,
            metrics.cluster.clone(),
        );
        let (mut hub, mut writer) = Self::with(path, log, appender, settings, metrics).await?;
        writer.order = Order::Replicated(Box::new(order));
        Arc::get_mut(&mut hub.parts)
            .expect("nobody has it yet")
            .cluster = Some(known);
        Ok((hub, writer))
    }

    /// Waits until this hub has what a reader with this cursor has had elsewhere. What is above the newest id after that is nowhere.
    pub(super) async fn wait_for(&self, cursor: EventId) -> Result<(), SubscribeError> {
        match self.barrier_for(cursor)? {
            Some(mut barrier) => pass(&mut barrier).await,
            None => Ok(()),
        }
    }

    /// The same for one who is told meanwhile that it is heard. An error: there is no use in waiting.
    pub(super) fn barrier_for(&self, cursor: EventId) -> Result<Option<Barrier>, SubscribeError> {
        let Some(cluster) = &self.parts.cluster else {
            return Ok(None);
        };
        if cursor <= self.position().committed() {
            return Ok(None);
        }
        if let Some(why) = cluster.refusal() {
            let why = WorkError::Unordered(why.into());
            return Err(SubscribeError::NotJoined(why));
        }
        let parts = self.parts.clone();
        let passed = async move {
            let barrier = timeout(BARRIER_WITHIN, parts.work.barrier()).await;
            barrier.unwrap_or(Err(WorkError::OutcomeUnknown))
        };
        Ok(Some(AbortOnDropHandle::new(tokio::spawn(passed))))
    }

    /// Waits until an event that another hub has given is here too, or is known to be nowhere, but not for long.
    pub(super) async fn wait_for_event(&self, id: EventId) {
        if self.parts.cluster.is_some() && id > self.position().committed() {
            // Whether it came or not, the log says what there is.
            _ = timeout(EVENT_WITHIN, self.parts.work.barrier()).await;
        }
    }

    /// Lets the other hubs know how this one is set up. Nothing where it is alone.
    pub fn tell_rules(&self, rules: Rules) {
        if let Some(cluster) = &self.parts.cluster {
            cluster.set_rules(rules);
        }
    }

    /// What is known of the cluster; `None` if the hub is alone.
    pub fn cluster(&self) -> Option<ClusterStatus> {
        self.parts.cluster.as_ref().map(|cluster| cluster.status())
    }
}
