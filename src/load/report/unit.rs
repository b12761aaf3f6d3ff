//! Numbers as people read them: nanoseconds become µs or ms, fractions percent, bytes KiB. Three
//! significant digits, for no measurement here is better. What is no number is a dash. Called by
//! whoever prints or draws: reports, comparisons, plans.

/// What stands where there is no number.
pub const NONE: &str = "–";

/// A duration given in nanoseconds: `850 ns`, `12.3 µs`, `1.24 ms`, `3.20 s`.
pub fn duration(ns: f64) -> String {
    scaled(ns, 1_000.0, &["ns", "µs", "ms", "s"])
}

/// A whole number of nanoseconds, as [`duration`].
pub fn nanoseconds(ns: u64) -> String {
    duration(ns as f64)
}

/// Bytes of memory or payload, in powers of 1,024.
pub fn bytes(bytes: f64) -> String {
    scaled(bytes, 1_024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// Bits a second, in powers of 1,000.
pub fn bits_per_second(bits: f64) -> String {
    scaled(bits, 1_000.0, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"])
}

/// Something a second: in thousands or millions from ten thousand on.
pub fn per_second(rate: f64) -> String {
    if rate.is_finite() && rate.abs() >= 10_000.0 {
        return scaled(rate, 1_000.0, &["/s", "k/s", "M/s", "G/s"]);
    }
    format!("{}/s", number(rate))
}

/// A fraction as percent: `0 %`, `0.0012 %`, `12.3 %`.
pub fn percent(fraction: f64) -> String {
    format!("{} %", number(100.0 * fraction))
}

/// A multiple: `1.18 ×`.
pub fn ratio(ratio: f64) -> String {
    format!("{} ×", number(ratio))
}

/// A count with its thousands set apart.
pub fn count(count: u64) -> String {
    grouped(&count.to_string())
}

/// Any number, to three significant digits; whole from a hundred on.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return NONE.to_owned();
    }
    let value = significant(value);
    let whole_digits = value.abs().log10().floor() as i32 + 1;
    if value == 0.0 {
        return "0".to_owned();
    }
    let text = format!("{value:.*}", usize::try_from(3 - whole_digits).unwrap_or(0));
    grouped(&text)
}

/// The same without zeros that only tell how exact it is: for scales, whose numbers are round.
pub fn short(text: &str) -> String {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    };
    if unit.is_empty() { number.to_owned() } else { format!("{number} {unit}") }
}

/// `value` in the unit that leaves fewest digits before the point.
fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    if !value.is_finite() {
        return NONE.to_owned();
    }
    let (mut value, mut unit) = (significant(value), 0);
    while value.abs() >= step && unit + 1 < units.len() {
        value = significant(value / step);
        unit += 1;
    }
    // The smallest units are counted, not divided.
    let is_counted = unit == 0 && value.abs() >= 1.0;
    let text = if is_counted { grouped(&format!("{value:.0}")) } else { number(value) };
    format!("{text} {}", units[unit])
}

/// Rounded to three significant digits.
fn significant(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let exponent = 2 - value.abs().log10().floor() as i32;
    // Dividing by a power of ten is exact where multiplying by its inverse is not.
    let rounded = if exponent >= 0 {
        let scale = 10f64.powi(exponent.min(300));
        (value * scale).round() / scale
    } else {
        let scale = 10f64.powi(-exponent);
        (value / scale).round() * scale
    };
    if rounded.is_finite() { rounded } else { value }
}

/// `1234567.5` as `1,234,567.5`.
fn grouped(text: &str) -> String {
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (whole, rest) = text.split_once('.').map_or((text, None), |(a, b)| (a, Some(b)));
    let mut out = sign.to_owned();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(rest) = rest {
        out.push('.');
        out.push_str(rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_and_the_unit_that_fits() {
        for (ns, text) in [
            (0.0, "0 ns"),
            (850.0, "850 ns"),
            (1_000.0, "1.00 µs"),
            (12_345.0, "12.3 µs"),
            (999_960.0, "1.00 ms"),
            (1_240_000.0, "1.24 ms"),
            (4_200_000_000.0, "4.20 s"),
            (9e12, "9,000 s"),
            (f64::NAN, NONE),
            (f64::INFINITY, NONE),
        ] {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn small_fractions_are_not_rounded_away() {
        assert_eq!(percent(0.0), "0 %");
        assert_eq!(percent(0.000_012), "0.00120 %");
        assert_eq!(percent(0.010_04), "1.00 %");
        assert_eq!(percent(1.0), "100 %");
    }

    #[test]
    fn large_numbers_are_set_apart() {
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(999), "999");
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(number(-1_234_567.0), "-1,230,000");
        assert_eq!(per_second(50.0), "50.0/s");
        assert_eq!(per_second(200_000.0), "200 k/s");
        assert_eq!(bits_per_second(2_500_000.0), "2.50 Mbit/s");
        assert_eq!(bytes(49_152.0), "48.0 KiB");
        assert_eq!(bytes(1_000.0), "1,000 B");
        assert_eq!(ratio(1.183), "1.18 ×");
    }

    #[test]
    fn a_scale_says_no_more_than_it_must() {
        assert_eq!(short("10.0 µs"), "10 µs");
        assert_eq!(short("100 µs"), "100 µs");
        assert_eq!(short("0.500 %"), "0.5 %");
        assert_eq!(short("2.50"), "2.5");
    }

    #[test]
    fn no_number_is_too_large_or_too_small_to_be_written() {
        for value in [f64::MAX, f64::MIN, f64::MIN_POSITIVE, f64::EPSILON, 5e-324, -0.0] {
            for text in [duration(value), bytes(value), percent(value), ratio(value)] {
                assert!(!text.is_empty());
            }
        }
    }
}
