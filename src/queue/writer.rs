//! THE THREAD between the queue's bookkeeping and the disk. It asks, does, answers, and sleeps in between until
//! there is something to do. The lock is never held while the disk works. Who holds the time himself
//! ([`Writer::by_hand`]) has no thread and does the same work step by step.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::{Log, Queue, Stamp};

/// The system's clocks, under a name that only this process uses.
pub(super) fn system_stamp() -> Stamp {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    Stamp { wall, mono: 0, boot: fastrand::u64(1..), synced: false }
}

struct Inner {
    queue: Mutex<State>,
    wake: Condvar,
    /// Called beside `wake`.
    call: OnceLock<Box<dyn Fn() + Send + Sync>>,
    start: Instant,
}

impl Inner {
    fn wake(&self) {
        self.wake.notify_all();
        if let Some(call) = self.call.get() {
            call();
        }
    }
}

struct State {
    queue: Queue,
    /// Microseconds at which the writer wakes by itself; `None`: it is at work.
    sleeps_until: Option<i64>,
    quit: bool,
}

/// A queue that several threads use.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

/// The queue, locked; the writer is told when this ends, if there is something for it to do.
pub struct Guard<'a> {
    state: MutexGuard<'a, State>,
    inner: &'a Inner,
}

impl Deref for Guard<'_> {
    type Target = Queue;
    fn deref(&self) -> &Queue {
        &self.state.queue
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut Queue {
        &mut self.state.queue
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let sleeps = self.state.sleeps_until;
        if let Some(until) = sleeps
            && self.state.queue.wake_at().is_some_and(|at| at < until)
        {
            self.inner.wake();
        }
    }
}

impl Shared {
    /// Shares `queue`. `start` is the moment that its times count from.
    pub fn new(queue: Queue, start: Instant) -> Shared {
        let state = State { queue, sleeps_until: None, quit: false };
        Shared(Arc::new(Inner { queue: Mutex::new(state), wake: Condvar::new(), call: OnceLock::new(), start }))
    }

    /// The queue, for a moment: nothing slow may be done with it.
    pub fn lock(&self) -> Guard<'_> {
        Guard { state: self.state(), inner: &self.0 }
    }

    /// Time since the start.
    pub fn now(&self) -> Duration {
        self.0.start.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere does not spoil the bookkeeping, which has no half-done states across calls.
        self.0.queue.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Who works for a queue: a thread.
pub struct Writer {
    shared: Shared,
    thread: Option<JoinHandle<()>>,
    by_hand: Option<ByHand>,
}

/// Works for a queue without a thread, whenever it is asked to. Cheap to clone.
#[derive(Clone)]
pub struct ByHand {
    shared: Shared,
    /// `None`: stopped.
    log: Arc<Mutex<Option<Log>>>,
}

impl ByHand {
    /// Does all that is to be done at `now` (time since the start). Whether something new may be taken, and how long
    /// there is nothing to do then (`None`: until the call). Nothing at all: it is over.
    pub fn work(&self, now: Duration) -> Option<(bool, Option<Duration>)> {
        let mut log = self.log.lock().unwrap_or_else(|e| e.into_inner());
        let log = log.as_mut()?;
        let mut news = false;
        loop {
            let mut state = self.shared.state();
            let Some(job) = state.queue.next_job(now) else {
                // as the thread has it: never a busy loop, whatever the queue says
                let wait = state.queue.next_wake(now).map(|w| w.max(Duration::from_millis(1)));
                state.sleeps_until = Some(wait.map_or(i64::MAX, |w| super::policy::us(now + w)));
                return Some((news, wait));
            };
            state.sleeps_until = None;
            drop(state);
            let done = log.run(job);
            news |= self.shared.state().queue.finished(done, now);
        }
    }
}

impl Writer {
    /// Starts the thread. `ready` is called from it whenever something new may be taken.
    pub fn start(shared: Shared, mut log: Log, ready: impl Fn() + Send + 'static) -> std::io::Result<Writer> {
        let mine = shared.clone();
        let thread = std::thread::Builder::new().name("queue".into()).spawn(move || {
            while let Some(job) = mine.next_job() {
                let done = log.run(job);
                let news = mine.state().queue.finished(done, mine.now());
                if news {
                    ready();
                }
            }
        })?;
        Ok(Writer { shared, thread: Some(thread), by_hand: None })
    }

    /// Without a thread, for whoever holds the time himself: [`ByHand::work`] is to be called when its time has come
    /// and when `call` is.
    pub fn by_hand(shared: Shared, log: Log, call: impl Fn() + Send + Sync + 'static) -> (Writer, ByHand) {
        let _ = shared.0.call.set(Box::new(call));
        let by_hand = ByHand { shared: shared.clone(), log: Arc::new(Mutex::new(Some(log))) };
        (Writer { shared, thread: None, by_hand: Some(by_hand.clone()) }, by_hand)
    }

    /// Writes what waits, saves the state exactly and ends the thread. Blocks as long as the disk does.
    pub fn stop(mut self) {
        self.shared.state().queue.stop();
        if let Some(by_hand) = &self.by_hand {
            by_hand.work(self.shared.now());
        }
        self.end();
    }

    fn end(&mut self) {
        self.shared.state().quit = true;
        if let Some(by_hand) = self.by_hand.take() {
            // the directory is free again
            by_hand.log.lock().unwrap_or_else(|e| e.into_inner()).take();
        }
        self.shared.0.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    /// Ends the thread as it is; what waits in memory is not written.
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    /// Waits for something to do; `None`: the thread is to end.
    fn next_job(&self) -> Option<super::Job> {
        let mut state = self.state();
        loop {
            let now = self.now();
            let stopping = state.queue.stopping();
            if state.quit && (!stopping || state.queue.stopped()) {
                return None;
            }
            if let Some(job) = state.queue.next_job(now) {
                state.sleeps_until = None;
                return Some(job);
            }
            let wait = state.queue.next_wake(now);
            // Never a busy loop, whatever the queue says.
            let wait = wait.map(|w| w.max(Duration::from_millis(1)));
            let until = wait.map_or(i64::MAX, |w| super::policy::us(now + w));
            state.sleeps_until = Some(until);
            state = match wait {
                Some(wait) => self.0.wake.wait_timeout(state, wait).map_or_else(|e| e.into_inner().0, |(s, _)| s),
                None => self.0.wake.wait(state).unwrap_or_else(|e| e.into_inner()),
            };
            state.sleeps_until = None;
        }
    }
}
