//! glommio as a shard uses it: it runs the connections' tasks when there is something for them to
//! do, and never sleeps. Who sleeps is the shard's loop, in the media ring, which watches glommio's
//! ring meanwhile (docs/decisions.md, "Where does a shard sleep?").

use std::{
    cell::Cell,
    fs::File,
    future::Future,
    io::Write,
    os::fd::{AsFd, OwnedFd},
    pin::pin,
    rc::Rc,
    sync::{Mutex, PoisonError},
    task::{Context, Waker},
    time::Duration,
};

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, io::BufferedFile, timer::Timer};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::tasks::Tasks;
use crate::ring::fd;

/// Memory glommio sets aside for file I/O, of which a shard does none.
const IO_MEMORY_BYTES: usize = 256 * 1_024;

/// When glommio would interrupt a round. Rounds end by themselves, since tasks rest: a shorter time
/// has glommio 0.9 sleep on tasks that could run, if its thread loses the core at the wrong moment.
const NEVER: Duration = Duration::from_secs(24 * 3_600);

/// Requests that one of glommio's rings takes at once. What is more waits in a queue of glommio's,
/// out of the kernel's sight, for another round.
const RING_DEPTH: usize = 1_024;

/// Requests that are handed over in a round at least: less than fit, for glommio has some itself.
const HANDED_OVER: u64 = 900;

/// Requests that a task makes at most when it is polled: that it can read, that it can write, that
/// it no longer waits for one of them.
const REQUESTS_OF_POLL: u64 = 4;

/// How often a ring must tell what happens to be taken for glommio's: others' rings are busy too.
const SIGNS: usize = 4;

/// Held by who looks for its ring: duplicates that another holds meanwhile would be further
/// descriptors of the same ring, and neither could tell which is its own.
static LOOKING: Mutex<()> = Mutex::new(());

/// How long glommio gets to hand a request to the kernel.
const SUBMIT_PAUSE: Duration = Duration::from_millis(1);

/// One shard's executor, on the thread that made it.
pub struct Executor {
    glommio: LocalExecutor,
    tasks: Rc<Tasks>,
    /// Requests of tasks, at most, that have not been handed to the kernel.
    requests: Cell<u64>,
}

impl Executor {
    /// Pins the calling thread to `cpu` and makes its executor.
    ///
    /// # Errors
    /// The core cannot be had, or an io_uring.
    pub fn new(name: &str, cpu: Option<usize>) -> Result<Self, glommio::GlommioError<()>> {
        let glommio = LocalExecutorBuilder::new(cpu.map_or(Placement::Unbound, Placement::Fixed))
            .io_memory(IO_MEMORY_BYTES)
            .preempt_timer(NEVER)
            .ring_depth(RING_DEPTH)
            .name(name)
            .make()?;
        Ok(Self { glommio, tasks: Rc::default(), requests: Cell::new(1) })
    }

    /// What the loop and the tasks know of each other.
    pub fn tasks(&self) -> &Rc<Tasks> {
        &self.tasks
    }

    /// One round: hands to the kernel what tasks have asked for, does `work`, and has every task go
    /// on that can. Media that arrives meanwhile is the tasks' business (`Core::relieve`).
    pub fn round(&self, work: impl FnOnce()) {
        let before = self.tasks.polls();
        self.glommio.run(async {
            // First, for a new task runs at once and may want to rest.
            self.tasks.release();
            work();
        });
        let left = self.requests.get().saturating_sub(HANDED_OVER);
        self.requests.set(left + REQUESTS_OF_POLL * (self.tasks.polls() - before));
    }

    /// Whether there has to be another round whatever happens.
    pub fn wants_round(&self) -> bool {
        self.requests.get() > 0 || self.tasks.has_resting()
    }

    /// The ring in which glommio waits for sockets: readable when there is something for a round.
    /// `None` if it cannot be told from others. glommio does not give it away, so it is asked: of
    /// all the process's rings it is the one that becomes readable when a read ends that glommio
    /// was asked for.
    pub fn find_ring(&self) -> Option<OwnedFd> {
        let _alone = LOOKING.lock().unwrap_or_else(PoisonError::into_inner);
        self.glommio.run(find_ring())
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.tasks.end();
    }
}

async fn find_ring() -> Option<OwnedFd> {
    let event = eventfd(0, EventfdFlags::CLOEXEC).ok()?;
    let mut signal: File = event.try_clone().ok()?.into();
    let asked: BufferedFile = fd::adopt(event);
    let mut rings = fd::io_urings().ok()?;
    for _ in 0..SIGNS {
        let mut read = pin!(asked.read_at(0, size_of::<u64>()));
        if read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return None;
        }
        Timer::new(SUBMIT_PAUSE).await;
        rings.retain(|ring| !is_readable(ring));
        signal.write_all(&1_u64.to_ne_bytes()).ok()?;
        rings.retain(is_readable);
        read.await.ok()?;
    }
    let ring = rings.pop();
    ring.filter(|_| rings.is_empty())
}

fn is_readable(ring: &OwnedFd) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(ring.as_fd(), PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|readable| readable > 0)
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        net::{TcpListener, TcpStream},
        time::Instant,
    };

    use futures_util::AsyncReadExt;

    use super::*;

    #[test]
    fn its_ring_is_found_beside_others_and_tells_when_a_socket_has_something() {
        let others: Vec<_> = (0..3).map(|_| Executor::new("other", None).unwrap()).collect();
        for other in &others {
            assert!(other.find_ring().is_some(), "whichever is the first of the process");
        }
        let executor = Executor::new("mine", None).unwrap();
        let ring = executor.find_ring().expect("found");

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (served, _) = listener.accept().unwrap();
        let heard = Rc::new(RefCell::new(Vec::new()));
        let tasks = executor.tasks().clone();
        executor.round(|| {
            let mut stream: glommio::net::TcpStream = fd::adopt(served.into());
            let heard = heard.clone();
            tasks.spawn(async move {
                let mut byte = [0];
                while stream.read(&mut byte).await.is_ok_and(|len| len > 0) {
                    heard.borrow_mut().push(byte[0]);
                }
            });
        });
        for byte in 0..100 {
            while executor.wants_round() {
                executor.round(|| ());
            }
            assert!(!is_readable(&ring), "nothing has come");
            client.write_all(&[byte]).unwrap();
            let patience = Instant::now() + Duration::from_secs(60);
            while !is_readable(&ring) && Instant::now() < patience {}
            assert!(is_readable(&ring));
            executor.round(|| ());
            assert_eq!(heard.borrow().last(), Some(&byte));
        }
        drop(others);
    }

    #[test]
    fn executors_that_look_at_the_same_time_all_find_theirs() {
        let start = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            let looking = || {
                let executor = Executor::new("mine", None);
                start.wait();
                executor.unwrap().find_ring().is_some()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(looking)).collect();
            assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
        });
    }

    #[test]
    fn of_more_sockets_than_a_ring_takes_at_once_each_is_heard() {
        const SOCKETS: usize = 3_000;
        let executor = Executor::new("mine", None).unwrap();
        let ring = executor.find_ring().expect("found");
        let tasks = executor.tasks().clone();
        let heard = Rc::new(Cell::new(0));
        let mut near = Vec::new();
        executor.round(|| {
            for _ in 0..SOCKETS {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
                near.push(ours);
                let mut stream: glommio::net::TcpStream = fd::adopt(OwnedFd::from(theirs));
                let (heard, task) = (heard.clone(), tasks.clone());
                tasks.spawn(async move {
                    let mut bytes = [0; 64];
                    while stream.read(&mut bytes).await.is_ok_and(|len| len > 0) {
                        heard.set(heard.get() + 1);
                        task.rest().await;
                    }
                });
            }
        });
        let settle = || {
            while executor.wants_round() {
                executor.round(|| ());
            }
        };
        // All at once, so that all ask anew in one round; then each by itself.
        for (pass, at_once) in [(1, SOCKETS), (2, 1)] {
            for some in near.chunks_mut(at_once) {
                settle();
                let before = heard.get();
                some.iter_mut().for_each(|socket| socket.write_all(b"!").unwrap());
                let patience = Instant::now() + Duration::from_secs(60);
                while heard.get() < before + some.len() && Instant::now() < patience {
                    if executor.wants_round() || is_readable(&ring) {
                        executor.round(|| ());
                    }
                }
                assert_eq!(heard.get(), before + some.len(), "pass {pass}");
            }
        }
    }

    #[test]
    fn a_task_that_always_has_more_to_do_leaves_a_round_its_end() {
        let executor = Executor::new("mine", None).unwrap();
        let tasks = executor.tasks().clone();
        let done = Rc::new(Cell::new(0));
        executor.round(|| {
            for _ in 0..2 {
                let (tasks, done) = (tasks.clone(), done.clone());
                let task = tasks.clone();
                tasks.spawn(async move {
                    loop {
                        done.set(done.get() + 1);
                        task.rest().await;
                    }
                });
            }
        });
        for round in 1..100 {
            assert_eq!(done.get(), 2 * round);
            assert!(executor.wants_round());
            executor.round(|| ());
        }
    }

    #[test]
    fn what_tasks_hold_is_let_go_with_the_executor() {
        let executor = Executor::new("mine", None).unwrap();
        let tasks = executor.tasks().clone();
        let held = Rc::new(());
        executor.round(|| {
            for waiting in [false, true] {
                let (tasks, held) = (tasks.clone(), held.clone());
                let task = tasks.clone();
                tasks.spawn(async move {
                    if waiting {
                        task.deadline(NEVER).await;
                    }
                    task.rest().await;
                    drop(held);
                });
            }
        });
        assert_eq!(Rc::strong_count(&held), 3);
        drop(executor);
        drop(tasks);
        assert_eq!(Rc::strong_count(&held), 1);
    }
}
