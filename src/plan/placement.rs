//! On how many shards channels fit, in whatever order they come, and what waking up takes those.
//! Arithmetic only; called by `answer`.

use serde::Serialize;

use super::{
    model::{self, Model, Rates},
    waking::{Waking, sums_by_hearers},
};

/// So many channels alike.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What one of them does.
    pub each: Rates,
    /// How many.
    pub count: f64,
    /// What one takes but for waking up, cores.
    pub cores: f64,
}

/// Where channels go.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Placement {
    /// Shards needed; `None` if a channel is too large for one.
    pub shards: Option<u32>,
    /// Shards that the rest is told for: those, and one for each channel that is too large.
    pub counted: f64,
    /// What decided how many; `None` if that each has one of its own.
    pub bound: Option<Bound>,
    /// What the costliest channel takes but for waking up, cores.
    pub costliest: f64,
    /// What the costliest channel takes alone on a shard, cores.
    pub costliest_alone: f64,
    /// What waking up takes a shard that has all of it and is as busy as it may be.
    pub full: Waking,
    /// What waking up takes each shard, if they have equal parts of all.
    pub each: Waking,
    /// The same of the one that has the channel for which that is most.
    pub dearest: Waking,
    /// What waking up takes all of them, cores.
    pub waking_cores: f64,
}

/// A way to count what waking up takes, and what channels take then.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bound {
    /// Whether each channel has the wake-ups of a halted core that are its own counted with it:
    /// many shards share those. Else each shard is taken to have those of all channels.
    pub with_own_halts: bool,
    /// What all channels take, cores.
    pub total: f64,
    /// What the costliest takes, cores.
    pub largest: f64,
    /// What waking up takes a shard besides at most, cores.
    pub reserve: f64,
}

impl Placement {
    /// Of these, if no shard may be busier than `usable`.
    pub fn of(kinds: &[Kind], model: &Model, usable: f64) -> Self {
        let alone = |kind: &Kind| model.waking(&kind.each, &[], kind.cores).busy;
        let (fitting, too_large): (Vec<Kind>, Vec<_>) =
            kinds.iter().partition(|kind| alone(kind) <= usable);
        let (bound, suffice) = fewest(&fitting, model, usable);
        let shards = too_large.is_empty().then_some(suffice.max(1));
        let apart: f64 = too_large.iter().map(|kind| kind.count).sum();
        let counted = (f64::from(suffice) + apart).max(1.0);
        let sums = sums(kinds);
        let all = sums.last().copied().unwrap_or_default();
        let (part, parts) = (all.times(1.0 / counted), shares(&sums, counted));
        let rest = kinds.iter().map(|kind| kind.cores * kind.count).sum::<f64>() / counted;
        let each = model.waking(&part, &parts, rest);
        let with = |kind: &Kind| {
            let among = [&parts[..], &[kind.each]].concat();
            model.waking(&part, &among, rest.max(kind.cores))
        };
        let dearest = kinds.iter().map(with).fold(each.clone(), |dearest, with| {
            if with.cores > dearest.cores { with } else { dearest }
        });
        Self {
            shards,
            counted,
            bound,
            costliest: kinds.iter().map(|kind| kind.cores).fold(0.0, f64::max),
            costliest_alone: kinds.iter().map(alone).fold(0.0, f64::max),
            full: model.waking_of_busy(&all, &sums, usable),
            waking_cores: (counted - 1.0) * each.cores + dearest.cores,
            each,
            dearest,
        }
    }
}

fn sums(kinds: &[Kind]) -> Vec<Rates> {
    sums_by_hearers(kinds.iter().map(|kind| kind.each.times(kind.count)).collect())
}

fn shares(sums: &[Rates], shards: f64) -> Vec<Rates> {
    sums.iter().map(|sum| sum.times(1.0 / shards)).collect()
}

/// The fewest shards on which channels fit of which each fits one, and the bound that says so.
///
/// If a shard fits that is taken to be as busy as it may be it fits at all, for were it busier it
/// would wake up less.
fn fewest(kinds: &[Kind], model: &Model, usable: f64) -> (Option<Bound>, u32) {
    let sums = sums(kinds);
    let all = sums.last().copied().unwrap_or_default();
    let full = model.waking_of_busy(&all, &sums, usable);
    let bound = |with_own_halts| {
        let of = |kind: &Kind| {
            let halts = if with_own_halts { model.halts(&kind.each, usable).cores } else { 0.0 };
            kind.cores + halts
        };
        Bound {
            with_own_halts,
            total: kinds.iter().map(|kind| kind.count * of(kind)).sum(),
            largest: kinds.iter().map(of).fold(0.0, f64::max),
            reserve: if with_own_halts { full.pauses.cores } else { full.cores },
        }
    };
    let bounds = [bound(false), bound(true)].into_iter().filter_map(|bound| {
        let room = usable - bound.reserve;
        let shards = model::shards(bound.total, bound.largest, room).filter(|_| room > 0.0)?;
        Some((Some(bound), shards))
    });
    // Each on a shard of its own fits, and no order needs more than that.
    let channels = kinds.iter().map(|kind| kind.count).sum::<f64>().ceil() as u32;
    let together = bounds.min_by_key(|(_, shards)| *shards);
    together.filter(|(_, shards)| *shards <= channels.max(1)).unwrap_or((None, channels))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::{model::tests::round_model, profile::Channels};

    const AES: &str = "aead_aes256_gcm_rtpsize";

    fn kind(model: &Model, count: f64, members: u32) -> Kind {
        let each = Rates::of_channel(&Channels::of(members), 0.0);
        Kind { each, count, cores: model.cores(AES, &each).unwrap() }
    }

    fn place(model: &Model, usable: f64, kinds: &[(f64, u32)]) -> Placement {
        let kinds: Vec<_> = kinds.iter().map(|(n, members)| kind(model, *n, *members)).collect();
        Placement::of(&kinds, model, usable)
    }

    #[test]
    fn shards_share_wake_ups_of_halted_cores() {
        // All of these on each shard would leave no room for the stage.
        let placed = place(&round_model(), 0.5, &[(1.0, 2_700), (1_000.0, 2)]);
        let bound = placed.bound.unwrap();
        assert!(bound.with_own_halts && placed.full.cores + bound.largest > 0.5, "{placed:?}");
        let rest = bound.total - bound.largest;
        assert_eq!(
            placed.shards,
            Some((rest / (0.5 - bound.reserve - bound.largest)).ceil() as u32)
        );
        assert!(placed.shards.unwrap() < 30);
    }

    #[test]
    fn what_fits_no_shard_is_told_as_if_it_had_one() {
        let placed = place(&round_model(), 0.5, &[(2.0, 4_000), (100.0, 2)]);
        let pairs = place(&round_model(), 0.5, &[(100.0, 2)]);
        assert_eq!((placed.shards, pairs.shards), (None, Some(1)));
        assert_eq!(placed.counted, 3.0);
        assert!(placed.costliest_alone > 0.5);
    }

    #[test]
    fn nothing_takes_one_shard_that_sleeps() {
        let placed = place(&round_model(), 0.5, &[]);
        assert_eq!((placed.shards, placed.waking_cores), (Some(1), 0.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn one_more_channel_never_takes_less(
            kinds in prop::collection::vec((1u32..200, 1u32..3_000), 1..4),
            more in 2u32..3_000,
            usable in 0.1f64..1.0,
            (halt_ns, cold_ns) in (0.0f64..100_000.0, 0.0f64..3_000.0),
        ) {
            let model = Model { halt_ns, cold_ns, ..round_model() };
            let of = |kinds: &[(f64, u32)]| {
                let all = kinds.iter().map(|(n, members)| kind(&model, *n, *members));
                let cores: f64 = all.map(|kind| kind.count * kind.cores).sum();
                let placed = place(&model, usable, kinds);
                (placed.shards.unwrap_or(u32::MAX), cores + placed.waking_cores, placed)
            };
            let counted = kinds.iter().map(|(n, members)| (f64::from(*n), *members));
            let mut kinds: Vec<_> = counted.collect();
            let before = of(&kinds);
            kinds.push((1.0, more));
            let after = of(&kinds);
            prop_assert!(after.0 >= before.0, "{before:?} {after:?}");
            prop_assert!(after.1 >= before.1 - 1e-9, "{before:?} {after:?}");
            let Placement { each, dearest, .. } = &after.2;
            prop_assert!(dearest.cores >= each.cores);
            if after.0 == 1 {
                prop_assert!(dearest.busy <= usable + 1e-9, "{after:?}");
            }
        }
    }
}
