//! Least squares with costs that are never negative. Numbers in, numbers out. Called by
//! `calibration`.

/// Rounds of improvement at most; the costs of a calibration settle in hundreds to some thousands.
const ROUNDS_MAX: usize = 200_000;

/// Change of a cost from one round to the next below which it has settled, relative to its share of
/// a whole observation.
const SETTLED: f64 = 1e-13;

/// One observation: how much of each thing there was, and what all of it cost together.
#[derive(Debug, Clone, PartialEq)]
pub struct Equation {
    /// Amounts, one for each unknown.
    pub amounts: Vec<f64>,
    /// Their cost.
    pub cost: f64,
}

/// The costs, none below zero, for which the *relative* errors of all observations are least in
/// their squares: being wrong by a tenth of a small run is as bad as of a large one. What no
/// observation has any of costs zero. Observations that cost nothing are ignored.
///
/// Coordinate descent on the normal equations: the problem is convex, hence every step that makes
/// one cost the best for the others leads to the one solution.
pub fn costs(equations: &[Equation], unknowns: usize) -> Vec<f64> {
    let rows: Vec<Vec<f64>> = equations
        .iter()
        .filter(|equation| equation.cost > 0.0)
        .map(|equation| equation.amounts.iter().map(|amount| amount / equation.cost).collect())
        .collect();
    // Columns of equal length: amounts of unlike things differ by many powers of ten.
    let scale: Vec<f64> = (0..unknowns)
        .map(|column| rows.iter().map(|row| row[column] * row[column]).sum::<f64>().sqrt())
        .collect();
    let at = |row: &[f64], column: usize| match scale[column] {
        0.0 => 0.0,
        scale => row[column] / scale,
    };
    let gram = |a: usize, b: usize| rows.iter().map(|row| at(row, a) * at(row, b)).sum::<f64>();
    let matrix: Vec<Vec<f64>> =
        (0..unknowns).map(|a| (0..unknowns).map(|b| gram(a, b)).collect()).collect();
    let wanted: Vec<f64> =
        (0..unknowns).map(|column| rows.iter().map(|row| at(row, column)).sum()).collect();
    let mut found = vec![0.0f64; unknowns];
    for _ in 0..ROUNDS_MAX {
        let mut moved = 0.0f64;
        for column in (0..unknowns).filter(|column| scale[*column] > 0.0) {
            let others: f64 = (0..unknowns)
                .filter(|other| *other != column)
                .map(|other| matrix[column][other] * found[other])
                .sum();
            let best = ((wanted[column] - others) / matrix[column][column]).max(0.0);
            moved = moved.max((best - found[column]).abs());
            found[column] = best;
        }
        if moved < SETTLED {
            break;
        }
    }
    let unscaled = |(cost, scale): (f64, &f64)| if *scale > 0.0 { cost / scale } else { 0.0 };
    found.into_iter().zip(&scale).map(unscaled).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn equation(amounts: &[f64], costs: &[f64]) -> Equation {
        let cost = amounts.iter().zip(costs).map(|(amount, cost)| amount * cost).sum();
        Equation { amounts: amounts.to_vec(), cost }
    }

    #[test]
    fn costs_that_explain_everything_are_found() {
        let costs_known = [0.001, 1.5e-6, 2e-9];
        let equations: Vec<_> = [
            [1.0, 10.0, 1_000.0],
            [1.0, 2_000.0, 300_000.0],
            [1.0, 50.0, 1_000_000.0],
            [1.0, 20_000.0, 4_000.0],
        ]
        .iter()
        .map(|amounts| equation(amounts, &costs_known))
        .collect();
        for (found, known) in costs(&equations, 3).iter().zip(costs_known) {
            assert!((found / known - 1.0).abs() < 1e-6, "{found} {known}");
        }
    }

    #[test]
    fn nothing_costs_less_than_nothing() {
        // Two would have to cost -1 to explain both.
        let equations = [
            Equation { amounts: vec![1.0, 0.0], cost: 2.0 },
            Equation { amounts: vec![1.0, 1.0], cost: 1.0 },
        ];
        let found = costs(&equations, 2);
        assert_eq!(found[1], 0.0);
        // Relative errors: 2 is missed by a half as 1 is; least squares of x/2 - 1 and x - 1.
        assert!((found[0] - 1.2).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn what_was_never_there_costs_nothing() {
        let equations = [Equation { amounts: vec![2.0, 0.0], cost: 6.0 }];
        assert_eq!(costs(&equations, 2), [3.0, 0.0]);
        assert_eq!(costs(&[], 2), [0.0, 0.0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn known_costs_are_found_whatever_they_are(
            known in prop::collection::vec(1e-9f64..1e-5, 4),
            seed in prop::collection::vec(1.0f64..1e4, 40),
        ) {
            let equations: Vec<_> = seed.chunks(4).map(|row| equation(row, &known)).collect();
            let found = costs(&equations, 4);
            for (row, equation) in seed.chunks(4).zip(&equations) {
                let cost: f64 = row.iter().zip(&found).map(|(amount, cost)| amount * cost).sum();
                prop_assert!((cost / equation.cost - 1.0).abs() < 1e-3);
            }
        }
    }
}
