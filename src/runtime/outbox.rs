//! The queue as the link sees it: records become messages when they leave.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::clock::{Clock, Epoch};
use crate::link::{Outbound, Outbox, Refusal};
use crate::model::{Mono, Now, Stamp, Wall};
use crate::queue::{self, Gap, Shared};
use crate::wire::Record;
use crate::wire::record::Sending;
use crate::wire::sparkplug::{self, Data, Speaker, Word};

use super::batches::{Batches, Held};

/// A stamp as the queue keeps it: by the clock of this boot, so that a later process can put it right too.
pub(super) fn queue_stamp(stamp: &Stamp, epoch: Epoch) -> queue::Stamp {
    let mono = epoch.start + stamp.mono.0.as_millis() as u64;
    queue::Stamp { wall: stamp.wall.0, mono, boot: epoch.id, synced: stamp.synced }
}

/// The Sparkplug node's voice on one connection. Until the births of that very connection are there nothing leaves, so
/// that what comes in the meantime counts as waiting.
struct Stage {
    speaker: Speaker,
    /// The connection that the link has.
    connection: Option<u64>,
    /// Births came before their connection, and what was said since.
    early: Vec<Word>,
    open: bool,
    /// To be sent next.
    ready: VecDeque<Outbound>,
}

/// Words that may come before their connection: births, and what changes in the moment until the link is there.
const EARLY: usize = 256;

impl Stage {
    fn new(settings: sparkplug::Settings) -> Stage {
        Stage {
            speaker: Speaker::new(settings),
            connection: None,
            early: Vec::new(),
            open: false,
            ready: VecDeque::new(),
        }
    }

    /// Gives whether it opens.
    fn say(&mut self, word: Word, now: Wall) -> bool {
        if let Word::Born(birth) = &word
            && !(self.open && self.connection == Some(birth.connection))
        {
            let here = self.connection == Some(birth.connection);
            self.early = vec![word];
            return here && self.begin(now);
        }
        if self.open {
            self.utter(word, now);
        } else if !self.early.is_empty() && self.early.len() < EARLY {
            self.early.push(word);
        }
        false
    }

    /// The link has a connection; gives whether it opens.
    fn linked(&mut self, connection: u64, now: Wall) -> bool {
        self.cut();
        self.connection = Some(connection);
        let here = matches!(self.early.first(), Some(Word::Born(birth)) if birth.connection == connection);
        here && self.begin(now)
    }

    fn begin(&mut self, now: Wall) -> bool {
        for word in std::mem::take(&mut self.early) {
            self.utter(word, now);
        }
        self.open = true;
        true
    }

    fn utter(&mut self, word: Word, now: Wall) {
        let said = self.speaker.say(word, now).into_iter();
        self.ready.extend(said.map(|message| Outbound { token: None, message }));
    }

    /// A reading is about to leave.
    fn read(&mut self, record: &Record, sending: &Sending) {
        let Record::Reading(reading) = record else { return };
        let Some(told) = &reading.told else { return };
        let data = Data {
            device: &told.device,
            metric: &told.metric,
            value: told.value.as_ref().unwrap_or(&reading.value),
            quality: reading.quality,
            time: sending.time().0,
            historical: sending.replayed,
        };
        let said = self.speaker.reading(&data, sending.now.wall).into_iter();
        self.ready.extend(said.map(|message| Outbound { token: None, message }));
    }

    /// The connection is gone; gives whether it was open.
    fn cut(&mut self) -> bool {
        self.connection = None;
        self.ready.clear();
        self.speaker.silence();
        std::mem::take(&mut self.open)
    }
}

/// The queue as the link sees it.
pub(super) struct QueueOutbox {
    queue: Shared,
    clock: Arc<Clock>,
    link: Notify,
    hub: Arc<Notify>,
    /// Whoever else waits for the queue's thread.
    others: Notify,
    /// A timer is set for the next report of loss.
    told: AtomicBool,
    /// The hub holds devices back.
    holding: AtomicBool,
    /// A timer is set for the next record that the replay rate allows.
    paced: AtomicBool,
    /// Where the gateway is a Sparkplug node: what it says there.
    stage: Option<Mutex<Stage>>,
    /// Readings that wait for others. Never locked before the queue is let go.
    batches: Mutex<Batches>,
    /// For which moment a timer is set that lets a batch go, in milliseconds of the clock; 0: none is.
    ripens: AtomicU64,
    /// For timers, which must not keep it alive.
    this: Weak<QueueOutbox>,
}

impl QueueOutbox {
    pub(super) fn new(
        queue: Shared,
        clock: Arc<Clock>,
        hub: Arc<Notify>,
        sparkplug: Option<sparkplug::Settings>,
    ) -> Arc<QueueOutbox> {
        Arc::new_cyclic(|this| QueueOutbox {
            queue,
            clock,
            link: Notify::new(),
            hub,
            others: Notify::new(),
            told: AtomicBool::new(false),
            holding: AtomicBool::new(false),
            paced: AtomicBool::new(false),
            stage: sparkplug.map(|settings| Mutex::new(Stage::new(settings))),
            batches: Mutex::default(),
            ripens: AtomicU64::new(0),
            this: this.clone(),
        })
    }

    /// Something is said in Sparkplug, before all that waits. Nothing leaves a connection before its births.
    pub(super) fn say(&self, word: Word) {
        let Some(mut stage) = self.stage() else { return };
        if stage.say(word, self.clock.now().wall) {
            self.queue.lock().link_up();
        }
        drop(stage);
        self.link.notify_one();
    }

    fn stage(&self) -> Option<MutexGuard<'_, Stage>> {
        Some(self.stage.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// There is something new for the link.
    pub(super) fn wake_link(&self) {
        self.link.notify_one();
    }

    /// The queue's thread has done something: perhaps there are records to take, or gaps to tell.
    pub(super) fn news(&self) {
        self.link.notify_one();
        self.hub.notify_one();
        self.others.notify_waiters();
    }

    /// Whether nothing waits.
    pub(super) fn idle(&self) -> bool {
        self.queue.lock().stats().waiting == 0
    }

    /// Until the queue's thread or the broker has done something after this call.
    pub(super) fn stirred(&self) -> Notified<'_> {
        self.others.notified()
    }

    /// Whether devices should be held back for a moment; the hub is woken when they need not.
    pub(super) fn pressed(&self) -> bool {
        let pressed = self.queue.lock().pressed();
        self.holding.store(pressed, Ordering::Relaxed);
        pressed
    }

    /// Reports of loss that have stopped growing; the hub is woken when there are more.
    pub(super) fn take_gaps(&self) -> Vec<Gap> {
        let now = self.clock.now().mono.0;
        let mut queue = self.queue.lock();
        let gaps = queue.take_settled_gaps(now);
        let next = queue.next_gap(now);
        drop(queue);
        if let Some(wait) = next
            && !self.told.swap(true, Ordering::Relaxed)
        {
            let this = self.this.clone();
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                if let Some(this) = this.upgrade() {
                    this.told.store(false, Ordering::Relaxed);
                    this.hub.notify_one();
                }
            });
        }
        gaps
    }

    fn batches(&self) -> MutexGuard<'_, Batches> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on no reading waits for others.
    pub(super) fn flush(&self) {
        self.batches().flush();
        self.link.notify_one();
    }

    /// Whether readings are on their way in batches, or wait for others.
    pub(super) fn holds(&self) -> bool {
        self.batches().holds()
    }

    /// Sets a timer for the next batch that goes of itself.
    fn wake_link_for_batch(&self, now: Duration) {
        let Some(due) = self.batches().due() else { return };
        let (wait, due) = (due.saturating_sub(now), (due.as_millis() as u64).max(1));
        let set = self.ripens.load(Ordering::Relaxed);
        if set != 0 && set <= due {
            return;
        }
        self.ripens.store(due, Ordering::Relaxed);
        let this = self.this.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(this) = this.upgrade() {
                let _ = this.ripens.compare_exchange(due, 0, Ordering::Relaxed, Ordering::Relaxed);
                this.link.notify_one();
            }
        });
    }

    fn wake_link_after(&self, wait: Duration) {
        if self.paced.swap(true, Ordering::Relaxed) {
            return;
        }
        let this = self.this.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(this) = this.upgrade() {
                this.paced.store(false, Ordering::Relaxed);
                this.link.notify_one();
            }
        });
    }
}

impl Outbox for QueueOutbox {
    fn take(&self) -> Option<Outbound> {
        let mut stage = self.stage();
        loop {
            let now = self.clock.now();
            if let Some(stage) = &mut stage {
                if !stage.open {
                    return None;
                }
                if let Some(next) = stage.ready.pop_front() {
                    return Some(next);
                }
            }
            let epoch = self.clock.epoch();
            let by_boot = Now { mono: Mono(now.mono.0 + Duration::from_millis(epoch.start)), ..now };
            {
                let mut batches = self.batches();
                batches.ripen(now.mono.0);
                if let Some((token, message)) = batches.next(&by_boot) {
                    return Some(Outbound { token: Some(token), message });
                }
            }
            let mut queue = self.queue.lock();
            // The queue learns of a clock that was set.
            queue.set_clock(now.mono.0, queue_stamp(&now.stamp(), epoch));
            let Some(out) = queue.take(now.mono.0) else {
                let wait = queue.next_take(now.mono.0);
                let lost = queue.next_gap(now.mono.0).is_some();
                drop(queue);
                if lost && !self.told.load(Ordering::Relaxed) {
                    self.hub.notify_one();
                }
                if let Some(wait) = wait {
                    self.wake_link_after(wait);
                }
                self.wake_link_for_batch(now.mono.0);
                let stage = stage.as_mut().filter(|stage| stage.speaker.haunted() && self.idle())?;
                return stage.speaker.idle(now.wall).map(|message| Outbound { token: None, message });
            };
            drop(queue);
            let sending = Sending {
                seq: out.seq,
                replayed: out.replayed,
                taken: Stamp {
                    wall: Wall(out.stamp.wall),
                    mono: Mono(Duration::from_millis(out.stamp.mono)),
                    synced: out.stamp.synced,
                },
                ours: out.stamp.boot == epoch.id,
                expires_in: out.expires_in,
                now: by_boot,
            };
            match Record::decode(&out.body) {
                Ok(record) => {
                    if let Some(stage) = &mut stage {
                        stage.read(&record, &sending);
                    }
                    match record {
                        Record::Reading(reading) if reading.batch.is_some() => {
                            self.batches().add(Held { token: out.token, reading, sending }, now.mono.0);
                        }
                        record => {
                            let last = Outbound { token: Some(out.token), message: record.into_message(&sending) };
                            // what Sparkplug says of it goes first
                            let Some(stage) = &mut stage else { return Some(last) };
                            stage.ready.push_back(last);
                        }
                    }
                }
                Err(why) => {
                    log::error!("a record of the queue cannot be read: {why}");
                    self.queue.lock().refuse(out.token, &format!("it cannot be read: {why}"), now.mono.0);
                }
            }
        }
    }

    fn done(&self, token: u64) {
        let batch = self.batches().done(token);
        let mut queue = self.queue.lock();
        match batch {
            Some(tokens) => tokens.into_iter().for_each(|token| queue.done(token)),
            None => queue.done(token),
        }
        self.others.notify_waiters();
        if self.holding.load(Ordering::Relaxed) && !queue.pressed() {
            self.hub.notify_one();
        }
    }

    fn refused(&self, token: u64, refusal: Refusal) -> bool {
        let parts = match &refusal {
            Refusal::Retry => self.batches().done(token),
            Refusal::DeadLetter { code, .. } => self.batches().take_apart(token, *code),
        };
        let mut queue = self.queue.lock();
        match (refusal, parts) {
            (refusal, Some(tokens)) => {
                tokens.into_iter().for_each(|token| queue.retry(token));
                refusal == Refusal::Retry
            }
            (Refusal::Retry, None) => {
                queue.retry(token);
                true
            }
            (Refusal::DeadLetter { text, .. }, None) => {
                queue.refuse(token, &text, self.clock.now().mono.0);
                true
            }
        }
    }

    fn link_up(&self, connection: u64) {
        match self.stage() {
            None => self.queue.lock().link_up(),
            Some(mut stage) => {
                if stage.linked(connection, self.clock.now().wall) {
                    self.queue.lock().link_up();
                }
            }
        }
    }

    fn link_down(&self) {
        self.batches().clear();
        if self.stage().is_none_or(|mut stage| stage.cut()) {
            self.queue.lock().link_down();
        }
    }

    fn wake(&self) -> &Notify {
        &self.link
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sparkplug::{Birth, Device};

    fn born(connection: u64) -> Word {
        let devices = vec![Device { name: "door".into(), metrics: vec![], alive: true }];
        Word::Born(Birth { connection, bd_seq: 0, node: vec![], devices })
    }
    fn stage() -> Stage {
        Stage::new(sparkplug::Settings { group: "g".into(), node: "n".into(), ..Default::default() })
    }
    fn ready(stage: &mut Stage) -> Vec<String> {
        stage.ready.drain(..).map(|out| out.message.topic).collect()
    }
    const NOW: Wall = Wall(1);
    const BIRTHS: [&str; 2] = ["spBv1.0/g/NBIRTH/n", "spBv1.0/g/DBIRTH/n/door"];

    #[test]
    fn births_open_the_connection_that_they_are_for_whichever_comes_first() {
        let mut stage = stage();
        assert!(!stage.linked(1, NOW) && !stage.open);
        assert!(stage.say(born(1), NOW) && stage.open);
        assert_eq!(ready(&mut stage), BIRTHS);
        assert!(stage.cut() && !stage.open);
        assert!(!stage.say(born(2), NOW));
        // what is said until the link is there comes behind
        assert!(!stage.say(Word::Dead("door".into()), NOW));
        assert!(stage.linked(2, NOW));
        assert_eq!(ready(&mut stage), [BIRTHS[0], BIRTHS[1], "spBv1.0/g/DDEATH/n/door"]);
    }

    #[test]
    fn births_of_a_connection_that_has_ended_are_not_said_on_the_next() {
        let mut stage = stage();
        // the hub is behind: the link has broken and come again
        stage.linked(1, NOW);
        assert!(!stage.cut());
        stage.linked(2, NOW);
        assert!(!stage.say(born(1), NOW) && !stage.open);
        assert!(!stage.say(Word::Dead("door".into()), NOW));
        assert!(stage.say(born(2), NOW));
        assert_eq!(ready(&mut stage), BIRTHS);
        // a rebirth on the open connection
        assert!(!stage.say(born(2), NOW));
        assert_eq!(ready(&mut stage), BIRTHS);
    }

    #[test]
    fn what_comes_too_early_takes_bounded_room() {
        let mut stage = stage();
        stage.say(born(1), NOW);
        (0..10_000).for_each(|_| assert!(!stage.say(Word::Dead("door".into()), NOW)));
        assert!(stage.early.len() <= EARLY);
    }
}
