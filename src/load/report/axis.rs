//! Scales of pictures: where a value lies between 0 and 1, and which round values are written
//! beside the scale. Draws nothing. Called by `picture`.

use super::unit;

/// From this ratio of largest to smallest on, values are shown on a logarithmic scale: on a linear
/// one the smallest would be within a tenth of its foot.
const WIDE: f64 = 10.0;

/// How many round values a linear scale has about.
const LINEAR_TICKS: f64 = 5.0;

/// A scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// What it measures, with its unit where the ticks do not name it.
    pub label: String,
    /// Positions, 0 to 1, of round values and their texts.
    pub ticks: Vec<(f64, String)>,
    scale: Scale,
    low: f64,
    high: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    Linear,
    Logarithmic,
    /// As many steps as the percentile has nines: 0 %, 90 %, 99 %, …
    Nines,
}

impl Axis {
    /// Linear, from zero to at least `high`.
    pub fn linear(label: impl Into<String>, high: f64, text: impl Fn(f64) -> String) -> Self {
        let high = if high.is_finite() && high > 0.0 { high } else { 1.0 };
        let step = round_step(high / LINEAR_TICKS);
        let steps = (high / step - 1e-9).ceil().max(1.0);
        let mut axis = Self::bare(label, Scale::Linear, 0.0, steps * step);
        axis.write((0..=steps as u32).map(|tick| f64::from(tick) * step), text);
        axis
    }

    /// Linear between two values that need not be round, such as seconds of a run.
    pub fn span(
        label: impl Into<String>,
        low: f64,
        high: f64,
        text: impl Fn(f64) -> String,
    ) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        let step = round_step((high - low) / LINEAR_TICKS).max(f64::MIN_POSITIVE);
        let mut axis = Self::bare(label, Scale::Linear, low, high);
        let first = (low / step - 1e-9).ceil();
        let last = (high / step + 1e-9).floor();
        let ticks = (0..=(last - first).max(0.0) as u32).map(|tick| first + f64::from(tick));
        axis.write(ticks.map(|tick| tick * step), text);
        axis
    }

    /// Logarithmic, from at most `low` to at least `high`.
    pub fn logarithmic(
        label: impl Into<String>,
        low: f64,
        high: f64,
        text: impl Fn(f64) -> String,
    ) -> Self {
        let sane = |value: f64, or: f64| {
            if value.is_finite() && value > 0.0 { value.clamp(1e-12, 1e24) } else { or }
        };
        let low = sane(low, 1.0);
        let high = sane(high, low).max(low);
        let (low, mut high) = (one_two_five(low, false), one_two_five(high, true));
        if high <= low {
            high = one_two_five(low * 2.5, true);
        }
        let decades = (high / low).log10();
        let factors: &[f64] = if decades <= 2.1 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let every = (decades / 7.0).ceil().max(1.0) as usize;
        let from = low.log10().floor() as i32;
        let to = high.log10().ceil() as i32;
        let ticks = (from..=to)
            .step_by(every)
            .flat_map(|exponent| factors.iter().map(move |factor| factor * 10f64.powi(exponent)));
        let inside = |value: &f64| (low * 0.999..=high * 1.001).contains(value);
        let mut axis = Self::bare(label, Scale::Logarithmic, low, high);
        axis.write(ticks.filter(inside), text);
        axis
    }

    /// Whichever suits the values: linear from zero, or logarithmic if they lie far apart; the
    /// label then says so.
    pub fn fitting(
        label: &str,
        values: impl IntoIterator<Item = f64>,
        text: impl Fn(f64) -> String,
    ) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for value in values.into_iter().filter(|value| value.is_finite() && *value > 0.0) {
            low = low.min(value);
            high = high.max(value);
        }
        if high / low >= WIDE {
            Self::logarithmic(format!("{label}, logarithmic"), low, high, text)
        } else {
            Self::linear(label, high, text)
        }
    }

    /// Durations in nanoseconds, as [`Axis::fitting`].
    pub fn durations(label: &str, values: impl IntoIterator<Item = f64>) -> Self {
        Self::fitting(label, values, |ns| unit::short(&unit::duration(ns)))
    }

    /// Percentiles as fractions of so many samples: beyond the last sample there is nothing to see.
    pub fn percentiles(samples: u64) -> Self {
        let nines = (samples.max(1) as f64).log10().clamp(2.0, 6.0);
        let mut axis = Self::bare("percentile", Scale::Nines, 0.0, 1.0 - 10f64.powf(-nines));
        let ticks = [0.0, 0.5, 0.9, 0.99, 0.999, 0.999_9, 0.999_99, 0.999_999];
        let texts = ["0", "50", "90", "99", "99.9", "99.99", "99.999", "99.9999"];
        let ticks = ticks.into_iter().zip(texts).filter(|(tick, _)| *tick <= axis.high);
        axis.ticks = ticks.map(|(tick, text)| (axis.position(tick), text.to_owned())).collect();
        axis
    }

    /// Where `value` lies, 0 to 1; what lies outside is at the edge, what is no number at 0.
    pub fn position(&self, value: f64) -> f64 {
        let of = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.max(f64::MIN_POSITIVE).log10(),
            Scale::Nines => -(1.0 - value).max(f64::MIN_POSITIVE).log10(),
        };
        let (low, high) = (of(self.low), of(self.high));
        let position = (of(value) - low) / (high - low);
        if position.is_nan() { 0.0 } else { position.clamp(0.0, 1.0) }
    }

    fn bare(label: impl Into<String>, scale: Scale, low: f64, high: f64) -> Self {
        Self { label: label.into(), ticks: Vec::new(), scale, low, high }
    }

    fn write(&mut self, ticks: impl Iterator<Item = f64>, text: impl Fn(f64) -> String) {
        self.ticks = ticks.map(|tick| (self.position(tick), text(tick))).collect();
    }
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn round_step(least: f64) -> f64 {
    one_two_five(least, true)
}

/// The nearest 1, 2 or 5 times a power of ten that is not below (or, not above) `value`.
fn one_two_five(value: f64, up: bool) -> f64 {
    if !(value.is_finite() && value > 0.0) {
        return 1.0;
    }
    let decade = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * decade);
    let found = match up {
        true => steps.into_iter().find(|step| *step >= value * (1.0 - 1e-9)),
        false => steps.into_iter().rfind(|step| *step <= value * (1.0 + 1e-9)),
    };
    found.unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn a_linear_scale_begins_at_zero_and_ends_on_a_round_value() {
        let axis = Axis::linear("x", 870.0, unit::number);
        assert_eq!(texts(&axis), ["0", "200", "400", "600", "800", "1,000"]);
        assert_eq!(axis.position(500.0), 0.5);
        assert_eq!((axis.position(-1.0), axis.position(2_000.0)), (0.0, 1.0));
    }

    #[test]
    fn a_logarithmic_scale_gives_every_factor_the_same_room() {
        let axis = Axis::durations("x", [15_000.0, 900_000.0]);
        assert_eq!(texts(&axis), ["10 µs", "20 µs", "50 µs", "100 µs", "200 µs", "500 µs", "1 ms"]);
        assert!((axis.position(100_000.0) - 0.5).abs() < 1e-9);
        assert!(axis.label.ends_with("logarithmic"));
        assert!(!Axis::durations("x", [20.0, 90.0]).label.contains("logarithmic"));
    }

    #[test]
    fn every_nine_of_a_percentile_has_the_same_room() {
        let axis = Axis::percentiles(10_000);
        assert_eq!(texts(&axis), ["0", "50", "90", "99", "99.9", "99.99"]);
        assert!((axis.position(0.99) - 0.5).abs() < 1e-9);
        assert_eq!(axis.position(1.0), 1.0);
    }

    #[test]
    fn a_span_need_not_be_round() {
        let axis = Axis::span("s", 0.0, 37.0, unit::number);
        assert_eq!(texts(&axis), ["0", "10.0", "20.0", "30.0"]);
        assert_eq!(axis.position(37.0), 1.0);
    }

    proptest! {
        #[test]
        fn no_value_makes_a_scale_useless(
            values in prop::collection::vec(prop::num::f64::ANY, 0..4),
            asked in prop::num::f64::ANY,
        ) {
            let high = values.iter().copied().fold(0.0, f64::max);
            for axis in [
                Axis::durations("x", values.iter().copied()),
                Axis::linear("x", high, unit::number),
                Axis::logarithmic("x", asked, high, unit::number),
            ] {
                prop_assert!((0.0..=1.0).contains(&axis.position(asked)));
                prop_assert!(!axis.ticks.is_empty() && axis.ticks.len() <= 24, "{axis:?}");
                prop_assert!(axis.ticks.iter().all(|(at, _)| (0.0..=1.0).contains(at)));
            }
        }
    }
}
