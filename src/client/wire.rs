//! One connection to a hub, kept open and spoken to directly.
//!
//! For load: a [`Client`](super::Client) pools, redirects and retries, and so costs more than what it would measure.

use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    client::conn::{http1, http2},
    header,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream, lookup_host},
};

use super::{Authorities, Error, Token, address::Address, refusal};

/// A connection that sends one request after the other.
pub struct Wire {
    sender: Sender,
    driver: Driver,
    scheme: &'static str,
    authority: String,
    token: Option<Token>,
}

/// What a connection is opened with, beside the address.
#[derive(Debug, Clone, Default)]
pub struct WireSettings {
    /// What it shows.
    pub token: Option<Token>,
    /// Whom it trusts beside the system.
    pub authorities: Authorities,
    /// Whether it speaks HTTP/2; by prior knowledge where the address has no TLS.
    pub http2: bool,
}

/// The stream that a connection has become.
pub struct WireStream {
    body: Incoming,
    driver: Driver,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// What moves the bytes of the connection, while somebody waits for them; `None` when it has ended.
type Driver = Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>;

impl Wire {
    /// Connects to the hub at `url`, which may be short as for a [`Client`](super::Client).
    pub async fn open(url: &str, settings: WireSettings) -> Result<Self, Error> {
        let invalid = || Error::InvalidUrl(url.to_owned());
        let Address { base, socket } = super::address::parse(url)?;
        let uri: Uri = base.as_str().parse().map_err(|_| invalid())?;
        let (scheme, usual_port) = match uri.scheme_str() {
            Some("http") => ("http", 80),
            Some("https") => ("https", 443),
            _ => return Err(invalid()),
        };
        let http2 = settings.http2;
        let (sender, driver) = if let Some(path) = socket {
            let socket = UnixStream::connect(path).await.map_err(Error::Connect)?;
            begin(socket, http2).await?
        } else {
            let host = uri.host().ok_or_else(invalid)?.trim_matches(['[', ']']);
            let port = uri.port_u16().unwrap_or(usual_port);
            let socket = connect(host, port).await?;
            match scheme {
                "http" => begin(socket, http2).await?,
                _ => {
                    let socket = settings.authorities.greet(socket, &uri, http2).await?;
                    begin(socket, http2).await?
                }
            }
        };
        Ok(Self {
            sender,
            driver,
            scheme,
            authority: uri.authority().ok_or_else(invalid)?.to_string(),
            token: settings.token,
        })
    }

    /// Posts to `path` and reads the answer.
    pub async fn post(
        &mut self,
        path: &str,
        content_type: &'static str,
        body: Bytes,
    ) -> Result<Bytes, Error> {
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, content_type)
            .body(Full::new(body))
            .expect("a path and a type are valid");
        let answer = self.send(request).await?;
        let status = answer.status();
        let (head, body) = answer.into_parts();
        let body = driven(&mut self.driver, body.collect())
            .await
            .map_err(Error::Cut)?
            .to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        Err(refusal(status, &head.headers, &body))
    }

    /// Gets `path_and_query` as a stream of events.
    pub async fn follow(mut self, path_and_query: &str) -> Result<WireStream, Error> {
        let request = Request::get(path_and_query)
            .header(header::ACCEPT, super::ACCEPT_STREAM)
            .body(Full::default())
            .expect("a path is valid");
        let answer = self.send(request).await?;
        let status = answer.status();
        let (head, body) = answer.into_parts();
        if status.is_success() {
            let driver = self.driver;
            return Ok(WireStream { body, driver });
        }
        let body = driven(&mut self.driver, body.collect())
            .await
            .map_err(Error::Cut)?
            .to_bytes();
        Err(refusal(status, &head.headers, &body))
    }

    async fn send(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Error> {
        if let Some(Token(value)) = &self.token {
            let headers = request.headers_mut();
            headers.insert(header::AUTHORIZATION, value.clone());
        }
        match &mut self.sender {
            Sender::Http1(sender) => {
                let host = self.authority.parse().expect("an authority is ASCII");
                request.headers_mut().insert(header::HOST, host);
                let answer = async {
                    sender.ready().await?;
                    sender.send_request(request).await
                };
                driven(&mut self.driver, answer).await
            }
            Sender::Http2(sender) => {
                let uri = format!("{}://{}{}", self.scheme, self.authority, request.uri());
                *request.uri_mut() = uri.parse().expect("its parts are valid");
                let answer = async {
                    sender.ready().await?;
                    sender.send_request(request).await
                };
                driven(&mut self.driver, answer).await
            }
        }
        .map_err(Error::Cut)
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, Error> {
    let addresses = lookup_host((host, port)).await.map_err(Error::Name)?;
    let addresses: Vec<_> = addresses.collect();
    let connected = TcpStream::connect(&addresses[..]).await;
    let socket = connected.map_err(Error::Connect)?;
    socket.set_nodelay(true).map_err(Error::Connect)?;
    Ok(socket)
}

async fn begin<S>(socket: S, http2: bool) -> Result<(Sender, Driver), Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let socket = TokioIo::new(socket);
    let (sender, driver): (_, Pin<Box<dyn Future<Output = _> + Send>>) = if http2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), socket)
            .await
            .map_err(Error::Cut)?;
        (Sender::Http2(sender), Box::pin(connection))
    } else {
        let (sender, connection) = http1::handshake(socket).await.map_err(Error::Cut)?;
        (Sender::Http1(sender), Box::pin(connection))
    };
    Ok((sender, Some(driver)))
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl fmt::Debug for WireStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireStream").finish_non_exhaustive()
    }
}

impl WireStream {
    /// The next bytes; `None` at the end. Dropping the future loses nothing.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = driven(&mut self.driver, self.body.frame()).await;
            match frame.transpose().map_err(Error::Cut)? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

/// Waits for `work`, and moves the connection's bytes meanwhile: a task of its own would cost a wake-up each way.
async fn driven<T>(driver: &mut Driver, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        let ended = driver
            .as_mut()
            .is_some_and(|connection| connection.as_mut().poll(context).is_ready());
        if ended {
            *driver = None;
            // It may have left an answer behind; if not, the work now finds out that none will come.
            return work.as_mut().poll(context);
        }
        Poll::Pending
    })
    .await
}
