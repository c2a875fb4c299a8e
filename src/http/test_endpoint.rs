//! For tests: what the hub answers, without a server before it.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use poem::{
    Body, Request, RequestParts,
    http::{Method, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio::task::JoinHandle;

use super::{HubEndpoint, Settings, endpoint};
use crate::{
    auth::Access,
    hub::{self, Hub, Writer},
    limits::Limits,
    metrics::Metrics,
};

/// A hub whose file is in `folder`, its writer, and what it answers to everybody.
pub(crate) async fn open(
    folder: &Path,
    limits: &Arc<Limits>,
) -> (Hub, JoinHandle<Writer>, HubEndpoint) {
    let file = folder.join("segno.db");
    let opened = Hub::open(&file, hub::Settings::default(), Metrics::default());
    let (hub, writer) = opened.await.unwrap();
    let settings = Settings {
        heartbeat: Duration::from_secs(60),
        public_url: None,
        names: Vec::new(),
        kept: Vec::new(),
        cors_origins: Vec::new(),
        cors_credentials: false,
        packs_pages: true,
        limits: limits.clone(),
        access: Arc::new(Access::open(folder.join("ticket-key"))),
    };
    let endpoint = endpoint(hub.clone(), settings);
    (hub, tokio::spawn(writer.run()), endpoint)
}

/// A request on a connection of its own from `address`.
pub(crate) fn request(
    limits: &Arc<Limits>,
    address: SocketAddr,
    method: Method,
    path: &str,
    body: Body,
) -> Request {
    let request = poem::http::Request::builder().method(method).uri(path);
    let request = request.header("host", "localhost");
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let (local, remote) = (LocalAddr(address.into()), RemoteAddr(address.into()));
    let parts = RequestParts::from((parts, local, remote, Scheme::HTTP));
    let mut request = Request::from_parts(parts, body);
    request.set_data(Arc::new(limits.admit(address.ip()).unwrap()));
    request
}
