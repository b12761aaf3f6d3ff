//! What a run stands on besides its scenario: the server and the way to it, cores and threads, and
//! why a run may fail. Plain values; `args` makes them, `run` uses them.

use std::{collections::BTreeSet, io, net::SocketAddr, time::Duration};

use super::{
    control_client::Metrics,
    endpoint::{EndpointError, Trust},
    grants::{Grants, GrantsError},
};
use crate::{config::ControlAccess, grant::GrantError, ring::RingError};

/// Time for threads to end in.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(20);

/// What a run needs besides its scenario.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Where clients get in.
    pub grants: Grants,
    /// The gateway, where it is not the one that the grants name.
    pub endpoint: Option<String>,
    /// Whose certificate is good.
    pub trust: Trust,
    /// Where the server's metrics are, and what opens them.
    pub metrics: Option<Metrics>,
    /// The control API, to end the channels afterwards.
    pub control: Option<ControlAccess>,
    /// The server's process, where it is not found by its gateway's port.
    pub server_pid: Option<u32>,
    /// Cores to stay on; `None`: those that no thread of the server is pinned to.
    pub cores: Option<BTreeSet<usize>>,
    /// How many media threads.
    pub threads: usize,
    /// Seconds of each turn of the bare loop; `None`: there is none.
    pub bound_slice_s: Option<u32>,
    /// Whether to keep silent while it runs.
    pub quiet: bool,
    /// The command line.
    pub command: Vec<String>,
}

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No way in.
    #[error(transparent)]
    Grants(#[from] GrantsError),
    /// No gateway.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// No certificate for browsers to show.
    #[error("cannot make a certificate for DTLS: {0}")]
    Certificate(String),
    /// Too few descriptors.
    #[error(
        "{clients} clients need as many open files, and the limit is {limit}; \
         raise it (`ulimit -n {wanted}`)"
    )]
    OpenFiles {
        /// How many clients.
        clients: u64,
        /// What holds.
        limit: u64,
        /// What would do.
        wanted: u64,
    },
    /// Nobody got in.
    #[error("not one client got in: {0}")]
    NobodyJoined(String),
    /// The bare loop needs the server beside it.
    #[error("--bound needs a server on this machine: {0} is elsewhere")]
    BoundElsewhere(SocketAddr),
    /// A thread of the generator ended or hangs.
    #[error("a thread of the generator died; please report what it printed")]
    Died,
}

impl RunError {
    /// Whether it may go well the next time, on a machine that is less busy.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NobodyJoined(_) => true,
            Self::System { source, .. } => {
                use io::ErrorKind::{OutOfMemory, ResourceBusy, TimedOut, WouldBlock};
                matches!(source.kind(), OutOfMemory | ResourceBusy | TimedOut | WouldBlock)
            }
            Self::Grants(GrantsError::Control(error)) => match error {
                GrantError::NoServer { .. }
                | GrantError::Refused { .. }
                | GrantError::Broken { .. } => true,
                GrantError::WrongSecret(_) | GrantError::Twice(_) => false,
            },
            // Of a ring that is gone the kernel gives memory back when it gets to it.
            Self::Ring(error) => matches!(error, RingError::LockedMemory { .. }),
            Self::Grants(_)
            | Self::Endpoint(_)
            | Self::Certificate(_)
            | Self::OpenFiles { .. }
            | Self::BoundElsewhere(_)
            | Self::Died => false,
        }
    }
}

pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_other_work_on_the_machine_may_have_done_may_pass() {
        let memory = RingError::LockedMemory { what: "a ring", limit: "64 KiB".to_owned() };
        let secret = GrantError::WrongSecret(([127, 0, 0, 1], 1).into());
        let nobody = RunError::NobodyJoined("no answer in time".to_owned());
        let system =
            |kind: io::ErrorKind| RunError::System { what: "a thread", source: kind.into() };
        assert!(nobody.may_pass() && RunError::Ring(memory).may_pass());
        assert!(system(io::ErrorKind::WouldBlock).may_pass());
        for error in [
            RunError::Ring(RingError::Absent),
            system(io::ErrorKind::PermissionDenied),
            RunError::Grants(GrantsError::Control(secret)),
            RunError::Grants(GrantsError::Nobody),
            RunError::OpenFiles { clients: 2, limit: 1, wanted: 3 },
            RunError::Died,
        ] {
            assert!(!error.may_pass(), "{error}");
        }
    }
}
