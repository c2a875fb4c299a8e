//! The flags of a hub that belongs to a cluster.

use std::path::PathBuf;

use clap::Args;

use crate::http::PublicUrl;

#[cfg(feature = "cluster")]
use crate::{jetstream, joining::PeerAccess};

/// The cluster that the hub belongs to.
#[derive(Debug, Clone, Args)]
pub struct ClusterFlags {
    /// Address of a NATS server that puts the commands of a cluster in order, such as `nats://10.0.0.1:4222`; the hub is alone if not
    /// given. Repeat the flag, or separate them by commas. Needs a build with `--features cluster`.
    #[arg(
        long = "cluster",
        env = "SEGNO_CLUSTER",
        value_name = "URL",
        value_delimiter = ',',
        value_parser = parse_server
    )]
    pub servers: Vec<String>,

    /// Name of the stream in NATS.
    #[arg(
        long = "cluster-stream",
        env = "SEGNO_CLUSTER_STREAM",
        default_value = "segno",
        value_name = "NAME",
        value_parser = parse_stream
    )]
    pub stream: String,

    /// File with the credentials of NATS.
    #[arg(long, env = "SEGNO_NATS_CREDS", value_name = "FILE")]
    pub nats_creds: Option<PathBuf>,

    /// File with the certificate of the authority that signed those of NATS, as PEM.
    #[arg(long, env = "SEGNO_NATS_CA", value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
}

/// How a hub and the others reach each other.
#[derive(Debug, Clone, Args)]
pub struct ReachFlags {
    /// Address at which the other hubs of the cluster reach this one, such as `http://10.0.0.1:8000`.
    #[arg(long, env = "SEGNO_ADVERTISE", value_name = "URL")]
    pub advertise: Option<PublicUrl>,

    /// How the others are asked.
    #[command(flatten)]
    pub peers: PeerFlags,
}

/// How a hub asks the others for their file.
#[derive(Debug, Clone, Args)]
pub struct PeerFlags {
    /// File with the token that is shown to the other hubs of the cluster; it needs `operate`. Their file is taken where the stream has
    /// not all of the log any more.
    #[arg(long, env = "SEGNO_CLUSTER_TOKEN_FILE", value_name = "FILE")]
    pub cluster_token_file: Option<PathBuf>,

    /// File with the certificate of the authority that signed those of the other hubs, as PEM, where the system does not know it.
    #[arg(long, env = "SEGNO_CLUSTER_CA", value_name = "FILE")]
    pub cluster_ca: Option<PathBuf>,
}

#[cfg(feature = "cluster")]
impl PeerFlags {
    /// What they say.
    pub(crate) fn access(&self) -> PeerAccess {
        PeerAccess {
            token_file: self.cluster_token_file.clone(),
            ca: self.cluster_ca.clone(),
        }
    }
}

#[cfg(feature = "cluster")]
impl ClusterFlags {
    /// The stream that they name; `None` if the hub is alone.
    pub(crate) fn stream(&self) -> Option<jetstream::Settings> {
        (!self.servers.is_empty()).then(|| jetstream::Settings {
            servers: self.servers.clone(),
            stream: self.stream.clone(),
            credentials: self.nats_creds.clone(),
            ca: self.nats_ca.clone(),
        })
    }
}

fn parse_server(text: &str) -> Result<String, String> {
    match cfg!(feature = "cluster") {
        true if text.is_empty() => Err("an address looks like nats://10.0.0.1:4222".into()),
        true => Ok(text.into()),
        false => Err(
            "this build knows no clusters; build it with `--features cluster`, or `--features full` for everything".into(),
        ),
    }
}

fn parse_stream(text: &str) -> Result<String, String> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match !text.is_empty() && text.chars().all(is_known) {
        true => Ok(text.into()),
        false => Err("a stream is named by letters, digits, - and _".into()),
    }
}
