//! One connection, from the first byte to the last: greets, empties the outbox through the window, hands up what comes
//! in, and notices when the broker is dead.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::backlog::Backlog;
use super::connection::{Link, MAX_INCOMING};
use super::fit::{Limits, fit};
use super::preferred::Preferred;
use super::reason::{Cause, Ended, Verdict, clean, code_text, verdict};
use super::session::{Greeting, Heard, Report, Session};
use super::url::BrokerUrl;
use super::window::Window;
use super::witness::Witnesses;
use super::{Ear, LinkConfig, LinkEvent, Protocol, Refusal, Subscription};
use crate::model::{Incoming, Message, Qos};

/// Bytes on their way at a time, beside `in_flight`.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// Filters in one SUBSCRIBE.
const FILTERS: usize = 32;
/// Refused filters are asked for again after this time.
const RESUBSCRIBE: Duration = Duration::from_secs(300);
/// Pauses after "not now" double up to so many times the first.
const NOT_NOW_CAP: u32 = 60;
/// How long a goodbye may take beyond the deadline of a stop.
const GOODBYE: Duration = Duration::from_millis(500);
/// How long the goodbye to a connection that the owner leaves may take.
const DEPART: Duration = Duration::from_secs(2);
/// Messages for the owner that are collected before it is waited for.
const PENDING: usize = 64;
/// Nobody ever subscribes to this: unsubscribing from it changes nothing and is answered, in order.
const BARRIER: &str = "pinpost/none";
/// So many records pass one by one before the window is as wide as ever.
const CAREFUL: u32 = 16;
/// mosquitto ends a 3.1.1 connection with more than 20 unfinished messages of QoS 2, and 3.1.1 cannot say so.
const QOS2_V311: usize = 16;

/// Unanswered packets at a time; the library's ids go round after twice as many.
pub(super) fn window(config: &LinkConfig) -> u16 {
    config.in_flight.clamp(1, 32_000)
}

/// Between pings: at least what the library takes without a panic, at most what fits into CONNECT.
pub(super) fn keep_alive(config: &LinkConfig) -> Duration {
    let least = match config.protocol {
        Protocol::V5 => Duration::from_secs(5),
        Protocol::V311 => Duration::from_secs(1),
    };
    config.keep_alive.clamp(least, Duration::from_secs(u64::from(u16::MAX)))
}

/// What was handed to the library.
pub(super) enum Sent {
    /// By its token, and the how manieth it was.
    Record(u64, u64),
    Own(String),
    Subscribe(Vec<Subscription>),
    Unsubscribe,
    Barrier,
}

/// What goes out before the outbox's turn.
enum Own {
    Publish(Message),
    Subscribe(Vec<Subscription>),
    Unsubscribe(String),
    Barrier,
}

/// One connection.
pub(super) struct Life {
    pub(super) session: Session,
    url: String,
    number: u64,
    window: Window<Sent>,
    own: VecDeque<Own>,
    limits: Limits,
    /// Whether CONNACK came, and when.
    pub(super) welcome: Option<Instant>,
    pub(super) up: bool,
    connect_by: Instant,
    heard: Instant,
    silence: Duration,
    /// Last answer, or since when one is due.
    progress: Instant,
    paused_until: Option<Instant>,
    pause: Duration,
    subscribe_again: Option<(Instant, Vec<Subscription>)>,
    /// Messages that are not acknowledged yet, in the order in which they came: acknowledgements go out in that order
    /// (MQTT 3.1.1 and 5, section 4.6), whatever order the owner gives them in. rumqttd hangs up otherwise.
    owed: VecDeque<Owed>,
    backlog: Backlog,
    /// One packet at a time, until the record that ends connections is found.
    pub(super) careful: bool,
    /// Records that the broker took in this connection.
    taken: u32,
    /// Records that were given out, over all connections.
    given: u64,
    /// While this is not the first broker of the list.
    pub(super) preferred: Option<Preferred>,
    leaving: Option<Instant>,
    goodbye: bool,
    gone: bool,
    /// Why the owner wants another connection.
    pub(super) left: Option<String>,
    /// Those who keep the further wills.
    pub(super) witnesses: Witnesses,
}

/// An acknowledgement that a broker waits for.
struct Owed {
    id: u16,
    qos2: bool,
    /// The owner has acted on the message or refused it.
    ready: bool,
}

impl Life {
    /// A session that is only just connecting.
    pub(super) fn new(session: Session, number: u64, url: &BrokerUrl, config: &LinkConfig) -> Life {
        let now = Instant::now();
        let window = window(config);
        Life {
            session,
            url: url.to_string(),
            number,
            window: Window::new(window, window * 2, WINDOW_BYTES),
            own: VecDeque::new(),
            limits: Limits { v5: false, max_qos: Qos::ExactlyOnce, retain: true, max_packet: None },
            welcome: None,
            up: false,
            connect_by: now + config.patience.connect,
            heard: now,
            silence: keep_alive(config).mul_f32(1.5),
            progress: now,
            paused_until: None,
            pause: config.patience.not_now,
            subscribe_again: None,
            owed: VecDeque::new(),
            backlog: Backlog::default(),
            careful: false,
            taken: 0,
            given: number << 32,
            preferred: None,
            leaving: None,
            goodbye: false,
            gone: false,
            left: None,
            witnesses: Witnesses::default(),
        }
    }

    /// The record that waits longest for its answer, if nothing of our own waits longer.
    pub(super) fn oldest_record(&self) -> Option<u64> {
        match self.window.oldest() {
            Some(Sent::Record(token, _)) => Some(*token),
            _ => None,
        }
    }

    /// The first broker answers again.
    fn moving(&self) -> bool {
        self.leaving.is_none() && self.preferred.as_ref().is_some_and(Preferred::leaving)
    }

    /// Whether a stop is still to be begun: one may come while we leave for another connection.
    fn may_stop(&self) -> bool {
        self.leaving.is_none() || (self.left.is_some() && !self.goodbye)
    }

    /// DISCONNECT is written; the broker closes next, which is waited for a moment so that it surely reads it.
    fn gone_soon(&mut self) {
        self.leaving = Some(Instant::now());
        self.goodbye = true;
    }
}

impl Link {
    /// Ok: stopped in order.
    pub(super) async fn live(&mut self, life: &mut Life) -> Result<(), Ended> {
        let outbox = self.outbox.clone();
        let mut stop = self.stop.clone();
        let alarm = sleep_until(life.connect_by);
        tokio::pin!(alarm);
        loop {
            // before what is to be sent: its answer may come at once
            while let Ok(ear) = self.ears.try_recv() {
                self.ear(life, ear);
            }
            loop {
                let more = self.pump(life);
                if !self.pending.is_empty() {
                    let before = Instant::now();
                    self.tell().await;
                    // While we wait for the owner we do not listen: that is not the broker's silence.
                    let waited = before.elapsed();
                    life.heard += waited;
                    life.progress += waited;
                }
                if !more {
                    break;
                }
            }
            if life.gone {
                return Ok(());
            }
            if life.moving()
                && life.window.is_empty()
                && life.preferred.as_ref().is_some_and(|p| p.moves(!life.owed.is_empty()))
            {
                return Err(Ended::new(Cause::GoBack, "left for the first broker of the list, which answers again"));
            }
            let due = self.due(life);
            if due < alarm.deadline() || alarm.is_elapsed() {
                alarm.as_mut().reset(due);
            }
            tokio::select! {
                report = life.session.reports.recv() => {
                    let mut next = report;
                    let now = Instant::now();
                    loop {
                        match next {
                            Some(Report::Heard(batch)) => {
                                if batch.iter().any(Heard::is_from_broker) {
                                    life.heard = now;
                                }
                                for heard in batch {
                                    self.hear(life, heard)?;
                                }
                            }
                            Some(Report::Ended(_)) if life.goodbye => return Ok(()),
                            Some(Report::Ended(ended)) => return Err(ended),
                            None => return Err(Ended::new(Cause::Broken, "the MQTT library stopped unexpectedly")),
                        }
                        if self.pending.len() >= PENDING {
                            break;
                        }
                        match life.session.reports.try_recv() {
                            Ok(report) => next = Some(report),
                            Err(_) => break,
                        }
                    }
                }
                () = outbox.wake().notified(), if life.up && life.leaving.is_none() && !life.moving() && life.window.room() => {}
                Some(ack) = self.acks.recv() => self.ack(life, ack),
                Some(ear) = self.ears.recv() => self.ear(life, ear),
                Ok(_) = stop.wait_for(|s| s.is_some()), if life.may_stop() => self.leave(life),
                Some((connection, why)) = self.leave.recv() => self.depart(life, connection, why),
                ended = life.witnesses.ended(), if !life.goodbye => return Err(ended),
                there = looked(&mut life.preferred), if life.welcome.is_some() => {
                    if let Some(preferred) = &mut life.preferred {
                        preferred.ended(there);
                    }
                }
                () = alarm.as_mut() => self.check(life)?,
            }
        }
    }

    /// The owner listens to more, or to less.
    fn ear(&mut self, life: &mut Life, ear: Ear) {
        let known = |all: &[Subscription], filter: &str| all.iter().any(|s| s.filter == filter);
        let own = match ear {
            Ear::Open(new) if known(&self.extra, &new.filter) || known(&self.config.subscriptions, &new.filter) => None,
            Ear::Open(new) if !rumqttc::valid_filter(&new.filter) => None,
            Ear::Open(new) => {
                self.extra.push(new.clone());
                Some(Own::Subscribe(vec![new]))
            }
            Ear::Shut(filter) => {
                let before = self.extra.len();
                self.extra.retain(|s| s.filter != filter);
                (self.extra.len() < before).then_some(Own::Unsubscribe(filter))
            }
        };
        // a later connection asks for all of them
        if life.welcome.is_some() && life.leaving.is_none() {
            life.own.extend(own);
        }
    }

    /// The owner wants to stop.
    fn leave(&mut self, life: &mut Life) {
        let now = Instant::now();
        let Some((farewell, deadline)) = self.stop.borrow().as_ref().map(|s| (s.farewell.clone(), s.deadline)) else {
            return;
        };
        life.leaving = Some(deadline.max(now));
        life.left = None;
        while let Ok(ack) = self.acks.try_recv() {
            self.ack(life, ack);
        }
        if life.welcome.is_none() {
            life.gone = true;
            return;
        }
        life.own.clear();
        life.own.extend(self.last_word().map(Own::Publish));
        life.own.extend(farewell.into_iter().map(Own::Publish));
    }

    /// The owner wants another connection.
    fn depart(&mut self, life: &mut Life, connection: u64, why: String) {
        if life.welcome.is_none() || connection != self.welcomes || life.leaving.is_some() {
            return;
        }
        life.leaving = Some(Instant::now() + DEPART);
        life.left = Some(why);
        life.own.clear();
        life.own.extend(self.last_word().map(Own::Publish));
    }

    /// The will of this connection, where each has its own.
    fn last_word(&self) -> Option<Message> {
        self.config.will_of.as_ref().map(|will_of| will_of(self.welcomes))
    }

    /// Gives the library as much as it may have. True: there is more, once the owner has heard what is pending.
    fn pump(&mut self, life: &mut Life) -> bool {
        while let Some(owed) = life.owed.front().filter(|o| o.ready) {
            if !life.session.client.ack(owed.id, owed.qos2) {
                break;
            }
            life.owed.pop_front();
        }
        if life.welcome.is_none() || life.goodbye {
            return false;
        }
        if let Some(deadline) = life.leaving
            && ((life.window.is_empty() && life.own.is_empty()) || Instant::now() >= deadline)
        {
            life.goodbye = life.session.client.disconnect();
            return false;
        }
        while life.window.room() {
            if self.pending.len() >= PENDING {
                return true;
            }
            if let Some(own) = life.own.pop_front() {
                self.send_own(life, own);
            } else if life.leaving.is_some() || life.moving() {
                break;
            } else if !life.up {
                life.up = true;
                self.outbox.link_up(self.welcomes);
            } else if life.backlog.ask() {
                life.own.push_back(Own::Barrier);
            } else if life.paused_until.is_some() {
                break;
            } else if let Some(next) = self.outbox.take() {
                let sent = match next.token {
                    Some(token) => {
                        life.given += 1;
                        Sent::Record(token, life.given)
                    }
                    None => Sent::Own(next.message.topic.clone()),
                };
                self.send(life, next.message, sent);
            } else {
                break;
            }
        }
        false
    }

    fn send_own(&mut self, life: &mut Life, own: Own) {
        let due = life.window.waiting();
        match own {
            Own::Publish(message) => {
                let topic = message.topic.clone();
                self.send(life, message, Sent::Own(topic));
                return;
            }
            Own::Subscribe(filters) => {
                if life.session.client.subscribe(&filters) {
                    life.window.handed(Sent::Subscribe(filters), true, 0);
                }
            }
            Own::Unsubscribe(filter) => {
                if life.session.client.unsubscribe(&filter) {
                    life.window.handed(Sent::Unsubscribe, true, 0);
                }
            }
            Own::Barrier => {
                if life.session.client.unsubscribe(BARRIER) {
                    life.window.handed(Sent::Barrier, true, 0);
                }
            }
        }
        if !due {
            life.progress = Instant::now();
        }
    }

    fn send(&mut self, life: &mut Life, mut message: Message, sent: Sent) {
        if message.qos == Qos::ExactlyOnce && !self.config.session_expiry.is_zero() {
            // What is sent again takes a new id. In a kept session the broker may still hold that id from before and
            // would take the message for a repetition: so at QoS 2 it would be swallowed.
            message.qos = Qos::AtLeastOnce;
        }
        let (message, size) = match fit(message, &life.limits) {
            Ok(fits) => fits,
            Err((code, text)) => {
                self.refuse(life, sent, code, text, false);
                return;
            }
        };
        let answered = message.qos != Qos::AtMostOnce;
        if answered && !life.window.waiting() {
            life.progress = Instant::now();
        }
        if !life.limits.v5 && message.qos == Qos::ExactlyOnce && !life.careful {
            life.window.narrow(QOS2_V311);
        }
        if life.session.client.publish(message) {
            life.window.handed(sent, answered, size);
        } else if let Sent::Record(token, _) = sent {
            // The library's channel is longer than the window; this is for the day when it is not.
            self.outbox.refused(token, Refusal::Retry);
            life.paused_until = Some(Instant::now() + self.config.patience.not_now);
        }
    }

    /// A message that will not or cannot be delivered.
    pub(super) fn refuse(&mut self, life: &mut Life, sent: Sent, code: u8, text: String, for_ever: bool) {
        let mut retry = !for_ever && verdict(code) == Verdict::Retry;
        let mut text = text;
        match sent {
            Sent::Record(token, nth) => {
                if retry && let Some(culprit) = self.poison.not_now(token, nth, code) {
                    (retry, text) = (false, culprit.text);
                }
                let refusal = match retry {
                    true => Refusal::Retry,
                    false => Refusal::DeadLetter { code, text: text.clone() },
                };
                if self.outbox.refused(token, refusal) {
                    self.pending.push_back(LinkEvent::Refused { token, reason_code: code, text, fatal: !retry });
                }
            }
            Sent::Own(topic) => {
                let topic = clean(&topic);
                self.pending.push_back(LinkEvent::Problem(format!("the broker does not take {topic}: {text}")));
            }
            Sent::Subscribe(_) | Sent::Unsubscribe | Sent::Barrier => {}
        }
        if retry {
            life.paused_until = Some(Instant::now() + life.pause);
            life.pause = (life.pause * 2).min(self.config.patience.not_now * NOT_NOW_CAP);
        }
    }

    pub(super) fn hear(&mut self, life: &mut Life, heard: Heard) -> Result<(), Ended> {
        match heard {
            Heard::Up(greeting) => self.welcome(life, &greeting)?,
            Heard::Written(id) => match life.window.written(id) {
                Ok(Some(Sent::Record(token, _))) => self.outbox.done(token),
                Ok(_) => {}
                Err(_) => return Err(Ended::new(Cause::GaveUp, "lost count of the packets on their way")),
            },
            Heard::Goodbye if life.goodbye => life.gone_soon(),
            // The library says so too when it cannot make out a message's topic; it sends nothing then.
            Heard::Goodbye => {
                return Err(Ended::new(Cause::Broken, "the broker used a topic alias that it had not given"));
            }
            Heard::Progress => life.progress = Instant::now(),
            Heard::Answered { id, code, text, shrinks } => {
                if shrinks && life.window.shrink() {
                    return Err(Ended::new(Cause::GaveUp, "too many refused messages of QoS 2; connecting anew"));
                }
                let Some(sent) = life.window.answered(id) else { return Ok(()) };
                life.progress = Instant::now();
                self.answered(life, sent, code, text);
            }
            Heard::Subscribed { id, results } => {
                if let Some(Sent::Subscribe(filters)) = life.window.answered(id) {
                    life.progress = Instant::now();
                    life.backlog.subscribed();
                    self.subscribed(life, filters, &results);
                }
            }
            Heard::Message { incoming, id, qos2 } => self.message(life, incoming, id, qos2),
            Heard::Pulse => {}
        }
        Ok(())
    }

    fn answered(&mut self, life: &mut Life, sent: Sent, code: u8, text: Option<String>) {
        if matches!(sent, Sent::Barrier) {
            life.backlog.answered();
            return;
        }
        if verdict(code) == Verdict::Done {
            life.pause = self.config.patience.not_now;
            if let Sent::Record(token, nth) = sent {
                self.poison.answered(token, nth);
                life.taken = life.taken.saturating_add(1);
                if life.careful && life.taken == CAREFUL {
                    life.careful = false;
                    life.window.widen();
                }
                self.outbox.done(token);
            }
            return;
        }
        let text = match text {
            Some(said) if !said.is_empty() => format!("{}: {}", code_text(code), clean(&said)),
            _ => code_text(code),
        };
        self.refuse(life, sent, code, text, false);
    }

    fn welcome(&mut self, life: &mut Life, greeting: &Greeting) -> Result<(), Ended> {
        if greeting.receive_max == 0 {
            return Err(Ended::new(Cause::GaveUp, "the broker allows no message at all (Receive Maximum 0)"));
        }
        let now = Instant::now();
        self.welcomes += 1;
        let session_present = greeting.session_present;
        self.pending.push_back(LinkEvent::Up { url: life.url.clone(), session_present });
        life.welcome = Some(now);
        life.heard = now;
        life.limits = Limits {
            v5: self.config.protocol == Protocol::V5,
            max_qos: greeting.max_qos,
            retain: greeting.retain,
            max_packet: greeting.max_packet,
        };
        let window = window(&self.config);
        // The library's ids go round at the lesser of its own limit and the broker's.
        life.window = Window::new(window, (window * 2).min(greeting.receive_max), WINDOW_BYTES);
        if self.poison.careful() {
            life.careful = true;
            life.window.narrow(1);
        }
        if let Some(theirs) = greeting.keep_alive {
            life.silence = theirs.mul_f32(1.5);
        }
        let (good, bad): (Vec<_>, Vec<_>) = self
            .config
            .subscriptions
            .iter()
            .chain(&self.extra)
            .cloned()
            .partition(|s| rumqttc::valid_filter(&s.filter));
        for s in bad {
            let filter = clean(&s.filter);
            self.pending.push_back(LinkEvent::Problem(format!("{filter} is no MQTT topic filter; not subscribed")));
        }
        life.own.extend(good.chunks(FILTERS).map(|c| Own::Subscribe(c.to_vec())));
        // who hears the hello is heard: what is published upon it finds the subscriptions there
        life.own.extend(self.config.hello.iter().cloned().map(Own::Publish));
        life.backlog = Backlog::new(greeting.session_present, good.len().div_ceil(FILTERS));
        Ok(())
    }

    fn subscribed(&mut self, life: &mut Life, filters: Vec<Subscription>, results: &[Result<u8, u8>]) {
        let mut refused = Vec::new();
        for (i, subscription) in filters.into_iter().enumerate() {
            let Some(Err(code)) = results.get(i) else { continue };
            let (filter, why) = (clean(&subscription.filter), code_text(*code));
            self.pending
                .push_back(LinkEvent::Problem(format!("the broker refused to subscribe us to {filter}: {why}")));
            refused.push(subscription);
        }
        if !refused.is_empty() {
            let again = life.subscribe_again.get_or_insert_with(|| (Instant::now() + RESUBSCRIBE, Vec::new()));
            again.1.extend(refused);
        }
    }

    fn message(&mut self, life: &mut Life, mut incoming: Incoming, id: u16, qos2: bool) {
        if incoming.topic.is_empty() {
            return;
        }
        if incoming.payload.len() > MAX_INCOMING as usize {
            let (topic, size) = (clean(&incoming.topic), incoming.payload.len());
            self.pending.push_back(LinkEvent::Problem(format!(
                "a message of {size} bytes on {topic} was thrown away; at most {MAX_INCOMING} are taken"
            )));
            if id != 0 {
                life.owed.push_back(Owed { id, qos2, ready: true });
            }
            return;
        }
        incoming.backlog = life.backlog.message(id != 0);
        if id != 0 {
            incoming.ack = (life.number << 17) | (u64::from(qos2) << 16) | u64::from(id);
            life.owed.push_back(Owed { id, qos2, ready: false });
        }
        self.pending.push_back(LinkEvent::Incoming(incoming));
    }

    fn ack(&mut self, life: &mut Life, ack: u64) {
        if ack >> 17 == life.number {
            life.backlog.acked();
            let (id, qos2) = ((ack & 0xFFFF) as u16, ack & 0x1_0000 != 0);
            if let Some(owed) = life.owed.iter_mut().find(|o| !o.ready && o.id == id && o.qos2 == qos2) {
                owed.ready = true;
            }
        }
    }

    /// When something has to be looked at, if nothing happens before.
    fn due(&self, life: &Life) -> Instant {
        let mut due = match life.welcome {
            None => life.connect_by,
            Some(_) => life.heard + life.silence,
        };
        if life.window.waiting() {
            due = due.min(life.progress + self.config.patience.answers);
        }
        if let Some(at) = life.paused_until {
            due = due.min(at);
        }
        if let Some((at, _)) = &life.subscribe_again {
            due = due.min(*at);
        }
        if let Some(preferred) = &life.preferred
            && life.welcome.is_some()
        {
            due = due.min(preferred.due().unwrap_or(due));
        }
        if let Some(at) = life.leaving {
            due = due.min(if Instant::now() >= at { at + GOODBYE } else { at });
        }
        due
    }

    fn check(&mut self, life: &mut Life) -> Result<(), Ended> {
        let now = Instant::now();
        let seconds = |d: Duration| d.as_secs_f32().ceil();
        if life.leaving.is_some_and(|at| now >= at + GOODBYE) {
            life.gone = true;
            return Ok(());
        }
        if life.welcome.is_none() {
            if now >= life.connect_by {
                let text = format!("no answer within {} s", seconds(self.config.patience.connect));
                return Err(Ended::new(Cause::Unreachable, text));
            }
            return Ok(());
        }
        if now >= life.heard + life.silence {
            let text = format!("nothing was heard of the broker for {} s", seconds(life.silence));
            return Err(Ended::new(Cause::GaveUp, text));
        }
        if life.window.waiting() && now >= life.progress + self.config.patience.answers {
            let text = format!("the broker acknowledged nothing for {} s", seconds(self.config.patience.answers));
            return Err(Ended::new(Cause::GaveUp, text));
        }
        if let Some(preferred) = &mut life.preferred {
            preferred.turn(now, self.config.patience.connect, || self.look());
        }
        if life.paused_until.is_some_and(|at| now >= at) {
            life.paused_until = None;
        }
        if let Some((_, filters)) = life.subscribe_again.take_if(|(at, _)| now >= *at) {
            life.own.push_back(Own::Subscribe(filters));
        }
        Ok(())
    }
}

/// Ready when a look at the first broker has ended.
async fn looked(preferred: &mut Option<Preferred>) -> bool {
    match preferred {
        Some(preferred) => preferred.looked().await,
        None => std::future::pending().await,
    }
}
