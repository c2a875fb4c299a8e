//! The sockets that the hub listens on, and those that it accepts: of IP, or files of this machine.
//!
//! The rest of the server knows one kind of socket only. What differs is here: how a socket is bound and let go, who is at its other
//! end, and what one does to have it quick. A socket file is in the clear also where the hub has a certificate: nobody is on the way.

use std::{
    fmt, fs,
    io::{self, IoSlice},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    str::FromStr,
    task::{Context, Poll},
};

use socket2::{Domain, SockAddr, SockRef, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream},
};

use crate::peer_address::PeerAddress;

/// Connections the kernel holds for us before we accept them.
///
/// tokio's own `bind` says 128; of 1,000 clients that connected at once 515 had to send their SYN again, and each waited a
/// second or more.
const LISTEN_BACKLOG: u32 = 4096;

/// Bytes of a connection that wait in the system to be sent.
///
/// As many as the system likes, up to 4 MB each, would be memory that clients that do not read can take. What is on its way does
/// not count, so a client far away is served as fast as ever. A socket file holds no more than 208 KB by itself.
///
/// Source: `limits::a_page_that_nobody_reads`; 200 such clients had 750 MB of the system's memory, and have 37 MB.
#[cfg(target_os = "linux")]
const UNSENT_MAX_BYTES: u32 = 128 * 1024;

/// What an address begins with that is a file.
const UNIX_SCHEME: &str = "unix:";

/// Where the hub listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An address of the machine, and a port; port 0 has the system choose one. `[::]` is all addresses, those of IPv4 too.
    Ip(SocketAddr),
    /// The file of a socket, for programs of this machine.
    Unix(PathBuf),
}

/// Text that is no place to listen.
#[derive(Debug, thiserror::Error)]
#[error(
    "it looks like 127.0.0.1:8000, localhost:8000 or 8000 (this machine only), :8000 (all addresses) or unix:/run/segno.sock; a name \
     other than localhost is not looked up"
)]
pub struct InvalidListenAddress;

impl FromStr for ListenAddress {
    type Err = InvalidListenAddress;

    fn from_str(text: &str) -> Result<Self, InvalidListenAddress> {
        if let Some(path) = text.strip_prefix(UNIX_SCHEME) {
            // As curl and others write it: unix:///run/segno.sock.
            let path = path.strip_prefix("//").unwrap_or(path);
            let is_file = !path.is_empty() && !path.ends_with('/');
            return match is_file {
                true => Ok(Self::Unix(path.into())),
                false => Err(InvalidListenAddress),
            };
        }
        let port = |text: &str| {
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_: &u16| is_number)
        };
        let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let everywhere = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let address = text
            .parse()
            .ok()
            .or_else(|| port(text).map(here))
            .or_else(|| match text.split_once(':')? {
                ("", text) => port(text).map(everywhere),
                (name, text) if name.eq_ignore_ascii_case("localhost") => port(text).map(here),
                _ => None,
            });
        address.map(Self::Ip).ok_or(InvalidListenAddress)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX_SCHEME}{}", path.display()),
        }
    }
}

impl ListenAddress {
    /// Whether only programs of this machine can connect.
    pub fn is_of_this_machine(&self) -> bool {
        match self {
            Self::Ip(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// Why the hub cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens there.
    #[error("{0} is in use; is another segno running? choose another with --listen")]
    InUse(ListenAddress),
    /// What is there was not made by a hub, so it is left alone.
    #[error("{path} is there and is no socket; remove it, or choose another with --listen", path = .0.display())]
    NoSocket(PathBuf),
    /// The address cannot be had.
    #[error("cannot listen on {address}")]
    Io {
        /// The address that was asked for.
        address: ListenAddress,
        /// What the system said.
        source: io::Error,
    },
}

/// A socket that takes connections. A file goes when it is dropped.
#[derive(Debug)]
pub(super) enum Listener {
    Ip(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The file of a socket. Removed when this is dropped, unless there is another in its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and number of the file.
    identity: (u64, u64),
}

impl Listener {
    /// Listens. `mode` says who may open a socket file: nobody else can, not even for a moment.
    pub(super) fn open(address: &ListenAddress, mode: u32) -> Result<Self, ListenError> {
        match address {
            ListenAddress::Ip(ip) => {
                let listening = bind_ip(*ip).and_then(|socket| socket.listen(LISTEN_BACKLOG));
                listening.map(Self::Ip)
            }
            ListenAddress::Unix(path) => {
                make_room(path)?;
                listen_at(path, mode).map(|(listener, file)| Self::Unix(listener, file))
            }
        }
        .map_err(|error| cannot_listen(address, error))
    }

    /// Where it listens, with the port that the system chose if it was to.
    pub(super) fn address(&self) -> ListenAddress {
        match self {
            Self::Ip(listener) => {
                let address = listener.local_addr();
                ListenAddress::Ip(address.expect("a listening socket has an address"))
            }
            Self::Unix(_, file) => ListenAddress::Unix(file.path.clone()),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Socket, PeerAddress)> {
        match self {
            Self::Ip(listener) => {
                let (socket, address) = listener.accept().await?;
                Ok((Socket::Ip(socket), address.into()))
            }
            Self::Unix(listener, _) => {
                let (socket, _) = listener.accept().await?;
                Ok((Socket::Unix(socket), PeerAddress::Unix))
            }
        }
    }
}

/// Whether a hub could listen there. Nobody who connects meanwhile is heard, and a socket file that is there stays.
pub fn can_listen(address: &ListenAddress) -> Result<(), ListenError> {
    match address {
        ListenAddress::Ip(ip) => bind_ip(*ip).map(drop),
        ListenAddress::Unix(path) => match look(path)? {
            Found::Nothing => listen_at(path, 0o600).map(drop),
            // Another file in the same folder tells as much.
            Found::Stale => {
                let other = path.with_file_name(format!(".{}", std::process::id()));
                listen_at(&other, 0o600).map(drop)
            }
        },
    }
    .map_err(|error| cannot_listen(address, error))
}

fn cannot_listen(address: &ListenAddress, source: io::Error) -> ListenError {
    let address = address.clone();
    match source.kind() == io::ErrorKind::AddrInUse {
        true => ListenError::InUse(address),
        false => ListenError::Io { address, source },
    }
}

fn bind_ip(address: SocketAddr) -> io::Result<TcpSocket> {
    let everywhere = address.ip() == Ipv6Addr::UNSPECIFIED;
    match bind_exactly(address) {
        // A machine without IPv6 has addresses all the same.
        Err(error) if everywhere && error.kind() != io::ErrorKind::AddrInUse => {
            let of_ipv4 = bind_exactly((Ipv4Addr::UNSPECIFIED, address.port()).into());
            of_ipv4.map_err(|_| error)
        }
        bound => bound,
    }
}

fn bind_exactly(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        // Whatever the system's default is.
        SockRef::from(&socket).set_only_v6(false)?;
    }
    socket.set_reuseaddr(true)?;
    // Connections have it from the socket that accepts them.
    #[cfg(target_os = "linux")]
    SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_MAX_BYTES)?;
    socket.bind(address)?;
    Ok(socket)
}

/// What is where a socket file is to be.
enum Found {
    Nothing,
    /// A socket that nobody listens on: whoever made it was killed.
    Stale,
}

/// Looks what is there; an error if it is to stay.
fn look(path: &Path) -> Result<Found, ListenError> {
    let address = || ListenAddress::Unix(path.to_owned());
    let cannot = |error| cannot_listen(&address(), error);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(cannot(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NoSocket(path.to_owned()));
        }
        Ok(_) => (),
    }
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).map_err(cannot)?;
    // A hub that has not accepted for a while would make us wait.
    socket.set_nonblocking(true).map_err(cannot)?;
    match socket.connect(&SockAddr::unix(path).map_err(cannot)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Found::Stale),
        // Whatever else it says, somebody has it.
        Ok(()) | Err(_) => Err(ListenError::InUse(address())),
    }
}

/// Removes what a hub left there that was killed.
fn make_room(path: &Path) -> Result<(), ListenError> {
    match look(path)? {
        Found::Nothing => Ok(()),
        Found::Stale => fs::remove_file(path)
            .map_err(|error| cannot_listen(&ListenAddress::Unix(path.to_owned()), error)),
    }
}

fn listen_at(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    let found = fs::symlink_metadata(path)?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: (found.dev(), found.ino()),
    };
    // Before it listens: until then nobody can connect.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    let listener = socket.listen(LISTEN_BACKLOG)?;
    Ok((listener, file))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        let is_ours = found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket file");
        }
    }
}

/// A connection's socket.
#[derive(Debug)]
pub(super) enum Socket {
    Ip(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// An event should not wait for the acknowledgement of the one before. Where that cannot be set, it is only slower.
    pub(super) fn send_at_once(&self) {
        match self {
            Self::Ip(socket) => _ = socket.set_nodelay(true),
            Self::Unix(_) => (),
        }
    }

    /// The hub's side of it; `None` for a file.
    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(socket) => socket.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Who is at the other end; nowhere if it has gone.
    pub(super) fn peer(&self) -> PeerAddress {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        match self {
            Self::Ip(socket) => socket.peer_addr().unwrap_or(nowhere).into(),
            Self::Unix(_) => PeerAddress::Unix,
        }
    }

    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Ip(socket) => socket.try_write(bytes),
            Self::Unix(socket) => socket.try_write(bytes),
        }
    }

    pub(super) fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Ip(socket) => socket.try_read(bytes),
            Self::Unix(socket) => socket.try_read(bytes),
        }
    }

    pub(super) fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Ip(socket) => socket.poll_read_ready(context),
            Self::Unix(socket) => socket.poll_read_ready(context),
        }
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Ip(socket) => socket.writable().await,
            Self::Unix(socket) => socket.writable().await,
        }
    }

    /// Waits until the system reports an error of the connection. It reports none of a file whose client has gone: the next write
    /// tells.
    pub(super) async fn failed(&self) -> io::Result<()> {
        match self {
            Self::Ip(socket) => socket.ready(Interest::ERROR).await,
            Self::Unix(socket) => socket.ready(Interest::ERROR).await,
        }
        .map(drop)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Ip(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Unix(socket) => Pin::new(socket).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Ip(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Unix(socket) => Pin::new(socket).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Ip(socket) => Pin::new(socket).poll_flush(context),
            Self::Unix(socket) => Pin::new(socket).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Ip(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(context),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true // As both are.
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Ip(socket) => Pin::new(socket).poll_write_vectored(context, bytes),
            Self::Unix(socket) => Pin::new(socket).poll_write_vectored(context, bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_are_understood() {
        for (text, address) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            ("0.0.0.0:8000", "0.0.0.0:8000"),
            ("[::1]:8000", "[::1]:8000"),
            ("localhost:8000", "127.0.0.1:8000"),
            ("LocalHost:8000", "127.0.0.1:8000"),
            ("8000", "127.0.0.1:8000"),
            ("0", "127.0.0.1:0"),
            (":8000", "[::]:8000"),
            ("unix:/run/segno.sock", "unix:/run/segno.sock"),
            ("unix:///run/segno.sock", "unix:/run/segno.sock"),
            ("unix:segno.sock", "unix:segno.sock"),
        ] {
            let read: ListenAddress = text.parse().unwrap();
            assert_eq!(read.to_string(), address, "{text}");
        }
        for bad in [
            "",
            ":",
            "::",
            ":x",
            "+1",
            ":+1",
            "65536",
            "127.0.0.1",
            "localhost",
            "hub.example:8000",
            "http://127.0.0.1:8000",
            "unix:",
            "unix:/run/",
        ] {
            assert!(bad.parse::<ListenAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_loopback_and_files_are_of_this_machine() {
        for (text, is_of_this_machine) in [
            ("8000", true),
            ("[::1]:8000", true),
            ("[::ffff:127.0.0.1]:8000", true),
            ("unix:segno.sock", true),
            (":8000", false),
            ("0.0.0.0:8000", false),
            ("192.0.2.7:8000", false),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.is_of_this_machine(), is_of_this_machine, "{text}");
        }
    }
}
