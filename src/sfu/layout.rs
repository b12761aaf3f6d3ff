//! Which number a client gives each RTP header extension, and what a packet says by them. Plain UDP
//! has fixed numbers, browsers offer their own (protocol.md §2.3, §3.4); few offers differ, so
//! hearers name theirs by a small id, and a packet's header is made once for each. Owned by the
//! shard.

use crate::{
    rtp::{Packet, extension::elements},
    webrtc::{Extension, ExtensionMap},
};

/// How many extensions there are.
const EXTENSIONS: usize = Extension::RepairedRid as usize + 1;

/// The header extensions of one packet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a>([&'a [u8]; EXTENSIONS]);

impl<'a> Facts<'a> {
    /// What a packet from a client with these numbers says.
    #[inline]
    pub fn read(packet: &Packet<'a>, numbers: &ExtensionMap) -> Self {
        let mut facts = Self::default();
        let Some((profile, block)) = packet.extension() else { return facts };
        for (id, bytes) in elements(profile, block) {
            if let Some(extension) = numbers.extension(id) {
                facts.0[extension as usize] = bytes;
            }
        }
        facts
    }

    /// The bytes of an extension, empty if the packet has none.
    #[inline]
    pub fn get(&self, extension: Extension) -> &'a [u8] {
        self.0[extension as usize]
    }

    /// The audio level, if it has one: a voice bit, then −dBov.
    #[inline]
    pub fn audio_level(&self) -> Option<u8> {
        self.get(Extension::AudioLevel).first().copied()
    }

    /// The name of the layer it belongs to, or whose retransmission it is.
    pub fn rid(&self) -> Option<&'a [u8]> {
        let names = [self.get(Extension::Rid), self.get(Extension::RepairedRid)];
        names.into_iter().find(|rid| !rid.is_empty())
    }
}

/// Which of the shard's layouts a hearer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayoutId(u16);

impl LayoutId {
    /// [`ExtensionMap::NATIVE`].
    pub const NATIVE: LayoutId = LayoutId(0);
}

/// The layouts of a shard's sessions, each kept once. A session's offer counts as one user.
#[derive(Debug)]
pub struct Layouts(Vec<(ExtensionMap, u32)>);

/// Layouts kept at once. Browsers of one make and version offer the same, so tens are many; whoever
/// comes with another when all are taken is sent no header extensions.
const LAYOUTS_MAX: usize = 1_024;

impl Default for Layouts {
    fn default() -> Self {
        // Plain UDP's, and one without any for who finds no place.
        Self(vec![(ExtensionMap::NATIVE, 1), (ExtensionMap::default(), 1)])
    }
}

impl Layouts {
    /// Takes a session's layout in.
    pub fn enter(&mut self, layout: ExtensionMap) -> LayoutId {
        let same = self.0.iter().position(|(known, users)| *users > 0 && *known == layout);
        let place = match same.or_else(|| self.0.iter().position(|(_, users)| *users == 0)) {
            Some(place) => place,
            None if self.0.len() < LAYOUTS_MAX => {
                self.0.push((layout, 0));
                self.0.len() - 1
            }
            None => 1,
        };
        let (known, users) = &mut self.0[place];
        if *users == 0 {
            *known = layout;
        }
        *users += 1;
        LayoutId(place as u16)
    }

    /// A session that had entered one has gone.
    pub fn leave(&mut self, id: LayoutId) {
        if let Some((_, users)) = self.0.get_mut(usize::from(id.0)) {
            *users = users.saturating_sub(1);
        }
    }

    /// One of them.
    #[inline]
    pub fn get(&self, id: LayoutId) -> &ExtensionMap {
        &self.0[usize::from(id.0)].0
    }

    /// How many differ, plain UDP's and the empty one included.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.iter().filter(|(_, users)| *users > 0).count()
    }
}

const _: () = assert!(LAYOUTS_MAX <= u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(numbers: &[(Extension, u8)]) -> ExtensionMap {
        let mut map = ExtensionMap::default();
        for &(extension, id) in numbers {
            map.insert(extension, id).expect("each once");
        }
        map
    }

    #[test]
    fn a_layout_is_kept_once_and_its_place_used_again() {
        let mut layouts = Layouts::default();
        let chrome = layout(&[(Extension::AudioLevel, 1), (Extension::TransportCc, 3)]);
        let firefox = layout(&[(Extension::AudioLevel, 1), (Extension::TransportCc, 7)]);
        let first = layouts.enter(chrome);
        assert_eq!(layouts.enter(chrome), first);
        let other = layouts.enter(firefox);
        assert_ne!(other, first);
        assert_eq!((layouts.get(first), layouts.get(other)), (&chrome, &firefox));
        assert_eq!(layouts.enter(ExtensionMap::NATIVE), LayoutId::NATIVE);
        layouts.leave(first);
        assert_eq!(layouts.get(first), &chrome, "one still has it");
        layouts.leave(first);
        let third = layout(&[(Extension::AudioLevel, 9)]);
        assert_eq!(layouts.enter(third), first);
        assert_eq!((layouts.get(first), layouts.len()), (&third, 4));
    }

    #[test]
    fn whoever_finds_no_place_has_no_extensions() {
        let mut layouts = Layouts::default();
        let odd = |number: usize| {
            let (level, delay) = ((number % 100) as u8 + 1, (number / 100) as u8 + 101);
            layout(&[(Extension::AudioLevel, level), (Extension::PlayoutDelay, delay)])
        };
        for number in 0..LAYOUTS_MAX - 2 {
            layouts.enter(odd(number));
        }
        assert_eq!(layouts.len(), LAYOUTS_MAX);
        let late = layouts.enter(odd(LAYOUTS_MAX));
        assert_eq!(layouts.get(late), &ExtensionMap::default());
        layouts.leave(late);
        assert_eq!(layouts.get(late), &ExtensionMap::default(), "the empty one stays");
    }

    #[test]
    fn a_packet_is_read_by_its_senders_numbers() {
        let own = [(Extension::AudioLevel, 6), (Extension::Mid, 4), (Extension::Rid, 14)];
        let mut bytes = vec![0x90, 111, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0xBE, 0xDE, 0, 2];
        bytes.extend([0x60, 0x9F, 0x40, b'0', 0xE0, b'h', 0x10, 0x55]);
        let packet = Packet::new(&bytes).unwrap();
        let facts = Facts::read(&packet, &layout(&own));
        assert_eq!(facts.audio_level(), Some(0x9F));
        assert_eq!((facts.get(Extension::Mid), facts.rid()), (&b"0"[..], Some(&b"h"[..])));
        assert_eq!(Facts::read(&packet, &ExtensionMap::NATIVE).audio_level(), Some(0x55));
    }
}
