//! When a run may be believed: the bounds on the generator's own failings, and the sentences that
//! name them and what it had to do without. Numbers in, verdict out.

use super::result::{Hearing, ReceiveTime, Sending, Verdict};

/// A packet that leaves later than this is late, nanoseconds. A speaker's packets are 20 ms apart
/// and the latencies of interest are tens of microseconds: beyond a millisecond it is the
/// generator's delay that is measured.
pub const LATE_NS: u64 = 1_000_000;

/// Most late packets of a valid run, as a fraction. The 99th percentile is quoted, so what may be
/// wrong must be less than what it leaves out.
const LATE_FRACTION_MAX: f64 = 0.01;

/// Most packets the kernel may refuse to send, and most copies the generator's own socket may drop,
/// of those due: a loss of one in a thousand is worth reporting, so the generator's own must be a
/// tenth of that.
const OWN_LOSS_FRACTION_MAX: f64 = 0.000_1;

/// Most the two clocks may have come apart over a run, nanoseconds; half of what a good server
/// takes on loopback.
const DRIFT_NS_MAX: u64 = 10_000;

/// What the generator failed at, besides what its account says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnFailings {
    /// Datagrams that the kernel dropped because the generator's sockets were full.
    pub socket_drops: u64,
    /// Clients that were to take part and did not get in.
    pub absent: u64,
    /// Sessions that ended before their time.
    pub broken: u64,
}

/// What a run had to do without. No failing of the generator's: what is there may be believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lacking {
    /// Why the server's own count of copies is not used, though its metrics are known.
    pub count: Option<CountFault>,
    /// Why its cost is not known, though it runs here.
    pub cost: Option<CostFault>,
    /// The bare loop was not on a core of the server's.
    pub bound_elsewhere: bool,
}

/// Why the server's own count of copies is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CountFault {
    /// There is none.
    #[error(
        "the server's metrics were not to be had ({0}): its copies are counted as they were heard"
    )]
    Unread(String),
    /// It is of another time than the processor time that it would divide.
    #[error(
        "the server's metrics came {ms} ms away from the readings of its processor time, which is \
         therefore divided by the copies heard"
    )]
    Apart {
        /// How far, milliseconds.
        ms: u64,
    },
    /// It went back.
    #[error(
        "the server's metrics counted backwards, as after a restart: its copies are counted as \
         they were heard"
    )]
    Backwards,
}

/// Why the cost of a server on this machine is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CostFault {
    /// Nobody's sockets that we may see listen on its port.
    #[error(
        "the server's cost is not known: it is on this machine, but no process that may be looked \
         into listens on port {0}; name it (--server-pid), or run as root or as its user"
    )]
    Unseen(u16),
    /// The process is not there to be read, or not to the end.
    #[error(
        "the server's cost is not known: process {0} could not be read all the time; if it is \
         another one, name it (--server-pid)"
    )]
    Unreadable(u32),
}

impl Lacking {
    fn sentences(&self) -> Vec<String> {
        let elsewhere = self.bound_elsewhere.then(|| {
            "the bare loop ran on the generator's cores, since no thread of the server is known to \
             be pinned to one: the ratios are of two cores, and the loop shared its own"
                .to_owned()
        });
        let count = self.count.iter().map(ToString::to_string);
        let cost = self.cost.iter().map(ToString::to_string);
        count.chain(cost).chain(elsewhere).collect()
    }
}

/// Judges a run.
pub fn judge(
    sending: &Sending,
    hearing: &Hearing,
    receive_time: &ReceiveTime,
    own: OwnFailings,
    lacking: &Lacking,
) -> Verdict {
    let mut reasons = Vec::new();
    let mut warnings = Vec::new();
    let of = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let late = of(sending.late, sending.sent);
    if late > LATE_FRACTION_MAX {
        reasons.push(format!(
            "{:.1} % of packets left more than 1 ms late (the worst {:.1} ms): the generator did \
             not keep its schedule; give it cores of its own (--cores) or less to do",
            100.0 * late,
            sending.late_max_ns as f64 / 1e6,
        ));
    }
    let unsent = of(sending.unsent, sending.intended);
    if unsent > OWN_LOSS_FRACTION_MAX {
        reasons.push(format!(
            "the kernel refused {} of {} packets of the generator",
            sending.unsent, sending.intended
        ));
    }
    if of(own.socket_drops, hearing.expected) > OWN_LOSS_FRACTION_MAX {
        reasons.push(format!(
            "the generator's own sockets dropped {} datagrams: what is counted as lost may have \
             come; raise net.core.rmem_max or give the generator more cores",
            own.socket_drops
        ));
    }
    match receive_time {
        ReceiveTime::Kernel { drift_ns } if drift_ns.unsigned_abs() > DRIFT_NS_MAX => {
            reasons.push(format!(
                "the wall clock was set during the run, by {:.1} µs: arrival times cannot be \
                 compared with send times",
                *drift_ns as f64 / 1e3
            ));
        }
        ReceiveTime::Kernel { .. } => {}
        ReceiveTime::Turn => warnings.push(
            "the kernel stamps no arrivals: latencies include the generator's own wait".to_owned(),
        ),
    }
    if own.absent > 0 {
        warnings.push(format!("{} clients did not get in; see the joins", own.absent));
    }
    if own.broken > 0 {
        warnings.push(format!("{} sessions ended before their time; see the joins", own.broken));
    }
    if hearing.expected == 0 && sending.intended > 0 {
        warnings.push("nobody was there to hear what was sent".to_owned());
    }
    warnings.extend(lacking.sentences());
    Verdict { valid: reasons.is_empty(), reasons, warnings }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sending(late: u64, unsent: u64) -> Sending {
        Sending { intended: 10_000, sent: 10_000 - unsent, unsent, late, late_max_ns: 5_000_000 }
    }

    fn verdict(sending: &Sending, drift_ns: i64, own: OwnFailings) -> Verdict {
        let hearing = Hearing { expected: 100_000, heard: 100_000, ..Hearing::default() };
        judge(sending, &hearing, &ReceiveTime::Kernel { drift_ns }, own, &Lacking::default())
    }

    #[test]
    fn a_generator_that_kept_up_is_believed() {
        let own = OwnFailings::default();
        let good = verdict(&sending(99, 1), 9_000, own);
        assert_eq!(good, Verdict { valid: true, reasons: vec![], warnings: vec![] });
    }

    #[test]
    fn each_failing_has_its_sentence() {
        let own = OwnFailings::default();
        let drops = OwnFailings { socket_drops: 11, ..own };
        for (sending, drift_ns, own, word) in [
            (sending(101, 0), 0, own, "1 ms late (the worst 5.0 ms)"),
            (sending(0, 2), 0, own, "refused 2 of 10000"),
            (sending(0, 0), -10_001, own, "wall clock"),
            (sending(0, 0), 0, drops, "dropped 11"),
        ] {
            let verdict = verdict(&sending, drift_ns, own);
            assert!(!verdict.valid && verdict.reasons.len() == 1, "{verdict:?}");
            assert!(verdict.reasons[0].contains(word), "{verdict:?}");
        }
    }

    #[test]
    fn what_is_the_servers_doing_only_warns() {
        let own = OwnFailings { absent: 3, broken: 2, ..OwnFailings::default() };
        let verdict = verdict(&sending(0, 0), 0, own);
        assert!(verdict.valid);
        assert_eq!(verdict.warnings.len(), 2);
    }

    #[test]
    fn what_is_lacking_only_warns_and_names_the_remedy() {
        let count = |fault| Lacking { count: Some(fault), ..Lacking::default() };
        let cost = |fault| Lacking { cost: Some(fault), ..Lacking::default() };
        for (lacking, words) in [
            (count(CountFault::Unread("no route".to_owned())), "(no route)"),
            (count(CountFault::Apart { ms: 4_990 }), "4990 ms away"),
            (count(CountFault::Backwards), "restart"),
            (cost(CostFault::Unseen(8_443)), "port 8443; name it (--server-pid), or run as root"),
            (cost(CostFault::Unreadable(77)), "process 77"),
            (Lacking { bound_elsewhere: true, ..Lacking::default() }, "the generator's cores"),
        ] {
            let hearing = Hearing { expected: 9, heard: 9, ..Hearing::default() };
            let receive_time = ReceiveTime::Kernel { drift_ns: 0 };
            let own = OwnFailings::default();
            let verdict = judge(&sending(0, 0), &hearing, &receive_time, own, &lacking);
            assert!(verdict.valid && verdict.warnings.len() == 1, "{verdict:?}");
            assert!(verdict.warnings[0].contains(words), "{verdict:?}");
        }
    }
}
