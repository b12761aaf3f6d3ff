//! The answer: what a profile takes of a host, which resource ends first, and how that changes when
//! the profile does. Arithmetic on a model; reads nothing, prints nothing.

use serde::Serialize;

use super::{
    encryption::Encryption,
    host::Resources,
    model::{self, Model, Rates, Term, Traffic},
    placement::{Kind, Placement},
    profile::{Channels, Profile},
};
use crate::limits::{CHANNEL_SESSIONS_MAX, SHARD_SESSIONS_MAX};

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The mode was never measured.
    #[error(
        "what {0} costs was never measured on this host: calibrated are {1}; ask for one of them"
    )]
    Mode(String, String),
    /// The headroom leaves nothing.
    #[error("--headroom must be 0 or more percent and less than 100")]
    Headroom,
}

/// The encryption of this name, which was measured.
///
/// # Errors
/// It was not.
pub fn encryption(mode: &str, model: &Model) -> Result<Encryption, AnswerError> {
    let measured = Encryption::from_name(mode).filter(|_| model.modes.contains_key(mode));
    measured.ok_or_else(|| {
        let known: Vec<_> = model.modes.keys().map(String::as_str).collect();
        AnswerError::Mode(mode.to_owned(), known.join(", "))
    })
}

/// The part of each core that may be used, given the one that is to be left free.
///
/// # Errors
/// That is less than nothing, or all.
pub fn usable(headroom: f64) -> Result<f64, AnswerError> {
    if (0.0..1.0).contains(&headroom) { Ok(1.0 - headroom) } else { Err(AnswerError::Headroom) }
}

/// What is asked of one kind of load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Demand {
    /// What it is.
    pub name: String,
    /// How many channels alike.
    pub count: f64,
    /// What happens in one of them each second.
    pub each: Rates,
    /// Its encryption, by name.
    pub mode: String,
    /// Members of one of them.
    pub members: f64,
}

/// What something takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// For what.
    pub name: String,
    /// Part of a core that is left free.
    pub headroom: f64,
    /// The kinds of channels.
    pub demands: Vec<Demand>,
    /// What happens in all of them each second.
    pub rates: Rates,
    /// Bits a second, as IP packets.
    pub traffic: Traffic,
    /// Costs of all channels, term by term and kind by kind.
    pub terms: Vec<(String, Vec<Term>)>,
    /// Of each wake-up after a pause, nanoseconds: what it takes by itself, and for each hearer.
    pub wake_ns: (f64, f64),
    /// Where channels go, and what waking up takes shards.
    pub placement: Placement,
    /// What the server takes when nobody is there, cores.
    pub base_cores: f64,
    /// All of that together.
    pub cores_busy: f64,
    /// Shards needed; `None` if a channel is too large for one.
    pub shards: Option<u32>,
    /// Memory, bytes.
    pub memory_bytes: f64,
    /// Of it, what the process has when nobody is there.
    pub memory_base_bytes: f64,
    /// And what a session adds, a browser, and what one is told of another.
    pub memory_each_bytes: [f64; 3],
    /// Resources, that which ends first in front.
    pub uses: Vec<Use>,
}

/// How much of a resource is taken.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Use {
    /// Which.
    pub resource: &'static str,
    /// How much.
    pub needed: f64,
    /// Of how much.
    pub available: f64,
    /// What these count.
    pub unit: Unit,
}

/// What an amount counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Cores.
    Cores,
    /// Bits a second.
    BitsPerSecond,
    /// Bytes.
    Bytes,
    /// Sessions.
    Sessions,
}

/// How an answer changes with one input.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Which input, and to what.
    pub input: &'static str,
    /// Copies a second.
    pub copies: f64,
    /// Bits out a second.
    pub bits_out: f64,
    /// Cores busy.
    pub cores_busy: f64,
    /// Shards.
    pub shards: Option<u32>,
}

impl Use {
    /// Part of what there is.
    pub fn share(&self) -> f64 {
        if self.available > 0.0 { self.needed / self.available } else { f64::INFINITY }
    }
}

impl Answer {
    /// For a profile.
    ///
    /// # Errors
    /// A mode was not measured, or the headroom leaves nothing.
    pub fn of(
        profile: &Profile,
        model: &Model,
        headroom: f64,
        resources: &Resources,
    ) -> Result<Self, AnswerError> {
        let demand = |channels: &Channels| Demand {
            name: format!("channels of {}", channels.members),
            count: channels.count.into(),
            each: Rates::of_channel(channels, model.separate),
            mode: channels.mode.clone(),
            members: channels.members.into(),
        };
        let demands = profile.channels.iter().map(demand).collect();
        Self::of_demands(profile.name.clone(), demands, model, headroom, resources)
    }

    /// For whatever happens.
    ///
    /// # Errors
    /// As [`Answer::of`].
    pub fn of_demands(
        name: String,
        demands: Vec<Demand>,
        model: &Model,
        headroom: f64,
        resources: &Resources,
    ) -> Result<Self, AnswerError> {
        let usable = usable(headroom)?;
        let mut rates = Rates::default();
        let mut traffic = Traffic::default();
        let (mut terms, mut kinds, mut in_channels) = (Vec::new(), Vec::new(), 0.0);
        let mut largest_members = 0.0f64;
        for Demand { name, count, each, mode, members } in &demands {
            let encryption = encryption(mode, model)?;
            let all = each.times(*count);
            let of_all = model.terms(mode, &all).expect("the mode is known");
            in_channels += of_all.iter().map(|term| term.cores).sum::<f64>();
            terms.push((name.clone(), of_all));
            let cores = model.cores(mode, each).expect("the mode is known");
            kinds.push(Kind { each: *each, count: *count, cores });
            largest_members = largest_members.max(*members);
            rates = rates.plus(all);
            let kind = all.traffic(encryption);
            traffic.bits_in += kind.bits_in;
            traffic.bits_out += kind.bits_out;
        }
        let placement = Placement::of(&kinds, model, usable);
        let memory_bytes = model.memory_bytes(&rates);
        let mut answer = Self {
            name,
            headroom,
            demands,
            rates,
            traffic,
            terms,
            wake_ns: (model.wake_ns, model.cold_ns),
            base_cores: model.base_cores,
            cores_busy: in_channels + placement.waking_cores + model.base_cores,
            shards: placement.shards,
            placement,
            memory_bytes,
            memory_base_bytes: model.memory_base_bytes,
            memory_each_bytes: [
                model.memory_session_bytes,
                model.memory_browser_bytes,
                model.memory_told_bytes,
            ],
            uses: Vec::new(),
        };
        answer.uses = answer.uses(largest_members, usable, resources);
        Ok(answer)
    }

    fn uses(&self, largest_members: f64, usable: f64, resources: &Resources) -> Vec<Use> {
        let wire = model::on_the_wire;
        let shards = self.placement.counted;
        let known = |resource, needed, available: Option<f64>, unit| {
            available.map(|available| Use { resource, needed, available, unit })
        };
        let cores = resources.cores;
        let of_shards = self.cores_busy - self.base_cores;
        let out = wire(self.rates.copies, self.traffic.bits_out);
        let into = wire(self.rates.received, self.traffic.bits_in);
        let uses = [
            known("cores for shards", shards.max(of_shards / usable), cores, Unit::Cores)
                .filter(|_| self.shards.is_some()),
            known(
                "the core of the costliest channel",
                self.placement.costliest_alone,
                Some(usable),
                Unit::Cores,
            ),
            known("network card, out", out, resources.network_bits, Unit::BitsPerSecond),
            known("network card, in", into, resources.network_bits, Unit::BitsPerSecond),
            known("memory", self.memory_bytes, resources.memory_bytes, Unit::Bytes),
            known(
                "members of the largest channel",
                largest_members,
                Some(CHANNEL_SESSIONS_MAX as f64),
                Unit::Sessions,
            ),
            known(
                "sessions of a shard",
                self.rates.sessions / shards,
                Some(SHARD_SESSIONS_MAX as f64),
                Unit::Sessions,
            ),
        ];
        let mut uses: Vec<_> = uses.into_iter().flatten().collect();
        uses.sort_by(|a, b| b.share().total_cmp(&a.share()));
        uses
    }

    /// Whether everything fits, as far as it is known.
    pub fn fits(&self) -> bool {
        self.shards.is_some() && self.uses.iter().all(|it| it.share() <= 1.0)
    }
}

/// How the answer changes when one input doubles, or halves.
pub fn sensitivity(
    profile: &Profile,
    model: &Model,
    headroom: f64,
    resources: &Resources,
) -> Vec<Change> {
    type Vary = (&'static str, fn(&mut Channels));
    const INPUTS: [Vary; 8] = [
        ("as asked", |_| {}),
        ("twice the channels", |it| it.count = it.count.saturating_mul(2)),
        ("twice the members", |it| it.members = it.members.saturating_mul(2)),
        ("half the members", |it| it.members = it.members.div_ceil(2)),
        ("twice as many speaking", |it| it.speaking *= 2.0),
        ("twice the audio bitrate", |it| it.bitrate *= 2),
        ("twice the cameras", |it| {
            if let Some(video) = &mut it.video {
                video.cameras *= 2.0;
            }
        }),
        ("twice the video bitrate", |it| {
            if let Some(video) = &mut it.video {
                video.bits_per_second *= 2;
            }
        }),
    ];
    let has_video = profile.channels.iter().any(|channels| channels.video.is_some());
    let changes = INPUTS
        .iter()
        .filter(|(input, _)| has_video || !(input.contains("camera") || input.contains("video")));
    changes
        .filter_map(|(input, vary)| {
            let mut profile = profile.clone();
            profile.channels.iter_mut().for_each(vary);
            // Four of two members do not talk, and a channel has so many members and no more.
            let profile = profile.checked().ok()?;
            let answer = Answer::of(&profile, model, headroom, resources).ok()?;
            Some(Change {
                input,
                copies: answer.rates.copies,
                bits_out: answer.traffic.bits_out,
                cores_busy: answer.cores_busy,
                shards: answer.shards,
            })
        })
        .collect()
}

/// Cores busy when every channel has so many times its members: the factor, and the cores.
pub fn growth(
    profile: &Profile,
    model: &Model,
    headroom: f64,
    resources: &Resources,
    factors: &[f64],
) -> Vec<(f64, f64)> {
    let at = |factor: f64| {
        let mut profile = profile.clone();
        for channels in &mut profile.channels {
            channels.members = (f64::from(channels.members) * factor).round().max(1.0) as u32;
        }
        let profile = profile.checked().ok()?;
        let answer = Answer::of(&profile, model, headroom, resources).ok()?;
        Some((factor, answer.cores_busy))
    };
    factors.iter().filter_map(|factor| at(*factor)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::model::tests::round_model;

    fn guild(count: u32, members: u32) -> Profile {
        let channels = vec![Channels { count, ..Channels::of(members) }];
        Profile { name: "guild".to_owned(), channels }
    }

    fn host() -> Resources {
        Resources { cores: Some(4.0), memory_bytes: Some(1e9), network_bits: Some(1e9) }
    }

    fn answer(profile: &Profile) -> Answer {
        Answer::of(profile, &round_model(), 0.5, &host()).unwrap()
    }

    #[test]
    fn known_costs_give_the_exact_answer() {
        let answer = answer(&guild(60, 101));
        // One channel: 50 × 5 + 5,000 × (1 + 2) µs, 808,000 ns, 101 / 41.25 × 100 µs.
        let one = 0.000_25 + 0.015 + 0.000_808 + 101.0 / 41.25 * 1e-4;
        // Waking: 50 bursts of one channel, 3,000 of all on one shard, 1,000 on each of three, and
        // the heartbeats of those who hear them; only what comes while it is not busy.
        let waking = |bursts: f64, busy: f64| {
            let all = bursts * (1.0 + 101.0 / 41.25 / 50.0) * (1.0 - busy);
            all / (1.0 + 0.01 * all) * 1e-4 + all / (1.0 + 0.000_1 * all) * 1e-5
        };
        let busy =
            |bursts: f64, rest: f64| (0..100).fold(rest, |busy, _| rest + waking(bursts, busy));
        assert!((answer.placement.costliest_alone - busy(50.0, one)).abs() < 1e-12);
        assert_eq!(answer.shards, Some(3));
        assert!((59.0 * one) / (0.5 - waking(3_000.0, 0.5) - one) > 2.0);
        let three = 3.0 * busy(1_000.0, 20.0 * one);
        assert!((answer.cores_busy - 0.001 - three).abs() < 1e-9);
        assert_eq!((answer.rates.copies, answer.rates.sessions), (300_000.0, 6_060.0));
        assert_eq!(answer.traffic.bits_out, 300_000.0 * 232.0 * 8.0);
        assert_eq!(answer.memory_bytes, 10e6 + 6_060.0 * (50e3 + 100.0 * 100.0));
        let out = answer.uses.iter().find(|it| it.resource == "network card, out").unwrap();
        assert_eq!(out.needed, 300_000.0 * 270.0 * 8.0);
        assert!(answer.fits());
    }

    #[test]
    fn the_resource_that_ends_first_is_named_first() {
        // Many idle sessions take memory, and little else.
        let mut idle = guild(200, 100);
        idle.channels[0].speaking = 0.0;
        let answer = answer(&idle);
        assert_eq!(answer.uses[0].resource, "memory");
        assert!((answer.uses[0].share() - 1.208).abs() < 1e-9 && !answer.fits());
        // A slow network ends before the cores do.
        let slow = Resources { network_bits: Some(1e8), ..host() };
        let answer = Answer::of(&guild(60, 101), &round_model(), 0.5, &slow).unwrap();
        assert_eq!(answer.uses[0].resource, "network card, out");
    }

    #[test]
    fn a_channel_larger_than_a_core_is_said_to_be() {
        let mut stage = guild(1, 4_000);
        stage.channels[0].speaking = 2.0;
        let answer = answer(&stage);
        assert_eq!(answer.shards, None);
        assert_eq!(answer.uses[0].resource, "the core of the costliest channel");
        assert!(!answer.fits());
    }

    #[test]
    fn what_was_never_measured_is_not_invented() {
        let mut profile = guild(1, 2);
        profile.channels[0].mode = "xsalsa20_poly1305".to_owned();
        let error = Answer::of(&profile, &round_model(), 0.5, &host()).unwrap_err().to_string();
        assert!(error.contains("xsalsa20_poly1305 costs was never measured"), "{error}");
        assert!(error.contains("aead_aes256_gcm_rtpsize"), "{error}");
        for headroom in [-0.1, 1.0, f64::NAN] {
            let answer = Answer::of(&guild(1, 2), &round_model(), headroom, &host());
            assert_eq!(answer.unwrap_err(), AnswerError::Headroom);
        }
    }

    #[test]
    fn every_input_that_the_profile_has_is_varied() {
        let profile = guild(10, 50);
        let changes = sensitivity(&profile, &round_model(), 0.5, &host());
        let find = |input| changes.iter().find(|it| it.input == input).unwrap();
        let asked = find("as asked");
        assert_eq!(find("twice the channels").copies, 2.0 * asked.copies);
        assert_eq!(find("twice the members").copies, asked.copies * 99.0 / 49.0);
        assert!(find("twice the audio bitrate").bits_out > 1.5 * asked.bits_out);
        assert!(changes.iter().all(|it| !it.input.contains("video")));
        let factors = [0.5, 1.0, 2.0];
        let growth = growth(&profile, &round_model(), 0.5, &host(), &factors);
        assert_eq!(growth.len(), 3);
        assert!((growth[1].1 - asked.cores_busy).abs() < 1e-9, "{growth:?} {asked:?}");
        assert!(growth[2].1 > growth[1].1);
    }

    #[test]
    fn channels_that_fit_a_shard_each_need_no_more_shards_than_there_are() {
        // Each takes two fifths of a core; awake for all of them a shard has room for none.
        let model = Model { cold_ns: 2_000.0, ..round_model() };
        let stages = |count| Answer::of(&guild(count, 2_000), &model, 0.5, &host()).unwrap();
        let one = stages(1);
        assert!(one.shards == Some(1) && one.fits(), "{one:?}");
        for count in [2, 3] {
            let answer = stages(count);
            assert_eq!(answer.shards, Some(count));
            assert!((answer.cores_busy - f64::from(count) * one.cores_busy).abs() < 0.05);
        }
    }

    #[test]
    fn a_shard_may_have_all_that_have_many_hearers() {
        let model = Model { halt_ns: 0.0, cold_ns: 3_000.0, ..round_model() };
        let mut mixed = guild(2, 401);
        let stages = Answer::of(&mixed, &model, 0.2, &host()).unwrap().placement.full.cores;
        mixed.channels.push(Channels { count: 100, ..Channels::of(5) });
        let answer = Answer::of(&mixed, &model, 0.2, &host()).unwrap();
        assert!(answer.placement.full.cores >= stages);
    }

    #[test]
    fn what_cannot_be_is_no_row() {
        let mut pair = guild(10, 2);
        pair.channels[0].speaking = 2.0;
        let inputs = |profile| {
            let changes = sensitivity(profile, &round_model(), 0.5, &host());
            changes.into_iter().map(|it| it.input).collect::<Vec<_>>()
        };
        let rows = inputs(&pair);
        assert!(rows.contains(&"twice the members") && !rows.contains(&"half the members"));
        assert!(!rows.contains(&"twice as many speaking"), "four of two: {rows:?}");
        assert!(!inputs(&guild(1, 3_000)).contains(&"twice the members"), "above the limit");
    }

    #[test]
    fn who_joins_a_stage_does_not_make_it_cheaper() {
        let model = Model { cold_ns: 1_500.0, ..round_model() };
        let cores =
            |profile: &Profile| Answer::of(profile, &model, 0.2, &host()).unwrap().cores_busy;
        let stage = guild(1, 2_000);
        let mut with_a_pair = stage.clone();
        with_a_pair.channels.push(Channels::of(2));
        assert!(cores(&with_a_pair) > cores(&stage));
    }

    #[test]
    fn what_fits_no_shard_is_no_cheaper_than_what_just_does() {
        let model = Model { cold_ns: 1_500.0, ..round_model() };
        let stages = |members| Answer::of(&guild(10, members), &model, 0.5, &host()).unwrap();
        let (fit, unfit) = (stages(2_600), stages(2_700));
        assert!(fit.shards == Some(10) && unfit.shards.is_none(), "{fit:?} {unfit:?}");
        assert!(unfit.cores_busy > fit.cores_busy, "{} {}", unfit.cores_busy, fit.cores_busy);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Waking up included, and also with a stage that wakes it for many beside pairs that keep
        /// it busy.
        #[test]
        fn one_shard_that_is_enough_is_no_busier_than_it_may_be(
            stage in 2u32..2_000,
            pairs in 1u32..1_500,
            headroom in 0.0f64..0.9,
            (halt_ns, cold_ns) in (0.0f64..50_000.0, 0.0f64..3_000.0),
        ) {
            let model = Model { halt_ns, cold_ns, ..round_model() };
            let mut mixed = guild(1, stage);
            mixed.channels.push(Channels { count: pairs, ..Channels::of(2) });
            let answer = Answer::of(&mixed, &model, headroom, &host()).unwrap();
            if answer.shards == Some(1) {
                let busy = answer.cores_busy - answer.base_cores;
                prop_assert!(busy <= 1.0 - headroom + 1e-9, "{busy}");
            }
        }
    }
}
