//! What is told while a run goes on: one line, written over itself on a terminal and a new one each
//! second elsewhere. Numbers of the second before last, since what was sent in the last one may
//! still be on its way. Writes to standard error only.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

/// One second, as far as is known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Glimpse {
    /// Packets sent so far.
    pub sent: u64,
    /// Copies heard so far.
    pub heard: u64,
    /// Copies lost of those due in that second, as a fraction.
    pub loss: Option<f64>,
    /// Median latency of that second, nanoseconds.
    pub p50_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// The server's processor time in the last second, in cores.
    pub server_cores: Option<f64>,
}

/// Where the line goes.
#[derive(Debug)]
pub struct Progress {
    quiet: bool,
    terminal: bool,
    /// Whether the cursor is at the end of a line that the next one replaces.
    open: bool,
}

impl Progress {
    /// To standard error, unless `quiet`.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, terminal: std::io::stderr().is_terminal(), open: false }
    }

    /// Clients are joining.
    pub fn joining(&mut self, joined: u64, failed: u64, all: u64) {
        let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        self.line(&format!("joining: {joined} of {all}{failed}"));
    }

    /// A second of play has passed; before 0 it is warm-up.
    pub fn second(&mut self, second: i64, glimpse: &Glimpse) {
        self.line(&describe(second, glimpse));
    }

    /// Something that stays on the screen.
    pub fn note(&mut self, text: &str) {
        self.line(text);
        self.end();
    }

    /// Leaves the line as it is.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            eprintln!();
        }
    }

    fn line(&mut self, text: &str) {
        if self.quiet {
            return;
        }
        if self.terminal {
            // Back to the margin, clear, write.
            eprint!("\r\x1b[2K{text}");
            // A terminal that has gone misses nothing.
            let _ = std::io::stderr().flush();
            self.open = true;
        } else {
            eprintln!("{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn describe(second: i64, glimpse: &Glimpse) -> String {
    let Glimpse { sent, heard, loss, p50_ns, p99_ns, server_cores } = *glimpse;
    if second < 0 {
        let cores = server_cores.map(|cores| format!("  server {cores:.2} cores"));
        return format!("warming up: {} s left{}", -second, cores.unwrap_or_default());
    }
    let mut text = format!("{second:>4} s  sent {sent}  heard {heard}");
    if let Some(loss) = loss {
        text += &format!("  loss {:.3} %", 100.0 * loss);
    }
    if let (Some(p50), Some(p99)) = (p50_ns, p99_ns) {
        text += &format!("  p50 {}  p99 {}", time(p50), time(p99));
    }
    if let Some(cores) = server_cores {
        text += &format!("  server {cores:.2} cores");
    }
    text
}

/// A duration in the unit that suits it, three digits.
pub fn time(ns: u64) -> String {
    let value = |unit: f64| {
        let value = ns as f64 / unit;
        let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        format!("{value:.decimals$}")
    };
    match Duration::from_nanos(ns) {
        span if span < Duration::from_micros(1) => format!("{ns} ns"),
        span if span < Duration::from_millis(1) => format!("{} µs", value(1e3)),
        span if span < Duration::from_secs(1) => format!("{} ms", value(1e6)),
        _ => format!("{} s", value(1e9)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_and_their_unit() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_500, "1.50 µs"),
            (45_678, "45.7 µs"),
            (456_789, "457 µs"),
            (4_567_890, "4.57 ms"),
            (12_000_000_000, "12.0 s"),
        ] {
            assert_eq!(time(ns), text);
        }
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut glimpse = Glimpse { sent: 50, heard: 10_000, ..Glimpse::default() };
        assert_eq!(describe(3, &glimpse), "   3 s  sent 50  heard 10000");
        glimpse.loss = Some(0.001);
        glimpse.server_cores = Some(0.5);
        let text = describe(3, &glimpse);
        assert!(text.ends_with("loss 0.100 %  server 0.50 cores"), "{text}");
        assert_eq!(describe(-2, &Glimpse::default()), "warming up: 2 s left");
    }
}
