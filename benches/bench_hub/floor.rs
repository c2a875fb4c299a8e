//! The floors: what the kernel and the server allow when there is no hub. Each is this program started again.

use std::{
    env,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
};

use poem::{EndpointExt, Request, Response, Route, endpoint, http::StatusCode};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// The variable that makes this program a floor.
pub(crate) const VARIABLE: &str = "SEGNO_BENCH_FLOOR";

/// Which floor.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// The hub's own server with a handler that reads the body and answers 201.
    EmptyHandler,
    /// A loop of bare `send()` to every socket.
    Send,
    /// The same loop, which encrypts with rustls.
    Encrypt,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EmptyHandler => "empty",
            Self::Send => "send",
            Self::Encrypt => "encrypt",
        }
    }
}

/// Is the floor this process was started as, for ever. False if it was started as a bench.
pub(crate) fn run_if_asked() -> bool {
    match env::var(VARIABLE).as_deref() {
        Ok("empty") => segno::server::runtime()
            .unwrap()
            .block_on(serve_empty_handler()),
        Ok("send") => send(),
        Ok("encrypt") => encrypt(),
        _ => return false,
    }
    true
}

async fn serve_empty_handler() {
    let handler = endpoint::make(async |mut request: Request| {
        request.take_body().into_bytes().await?;
        Ok::<_, poem::Error>(Response::builder().status(StatusCode::CREATED).finish())
    });
    let endpoint = Route::new()
        .at("/events", poem::post(handler))
        .map_to_response();
    let (address, serving) =
        segno::server::serve_endpoint("127.0.0.1:0".parse().unwrap(), endpoint).unwrap();
    say(address);
    serving.await;
}

/// Takes subscribers, then one publisher. What that one posts goes to all by one `send()` each, as the frame that the hub
/// would send.
fn send() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    say(listener.local_addr().unwrap());
    let mut request = vec![0; 64 * 1024];
    loop {
        let mut subscribers: Vec<TcpStream> = Vec::new();
        let (mut publisher, mut bytes) = loop {
            let (mut socket, _) = listener.accept().unwrap();
            socket.set_nodelay(true).unwrap();
            let bytes = socket.read(&mut request).unwrap();
            if request[..bytes].starts_with(b"POST") {
                break (socket, bytes);
            }
            socket.write_all(opening().as_bytes()).unwrap();
            subscribers.push(socket);
        };
        let mut id = 0;
        while bytes > 0 {
            id += 1;
            let frame = frame(id, &request[..bytes]);
            for subscriber in &mut subscribers {
                subscriber.write_all(&frame).unwrap();
            }
            publisher
                .write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n")
                .unwrap();
            bytes = publisher.read(&mut request).unwrap_or(0);
        }
    }
}

/// How a stream begins.
fn opening() -> String {
    let block = ":\nretry: 2000\nevent: segno.cursor\ndata: {\"cursor\":0}\nid: 0\n\n";
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    format!("{head}{:x}\r\n{block}\r\n", block.len())
}

/// A client of [`encrypt`].
type Encrypted = StreamOwned<ServerConnection, TcpStream>;

/// As [`send`], over TLS.
fn encrypt() {
    let chain = CertificateDer::pem_file_iter("cert.pem").unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file("key.pem").unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key);
    let config = Arc::new(config.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    say(listener.local_addr().unwrap());
    let mut subscribers: Vec<Encrypted> = Vec::new();
    let mut publisher = loop {
        let (socket, _) = listener.accept().unwrap();
        socket.set_nodelay(true).unwrap();
        let connection = ServerConnection::new(config.clone()).unwrap();
        let mut client = StreamOwned::new(connection, socket);
        let request = read_request(&mut client);
        if request.starts_with(b"POST") {
            break Some((client, request));
        }
        client.write_all(opening().as_bytes()).unwrap();
        subscribers.push(client);
    };
    let mut id = 0;
    while let Some((mut client, request)) = publisher.take() {
        id += 1;
        let frame = frame(id, &request);
        for subscriber in &mut subscribers {
            subscriber.write_all(&frame).unwrap();
        }
        let answer = b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n";
        client.write_all(answer).unwrap();
        let request = read_request(&mut client);
        publisher = (!request.is_empty()).then_some((client, request));
    }
}

/// A request with its body; nothing at the end of the connection.
fn read_request(client: &mut Encrypted) -> Vec<u8> {
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let bytes = client.read(&mut piece).unwrap_or(0);
        if bytes == 0 {
            return Vec::new();
        }
        request.extend_from_slice(&piece[..bytes]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .split("\r\n")
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        if body.len() == length {
            return request;
        }
    }
}

fn frame(id: u64, request: &[u8]) -> Vec<u8> {
    let request = std::str::from_utf8(request).unwrap();
    let (_, data) = request.split_once("\"data\":").unwrap();
    let block = format!("data: {}\nid: {id}\n\n", data.strip_suffix('}').unwrap());
    format!("{:x}\r\n{block}\r\n", block.len()).into_bytes()
}

#[expect(clippy::print_stdout, reason = "how the bench learns the address")]
fn say(address: std::net::SocketAddr) {
    println!("http://{address}");
}
