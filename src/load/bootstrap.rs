//! How sure one is of a difference: seconds of runs drawn again and again from those there were
//! (a bootstrap), with a fixed seed, so that the same files give the same answer. Numbers in,
//! interval out. Called by `compare`.
//!
//! Seconds that follow each other are alike, so they are drawn in blocks (P. Hall, J. Horowitz,
//! B.-Y. Jing, "On blocking rules for the bootstrap with dependent data", 1995: a block of about
//! the cube root of their number). Where there are several runs, runs are drawn first: what
//! differs from run to run is then in the interval as well.

/// Times that all is drawn again. The interval's ends are then each known by its outermost
/// twentieth value of four thousand.
const DRAWS: usize = 4_000;

/// Part of all draws that lies inside the interval. Four numbers are compared at a time: with 99 %
/// of each, two runs of the same server are called different about once in 25 comparisons, before
/// the least difference that matters has its say.
const CONFIDENCE: f64 = 0.99;

/// Where chance begins; any number would do.
const SEED: u64 = 0x0073_7465_6e74_6f72;

/// A difference and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effect {
    /// B compared with A.
    pub estimate: f64,
    /// Least of what it may well be.
    pub low: f64,
    /// Most of what it may well be.
    pub high: f64,
}

/// Weighs B against A, each given as runs of seconds. `statistic` makes one number of the seconds
/// of a side, `effect` a difference of two such numbers (A first).
pub fn weigh<S: Copy>(
    a: &[Vec<S>],
    b: &[Vec<S>],
    statistic: impl Fn(&[S]) -> f64,
    effect: impl Fn(f64, f64) -> f64,
) -> Effect {
    let whole = |runs: &[Vec<S>]| statistic(&runs.concat());
    let estimate = effect(whole(a), whole(b));
    let mut chance = Chance(SEED);
    let mut seconds = Vec::new();
    let mut drawn: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let mut side = |runs| {
                chance.draw(runs, &mut seconds);
                statistic(&seconds)
            };
            let of_a = side(a);
            effect(of_a, side(b))
        })
        .filter(|effect| effect.is_finite())
        .collect();
    drawn.sort_unstable_by(f64::total_cmp);
    let outside = ((1.0 - CONFIDENCE) / 2.0 * drawn.len() as f64) as usize;
    let low = drawn.get(outside).copied().unwrap_or(estimate);
    let high = drawn.len().checked_sub(1 + outside).map_or(estimate, |place| drawn[place]);
    Effect { estimate, low, high }
}

/// Repeatable chance: SplitMix64 (G. Steele, D. Lea, C. Flood, 2014).
struct Chance(u64);

impl Chance {
    /// As many runs as there are, each of as many seconds as it has.
    fn draw<S: Copy>(&mut self, runs: &[Vec<S>], seconds: &mut Vec<S>) {
        seconds.clear();
        for place in 0..runs.len() {
            let run = if runs.len() > 1 { &runs[self.below(runs.len())] } else { &runs[place] };
            let block = (run.len() as f64).cbrt().round().max(1.0) as usize;
            let wanted = seconds.len() + run.len();
            while seconds.len() < wanted {
                let first = self.below(run.len());
                let rest = block.min(wanted - seconds.len());
                // After the last second comes the first.
                seconds.extend((first..first + rest).map(|place| run[place % run.len()]));
            }
        }
    }

    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        ((u128::from(mixed) * count as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }

    fn difference(a: f64, b: f64) -> f64 {
        b - a
    }

    #[test]
    fn what_never_varies_is_known_for_sure() {
        let effect = weigh(&[vec![1.0; 9]], &[vec![3.0; 9]], mean, difference);
        assert_eq!(effect, Effect { estimate: 2.0, low: 2.0, high: 2.0 });
    }

    /// The mean of n even values from 0 to 1 is known to about 2.58 × sqrt(1/12n) at 99 %.
    #[test]
    fn the_interval_is_as_wide_as_theory_says() {
        let mut chance = Chance(1);
        let spread: Vec<f64> = (0..400).map(|_| chance.below(1_000_000) as f64 / 1e6).collect();
        let effect = weigh(&[spread], &[vec![0.5; 400]], mean, difference);
        let theory = 2.58 * (1.0 / (12.0 * 400.0f64)).sqrt();
        let (below, above) = (effect.estimate - effect.low, effect.high - effect.estimate);
        assert!((below / theory - 1.0).abs() < 0.25, "{effect:?} {theory}");
        assert!((above / theory - 1.0).abs() < 0.25, "{effect:?} {theory}");
    }

    #[test]
    fn what_differs_from_run_to_run_widens_the_interval() {
        let run = |level: f64| (0..30).map(|i| level + f64::from(i % 3) / 100.0).collect();
        let one = weigh(&[run(1.0)], &[run(1.2)], mean, difference);
        assert!(one.low > 0.19);
        let several = [run(1.0), run(1.3), run(0.9)];
        let effect = weigh(&several, &[run(1.2), run(0.9), run(1.3)], mean, difference);
        assert!(effect.low < 0.0 && effect.high > 0.1, "{effect:?}");
    }

    #[test]
    fn the_same_files_give_the_same_answer() {
        let (a, b) = ([vec![1.0, 2.0, 4.0]], [vec![2.0, 2.5, 3.0]]);
        assert_eq!(weigh(&a, &b, mean, difference), weigh(&a, &b, mean, difference));
    }
}
