//! What this host has for us: cores, memory, the speed of its network card. Reads `/proc` and
//! `/sys` once; what cannot be read is `None`.

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
    /// Of this host, as far as this process may use it: its affinity and its control group's limits
    /// are those of a server in the same container.
    pub fn here() -> Self {
        let text = |path| fs::read_to_string(path).ok();
        let groups = Path::new("/sys/fs/cgroup");
        let group = text("/proc/self/cgroup")
            .and_then(|text| Some(text.strip_prefix("0::/")?.trim().to_owned()));
        let of_group = |limit: fn(&Path) -> Option<f64>| {
            let own = groups.join(group.as_deref()?);
            let up = own.ancestors().take_while(|path| path.starts_with(groups));
            up.filter_map(limit).reduce(f64::min)
        };
        let least = |a: Option<f64>, b: Option<f64>| [a, b].into_iter().flatten().reduce(f64::min);
        let allowed = Some(machine::cores().len() as f64).filter(|cores| *cores > 0.0);
        Self {
            cores: least(allowed, of_group(cores_of_group)),
            memory_bytes: least(
                text("/proc/meminfo").and_then(|text| memory(&text)),
                of_group(memory_of_group),
            ),
            network_bits: fastest_card(Path::new("/sys/class/net")),
        }
    }
}

/// Cores that a control group of version 2 lets its processes use: quota by period.
fn cores_of_group(group: &Path) -> Option<f64> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let mut words = text.split_whitespace().map(str::parse::<f64>);
    // No quota is the word `max`.
    let (quota, period) = (words.next()?.ok()?, words.next()?.ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// Bytes that it lets them have.
fn memory_of_group(group: &Path) -> Option<f64> {
    fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok()
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
    fn a_control_groups_limits_are_read_and_none_is_no_limit() {
        let group = tempfile::tempdir().unwrap();
        let write = |name, text| fs::write(group.path().join(name), text).unwrap();
        assert_eq!((cores_of_group(group.path()), memory_of_group(group.path())), (None, None));
        write("cpu.max", "250000 100000\n");
        write("memory.max", "4294967296\n");
        let found = (cores_of_group(group.path()), memory_of_group(group.path()));
        assert_eq!(found, (Some(2.5), Some(4_294_967_296.0)));
        write("cpu.max", "max 100000\n");
        write("memory.max", "max\n");
        assert_eq!((cores_of_group(group.path()), memory_of_group(group.path())), (None, None));
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
