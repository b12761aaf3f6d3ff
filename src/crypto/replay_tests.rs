//! Tests of the replay window, by example and against a model that remembers everything.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// Takes an authentic packet as the session does.
fn receive(window: &mut ReplayWindow, seq: u16) -> Result<bool, DropReason> {
    match window.check(seq) {
        Ok(accept) => {
            let restarted = accept.restarted();
            window.commit(accept);
            Ok(restarted)
        }
        Err(reason) => {
            if reason != DropReason::Replayed {
                window.note_jump(seq);
            }
            Err(reason)
        }
    }
}

fn after(seqs: impl IntoIterator<Item = u16>) -> ReplayWindow {
    let mut window = ReplayWindow::new();
    for seq in seqs {
        assert_eq!(receive(&mut window, seq), Ok(false), "{seq}");
    }
    window
}

#[test]
fn a_packet_is_accepted_once() {
    let mut window = after([7]);
    assert_eq!(receive(&mut window, 7), Err(DropReason::Replayed));
    assert_eq!(receive(&mut window, 8), Ok(false));
    assert_eq!(receive(&mut window, 7), Err(DropReason::Replayed));
}

#[test]
fn a_late_packet_inside_the_window_is_accepted_once() {
    let mut window = after([2_000, 2_000 + 1_023]);
    assert_eq!(receive(&mut window, 2_000), Err(DropReason::Replayed));
    assert_eq!(receive(&mut window, 2_001), Ok(false));
    assert_eq!(receive(&mut window, 2_001), Err(DropReason::Replayed));
    assert_eq!(receive(&mut window, 1_999), Err(DropReason::TooOld));
}

/// Takes an authentic packet of a source that cannot start again, and gives its lap.
fn receive_lasting(window: &mut ReplayWindow, seq: u16) -> Result<u32, DropReason> {
    let accept = window.check_lasting(seq)?;
    let laps = accept.laps();
    window.commit(accept);
    Ok(laps)
}

#[test]
fn a_lasting_source_leaps_and_never_starts_again() {
    let mut window = ReplayWindow::new();
    assert_eq!(receive_lasting(&mut window, 3), Ok(0));
    assert_eq!(receive_lasting(&mut window, 65_535), Err(DropReason::TooOld), "before its first");
    assert_eq!(receive_lasting(&mut window, 32_770), Ok(0), "as far as can be told");
    assert_eq!(receive_lasting(&mut window, 65_000), Ok(0));
    assert_eq!(receive_lasting(&mut window, 10), Ok(1));
    assert_eq!(receive_lasting(&mut window, 65_000), Err(DropReason::Replayed));
    assert_eq!(receive_lasting(&mut window, 65_001), Ok(0));
    for seq in [30_000, 30_001, 30_002] {
        let mut behind = ReplayWindow::new();
        assert_eq!(receive_lasting(&mut behind, 32_000), Ok(0));
        assert_eq!(receive_lasting(&mut behind, seq), Err(DropReason::TooOld));
    }
}

#[test]
fn a_whole_lap_is_accepted_and_counted() {
    let start = 65_000u16;
    let mut window = after((0..=u16::MAX).map(|step| start.wrapping_add(step)));
    assert_eq!(window.highest(), Some(LAP + 65_000 + 65_535));
    assert_eq!(receive(&mut window, start.wrapping_sub(1)), Err(DropReason::Replayed));
    assert_eq!(receive(&mut window, start), Ok(false));
}

#[test]
fn a_late_packet_from_before_the_wrap_is_accepted_once() {
    let mut window = after([65_534, 1]);
    assert_eq!(window.check(65_535).unwrap().index(), LAP + 65_535);
    assert_eq!(window.check(2).unwrap().index(), 2 * LAP + 2);
    assert_eq!(receive(&mut window, 65_535), Ok(false));
    assert_eq!(receive(&mut window, 65_535), Err(DropReason::Replayed));
    assert_eq!(receive(&mut window, 0), Ok(false));
    let mut first = after([0]);
    assert_eq!(first.check(65_535).unwrap().index(), LAP - 1);
    assert_eq!(receive(&mut first, 65_535), Ok(false));
}

#[test]
fn a_gap_forgets_what_its_places_held() {
    for gap in [2, 63, 64, 65, 1_023, 1_024, 1_025, 3_000] {
        let mut window = after(0..1_024);
        assert_eq!(receive(&mut window, 1_023 + gap), Ok(false));
        for late in 1_024.max((gap + 1_023).saturating_sub(1_023))..1_023 + gap {
            assert_eq!(receive(&mut window, late), Ok(false), "{late} after a gap of {gap}");
        }
    }
}

#[test]
fn one_packet_far_ahead_is_dropped_and_a_second_in_a_row_restarts() {
    let mut window = after([100]);
    assert_eq!(receive(&mut window, 3_101), Err(DropReason::SequenceJump));
    assert_eq!(receive(&mut window, 3_102), Ok(true));
    assert_eq!(receive(&mut window, 3_103), Ok(false));
    assert_eq!(receive(&mut window, 3_101), Ok(false), "late, after all");
    assert_eq!(receive(&mut window, 3_102), Err(DropReason::Replayed));
    assert_eq!(after([100, 3_100]).highest(), Some(LAP + 3_100));
}

#[test]
fn a_source_that_starts_again_at_nought_is_taken_up() {
    let mut window = after([1_500]);
    assert_eq!(receive(&mut window, 0), Err(DropReason::TooOld));
    assert_eq!(receive(&mut window, 1), Ok(true));
    assert_eq!(window.highest(), Some(2 * LAP + 1));
    let mut window = after([30_000]);
    assert_eq!(receive(&mut window, 0), Err(DropReason::SequenceJump));
    assert_eq!(receive(&mut window, 1), Ok(true));
}

#[test]
fn two_jumps_that_do_not_follow_each_other_restart_nothing() {
    let mut window = after([100]);
    for seq in [20_000, 30_000, 20_001, 20_000, 30_001, 30_001] {
        assert_eq!(receive(&mut window, seq), Err(DropReason::SequenceJump), "{seq}");
    }
    assert_eq!(receive(&mut window, 30_002), Ok(true));
}

#[test]
fn a_packet_in_sequence_ends_the_suspicion_of_a_jump() {
    let mut window = after([100]);
    assert_eq!(receive(&mut window, 20_000), Err(DropReason::SequenceJump));
    assert_eq!(receive(&mut window, 101), Ok(false));
    assert_eq!(receive(&mut window, 20_001), Err(DropReason::SequenceJump));
}

#[test]
fn a_forged_packet_changes_nothing() {
    let window = after([100]);
    let before = format!("{window:?}");
    for seq in 0..=u16::MAX {
        let _ = window.check(seq).map(drop);
    }
    assert_eq!(format!("{window:?}"), before);
}

/// What the window should do, remembering every packet.
#[derive(Default)]
struct Model {
    seen: HashSet<i64>,
    highest: Option<i64>,
    confirming: Option<u16>,
}

impl Model {
    fn receive(&mut self, seq: u16, authentic: bool) -> Result<bool, DropReason> {
        let Some(highest) = self.highest else {
            if authentic {
                self.accept(i64::from(seq));
            }
            return Ok(false);
        };
        let ahead = (i64::from(seq) - highest).rem_euclid(65_536);
        let index = if ahead <= 3_000 { highest + ahead } else { highest + ahead - 65_536 };
        let verdict = if index > highest - 1_024 {
            if self.seen.contains(&index) { Err(DropReason::Replayed) } else { Ok(false) }
        } else if self.confirming == Some(seq) {
            Ok(true)
        } else if index >= highest - 3_000 {
            Err(DropReason::TooOld)
        } else {
            Err(DropReason::SequenceJump)
        };
        if authentic {
            match verdict {
                Ok(false) => self.accept(index),
                Ok(true) => {
                    self.seen.clear();
                    self.highest = None;
                    self.accept(i64::from(seq));
                }
                Err(DropReason::Replayed) => {}
                Err(_) => self.confirming = Some(seq.wrapping_add(1)),
            }
        }
        verdict
    }

    fn accept(&mut self, index: i64) {
        self.seen.insert(index);
        self.highest = Some(self.highest.map_or(index, |highest| highest.max(index)));
        self.confirming = None;
    }
}

fn walk() -> impl Strategy<Value = Vec<(i32, bool)>> {
    let distance = prop_oneof![
        6 => Just(1),
        4 => -6..6i32,
        3 => -1_100..1_100i32,
        2 => prop_oneof![-1_025..-1_022i32, 2_999..3_002i32, -3_002..-2_999i32],
        1 => -40_000..40_000i32,
    ];
    proptest::collection::vec((distance, prop::bool::weighted(0.9)), 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_window_does_what_a_model_that_remembers_everything_does(
        start: u16, walk in walk(),
    ) {
        let (mut window, mut model) = (ReplayWindow::new(), Model::default());
        let mut seq = start;
        let mut highest = None;
        for (distance, authentic) in walk {
            seq = seq.wrapping_add(distance as u16);
            let expected = model.receive(seq, authentic);
            let verdict = if authentic {
                receive(&mut window, seq)
            } else {
                window.check(seq).map(|accept| accept.restarted())
            };
            prop_assert_eq!(verdict, expected);
            prop_assert!(window.highest() >= highest, "extended numbers never go back");
            highest = window.highest();
            prop_assert_eq!(highest.map(|highest| highest as u16),
                model.highest.map(|highest| highest.rem_euclid(65_536) as u16));
        }
    }
}
