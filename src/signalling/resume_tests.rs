//! The replay buffer against an obvious model: a list that never wraps and never forgets.

use proptest::prelude::*;

use super::*;

fn frame(index: usize, len: usize) -> Frame {
    let mut bytes = vec![0; len.max(8)];
    bytes[..8].copy_from_slice(&(index as u64).to_be_bytes());
    Frame::Binary(bytes)
}

fn replay(buffer: &ReplayBuffer, seq_ack: Option<i64>) -> Result<Vec<Frame>, Gap> {
    buffer.replay_after(seq_ack).map(|frames| frames.cloned().collect())
}

/// A buffer that has given out `count` numbers, all acknowledged.
fn buffer_after(count: usize) -> ReplayBuffer {
    let mut buffer = ReplayBuffer::new();
    for index in 0..count {
        let mut seq = 0;
        buffer.push(|given| {
            seq = given;
            frame(index, 8)
        });
        buffer.acknowledge(seq);
    }
    buffer
}

#[test]
fn room_for_a_storm_of_joins_is_given_back_when_it_is_acknowledged() {
    let mut buffer = ReplayBuffer::new();
    for index in 0..1_000 {
        buffer.push(|_| frame(index, 8));
    }
    buffer.acknowledge(900);
    assert!(buffer.kept.capacity() >= 1_000, "a hundred are still kept");
    buffer.acknowledge(990);
    assert!(buffer.kept.capacity() <= 2 * IDLE_CAPACITY, "{}", buffer.kept.capacity());
    assert_eq!(replay(&buffer, Some(990)).unwrap().len(), 10);
}

#[test]
fn numbers_start_at_one_and_wrap_past_zero() {
    let mut buffer = ReplayBuffer::new();
    let mut given = Vec::new();
    for index in 0..65_537 {
        buffer.push(|seq| {
            given.push(seq);
            frame(index, 8)
        });
    }
    assert_eq!(given[0], 1);
    assert_eq!(given[65_534], 65_535);
    assert_eq!(given[65_535..], [1, 2]);
    assert!(!given.contains(&0));
    assert_eq!(buffer.last(), 2);
}

#[test]
fn replay_crosses_the_wrap_in_order() {
    let mut buffer = buffer_after(65_533);
    for index in 0..4 {
        buffer.push(|_| frame(index, 8));
    }
    assert_eq!(buffer.last(), 2);
    assert_eq!(replay(&buffer, Some(65_534)).unwrap(), [frame(1, 8), frame(2, 8), frame(3, 8)]);
    assert_eq!(replay(&buffer, Some(65_535)).unwrap(), [frame(2, 8), frame(3, 8)]);
    assert_eq!(replay(&buffer, Some(1)).unwrap(), [frame(3, 8)]);
    assert_eq!(replay(&buffer, Some(2)).unwrap(), []);
    buffer.acknowledge(0);
    assert_eq!(buffer.len(), 4, "0 is no number");
    buffer.acknowledge(65_535);
    assert_eq!(replay(&buffer, None).unwrap(), [frame(2, 8), frame(3, 8)]);
    assert_eq!(replay(&buffer, Some(65_534)), Err(Gap));
}

#[test]
fn a_client_that_knows_nothing_gets_everything_kept() {
    let mut buffer = ReplayBuffer::new();
    for index in 0..3 {
        buffer.push(|_| frame(index, 8));
    }
    for nothing in [None, Some(-1), Some(0)] {
        assert_eq!(replay(&buffer, nothing).unwrap().len(), 3, "{nothing:?}");
    }
    buffer.acknowledge(1);
    assert_eq!(replay(&buffer, None).unwrap(), [frame(1, 8), frame(2, 8)]);
}

#[test]
fn acknowledgements_of_numbers_never_given_change_nothing() {
    let mut buffer = buffer_after(10);
    buffer.push(|_| frame(0, 8));
    for seq in [0, 12, 13, 1_000, 32_778] {
        buffer.acknowledge(seq);
        assert_eq!(buffer.len(), 1, "{seq}");
    }
    buffer.acknowledge(11);
    assert!(buffer.is_empty());
}

#[test]
fn impossible_acknowledgements_are_gaps() {
    let mut buffer = buffer_after(10);
    buffer.push(|_| frame(0, 8));
    for seq in [-2, 9, 12, 65_535, 65_536, i64::MAX, i64::MIN] {
        assert_eq!(replay(&buffer, Some(seq)), Err(Gap), "{seq}");
    }
    assert_eq!(replay(&ReplayBuffer::new(), Some(5)), Err(Gap));
}

#[test]
fn too_many_messages_lose_the_oldest_until_the_client_catches_up() {
    let mut buffer = ReplayBuffer::new();
    for index in 0..=REPLAY_MESSAGES_MAX {
        buffer.push(|_| frame(index, 8));
    }
    assert_eq!(buffer.len(), REPLAY_MESSAGES_MAX);
    assert_eq!(replay(&buffer, None), Err(Gap));
    assert_eq!(replay(&buffer, Some(1)).unwrap().len(), REPLAY_MESSAGES_MAX);
    buffer.acknowledge(1);
    assert_eq!(replay(&buffer, None).unwrap().len(), REPLAY_MESSAGES_MAX);
}

#[test]
fn too_many_bytes_lose_the_oldest() {
    let mut buffer = ReplayBuffer::new();
    buffer.push(|_| frame(0, 1));
    buffer.push(|_| frame(1, REPLAY_BYTES_MAX));
    assert_eq!(replay(&buffer, None), Err(Gap));
    assert_eq!(replay(&buffer, Some(1)).unwrap(), [frame(1, REPLAY_BYTES_MAX)]);
    buffer.push(|_| frame(2, REPLAY_BYTES_MAX + 1));
    assert!(buffer.is_empty());
    assert_eq!(replay(&buffer, Some(2)), Err(Gap));
    assert_eq!(replay(&buffer, Some(3)).unwrap(), []);
}

#[derive(Debug, Clone)]
enum Step {
    Push {
        len: usize,
    },
    PushMany {
        count: usize,
    },
    /// Acknowledges the message this many places behind the last one; negative: not given yet.
    Acknowledge {
        behind: i32,
    },
    Replay {
        behind: i32,
    },
    ReplayAll,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (8_usize..100).prop_map(|len| Step::Push { len }),
        1 => (REPLAY_BYTES_MAX / 4..REPLAY_BYTES_MAX * 5 / 4).prop_map(|len| Step::Push { len }),
        1 => (1_usize..REPLAY_MESSAGES_MAX * 5 / 4).prop_map(|count| Step::PushMany { count }),
        2 => (-3_i32..12).prop_map(|behind| Step::Acknowledge { behind }),
        1 => (-3_i32..1_100).prop_map(|behind| Step::Acknowledge { behind }),
        2 => (-3_i32..12).prop_map(|behind| Step::Replay { behind }),
        1 => (-3_i32..1_100).prop_map(|behind| Step::Replay { behind }),
        1 => Just(Step::ReplayAll),
    ]
}

/// Every message ever, by its place from 0; which are kept is worked out anew each time.
struct Model {
    given: Vec<usize>,
    first_kept: usize,
    acknowledged: usize,
}

impl Model {
    fn seq(place: usize) -> u16 {
        (place % 65_535) as u16 + 1
    }

    fn push(&mut self, len: usize) {
        self.given.push(len);
        let bytes = |kept: &[usize]| kept.iter().sum::<usize>();
        while self.given.len() - self.first_kept > REPLAY_MESSAGES_MAX
            || bytes(&self.given[self.first_kept..]) > REPLAY_BYTES_MAX
        {
            self.first_kept += 1;
        }
    }

    fn from(&self, place: usize) -> Vec<Frame> {
        (place..self.given.len()).map(|place| frame(place, self.given[place])).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_buffer_agrees_with_its_model(
        start in prop_oneof![Just(0_usize), 65_400_usize..65_535],
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let mut buffer = buffer_after(start);
        let mut model = Model { given: vec![8; start], first_kept: start, acknowledged: start };
        for step in steps {
            let given = model.given.len() as i64;
            match step {
                Step::Push { len } => {
                    let sent = buffer.push(|seq| {
                        assert_eq!(seq, Model::seq(given as usize));
                        frame(given as usize, len)
                    });
                    prop_assert_eq!(sent, frame(given as usize, len));
                    model.push(len);
                }
                Step::PushMany { count } => {
                    for place in model.given.len()..model.given.len() + count {
                        buffer.push(|_| frame(place, 8));
                        model.push(8);
                    }
                }
                Step::Acknowledge { behind } => {
                    let place = given - 1 - i64::from(behind);
                    if place < 0 {
                        continue;
                    }
                    buffer.acknowledge(Model::seq(place as usize));
                    if place < given {
                        model.first_kept = model.first_kept.max(place as usize + 1);
                        model.acknowledged = model.acknowledged.max(place as usize + 1);
                    }
                }
                Step::Replay { behind } => {
                    let place = given - 1 - i64::from(behind);
                    if place < 0 {
                        continue;
                    }
                    let next = place as usize + 1;
                    let possible = next >= model.first_kept && next <= model.given.len();
                    let expected = if possible { Ok(model.from(next)) } else { Err(Gap) };
                    let seq = i64::from(Model::seq(place as usize));
                    prop_assert_eq!(replay(&buffer, Some(seq)), expected);
                }
                Step::ReplayAll => {
                    let whole = model.acknowledged >= model.first_kept;
                    let expected = if whole { Ok(model.from(model.first_kept)) } else { Err(Gap) };
                    prop_assert_eq!(replay(&buffer, None), expected);
                }
            }
            prop_assert_eq!(buffer.len(), model.given.len() - model.first_kept);
        }
    }
}
