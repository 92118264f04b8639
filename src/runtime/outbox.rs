//! The queue as the link sees it: records become messages when they leave.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
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
                now: Now { mono: Mono(now.mono.0 + Duration::from_millis(epoch.start)), ..now },
            };
            match Record::decode(&out.body) {
                Ok(record) => {
                    let token = Some(out.token);
                    let Some(stage) = &mut stage else {
                        return Some(Outbound { token, message: record.into_message(&sending) });
                    };
                    stage.read(&record, &sending);
                    stage.ready.push_back(Outbound { token, message: record.into_message(&sending) });
                }
                Err(why) => {
                    log::error!("a record of the queue cannot be read: {why}");
                    self.queue.lock().refuse(out.token, &format!("it cannot be read: {why}"), now.mono.0);
                }
            }
        }
    }

    fn done(&self, token: u64) {
        let mut queue = self.queue.lock();
        queue.done(token);
        self.others.notify_waiters();
        if self.holding.load(Ordering::Relaxed) && !queue.pressed() {
            self.hub.notify_one();
        }
    }

    fn refused(&self, token: u64, refusal: Refusal) {
        match refusal {
            Refusal::Retry => self.queue.lock().retry(token),
            Refusal::DeadLetter { text, .. } => self.queue.lock().refuse(token, &text, self.clock.now().mono.0),
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
        if self.stage().is_none_or(|mut stage| stage.cut()) {
            self.queue.lock().link_down();
        }
    }

    fn wake(&self) -> &Notify {
        &self.link
    }
}
