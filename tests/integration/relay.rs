//! A TCP proxy between a client and a hub, which cuts streams where a test wants, and goes away when it is dropped.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

use super::test_hub::Port;

/// Carries one request and its answer on each connection. When it is stopped or dropped, its port is closed and every connection
/// cut.
pub(crate) struct Relay {
    plan: Arc<Plan>,
    task: AbortOnDropHandle<()>,
}

/// Where requests go, and how much of their answers comes back.
struct Plan {
    hub: SocketAddr,
    /// Who serves `/page`, so that a page has the origin of its stream.
    pages: SocketAddr,
    /// Each stream is cut this many bytes behind its head; those behind the last are whole.
    cuts: Vec<usize>,
    spares_blank_lines: AtomicBool,
    streams: AtomicUsize,
}

impl Relay {
    /// Listens on `port`, carries requests to `hub`, but `/page` to `pages`, and cuts the first streams so many bytes behind their
    /// heads as `cuts` says for each.
    pub(crate) async fn start(
        port: &Port,
        hub: SocketAddr,
        pages: SocketAddr,
        cuts: impl IntoIterator<Item = usize>,
    ) -> Self {
        let listener = TcpListener::bind(port.address()).await.unwrap();
        let plan = Arc::new(Plan {
            hub,
            pages,
            cuts: cuts.into_iter().collect(),
            spares_blank_lines: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
        });
        Self {
            task: AbortOnDropHandle::new(tokio::spawn(accept(listener, plan.clone()))),
            plan,
        }
    }

    /// From now on, a cut that would part the last line of a block from the blank line comes behind that.
    pub(crate) fn spare_blank_lines(&self) {
        self.plan.spares_blank_lines.store(true, Ordering::Relaxed);
    }

    /// Goes away; when this returns, nobody listens on its port.
    pub(crate) async fn stop(self) {
        self.task.abort();
        _ = self.task.await;
    }

    /// How many streams were cut.
    pub(crate) fn cuts(&self) -> usize {
        let streams = self.plan.streams.load(Ordering::Relaxed);
        streams.min(self.plan.cuts.len())
    }

    /// Whether every cut was made.
    pub(crate) fn all_cut(&self) -> bool {
        self.cuts() == self.plan.cuts.len()
    }
}

impl Plan {
    /// How much of `body` is sent where the cut is to come after `cut` bytes of it.
    fn end_of_cut(&self, body: &[u8], cut: usize) -> usize {
        let end = cut.min(body.len());
        let parts_a_block = body[..end].ends_with(b"\n") && body[end..].starts_with(b"\n");
        if parts_a_block && self.spares_blank_lines.load(Ordering::Relaxed) {
            return end + 1;
        }
        end
    }
}

async fn accept(listener: TcpListener, plan: Arc<Plan>) {
    // Ends its connections when it is dropped.
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        connections.spawn(carry(client, plan.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// A connection that fails ends, as one through any proxy does.
async fn carry(mut client: TcpStream, plan: Arc<Plan>) -> io::Result<()> {
    let request = read_head(&mut client).await?;
    if request.starts_with(b"GET /page") {
        let mut pages = TcpStream::connect(plan.pages).await?;
        pages.write_all(&request).await?;
        tokio::io::copy_bidirectional(&mut client, &mut pages).await?;
        return Ok(());
    }
    let stream = plan.streams.fetch_add(1, Ordering::Relaxed);
    let cut = plan.cuts.get(stream).copied();
    let mut hub = TcpStream::connect(plan.hub).await?;
    hub.write_all(&request).await?;
    let mut head = read_head(&mut hub).await?;
    let mut body = head.split_off(end_of_head(&head).unwrap_or(head.len()));
    client.write_all(&head).await?;
    let (mut chunk, mut sent) = (vec![0; 64 * 1024], 0);
    loop {
        if let Some(cut) = cut {
            hasten(&mut body);
            let end = plan.end_of_cut(&body, cut - sent);
            sent += end;
            body.truncate(end);
        }
        client.write_all(&body).await?;
        if cut.is_some_and(|cut| cut <= sent) {
            return Ok(());
        }
        let mut from_client = [0; 1];
        tokio::select! {
            // A client that sends nothing more may only leave.
            _ = client.read(&mut from_client) => return Ok(()),
            read = hub.read(&mut chunk) => match read? {
                0 => return Ok(()),
                bytes => body = chunk[..bytes].to_vec(),
            },
        }
    }
}

/// Reads until the head is whole; what came with it of the body stands behind it.
async fn read_head(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    while end_of_head(&read).is_none() {
        if socket.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(read)
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(at + 4)
}

/// Asks clients to come back in 10 ms, in as many digits as there are, so that hundreds of cuts take seconds.
fn hasten(body: &mut [u8]) {
    const FIELD: &[u8] = b"retry: ";
    let Some(at) = body.windows(FIELD.len()).position(|field| field == FIELD) else {
        return;
    };
    let digits = body[at + FIELD.len()..].iter_mut();
    let digits: Vec<&mut u8> = digits.take_while(|byte| byte.is_ascii_digit()).collect();
    let soon = format!("{:0width$}", 10, width = digits.len());
    for (digit, soon) in digits.into_iter().zip(soon.bytes()) {
        *digit = soon;
    }
}
