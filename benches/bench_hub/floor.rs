//! The floors: what the kernel and the server allow when there is no hub. Each is this program started again.

use std::{
    env,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use poem::{EndpointExt, Request, Response, Route, endpoint, http::StatusCode};

/// The variable that makes this program a floor.
pub(crate) const VARIABLE: &str = "SEGNO_BENCH_FLOOR";

/// Which floor.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// The hub's own server with a handler that reads the body and answers 201.
    EmptyHandler,
    /// A loop of bare `send()` to every socket.
    Send,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EmptyHandler => "empty",
            Self::Send => "send",
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
            let block = ":\nretry: 2000\nevent: segno.cursor\ndata: {\"cursor\":0}\nid: 0\n\n";
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            let head = format!("{head}{:x}\r\n{block}\r\n", block.len());
            socket.write_all(head.as_bytes()).unwrap();
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
