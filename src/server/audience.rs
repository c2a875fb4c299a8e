//! Streams that want the same and have reached the same place share one subscription: an audience.
//!
//! A task for each subscriber would be woken and polled for every event, which costs half of what the `send()` costs that it
//! is for. An audience is one task: it takes what comes, renders it once, and hands it to one socket after
//! the other. A new subscriber is an audience of one, replays at its own pace, and joins another audience when it has
//! caught up. A member whose socket is full leaves, again as an audience of one, so the others never wait for a slow one.
//!
//! Invariant: all members of an audience have been sent the stream up to the same cursor.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::{
    connection::{Heir, StreamSocket},
    framing::Framing,
    listener::Socket,
};
use crate::{
    auth::Pass,
    http::{EventStream, StreamKind},
    hub::CountedSubscriber,
    limits::StreamPermit,
    peer_address::PeerAddress,
};

/// Members of one audience. More are another audience, which another thread may serve.
///
/// One wake-up then serves that many deliveries, and a task still runs for less than a millisecond.
const AUDIENCE_MAX_MEMBERS: usize = 64;

/// Streams that wait to be let in. One that finds no place stays on its own for now.
const DOOR_MAX_WAITING: usize = 8;

/// How often a stream that wants to join is brought to where the audience is, before it is left on its own for now. Once is
/// enough unless something is announced in that very moment.
const ADMIT_MAX_TRIES: usize = 4;

/// Bytes after which no more of what waits is written together.
///
/// Source: a `send()` of 32 KB costs half as much again as one of 100 bytes, above that the copy is what it costs.
const WRITE_MAX_BYTES: usize = 64 * 1024;

/// What the streams of an audience have in common.
type AudienceKind = (StreamKind, Framing);

/// All audiences that take members.
#[derive(Debug)]
pub(super) struct Audiences {
    doors: Mutex<HashMap<AudienceKind, mpsc::Sender<Box<Audience>>>>,
    tasks: TaskTracker,
}

/// Sockets that get the same bytes.
#[derive(Debug)]
pub(super) struct Audience {
    stream: EventStream,
    framing: Framing,
    /// Never empty while it is served.
    members: Vec<Member>,
    /// What its only member is to be sent before the stream goes on. Empty where there are more.
    pending: Bytes,
    /// Where others come in, if they may.
    door: Option<mpsc::Receiver<Box<Audience>>>,
    /// Whether it was not let in, and stays alone until something has been announced.
    waits: bool,
    /// Whether its only member has closed its side of the connection. It may still read, so it stays until a write fails.
    is_half_closed: bool,
}

/// A subscriber's side of a connection.
#[derive(Debug)]
struct Member {
    socket: Socket,
    /// While it is held, the stream counts.
    _permit: StreamPermit,
    /// While it is held, it counts as a subscriber of what the stream is of.
    _counted: CountedSubscriber,
    /// Ends when it may not go on; `None` if nothing can end that.
    pass: Option<Pass>,
}

/// How a client leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Departure {
    /// It will send no more. Perhaps it still reads: `nc -N` and some proxies close their side behind the request.
    HalfClosed,
    /// The connection is broken.
    Gone,
    /// The right to read has ended, for this reason.
    Expired(String),
}

/// What an audience waits for.
enum Happening {
    /// The next blocks for all; `None` at the end of the stream.
    Blocks(Option<Bytes>),
    /// Another stream wants to join.
    Guest(Box<Audience>),
    /// The member at this place has closed its side, or has gone.
    Left(usize, Departure),
}

impl Audiences {
    /// Audiences whose tasks are counted among `tasks`.
    pub(super) fn new(tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self {
            doors: Mutex::default(),
            tasks,
        })
    }

    /// Sends a stream to its end or until the client has gone, in a task of its own.
    pub(super) fn serve(self: &Arc<Self>, StreamSocket { socket, stream }: StreamSocket) {
        let Heir {
            head,
            following,
            framing,
        } = stream;
        let member = Member {
            socket,
            _permit: following.permit,
            _counted: following.counted,
            pass: following.pass,
        };
        self.spawn(Audience::of_one(
            member,
            head.into(),
            following.stream,
            framing,
        ));
    }

    fn spawn(self: &Arc<Self>, audience: Box<Audience>) {
        let audiences = self.clone();
        self.tasks
            .spawn(async move { audience.run(&audiences).await });
    }

    /// Hands `audience` to one that is open and of its kind. Else opens its own door, if there is none.
    fn join_or_open(&self, mut audience: Box<Audience>) -> Option<Box<Audience>> {
        let mut doors = self
            .doors
            .lock()
            .expect("nobody panics while holding the doors");
        let kind = audience.kind();
        if let Some(door) = doors.get(&kind) {
            match door.try_send(audience) {
                Ok(()) => return None,
                Err(mpsc::error::TrySendError::Full(back)) => return Some(back),
                Err(mpsc::error::TrySendError::Closed(back)) => audience = back,
            }
        }
        let (door, guests) = mpsc::channel(DOOR_MAX_WAITING);
        doors.insert(kind, door);
        audience.door = Some(guests);
        Some(audience)
    }

    /// Closes the door of `audience`. Those who wait at it stay on their own.
    fn close(self: &Arc<Self>, audience: &mut Audience) {
        let Some(mut guests) = audience.door.take() else {
            return;
        };
        guests.close();
        let mut doors = self
            .doors
            .lock()
            .expect("nobody panics while holding the doors");
        let kind = audience.kind();
        if doors.get(&kind).is_some_and(mpsc::Sender::is_closed) {
            doors.remove(&kind);
        }
        drop(doors);
        while let Ok(guest) = guests.try_recv() {
            self.spawn(guest);
        }
    }
}

impl Audience {
    /// A member that is to be sent `pending`, then the stream.
    fn of_one(member: Member, pending: Bytes, stream: EventStream, framing: Framing) -> Box<Self> {
        Box::new(Self {
            stream,
            framing,
            members: vec![member],
            pending,
            door: None,
            waits: false,
            is_half_closed: false,
        })
    }

    fn kind(&self) -> AudienceKind {
        (self.stream.kind(), self.framing)
    }

    /// Serves its members until the stream has ended or all are gone, or until it has joined another audience.
    async fn run(mut self: Box<Self>, audiences: &Arc<Audiences>) {
        loop {
            if self.wants_company() {
                match audiences.join_or_open(self) {
                    Some(alone) => self = alone,
                    None => return,
                }
            }
            if self.step(audiences).await.is_none() {
                return audiences.close(&mut self);
            }
        }
    }

    /// Whether it is one that others could be served with.
    fn wants_company(&self) -> bool {
        self.door.is_none()
            && self.members.len() == 1
            && !self.waits
            && !self.is_half_closed
            && self.pending.is_empty()
            && self.stream.is_live()
    }

    /// Does what comes next; `None` when there is nothing left to do.
    async fn step(&mut self, audiences: &Arc<Audiences>) -> Option<()> {
        if !self.pending.is_empty() {
            return self.send_pending().await.ok();
        }
        match self.next().await {
            Happening::Blocks(Some(bytes)) => {
                self.waits = false;
                let blocks = self.with_waiting(bytes);
                self.send(blocks, audiences);
            }
            Happening::Blocks(None) => {
                self.end(audiences);
                return None;
            }
            Happening::Guest(guest) => self.admit(guest, audiences),
            Happening::Left(place, Departure::Gone) => drop(self.members.swap_remove(place)),
            Happening::Left(place, Departure::HalfClosed) => self.probe(place, audiences),
            Happening::Left(place, Departure::Expired(reason)) => {
                self.send_away(place, &reason, audiences)
            }
        }
        (!self.members.is_empty()).then_some(())
    }

    async fn next(&mut self) -> Happening {
        let Self {
            stream,
            members,
            door,
            is_half_closed,
            ..
        } = self;
        // In any order: under constant load the first would never let the others have their turn.
        tokio::select! {
            blocks = stream.next() => Happening::Blocks(blocks),
            Some(guest) = receive(door) => Happening::Guest(guest),
            (place, departure) = poll_fn(|context| poll_left(members, context)), if !*is_half_closed => {
                Happening::Left(place, departure)
            }
            () = broken(&members[0]), if *is_half_closed => Happening::Left(0, Departure::Gone),
            reason = poll_fn(|context| members[0].poll_expired(context)), if *is_half_closed => {
                Happening::Left(0, Departure::Expired(reason))
            }
        }
    }

    /// Waits until its only member has taken what is pending.
    async fn send_pending(&mut self) -> io::Result<()> {
        let [member] = &self.members[..] else {
            unreachable!("what is pending is for one");
        };
        member.write_all(std::mem::take(&mut self.pending)).await
    }

    /// `blocks` and what was announced since then, to be written together.
    fn with_waiting(&mut self, blocks: Bytes) -> Bytes {
        let Some(more) = self.stream.next_waiting() else {
            return blocks;
        };
        let mut all = [blocks, more].concat();
        while all.len() < WRITE_MAX_BYTES
            && let Some(more) = self.stream.next_waiting()
        {
            all.extend_from_slice(&more);
        }
        all.into()
    }

    /// Sends `blocks` to each. Who does not take them all at once goes on alone; who has gone is a member no more.
    fn send(&mut self, blocks: Bytes, audiences: &Arc<Audiences>) {
        let bytes = self.framing.frame(blocks);
        self.stream.count_delivery(bytes.len(), self.members.len());
        let mut place = 0;
        while let Some(member) = self.members.get(place) {
            match member.write(&bytes) {
                Ok(written) if written == bytes.len() => place += 1,
                Ok(written) => {
                    let rest = bytes.slice(written..);
                    if self.members.len() == 1 {
                        audiences.close(self);
                        self.own_stream();
                        self.pending = rest;
                        return;
                    }
                    let slow = self.members.swap_remove(place);
                    audiences.spawn(self.part(slow, rest));
                }
                Err(_) => drop(self.members.swap_remove(place)),
            }
        }
    }

    /// Writes to a member that has closed its side, as an audience of its own: if the client has gone, its system answers with a
    /// reset.
    fn probe(&mut self, place: usize, audiences: &Arc<Audiences>) {
        let comment = self.framing.frame(self.stream.sign_of_life());
        if self.members.len() == 1 {
            audiences.close(self);
            self.own_stream();
            self.pending = comment;
            self.is_half_closed = true;
            return;
        }
        let member = self.members.swap_remove(place);
        let mut alone = self.part(member, comment);
        alone.is_half_closed = true;
        audiences.spawn(alone);
    }

    /// A member that is to be sent `pending` and then what comes after it, as an audience of its own.
    fn part(&self, member: Member, pending: Bytes) -> Box<Self> {
        let stream = self.stream.fork(member.peer());
        Self::of_one(member, pending, stream, self.framing)
    }

    /// Gives its only member, who is slow, a stream of its own, if the stream was begun by another who has left: what is told
    /// of it names who it is.
    fn own_stream(&mut self) {
        let peer = self.members[0].peer();
        if self.stream.peer() != peer {
            self.stream = self.stream.fork(peer);
        }
    }

    /// Lets the members of `guest` in, if it can be brought to the same cursor.
    fn admit(&mut self, mut guest: Box<Self>, audiences: &Arc<Audiences>) {
        for _ in 0..ADMIT_MAX_TRIES {
            self.send_waiting(audiences);
            guest.send_waiting(audiences);
            // A host whose only member is slow has something to send to that one alone.
            if self.members.is_empty() || !self.pending.is_empty() || !guest.pending.is_empty() {
                break;
            }
            if self.stream.settle() == guest.stream.settle() {
                self.members.append(&mut guest.members);
                if self.members.len() >= AUDIENCE_MAX_MEMBERS {
                    audiences.close(self);
                }
                return;
            }
        }
        guest.waits = true;
        audiences.spawn(guest);
    }

    /// Sends what has been announced and waits to be taken.
    fn send_waiting(&mut self, audiences: &Arc<Audiences>) {
        while self.pending.is_empty()
            && let Some(blocks) = self.stream.next_waiting()
        {
            self.send(blocks, audiences);
        }
    }

    /// Sends the member at this place away, for this reason.
    fn send_away(&mut self, place: usize, reason: &str, audiences: &Arc<Audiences>) {
        let member = self.members.swap_remove(place);
        let last = self.framing.frame_last(self.stream.expired(reason));
        take_leave(member, &last, audiences);
    }

    /// Sends each member its last block.
    fn end(&mut self, audiences: &Arc<Audiences>) {
        for member in self.members.drain(..) {
            let farewell = self.framing.frame_last(self.stream.farewell());
            take_leave(member, &farewell, audiences);
        }
    }
}

/// Sends a member its last bytes, in a task of its own if it does not take them at once.
fn take_leave(member: Member, last: &Bytes, audiences: &Arc<Audiences>) {
    match member.write(last) {
        Ok(written) if written < last.len() => {
            let rest = last.slice(written..);
            audiences
                .tasks
                .spawn(async move { member.write_all(rest).await });
        }
        // Dropped with its connection.
        Ok(_) | Err(_) => (),
    }
}

impl Member {
    fn peer(&self) -> PeerAddress {
        self.socket.peer()
    }

    /// Writes what the socket takes at once, and tells how much that was.
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.socket.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    /// Writes everything, waiting where the client is slow.
    async fn write_all(&self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write(&bytes)? {
                0 => self.socket.writable().await?,
                written => bytes.advance(written),
            }
        }
        Ok(())
    }

    /// Ready with the reason when it may not go on.
    fn poll_expired(&self, context: &mut Context<'_>) -> Poll<String> {
        match &self.pass {
            Some(pass) => pass.poll_ended(context),
            None => Poll::Pending,
        }
    }

    /// Ready when the client has closed its side, or has gone, or may not go on. What it sends in the meantime means nothing.
    fn poll_left(&self, context: &mut Context<'_>) -> Poll<Departure> {
        if let Poll::Ready(reason) = self.poll_expired(context) {
            return Poll::Ready(Departure::Expired(reason));
        }
        while let Poll::Ready(ready) = self.socket.poll_read_ready(context) {
            match ready.and_then(|()| self.socket.try_read(&mut [0; 256])) {
                Ok(0) => return Poll::Ready(Departure::HalfClosed),
                Ok(_) => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                Err(_) => return Poll::Ready(Departure::Gone),
            }
        }
        Poll::Pending
    }
}

/// Polls the sockets directly: futures of their readiness would be made and dropped for every event.
fn poll_left(members: &[Member], context: &mut Context<'_>) -> Poll<(usize, Departure)> {
    for (place, member) in members.iter().enumerate() {
        if let Poll::Ready(departure) = member.poll_left(context) {
            return Poll::Ready((place, departure));
        }
    }
    Poll::Pending
}

/// Waits until a connection whose other side is closed breaks. To read would say "closed" over and over.
async fn broken(member: &Member) {
    // An error of the wait itself is as good as one of the connection.
    _ = member.socket.failed().await;
}

async fn receive(door: &mut Option<mpsc::Receiver<Box<Audience>>>) -> Option<Box<Audience>> {
    match door {
        Some(guests) => guests.recv().await,
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use poem::{Body, Endpoint, http::Method};
    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpSocket, TcpStream},
    };

    use super::*;
    use crate::{
        event::{Data, EventType, NewEvent, Topic},
        http::{Answer, HubEndpoint, test_endpoint},
        hub::Origin,
        limits::{self, Limits},
    };

    /// A socket that holds little, and its other end.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4096).unwrap();
        let client = client.connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        (accepted.unwrap().0, client.unwrap())
    }

    /// An audience of one that is live, with the client's end of its connection.
    async fn live(endpoint: &HubEndpoint, limits: &Arc<Limits>) -> (Box<Audience>, TcpStream) {
        let (socket, client) = connection().await;
        let address = client.local_addr().unwrap();
        let request = test_endpoint::request(limits, address, Method::GET, "/sse", Body::empty());
        let Answer::Stream(_, mut following) = endpoint.call(request).await.unwrap() else {
            panic!("no stream");
        };
        following.stream.next().await.unwrap();
        assert!(following.stream.is_live());
        let member = Member {
            pass: None,
            socket: Socket::Ip(socket),
            _permit: following.permit,
            _counted: following.counted,
        };
        let audience = Audience::of_one(member, Bytes::new(), following.stream, Framing::Plain);
        (audience, client)
    }

    /// What it has to send first is for its own member. With others beside that one, all of them would be cut.
    #[tokio::test]
    async fn an_audience_whose_only_member_is_slow_lets_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Arc::new(Limits::new(limits::Settings::default()));
        let (hub, writing, endpoint) = test_endpoint::open(folder.path(), &limits).await;
        let (mut host, _slow_client) = live(&endpoint, &limits).await;
        let (guest, mut client) = live(&endpoint, &limits).await;
        for audience in [&host, &guest] {
            audience.members[0].socket.writable().await.unwrap();
        }
        while host.members[0].write(&[b':'; 4096]).unwrap() > 0 {}
        let event = NewEvent {
            topic: Topic::new("t").unwrap(),
            event_type: EventType::default(),
            data: Data::from_text("x").unwrap(),
            key: None,
        };
        hub.publish(vec![event], Origin::default()).await.unwrap();

        let audiences = Audiences::new(TaskTracker::new());
        host.admit(guest, &audiences);
        assert!(!host.pending.is_empty(), "the socket is full");
        assert_eq!(host.members.len(), 1);
        // The guest is served all the same.
        let expected = b"data: \"x\"\nid: 1\n\n";
        let mut received = vec![0; expected.len()];
        client.read_exact(&mut received).await.unwrap();
        assert_eq!(received, expected);
        drop((host, audiences));
        hub.drain();
        writing.await.unwrap().close().await.unwrap();
    }
}
