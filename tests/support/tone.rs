//! Voices that can be told apart: endless sine tones to speak, and the Goertzel filter that says
//! which of them was heard.

use std::{
    f64::consts::TAU,
    io::{Read, Result, Seek, SeekFrom},
};

use symphonia::core::io::MediaSource;

/// Samples a second, per channel.
pub const SAMPLE_RATE: u32 = 48_000;

/// The voices of the tests, Hz: far from each other's harmonics.
pub const VOICES: [f64; 5] = [440.0, 550.0, 660.0, 770.0, 910.0];

/// An endless sine as interleaved stereo `f32`, little-endian.
pub struct Sine {
    frequency: f64,
    frame: u64,
    pending: Vec<u8>,
}

impl Sine {
    pub fn new(frequency: f64) -> Self {
        Self { frequency, frame: 0, pending: Vec::new() }
    }

    /// The next sample of one channel, at half of full scale.
    pub fn sample(&mut self) -> f32 {
        let phase = self.frame as f64 * self.frequency / f64::from(SAMPLE_RATE);
        self.frame += 1;
        (0.5 * (TAU * phase).sin()) as f32
    }
}

impl Read for Sine {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while self.pending.len() < buffer.len() {
            let bytes = self.sample().to_le_bytes();
            self.pending.extend([bytes, bytes].concat());
        }
        let rest = self.pending.split_off(buffer.len());
        buffer.copy_from_slice(&self.pending);
        self.pending = rest;
        Ok(buffer.len())
    }
}

impl Seek for Sine {
    fn seek(&mut self, _: SeekFrom) -> Result<u64> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

impl MediaSource for Sine {
    fn is_seekable(&self) -> bool {
        false
    }

    fn byte_len(&self) -> Option<u64> {
        None
    }
}

/// Share of the samples' energy at this frequency: 1 for a pure tone of it, near 0 for any other.
pub fn share(samples: &[i16], frequency: f64) -> f64 {
    let coefficient = 2.0 * (TAU * frequency / f64::from(SAMPLE_RATE)).cos();
    let (mut last, mut before, mut energy) = (0.0, 0.0, 0.0);
    for &sample in samples {
        let sample = f64::from(sample);
        energy += sample * sample;
        (last, before) = (sample + coefficient * last - before, last);
    }
    let power = last * last + before * before - coefficient * last * before;
    if energy == 0.0 { 0.0 } else { 2.0 * power / (energy * samples.len() as f64) }
}

/// Which of [`VOICES`] this is; `None` if no one of them stands out.
pub fn voice(samples: &[i16]) -> Option<f64> {
    VOICES.into_iter().find(|&frequency| share(samples, frequency) > 0.8)
}
