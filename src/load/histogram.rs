//! Latency histograms in the forms that people read: the percentiles of a result, `.hgrm` (the
//! percentile distribution that HdrHistogram's plotters draw) and `.hlog` (its interval log, one
//! compressed histogram a second). Values in, text out.

use std::{fmt::Write as _, io::Write as _};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, write::ZlibEncoder};
use hdrhistogram::Histogram;

use super::{
    result::Latency,
    tally::{DIGITS, Seconds},
};

/// The cookies of encoding V2 and of its compressed form, with the word size that all writers give.
const COOKIE: u32 = 0x1C84_9313;
const COMPRESSED_COOKIE: u32 = 0x1C84_9314;

/// Lines of `.hgrm` for each halving of the distance to 100 %.
const TICKS_PER_HALVING: u32 = 5;

/// Nanoseconds in the units of these files: microseconds in `.hgrm`, milliseconds for the maximum
/// in `.hlog`, as its readers expect.
const MICROSECOND_NS: f64 = 1e3;
const MILLISECOND_NS: f64 = 1e6;

/// An empty histogram that grows as needed.
pub fn empty() -> Histogram<u32> {
    Histogram::new(DIGITS).expect("three digits are few enough")
}

/// Everything recorded in these seconds.
pub fn sum<'a>(parts: impl IntoIterator<Item = &'a Histogram<u32>>) -> Histogram<u32> {
    let mut sum = empty();
    for part in parts {
        sum.add(part).expect("the histogram grows as needed");
    }
    sum
}

impl Latency {
    /// The percentiles of a histogram of nanoseconds, and the whole of it.
    pub fn of(histogram: &Histogram<u32>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        let recorded = histogram.iter_recorded();
        Self {
            count: histogram.len(),
            min_ns: histogram.min(),
            mean_ns: histogram.mean(),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p99_9_ns: at(0.999),
            p99_99_ns: at(0.999_9),
            max_ns: histogram.max(),
            histogram: recorded
                .map(|step| (step.value_iterated_to(), step.count_at_value().into()))
                .collect(),
        }
    }
}

/// The percentile distribution in microseconds.
pub fn hgrm(histogram: &Histogram<u32>) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut total = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALVING) {
        total += step.count_since_last_iteration();
        let value = step.value_iterated_to() as f64 / MICROSECOND_NS;
        let quantile = step.quantile_iterated_to();
        write!(text, "{value:>12.3} {quantile:>2.12} {total:>10}").expect("text takes all");
        if quantile < 1.0 {
            write!(text, " {:>14.2}", 1.0 / (1.0 - quantile)).expect("text takes all");
        }
        text.push('\n');
    }
    let micro = |value: f64| value / MICROSECOND_NS;
    let (mean, spread) = (micro(histogram.mean()), micro(histogram.stdev()));
    let max = micro(histogram.max() as f64);
    let (count, buckets) = (histogram.len(), histogram.buckets());
    // What the plotters look for.
    writeln!(text, "#[Mean    = {mean:>12.3}, StdDeviation   = {spread:>12.3}]")
        .and_then(|()| writeln!(text, "#[Max     = {max:>12.3}, Total count    = {count:>12}]"))
        .and_then(|()| {
            let sub_buckets = 2_048;
            writeln!(text, "#[Buckets = {buckets:>12}, SubBuckets     = {sub_buckets:>12}]")
        })
        .expect("text takes all");
    text
}

/// The interval log: a histogram of nanoseconds for every second. `started_at` is Unix time.
pub fn hlog(seconds: &Seconds, started_at: f64) -> String {
    let mut text = format!(
        "#[Histogram log format version 1.3]\n#[StartTime: {started_at:.3} (seconds since epoch)]\n\
         \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n"
    );
    for (second, tally) in seconds {
        let max = tally.latency.max() as f64 / MILLISECOND_NS;
        let encoded = STANDARD.encode(compressed(&tally.latency));
        writeln!(text, "{second}.000,1.000,{max:.3},{encoded}").expect("text takes all");
    }
    text
}

/// Encoding V2, compressed: cookie, length, then the V2 encoding in zlib's format.
fn compressed(histogram: &Histogram<u32>) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let deflated = encoder.write_all(&encoded(histogram)).and_then(|()| encoder.finish());
    let deflated = deflated.expect("memory takes all");
    let length = u32::try_from(deflated.len()).expect("a histogram has some kilobytes");
    [&COMPRESSED_COOKIE.to_be_bytes()[..], &length.to_be_bytes(), &deflated].concat()
}

/// Encoding V2.
///
/// | bytes | field |
/// |---|---|
/// | 4 | cookie |
/// | 4 | length of the counts |
/// | 4 | offset of indices, 0 |
/// | 4 | significant digits |
/// | 8 | lowest value told apart |
/// | 8 | highest value |
/// | 8 | ratio of integers to doubles, 1.0 |
/// | … | counts, by index; ZigZag in LEB128; a negative one is so many zeroes |
fn encoded(histogram: &Histogram<u32>) -> Vec<u8> {
    let mut counts = Vec::new();
    let mut zeroes = 0_i64;
    let mut left = histogram.len();
    for step in histogram.iter_all() {
        if left == 0 {
            break;
        }
        let count = step.count_at_value();
        left -= u64::from(count);
        if count == 0 {
            zeroes += 1;
            continue;
        }
        if zeroes > 0 {
            write_zigzag(&mut counts, -zeroes);
            zeroes = 0;
        }
        write_zigzag(&mut counts, count.into());
    }
    let length = u32::try_from(counts.len()).expect("a histogram has some kilobytes");
    let words = [COOKIE, length, 0, u32::from(histogram.sigfig())];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    bytes.extend(histogram.low().to_be_bytes());
    bytes.extend(histogram.high().to_be_bytes());
    bytes.extend(1.0_f64.to_be_bytes());
    bytes.extend(counts);
    bytes
}

/// ZigZag, then seven bits a byte; a ninth byte has all eight.
fn write_zigzag(out: &mut Vec<u8>, value: i64) {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    for _ in 0..8 {
        if rest < 0x80 {
            break;
        }
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::ZlibDecoder;

    use super::*;
    use crate::load::tally::SecondTally;

    fn histogram(values: &[u64]) -> Histogram<u32> {
        let mut histogram = empty();
        values.iter().for_each(|value| histogram.record(*value).unwrap());
        histogram
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let values: Vec<u64> = (1..=10_000).map(|n| n * 1_000).collect();
        let latency = Latency::of(&histogram(&values));
        let near = |ns: u64, expected: u64| ns.abs_diff(expected) <= expected / 1_000 + 1_000;
        assert_eq!(latency.count, 10_000);
        assert!(near(latency.p50_ns, 5_000_000) && near(latency.p99_ns, 9_900_000), "{latency:?}");
        assert!(near(latency.p99_99_ns, 9_999_000) && near(latency.max_ns, 10_000_000));
        let total: u64 = latency.histogram.iter().map(|(_, count)| count).sum();
        assert_eq!(total, 10_000);
        assert_eq!(Latency::of(&empty()), Latency::default());
    }

    #[test]
    fn the_distribution_ends_at_one_with_all_samples() {
        let text = hgrm(&histogram(&[10_000, 20_000, 20_000, 1_000_000]));
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with(' ')).skip(1).collect();
        let last: Vec<_> = rows.last().unwrap().split_whitespace().collect();
        assert_eq!(last[1..], ["1.000000000000", "4"]);
        assert!(text.contains("Total count    =            4]"), "{text}");
    }

    /// The histogram as a reader of V2 sees it: value and count by the layout of the format.
    fn decoded(bytes: &[u8]) -> Histogram<u32> {
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(8), word(12)), (COOKIE, 0, 3));
        let (mut rest, mut index) = (&bytes[40..40 + word(4) as usize], 0_u64);
        let mut histogram = empty();
        while !rest.is_empty() {
            let (mut value, mut shift) = (0_u64, 0);
            loop {
                let (byte, tail) = (rest[0], &rest[1..]);
                rest = tail;
                let bits = if shift == 56 { byte } else { byte & 0x7F };
                value |= u64::from(bits) << shift;
                if byte & 0x80 == 0 || shift == 56 {
                    break;
                }
                shift += 7;
            }
            let count = (value >> 1) as i64 ^ -((value & 1) as i64);
            if count < 0 {
                index += count.unsigned_abs();
                continue;
            }
            // 2,048 values of the first bucket, then 1,024 of each that follows.
            let value = match index.checked_sub(2_048) {
                None => index,
                Some(beyond) => (1_024 + beyond % 1_024) << (1 + beyond / 1_024),
            };
            histogram.record_n(value, count as u32).unwrap();
            index += 1;
        }
        histogram
    }

    #[test]
    fn the_interval_log_holds_every_count() {
        let values = [1, 5, 5, 2_047, 2_048, 70_000, 70_001, 123_456_789];
        let mut values = values.to_vec();
        values.extend([900_000; 5_000]);
        let tally = SecondTally { latency: histogram(&values), ..SecondTally::default() };
        let log = hlog(&Seconds::from([(3, tally.clone())]), 1_700_000_000.0);
        let line = log.lines().last().unwrap();
        let (head, base64) = line.rsplit_once(',').unwrap();
        assert!(head.starts_with("3.000,1.000,123."), "{head}");
        let bytes = STANDARD.decode(base64).unwrap();
        assert_eq!(bytes[..4], COMPRESSED_COOKIE.to_be_bytes());
        let mut plain = Vec::new();
        ZlibDecoder::new(&bytes[8..]).read_to_end(&mut plain).unwrap();
        assert_eq!(decoded(&plain), tally.latency);
    }
}
