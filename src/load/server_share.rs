//! How long datagrams stay with the server by its own account: the histogram in its metrics, from
//! the kernel's receive stamp to the end of the send, and what two readings of it come to. The
//! buckets are the server's, so a percentile is known as the bound it does not exceed.

use serde::{Deserialize, Serialize};

/// The metric that a stentor has it in.
const METRIC: &str = "stentor_forwarding_seconds_bucket";

/// One reading: samples up to each bound, of all shards together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Buckets(Vec<Bucket>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    /// `None`: no bound.
    bound_ns: Option<u64>,
    /// Samples up to it, those of the buckets below included.
    count: u64,
}

/// What the measured time came to. Percentiles are upper bounds; `None` is beyond the last bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerShare {
    /// Datagrams timed; the server times one of several.
    pub samples: u64,
    /// Half of them took no longer, nanoseconds.
    pub p50_max_ns: Option<u64>,
    /// 99 of 100.
    pub p99_max_ns: Option<u64>,
    /// 999 of 1,000.
    pub p99_9_max_ns: Option<u64>,
}

impl Buckets {
    /// Reads a page of metrics; empty if it has no such histogram.
    pub fn parse(page: &str) -> Self {
        let mut buckets: Vec<Bucket> = Vec::new();
        for line in page.lines().filter(|line| line.starts_with(METRIC)) {
            let Some(bucket) = Bucket::parse(line) else { continue };
            match buckets.iter_mut().find(|known| known.bound_ns == bucket.bound_ns) {
                Some(known) => known.count += bucket.count,
                None => buckets.push(bucket),
            }
        }
        Self(buckets)
    }

    /// What came after `before`; `None` if nothing did, or the two do not belong together.
    pub fn since(&self, before: &Self) -> Option<ServerShare> {
        let before = |bucket: &Bucket| {
            let same = before.0.iter().find(|older| older.bound_ns == bucket.bound_ns);
            same.map(|older| older.count)
        };
        let since = |bucket: &Bucket| {
            let count = bucket.count.checked_sub(before(bucket)?)?;
            Some(Bucket { count, ..*bucket })
        };
        let buckets: Vec<Bucket> = self.0.iter().map(since).collect::<Option<_>>()?;
        let samples = buckets.iter().map(|bucket| bucket.count).max().filter(|count| *count > 0)?;
        // Cumulated counts grow with their bounds, so the first that suffices is the lowest.
        let at = |share: f64| {
            let enough = (samples as f64 * share).ceil() as u64;
            buckets.iter().find(|bucket| bucket.count >= enough).and_then(|bucket| bucket.bound_ns)
        };
        let (p50_max_ns, p99_max_ns, p99_9_max_ns) = (at(0.5), at(0.99), at(0.999));
        Some(ServerShare { samples, p50_max_ns, p99_max_ns, p99_9_max_ns })
    }
}

impl Bucket {
    fn parse(line: &str) -> Option<Self> {
        let (sample, count) = line.rsplit_once(' ')?;
        let bound = sample.split_once("le=\"")?.1.split_once('"')?.0;
        let bound_ns = match bound {
            "+Inf" => None,
            seconds => Some((seconds.parse::<f64>().ok()? * 1e9).round() as u64),
        };
        Some(Self { bound_ns, count: count.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of two shards whose samples lie in the buckets up to 10 µs, 50 µs and beyond.
    fn page(counts: [[u64; 3]; 2]) -> String {
        let mut page = "# TYPE stentor_forwarding_seconds histogram\n".to_owned();
        for (shard, [low, high, all]) in counts.into_iter().enumerate() {
            for (bound, count) in [("0.00001", low), ("0.00005", high), ("+Inf", all)] {
                page += &format!("{METRIC}{{shard=\"{shard}\",le=\"{bound}\"}} {count}\n");
            }
        }
        page + "stentor_forwarding_seconds_count{shard=\"0\"} 9\n"
    }

    #[test]
    fn percentiles_are_of_all_shards_and_of_the_time_between_two_readings() {
        let before = Buckets::parse(&page([[5, 5, 5], [0, 0, 900]]));
        let after = Buckets::parse(&page([[65, 104, 105], [30, 36, 936]]));
        let share = after.since(&before).unwrap();
        assert_eq!(share.samples, 136);
        assert_eq!(share.p50_max_ns, Some(10_000));
        assert_eq!(share.p99_max_ns, Some(50_000));
        assert_eq!(share.p99_9_max_ns, None, "one was slower than any bound");
    }

    #[test]
    fn nothing_is_told_without_samples_or_after_a_restart() {
        let reading = Buckets::parse(&page([[1, 1, 1], [0, 0, 0]]));
        assert_eq!(reading.since(&reading), None);
        let older = Buckets::parse(&page([[9, 9, 9], [0, 0, 0]]));
        assert_eq!(reading.since(&older), None);
        let other = Buckets::parse("another_server_packets_total 7\n");
        assert_eq!(other, Buckets::default());
        assert_eq!(reading.since(&other), None);
    }
}
