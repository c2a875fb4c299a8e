//! How many connections fit into the files that the system lets this process have open.

use std::{fmt, num::NonZeroU32};

use anyhow::{Context, bail};

use crate::server::connections_within;

/// The open files that the system allows, and the connections that they are enough for.
#[derive(Debug)]
pub(super) struct OpenFiles {
    allowed: u64,
    asked_for: NonZeroU32,
    /// As many as were asked for, or fewer.
    pub(super) connections: NonZeroU32,
}

impl OpenFiles {
    /// Asks the system for as many open files as there may be: a connection is one, and most systems allow 1,024 until a process
    /// asks for more.
    pub(super) fn raise_for(connections: NonZeroU32) -> anyhow::Result<Self> {
        let allowed = rlimit::increase_nofile_limit(u64::MAX)
            .context("the system does not say how many files may be open")?;
        let Some(fitting) = NonZeroU32::new(connections_within(allowed)) else {
            bail!(
                "the system allows {allowed} open files, too few for any connection; raise it with `ulimit -n`, or LimitNOFILE= of \
                 systemd"
            );
        };
        Ok(Self {
            allowed,
            asked_for: connections,
            connections: fitting.min(connections),
        })
    }

    /// Whether all connections that were asked for fit.
    pub(super) fn are_enough(&self) -> bool {
        self.connections == self.asked_for
    }
}

impl fmt::Display for OpenFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the system allows {} open files, too few for --max-connections {}: the hub serves {}; raise it with `ulimit -n`, or \
             LimitNOFILE= of systemd",
            self.allowed, self.asked_for, self.connections
        )
    }
}
