//! A core without its thread: what it keeps for a control that does not listen.

use super::*;
use crate::{
    crypto::Mode,
    id::Serial,
    ring::{RingConfig, socket},
    webrtc::Identity,
};

/// A shard's core whose reports go to `to_control`.
fn core(to_control: Sender<ToControl>) -> Core {
    let config = ShardConfig {
        id: ShardId(0),
        modes: Mode::ALL.to_vec(),
        public_ip: [127, 0, 0, 1].into(),
        public_port: 50_000,
        resume_window: std::time::Duration::from_secs(60),
        speaking_events: true,
        identity: Identity::generate().expect("a certificate"),
    };
    let local = ([127, 0, 0, 1], 0).into();
    let socket = socket::open(local, socket::SocketBuffers::default()).expect("a socket");
    let ring = Ring::new(&RingConfig::default(), socket).expect("a ring");
    Core::new(config, ring, 0, Rc::default(), to_control, Vec::new(), 0)
}

fn identified(serial: u64) -> News {
    News::Event(Event::Identified { serial: Serial(serial) })
}

#[test]
fn every_limit_that_is_counted_is_in_the_manual() {
    let manual = include_str!("../../docs/operating.md");
    for limit in LIMITS {
        assert!(manual.contains(&format!("| `{limit}` |")), "{limit}");
    }
}

#[test]
fn a_control_that_does_not_listen_loses_who_speaks_and_never_who_came_and_went() {
    let (to_control, control) = async_channel::bounded(1);
    let core = core(to_control);
    let lost = |core: &Core| core.limited.borrow()[Limit::QueueFull as usize];
    core.tell_control(identified(0));
    core.tell_control(identified(1));
    for flags in 1..CONTROL_BACKLOG_MAX {
        let (serial, flags) = (Serial(1), flags as u32 % 2);
        core.tell_control(News::Event(Event::Speaking { serial, flags }));
    }
    assert_eq!((core.backlog.borrow().len(), lost(&core)), (CONTROL_BACKLOG_MAX, 0), "all fits");
    core.tell_control(News::Event(Event::Video { serial: Serial(1), active: true }));
    core.tell_control(News::Event(Event::Speaking { serial: Serial(1), flags: 1 }));
    assert_eq!((core.backlog.borrow().len(), lost(&core)), (CONTROL_BACKLOG_MAX, 2));
    core.tell_control(identified(2));

    let mut heard = Vec::new();
    while let Ok(ToControl { news: News::Event(event), .. }) = control.try_recv() {
        if let Event::Identified { serial } = event {
            heard.push(serial.0);
        }
        core.drain_backlog();
    }
    assert_eq!(heard, [0, 1, 2]);
    assert!(core.backlog.borrow().is_empty());
}

#[test]
fn media_that_has_waited_is_seen_to_between_pieces_of_other_work_however_long_they_are() {
    let (to_control, _control) = async_channel::bounded(1);
    let core = core(to_control);
    let media = core.ring.borrow().local_addr().expect("an address");
    let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    core.look();
    for seen in 1..=10 {
        peer.send_to(b"nobody knows this one", media).expect("room");
        std::thread::sleep(10 * MEDIA_LATENCY);
        core.relieve();
        assert_eq!(core.inspect(Rooms::None).counters.packets_in, seen);
    }
}
