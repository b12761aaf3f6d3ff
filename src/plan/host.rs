//! What this host has: cores, memory, the speed of its network card. Reads `/proc` and `/sys` once;
//! what cannot be read is `None`.

use std::{fs, path::Path};

use serde::Serialize;

use crate::load::machine;

/// What there is of each resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Resources {
    /// Cores.
    pub cores: Option<f64>,
    /// Bytes.
    pub memory_bytes: Option<f64>,
    /// Bits a second of the network card.
    pub network_bits: Option<f64>,
}

impl Resources {
    /// Of this host.
    pub fn here() -> Self {
        Self {
            cores: Some(f64::from(machine::processors())),
            memory_bytes: fs::read_to_string("/proc/meminfo").ok().and_then(|text| memory(&text)),
            network_bits: fastest_card(Path::new("/sys/class/net")),
        }
    }
}

fn memory(meminfo: &str) -> Option<f64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1_024.0)
}

/// The fastest card that is up and says how fast it is; a virtual one often does not.
fn fastest_card(cards: &Path) -> Option<f64> {
    let cards = fs::read_dir(cards).ok()?.flatten().map(|card| card.path());
    let speed = |card: &Path| {
        let text = |name| fs::read_to_string(card.join(name)).ok();
        let is_up = text("operstate")?.trim() == "up" && card.join("device").exists();
        let megabits: f64 = text("speed")?.trim().parse().ok()?;
        (is_up && megabits > 0.0).then_some(megabits * 1e6)
    };
    cards.filter_map(|card| speed(&card)).max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(memory("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16_384.0));
        assert_eq!(memory("nothing"), None);
    }

    #[test]
    fn the_fastest_card_that_is_up_counts() {
        let root = tempfile::tempdir().unwrap();
        for (name, state, speed, has_device) in [
            ("a", "up", "1000", true),
            ("b", "up", "10000", true),
            ("c", "down", "40000", true),
            ("d", "up", "-1", true),
            ("lo", "up", "99999", false),
        ] {
            let card = root.path().join(name);
            fs::create_dir_all(&card).unwrap();
            fs::write(card.join("operstate"), format!("{state}\n")).unwrap();
            fs::write(card.join("speed"), format!("{speed}\n")).unwrap();
            if has_device {
                fs::create_dir(card.join("device")).unwrap();
            }
        }
        assert_eq!(fastest_card(root.path()), Some(1e10));
        assert_eq!(fastest_card(Path::new("/nonexistent")), None);
    }
}
