//! Publishers and subscribers on one thread: raw sockets, requests made beforehand, and as little reading of the answers as
//! shows that they are right.
//!
//! `segno bench` has a load of its own, for another purpose: it speaks to a running hub as its clients do, waits when it is
//! refused, and checks every event. This one must cost less than the hub beside it on the same machine, and speaks to floors that
//! are no hub as well.

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use memchr::{memchr, memchr_iter, memmem};
use mio::{Events, Interest, Poll, Token, net::TcpStream};

/// Longest wait for anything that must happen.
const DEADLINE: Duration = Duration::from_secs(120);

/// Connections that are opened at once where they need not come together.
const CONNECT_TOGETHER: usize = 256;

/// What stands before the moment of sending in the data that [`super::data`] makes.
const STAMP: &[u8] = b"{\"t\":\"";

/// Digits of that moment.
const STAMP_DIGITS: usize = 19;

/// Everything that speaks to one process under test.
pub(crate) struct Load {
    poll: Poll,
    readiness: Events,
    peers: Vec<Peer>,
    buffer: Vec<u8>,
    /// Publishers, as places in `peers`.
    publishers: Vec<usize>,
    /// Publishers that have no request under way.
    idle: Vec<usize>,
    /// Whether a publisher that has its answer sends the next request at once.
    running: bool,
    seen: Seen,
}

/// What came back.
struct Seen {
    start: Instant,
    answers: u64,
    opened: usize,
    deliveries: u64,
    ended: usize,
    latest_open: Instant,
    /// Publish to answer, in nanoseconds.
    answer_latency: Histogram<u64>,
    /// Publish to receive, in nanoseconds, when the data is stamped.
    delivery_latency: Histogram<u64>,
}

enum Peer {
    Publisher(Publisher),
    Subscriber(Subscriber),
}

/// Sends one of its requests after the other, each when the one before was answered.
struct Publisher {
    stream: TcpStream,
    requests: Vec<Vec<u8>>,
    next: usize,
    written: usize,
    answer: Vec<u8>,
    sent_at: Instant,
}

/// Follows, and checks that what it gets is complete and in order.
struct Subscriber {
    stream: TcpStream,
    request: Option<Vec<u8>>,
    /// Whether it gets every event, so that a hole in the ids is a loss.
    dense: bool,
    cursor: Option<u64>,
    block: Block,
    partial_line: Vec<u8>,
    events: u64,
}

/// What has come of a block of a stream.
#[derive(Default)]
struct Block {
    /// Whether it only moves the cursor.
    is_cursor: bool,
    /// The stamp of its data; 0 if there is none.
    sent_at: u64,
}

impl Load {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let histogram = || Histogram::new_with_bounds(1_000, 600_000_000_000, 3).unwrap();
        Self {
            poll: Poll::new().unwrap(),
            readiness: Events::with_capacity(4096),
            peers: Vec::new(),
            buffer: vec![0; 256 * 1024],
            publishers: Vec::new(),
            idle: Vec::new(),
            running: false,
            seen: Seen {
                start: now,
                answers: 0,
                opened: 0,
                deliveries: 0,
                ended: 0,
                latest_open: now,
                answer_latency: histogram(),
                delivery_latency: histogram(),
            },
        }
    }

    /// Connects a publisher that sends `requests` in turn, over and over.
    pub(crate) fn add_publisher(&mut self, address: SocketAddr, requests: Vec<Vec<u8>>) {
        let stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        let place = self.register(TcpStream::from_std(stream), |stream| {
            Peer::Publisher(Publisher {
                stream,
                next: 0,
                // As if that one had been sent: the socket is ready before there is a reason to write.
                written: requests[0].len(),
                requests,
                answer: Vec::new(),
                sent_at: Instant::now(),
            })
        });
        self.publishers.push(place);
        self.idle.push(place);
    }

    /// Connects subscribers, some at a time, and waits until each has its first block.
    pub(crate) fn add_subscribers(
        &mut self,
        address: SocketAddr,
        count: usize,
        dense: bool,
        request: impl Fn(usize) -> Vec<u8>,
    ) {
        for index in 0..count {
            self.begin_subscriber(address, dense, request(index));
            if index % CONNECT_TOGETHER == CONNECT_TOGETHER - 1 || index == count - 1 {
                let subscribers = self.peers.len() - self.publishers.len();
                self.wait_for("subscribers to begin", |load| load.opened() == subscribers);
            }
        }
    }

    /// Begins to connect a subscriber, without waiting.
    pub(crate) fn begin_subscriber(&mut self, address: SocketAddr, dense: bool, request: Vec<u8>) {
        let stream = TcpStream::connect(address).unwrap();
        self.register(stream, |stream| {
            Peer::Subscriber(Subscriber {
                stream,
                request: Some(request),
                dense,
                cursor: None,
                block: Block::default(),
                partial_line: Vec::new(),
                events: 0,
            })
        });
    }

    fn register(&mut self, mut stream: TcpStream, peer: impl FnOnce(TcpStream) -> Peer) -> usize {
        let place = self.peers.len();
        self.poll
            .registry()
            .register(
                &mut stream,
                Token(place),
                Interest::READABLE | Interest::WRITABLE,
            )
            .unwrap();
        self.peers.push(peer(stream));
        place
    }

    /// Lets one idle publisher send its next request. False if none is idle.
    pub(crate) fn publish(&mut self) -> bool {
        self.publish_due(Instant::now())
    }

    /// The same with the moment at which the request was due: latency is counted from there, so that a hub that keeps
    /// publishers waiting does not make itself look fast.
    pub(crate) fn publish_due(&mut self, due: Instant) -> bool {
        let Some(place) = self.idle.pop() else {
            return false;
        };
        let Peer::Publisher(publisher) = &mut self.peers[place] else {
            unreachable!("a publisher's place")
        };
        publisher.begin(due, self.seen.start);
        true
    }

    /// Answers to publishers so far.
    pub(crate) fn answers(&self) -> u64 {
        self.seen.answers
    }

    /// Events that subscribers were given so far.
    pub(crate) fn deliveries(&self) -> u64 {
        self.seen.deliveries
    }

    /// Subscribers that have their first block.
    pub(crate) fn opened(&self) -> usize {
        self.seen.opened
    }

    /// When the last subscriber got its first block.
    pub(crate) fn latest_open(&self) -> Instant {
        self.seen.latest_open
    }

    /// Streams that the other side ended.
    pub(crate) fn ended(&self) -> usize {
        self.seen.ended
    }

    /// Publish to answer and publish to receive, in nanoseconds, since the last call.
    pub(crate) fn take_latencies(&mut self) -> (Histogram<u64>, Histogram<u64>) {
        let taken = (
            self.seen.answer_latency.clone(),
            self.seen.delivery_latency.clone(),
        );
        self.seen.answer_latency.reset();
        self.seen.delivery_latency.reset();
        taken
    }

    /// All publishers send as fast as they are answered, for this `time`; then waits for the last answers. The number of answers.
    pub(crate) fn run_for(&mut self, time: Duration) -> u64 {
        let before = self.answers();
        self.running = true;
        while self.publish() {}
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn(Some(Duration::from_millis(10)));
        }
        self.running = false;
        let publishers = self.publishers.len();
        self.wait_for("the last answers", |load| load.idle.len() == publishers);
        self.answers() - before
    }

    /// Whether no publisher waits for an answer.
    pub(crate) fn is_idle(&self) -> bool {
        self.idle.len() == self.publishers.len()
    }

    /// Serves the sockets until `done` says so.
    pub(crate) fn wait_for(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done(self) {
            assert!(
                Instant::now() < deadline,
                "waited {DEADLINE:?} for {what}: {} answers, {} opened, {} deliveries, {} ended",
                self.answers(),
                self.opened(),
                self.deliveries(),
                self.ended()
            );
            self.turn(Some(Duration::from_millis(100)));
        }
    }

    /// Serves the sockets until `end`.
    pub(crate) fn serve_until(&mut self, end: Instant) {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.turn(Some(left));
        }
    }

    /// Waits for sockets to be ready and does what they are ready for.
    fn turn(&mut self, longest: Option<Duration>) {
        if let Err(error) = self.poll.poll(&mut self.readiness, longest) {
            assert_eq!(error.kind(), ErrorKind::Interrupted);
            return;
        }
        for ready in &self.readiness {
            let place = ready.token().0;
            match &mut self.peers[place] {
                Peer::Publisher(publisher) => {
                    if ready.is_writable() {
                        publisher.write();
                    }
                    if ready.is_readable() && publisher.read(&mut self.buffer, &mut self.seen) {
                        if self.running {
                            publisher.begin(Instant::now(), self.seen.start);
                        } else {
                            self.idle.push(place);
                        }
                    }
                }
                Peer::Subscriber(subscriber) => {
                    if ready.is_writable() {
                        subscriber.ask();
                    }
                    if ready.is_readable() {
                        subscriber.read(&mut self.buffer, &mut self.seen);
                    }
                }
            }
        }
    }
}

impl Publisher {
    fn begin(&mut self, due: Instant, start: Instant) {
        self.next = (self.next + 1) % self.requests.len();
        self.written = 0;
        self.sent_at = due;
        let request = &mut self.requests[self.next];
        // Of a batch, only the first event is stamped; the others say zero, which is not a moment.
        if let Some(place) = memmem::find(request, STAMP) {
            let nanos = self.sent_at.duration_since(start).as_nanos();
            let stamp = &mut request[place + STAMP.len()..][..STAMP_DIGITS];
            write!(&mut stamp[..], "{nanos:019}").unwrap();
        }
        self.write();
    }

    fn write(&mut self) {
        let request = &self.requests[self.next];
        while self.written < request.len() {
            match self.stream.write(&request[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("a publisher was cut: {error}"),
            }
        }
    }

    /// Reads; true when the answer is complete.
    fn read(&mut self, buffer: &mut [u8], seen: &mut Seen) -> bool {
        match self.stream.read(buffer) {
            Ok(0) => panic!("the hub closed the connection of a publisher"),
            Ok(bytes) => self.answer.extend_from_slice(&buffer[..bytes]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("a publisher was cut: {error}"),
        }
        let Some(head_bytes) = memmem::find(&self.answer, b"\r\n\r\n") else {
            return false;
        };
        let head = std::str::from_utf8(&self.answer[..head_bytes]).unwrap();
        assert!(
            head.starts_with("HTTP/1.1 201"),
            "{}",
            String::from_utf8_lossy(&self.answer)
        );
        let length = head
            .split("\r\n")
            .find_map(|line| line.strip_prefix("content-length: "));
        let body_bytes: usize = length.unwrap().parse().unwrap();
        if self.answer.len() < head_bytes + 4 + body_bytes {
            return false;
        }
        self.answer.clear();
        seen.answers += 1;
        seen.answer_latency
            .saturating_record(nanos(self.sent_at.elapsed()));
        true
    }
}

impl Subscriber {
    fn ask(&mut self) {
        if let Some(request) = self.request.take() {
            let bytes = self
                .stream
                .write(&request)
                .expect("the hub takes connections");
            assert_eq!(
                bytes,
                request.len(),
                "a new connection has room for a request"
            );
        }
    }

    fn read(&mut self, buffer: &mut [u8], seen: &mut Seen) {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => {
                    seen.ended += 1;
                    return;
                }
                Ok(bytes) => {
                    self.take(&buffer[..bytes], seen);
                    // A short read has emptied the socket; more will make it ready again.
                    if bytes < buffer.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("a subscriber was cut: {error}"),
            }
        }
    }

    /// Looks at each line. Chunk sizes are lines that mean nothing here.
    fn take(&mut self, mut bytes: &[u8], seen: &mut Seen) {
        let now = nanos(seen.start.elapsed());
        if !self.partial_line.is_empty() {
            let Some(end) = memchr(b'\n', bytes) else {
                self.partial_line.extend_from_slice(bytes);
                return;
            };
            let mut line = std::mem::take(&mut self.partial_line);
            line.extend_from_slice(&bytes[..end]);
            self.take_line(&line, now, seen);
            line.clear();
            self.partial_line = line;
            bytes = &bytes[end + 1..];
        }
        let mut from = 0;
        for end in memchr_iter(b'\n', bytes) {
            self.take_line(&bytes[from..end], now, seen);
            from = end + 1;
        }
        self.partial_line.extend_from_slice(&bytes[from..]);
    }

    fn take_line(&mut self, line: &[u8], now: u64, seen: &mut Seen) {
        if let Some(data) = line.strip_prefix(b"data: ") {
            if let Some(stamp) = data.strip_prefix(STAMP) {
                self.block.sent_at = number(&stamp[..STAMP_DIGITS]);
            }
        } else if let Some(id) = line.strip_prefix(b"id: ") {
            // The last field of every block.
            self.take_block(number(id), now, seen);
        } else if line.starts_with(b"event: segno.cursor") {
            self.block.is_cursor = true;
        } else {
            assert!(!line.starts_with(b"event: segno."), "a gap, or a refusal");
            assert!(
                !line.starts_with(b"HTTP/1.1 ") || line.starts_with(b"HTTP/1.1 200"),
                "{}",
                String::from_utf8_lossy(line)
            );
        }
    }

    fn take_block(&mut self, id: u64, now: u64, seen: &mut Seen) {
        let block = std::mem::take(&mut self.block);
        if block.is_cursor {
            if self.cursor.is_none() {
                seen.opened += 1;
                seen.latest_open = Instant::now();
            }
            self.cursor = Some(id);
            return;
        }
        self.check(id);
        self.events += 1;
        seen.deliveries += 1;
        if block.sent_at > 0 {
            seen.delivery_latency
                .saturating_record(now.saturating_sub(block.sent_at));
        }
    }

    fn check(&mut self, id: u64) {
        let cursor = self.cursor.expect("the first block comes first");
        assert!(id > cursor, "event {id} came after {cursor}");
        assert!(
            !self.dense || id == cursor + 1,
            "between event {cursor} and {id} some are missing"
        );
        self.cursor = Some(id);
    }
}

fn number(digits: &[u8]) -> u64 {
    digits
        .iter()
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("an hour fits")
}
