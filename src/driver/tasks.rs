//! What a shard's loop knows of its connections' tasks: whether one has done something, wants to go
//! on after the others, or waits for a time.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use glommio::timer::Timer;
use slab::Slab;

/// What a task is to do; taken from it when the executor ends.
type Work = Rc<RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>>>;

/// All tasks of one shard.
#[derive(Default)]
pub struct Tasks {
    works: RefCell<Slab<Work>>,
    polls: Cell<u64>,
    rounds: Cell<u64>,
    resting: RefCell<Vec<Waker>>,
    /// One reference more than there are deadlines.
    deadlines: Rc<()>,
}

impl Tasks {
    /// Spawns a task, in a round of the executor, and polls it.
    pub fn spawn(self: &Rc<Self>, work: impl Future<Output = ()> + 'static) {
        let work: Work = Rc::new(RefCell::new(Some(Box::pin(work))));
        let index = self.works.borrow_mut().insert(work.clone());
        let tasks = self.clone();
        let task = poll_fn(move |context| {
            tasks.polls.set(tasks.polls.get() + 1);
            let mut work = work.borrow_mut();
            let Some(left) = work.as_mut() else { return Poll::Ready(()) };
            let polled = left.as_mut().poll(context);
            if polled.is_ready() {
                *work = None;
                tasks.works.borrow_mut().remove(index);
            }
            polled
        });
        glommio::spawn_local(task).detach();
    }

    /// Drops what all tasks hold. glommio 0.9 would keep it when it is dropped itself: sockets, and
    /// the ring of a shard that starts anew, which would go on to receive. It still keeps a little
    /// memory and a descriptor, once for each restart of a shard's driver.
    pub fn end(&self) {
        let works = self.works.take();
        for (_, work) in &works {
            // A task that panicked has let go of it.
            if let Ok(mut work) = work.try_borrow_mut() {
                *work = None;
            }
        }
        self.resting.take();
    }

    /// How often tasks have been polled.
    pub fn polls(&self) -> u64 {
        self.polls.get()
    }

    /// Lets all others have their turn: the calling task goes on in the next round, or sooner if
    /// something else wakes it. Whether it was the round.
    pub async fn rest(&self) -> bool {
        let mut resting_since = None;
        poll_fn(|context| match resting_since {
            Some(round) => Poll::Ready(self.rounds.get() != round),
            None => {
                resting_since = Some(self.rounds.get());
                self.resting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// Whether a task rests.
    pub fn has_resting(&self) -> bool {
        !self.resting.borrow().is_empty()
    }

    /// Has those that rest go on, at the beginning of a round.
    pub fn release(&self) {
        self.rounds.set(self.rounds.get() + 1);
        for waker in self.resting.take() {
            waker.wake();
        }
    }

    /// A time that a task can wait for. It comes late if nothing else happens, by as much as the
    /// shard sleeps while there are deadlines.
    pub fn deadline(&self, after: Duration) -> Deadline {
        Deadline { timer: Timer::new(after), _alive: self.deadlines.clone() }
    }

    /// Whether there are deadlines.
    pub fn have_deadlines(&self) -> bool {
        Rc::strong_count(&self.deadlines) > 1
    }
}

/// A time that comes.
#[derive(Debug)]
pub struct Deadline {
    timer: Timer,
    _alive: Rc<()>,
}

impl Future for Deadline {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.timer).poll(context).map(|_| ())
    }
}
