//! Listens, serves, and stops in the right order.
//!
//! The accept loop and the connections are ours, over hyper's HTTP/1: poem's own server takes no limit on how long a
//! request's head may take, spins when `accept` fails, and does not end while a stream is open.

#[cfg(feature = "acme")]
mod acme;
mod audience;
mod certificates;
mod connection;
mod framing;
mod http2;
mod listener;
mod paced_socket;
mod refusal;
mod terms;
mod tls;
mod validity;

use std::{
    future::pending,
    io,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use poem::{Endpoint, http::uri::Scheme};
use tokio::{
    runtime::{self, Runtime},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[cfg(feature = "acme")]
pub use self::acme::AcmeSettings;
pub(crate) use self::certificates::read_certificates;
pub use self::certificates::{CertificateError, CertificateFiles};
pub use self::listener::{InvalidListenAddress, ListenAddress, ListenError, can_listen};
pub use self::tls::CertificateSource;
use self::{
    audience::Audiences,
    certificates::Certificates,
    listener::{Listener, Socket},
    refusal::{Refuser, refusals_beside},
    terms::{Client, Terms},
    tls::Tls,
};
#[cfg(feature = "cluster")]
use crate::joining::{self, PeerAccess};
use crate::{
    auth::{Access, AccessFileError},
    db, files,
    http::{self, Answer, CorsOrigin, OneASecond, Opening, PublicUrl},
    hub::{self, Bounds, Hub, Writer},
    limits::{self, ConnectionPermit, LimitHit, Limits},
    metrics::Metrics,
    monitor,
    peer_address::PeerAddress,
    process::processors_but_one,
    retention::{self, Keep},
    service_manager::Manager,
};

/// Wait after a failed `accept`, most often for a file descriptor to come free.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Files that are open beside connections: 24 were counted, of the runtime and of the event log, and a few are open for a moment.
const OTHER_OPEN_FILES: u32 = 40;

/// How many connections a process can serve that may have `open_files` files open: room is left for the events' file, and for
/// connections that are refused.
pub fn connections_within(open_files: u64) -> u32 {
    let open_files = u32::try_from(open_files).unwrap_or(u32::MAX);
    let room = open_files.saturating_sub(OTHER_OPEN_FILES);
    room.saturating_sub(refusals_beside(room))
}

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen; at least one.
    pub listen: Vec<ListenAddress>,
    /// Who may open a socket file, as the system writes it: `0o660` is its owner and its group.
    pub listen_mode: u32,
    /// The file that holds the events; made if there is none.
    pub db: PathBuf,
    /// Silence after which a stream sends a heartbeat.
    pub heartbeat: Duration,
    /// Whose pages may use the hub from a browser.
    pub cors_origins: Vec<CorsOrigin>,
    /// Whether their pages may have the browser add what it knows for the hub: cookies of a proxy, a password. Where all are allowed,
    /// they may not.
    pub cors_credentials: bool,
    /// Whether pages are packed for clients that ask for it.
    pub packs_pages: bool,
    /// Address under which clients reach the hub.
    pub public_url: Option<PublicUrl>,
    /// Longest wait for open requests and streams when the server stops.
    pub drain_timeout: Duration,
    /// How much is taken, and from whom.
    pub limits: limits::Settings,
    /// The queue of the hub, and what it logs as late or slow.
    pub hub: hub::Settings,
    /// What is kept.
    pub keep: Keep,
    /// The access file; without one everybody may do everything.
    pub access: Option<PathBuf>,
    /// The file with the keys of tickets; beside the events if not given. Made when the first ticket is.
    pub ticket_key: Option<PathBuf>,
    /// The certificate; without one nothing is encrypted.
    pub tls: Option<CertificateSource>,
    /// The cluster that the hub belongs to; alone without one.
    #[cfg(feature = "cluster")]
    pub cluster: Option<hub::ClusterSettings>,
    /// How the other hubs of the cluster are asked for their file.
    #[cfg(feature = "cluster")]
    pub peers: PeerAccess,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: vec![ListenAddress::Ip((Ipv4Addr::LOCALHOST, 8000).into())],
            listen_mode: 0o660,
            db: "segno.db".into(),
            heartbeat: Duration::from_secs(15),
            cors_origins: Vec::new(),
            cors_credentials: false,
            packs_pages: true,
            public_url: None,
            drain_timeout: Duration::from_secs(10),
            limits: limits::Settings::default(),
            hub: hub::Settings::default(),
            keep: Keep::default(),
            access: None,
            ticket_key: None,
            tls: None,
            #[cfg(feature = "cluster")]
            cluster: None,
            #[cfg(feature = "cluster")]
            peers: PeerAccess::default(),
        }
    }
}

/// A hub that listens.
#[derive(Debug)]
pub struct Server {
    hub: Hub,
    writer: JoinHandle<Writer>,
    listeners: Vec<Listener>,
    connections: Connections<Opening>,
    settings: Settings,
    manager: Manager,
    access: Arc<Access>,
}

/// Reads who may do what, if that is said.
fn open_access(settings: &Settings) -> Result<Access, AccessFileError> {
    let ticket_key = settings.ticket_key.clone();
    let ticket_key = ticket_key.unwrap_or_else(|| files::beside(&settings.db, "-ticket-key"));
    match &settings.access {
        Some(path) => Access::read(path, ticket_key),
        None => Ok(Access::open(ticket_key)),
    }
}

async fn open_hub(settings: &Settings, metrics: Metrics) -> Result<(Hub, Writer), StartError> {
    #[cfg(feature = "cluster")]
    if let Some(cluster) = &settings.cluster {
        return open_in_cluster(settings, cluster, metrics).await;
    }
    Ok(Hub::open(&settings.db, settings.hub, metrics).await?)
}

/// Takes the file of another hub first where that is needed, and waits for one that gives it.
#[cfg(feature = "cluster")]
async fn open_in_cluster(
    settings: &Settings,
    cluster: &hub::ClusterSettings,
    metrics: Metrics,
) -> Result<(Hub, Writer), StartError> {
    loop {
        let opening = Hub::open_in_cluster(&settings.db, settings.hub, cluster, metrics.clone());
        match opening.await {
            Err(hub::ClusterError::NeedsFile) => (),
            opened => return Ok(opened?),
        }
        match joining::join(&cluster.stream, &settings.peers, &settings.db, None).await {
            Ok(joined) => tracing::info!(
                from = joined.from,
                events = joined.findings.events,
                "took the file of another hub"
            ),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "this hub has no file to begin with; trying again in {JOIN_AGAIN:?}"
                );
                tokio::time::sleep(JOIN_AGAIN).await;
            }
        }
    }
}

/// Rest before another hub is asked again for its file.
#[cfg(feature = "cluster")]
const JOIN_AGAIN: Duration = Duration::from_secs(3);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file was not opened.
    #[error(transparent)]
    Open(#[from] db::OpenError),
    /// The cluster cannot be joined.
    #[cfg(feature = "cluster")]
    #[error(transparent)]
    Cluster(#[from] hub::ClusterError),
    /// The access file is not right.
    #[error(transparent)]
    Access(#[from] AccessFileError),
    /// The certificate cannot be used.
    #[error("cannot use the certificate")]
    Certificate(#[from] CertificateError),
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The socket of the service manager cannot be used.
    #[error("cannot tell the service manager")]
    Manager(#[source] io::Error),
}

impl Server {
    /// Listens, then opens the file, and starts the writer. Meanwhile it is [told](Opening) that the hub is starting; other
    /// requests wait for the end of it, and new connections until [`serve`](Self::serve).
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let listen = |address| Listener::open(address, settings.listen_mode);
        let listeners: Vec<_> = settings
            .listen
            .iter()
            .map(listen)
            .collect::<Result<_, _>>()?;
        let access = Arc::new(open_access(&settings)?);
        let metrics = Metrics::default();
        let start = |source| Tls::start(source, metrics.certificate_expiry.clone()).map(Arc::new);
        let tls = settings.tls.clone().map(start).transpose()?;
        let manager = Manager::from_env().map_err(StartError::Manager)?;
        let limits = Arc::new(Limits::new(settings.limits.clone()));
        let connections =
            Connections::new(Opening::default(), limits.clone(), metrics.clone(), tls);
        let (hub, writer) = tokio::select! {
            opened = Box::pin(open_hub(&settings, metrics)) => opened?,
            () = accept_all(&listeners, &connections) => unreachable!("accepts for ever"),
        };
        let http_settings = http::Settings {
            heartbeat: settings.heartbeat,
            cors_origins: settings.cors_origins.clone(),
            cors_credentials: settings.cors_credentials,
            packs_pages: settings.packs_pages,
            public_url: settings.public_url.clone(),
            names: settings
                .tls
                .as_ref()
                .map_or_else(Vec::new, CertificateSource::names),
            kept: settings.keep.in_words(),
            limits,
            access: access.clone(),
        };
        tell_rules(&hub, &access, &settings.keep);
        connections
            .refuser
            .add(http::HeadersOfAll::of(&hub, &http_settings));
        let endpoint = http::endpoint(hub.clone(), http_settings);
        connections.terms.endpoint.end(endpoint);
        Ok(Self {
            hub,
            writer: tokio::spawn(writer.run()),
            listeners,
            connections,
            settings,
            manager,
            access,
        })
    }

    /// Where it listens, in the order of the settings, with the ports that the system chose where 0 was asked for.
    pub fn addresses(&self) -> Vec<ListenAddress> {
        self.listeners.iter().map(Listener::address).collect()
    }

    /// The first address of IP that it listens on; `None` if there are files alone.
    pub fn ip_address(&self) -> Option<SocketAddr> {
        self.addresses()
            .into_iter()
            .find_map(|address| match address {
                ListenAddress::Ip(address) => Some(address),
                ListenAddress::Unix(_) => None,
            })
    }

    /// The files that can be read again while the hub runs.
    pub fn reread_files(&self) -> RereadFiles {
        RereadFiles {
            access: self.access.clone(),
            certificates: self
                .connections
                .tls
                .as_ref()
                .map(|tls| tls.certificates.clone()),
        }
    }

    /// How its addresses of IP are spoken to: `https` if it has a certificate.
    pub fn scheme(&self) -> &'static str {
        self.connections.tls.as_ref().map_or("http", |_| "https")
    }

    /// Who may do what.
    pub fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// The oldest and the newest event there are.
    pub fn bounds(&self) -> Bounds {
        self.hub.bounds()
    }

    /// For a person who asks the service manager.
    fn status(&self) -> String {
        let Bounds { first_id, last_id } = self.hub.bounds();
        let addresses: Vec<_> = self.addresses().iter().map(ToString::to_string).collect();
        let addresses = addresses.join(" and ");
        format!("listening on {addresses}, events {first_id} to {last_id}")
    }

    /// Serves until `stop` is ready, then drains: takes no more connections and events, answers the publishers that wait,
    /// ends the streams, and closes the file.
    pub async fn serve(mut self, stop: impl Future<Output = ()>) -> Result<(), db::Error> {
        self.manager.ready(&self.status());
        tokio::select! {
            () = accept_all(&self.listeners, &self.connections) => unreachable!("accepts for ever"),
            () = retention::run(&self.hub, &self.settings.keep) => unreachable!("keeps looking"),
            () = monitor::run(&self.hub, || self.manager.alive()) => unreachable!("keeps watching"),
            () = keep_certificates(self.connections.tls.as_deref()) => unreachable!("keeps looking"),
            () = self.access.run() => unreachable!("keeps looking"),
            () = self.hub.note_highest() => unreachable!("keeps noting"),
            () = keep_telling_rules(&self.hub, &self.access, &self.settings.keep) => unreachable!("keeps telling"),
            () = stop => tracing::info!("draining"),
            // A hub that cannot write must not look as if it could.
            ended = &mut self.writer => panic!("the writer ended by itself: {ended:?}"),
        }
        drop(self.listeners);
        // Next the writer: publishers have their answers when it ends, and
        // the streams end with the feeds. Only then the connections, and last the file that they may still read.
        self.manager.stopping();
        self.hub.drain();
        let writer = self.writer.await.expect("the writer does not panic");
        self.connections.terms.ending.cancel();
        self.connections.tasks.close();
        if tokio::time::timeout(self.settings.drain_timeout, self.connections.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                connections = self.connections.tasks.len(),
                "cut connections that did not end in time"
            );
        }
        writer.close().await
    }
}

/// Files that can be read again while the hub runs.
#[derive(Debug, Clone)]
pub struct RereadFiles {
    access: Arc<Access>,
    certificates: Option<Arc<Certificates>>,
}

impl RereadFiles {
    /// Whether there are any.
    pub fn are_there(&self) -> bool {
        !self.access.is_open() || self.certificates.is_some()
    }

    /// Reads them again, and logs what came of it.
    pub fn reread_and_tell(&self) {
        if !self.access.is_open() {
            self.access.reload_and_tell();
        }
        if let Some(certificates) = &self.certificates {
            certificates.reload_and_tell();
        }
    }
}

async fn keep_certificates(tls: Option<&Tls>) {
    match tls {
        Some(tls) => tls.run().await,
        None => pending().await,
    }
}

/// Lets the other hubs of the cluster know by what rules this one goes.
#[cfg(feature = "cluster")]
fn tell_rules(hub: &Hub, access: &Access, keep: &Keep) {
    hub.tell_rules(hub::Rules {
        kept: keep.in_words(),
        access: access.fingerprint(),
    });
}

#[cfg(not(feature = "cluster"))]
fn tell_rules(_: &Hub, _: &Access, _: &Keep) {}

/// The same when the access file changes, for ever.
async fn keep_telling_rules(hub: &Hub, access: &Access, keep: &Keep) {
    let mut changes = access.changes();
    loop {
        tell_rules(hub, access, keep);
        changes.next().await;
    }
}

/// What the hub runs on: one thread fewer than there are processors, but one at the least.
///
/// SQLite's thread, which commits, takes one. On two processors a second thread beside it cost more in waking each other than
/// it did: 44,000 durable POSTs/s instead of 57,000 at 64 connections (`cargo bench --bench publish`).
pub fn runtime() -> io::Result<Runtime> {
    runtime::Builder::new_multi_thread()
        .worker_threads(processors_but_one())
        .enable_all()
        .build()
}

/// Serves `endpoint` for ever, as the hub is served, and returns its address.
///
/// For `benches/`: an endpoint that does nothing is the floor the hub is held against.
pub fn serve_endpoint<E: Endpoint<Output: Into<Answer>> + 'static>(
    address: SocketAddr,
    endpoint: E,
) -> Result<(SocketAddr, impl Future<Output = ()>), ListenError> {
    let listener = Listener::open(&ListenAddress::Ip(address), 0)?;
    let ListenAddress::Ip(address) = listener.address() else {
        unreachable!("it was opened as one of IP");
    };
    let limits = Limits::new(limits::Settings {
        max_connections: NonZeroU32::MAX,
        max_connections_per_address: NonZeroU32::MAX,
        ..limits::Settings::default()
    });
    let connections = Connections::new(endpoint, Arc::new(limits), Metrics::default(), None);
    let serving = async move { accept(&listener, &connections).await };
    Ok((address, serving))
}

/// All connections there are.
#[derive(Debug)]
struct Connections<E> {
    terms: Arc<Terms<E>>,
    limits: Arc<Limits>,
    refuser: Arc<Refuser>,
    tls: Option<Arc<Tls>>,
    tasks: TaskTracker,
    audiences: Arc<Audiences>,
}

async fn accept_all<E: Endpoint<Output: Into<Answer>> + 'static>(
    listeners: &[Listener],
    connections: &Connections<E>,
) {
    let accepting = listeners
        .iter()
        .map(|listener| accept(listener, connections));
    join_all(accepting).await;
}

async fn accept<E: Endpoint<Output: Into<Answer>> + 'static>(
    listener: &Listener,
    connections: &Connections<E>,
) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                failing = false;
                let admitted = match peer {
                    PeerAddress::Ip(address) => connections.limits.admit(address.ip()),
                    // Who may open the file may say for whom it speaks.
                    PeerAddress::Unix => connections.limits.admit_proxy(peer.ip()),
                };
                match admitted {
                    Ok(permit) => connections.spawn(socket, peer, permit),
                    Err(hit) => connections.refuse(socket, peer, hit),
                }
            }
            Err(error) if is_of_one_connection(&error) => (),
            Err(error) => {
                // Trying again at once would spin, and a log line each time would fill the log.
                if !failing {
                    let address = listener.address();
                    tracing::error!(%address, %error, "cannot accept connections; trying again until it works");
                }
                failing = true;
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// A connection that went away before it was accepted says nothing about the next.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

impl<E: Endpoint<Output: Into<Answer>> + 'static> Connections<E> {
    fn new(endpoint: E, limits: Arc<Limits>, metrics: Metrics, tls: Option<Arc<Tls>>) -> Self {
        let refuser = Refuser::new(limits.clone(), metrics.refusals.clone(), tls.clone());
        let terms = Terms {
            endpoint,
            metrics,
            refused_below: OneASecond::default(),
            ending: CancellationToken::new(),
        };
        let tasks = TaskTracker::new();
        Self {
            terms: Arc::new(terms),
            refuser: Arc::new(refuser),
            tls,
            limits,
            audiences: Audiences::new(tasks.clone()),
            tasks,
        }
    }

    fn spawn(&self, socket: Socket, peer: PeerAddress, permit: ConnectionPermit) {
        socket.send_at_once();
        let local = socket.local_address();
        let client = |scheme| Client {
            local,
            peer,
            scheme,
            permit: Arc::new(permit),
        };
        let (socket, client) = match (socket, &self.tls) {
            (Socket::Ip(socket), Some(tls)) => {
                let client = client(Scheme::HTTPS);
                let (terms, refuser) = (self.terms.clone(), self.refuser.clone());
                let served = connection::serve_tls(socket, tls.clone(), client, terms, refuser);
                self.tasks.spawn(served);
                return;
            }
            (socket, _) => (socket, client(Scheme::HTTP)),
        };
        let served = connection::serve(socket, client, self.terms.clone());
        let audiences = self.audiences.clone();
        self.tasks.spawn(async move {
            if let Some(stream) = served.await {
                // In another task, because that of a connection is as large as all that hyper needs.
                audiences.serve(stream);
            }
        });
    }

    fn refuse(&self, socket: Socket, peer: PeerAddress, hit: LimitHit) {
        if let Some(refused) = self.refuser.refuse(socket, peer.ip(), hit) {
            self.tasks.spawn(refused);
        }
    }
}
