//! Tells a service manager, such as systemd, that the hub is ready, that it stops, and that it is alive.
//!
//! A datagram to the socket that `NOTIFY_SOCKET` names, and nothing where none is named. Source: sd_notify(3). By hand, because
//! the crate `sd-notify` 0.5 knows sockets in the file system only, and those of containers and of `systemd-run` may be abstract.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// The service manager, if there is one.
#[derive(Debug)]
pub struct Manager {
    socket: Option<UnixDatagram>,
}

impl Manager {
    /// The one that `NOTIFY_SOCKET` names.
    pub fn from_env() -> io::Result<Self> {
        let socket = env::var_os("NOTIFY_SOCKET").map(|name| connect(&name));
        Ok(Self {
            socket: socket.transpose()?,
        })
    }

    /// The hub takes events. `status` is for people.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// The hub stops.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    /// The canary came back. Nothing else may say so: a manager that does not hear it restarts the hub.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(state.as_bytes())
        {
            tracing::warn!(%error, "cannot notify the service manager");
        }
    }
}

/// A name that begins with `@` is not in the file system.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    // A manager that does not listen must not hold the hub.
    socket.set_nonblocking(true)?;
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    socket.connect_addr(&address)?;
    Ok(socket)
}
