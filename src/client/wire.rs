//! One connection to a hub, kept open and spoken to directly.
//!
//! For load: a [`Client`](super::Client) pools, redirects and retries, and so costs more than what it would measure.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    client::conn::http1::{self, Connection, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Error, Token, refusal};

/// A connection that sends one request after the other. Plain HTTP only.
#[derive(Debug)]
pub struct Wire {
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
    authority: String,
    token: Option<Token>,
}

/// The stream that a connection has become.
#[derive(Debug)]
pub struct WireStream {
    body: Incoming,
    driver: Driver,
}

/// What moves the bytes of the connection, while somebody waits for them; `None` when it has ended.
type Driver = Option<Pin<Box<Connection<TokioIo<TcpStream>, Full<Bytes>>>>>;

impl Wire {
    /// Connects to the hub at `url`, and shows `token` if there is one.
    pub async fn open(url: &str, token: Option<Token>) -> Result<Self, Error> {
        let invalid = || Error::InvalidUrl(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        if uri.scheme_str() != Some("http") {
            return Err(invalid());
        }
        let host = uri.host().ok_or_else(invalid)?.trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(80);
        let socket = TcpStream::connect((host, port))
            .await
            .map_err(Error::Connect)?;
        socket.set_nodelay(true).map_err(Error::Connect)?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket))
            .await
            .map_err(Error::Cut)?;
        Ok(Self {
            sender,
            driver: Some(Box::pin(connection)),
            authority: uri.authority().ok_or_else(invalid)?.to_string(),
            token,
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
            .header(header::HOST, &self.authority)
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
            .header(header::HOST, &self.authority)
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
        let Self {
            sender,
            driver,
            token,
            ..
        } = self;
        if let Some(Token(value)) = token {
            let headers = request.headers_mut();
            headers.insert(header::AUTHORIZATION, value.clone());
        }
        let answer = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        driven(driver, answer).await.map_err(Error::Cut)
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
