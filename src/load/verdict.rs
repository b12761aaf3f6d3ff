//! When a run may be believed: the bounds on the generator's own failings, and the sentences that
//! name them. Numbers in, verdict out.

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

/// Judges a run.
pub fn judge(
    sending: &Sending,
    hearing: &Hearing,
    receive_time: &ReceiveTime,
    own: OwnFailings,
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
        judge(sending, &hearing, &ReceiveTime::Kernel { drift_ns }, own)
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
}
