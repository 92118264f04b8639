//! The end that grants and asks, of many clients at once.

use std::collections::BTreeMap;

use crate::model::{Incoming, Mono};

use super::{ASKS, Answer, BEGIN, Dice, MOST, OnDone, Session, Word, name, shown, waited};

/// How many commands beside one of each are asked at most.
const MORE: usize = 3;

/// Where a server stands.
#[derive(Debug, Default)]
pub(super) struct Server {
    /// By their logins.
    guests: BTreeMap<String, Guest>,
}

#[derive(Debug)]
struct Guest {
    grant: String,
    /// Where it listens.
    listen: String,
    /// Where its answers come.
    replies: String,
    /// Commands that it is asked, in this order.
    list: Vec<usize>,
    /// The place of the one whose answer is awaited, and where that comes; `None`: it has only been granted.
    asked: Option<(usize, String)>,
    /// How often that was asked.
    asks: u8,
    /// When something is to be done.
    next: Mono,
}

impl Server {
    pub(super) fn next_wake(&self) -> Option<Mono> {
        self.guests.values().map(|g| g.next).min()
    }

    /// The broker is there again: nobody could answer meanwhile.
    pub(super) fn up(&mut self, session: &Session, now: Mono) {
        for guest in self.guests.values_mut() {
            let wait = if guest.asked.is_some() { session.timeout } else { BEGIN };
            guest.next = now.after(wait);
        }
    }

    pub(super) fn hear(
        &mut self,
        session: &Session,
        message: &Incoming,
        dice: &mut Dice,
        now: Mono,
        out: &mut Vec<Word>,
    ) {
        if message.topic == session.login_topic {
            return self.login(session, message, dice, now, out);
        }
        let to = |guest: &Guest| guest.asked.as_ref().is_some_and(|(_, topic)| *topic == message.topic);
        // an answer to something else was repeated, or comes late: that does no harm
        let Some((login, guest)) = self.guests.iter_mut().find(|(_, guest)| to(guest)) else { return };
        let login = login.clone();
        let at = guest.asked.as_ref().map_or(0, |(at, _)| *at);
        let command = guest.list.get(at).copied().unwrap_or_default();
        let expected = session.replies.get(command).map_or_else(String::new, |(_, answer)| Answer::expected(answer));
        if message.payload != expected.as_bytes() {
            let before = at.checked_sub(1).and_then(|at| guest.list.get(at)).and_then(|c| session.replies.get(*c));
            if message.dup || before.is_some_and(|(_, a)| a.expected().as_bytes() == message.payload) {
                return;
            }
            let said = format!("{} was answered with `{}`", session.command(command), shown(&message.payload));
            let reason = format!("{said}, not `{expected}`");
            return self.part(&login, "failed", Some(reason), out);
        }
        if at + 1 < guest.list.len() {
            guest.asks = 0;
            return guest.ask(session, &login, at + 1, now, out);
        }
        out.push(Word::Send(guest.listen.clone(), session.done.clone()));
        self.part(&login, "done", None, out);
        if session.on_done == OnDone::Exit && self.guests.is_empty() {
            out.push(Word::Exit);
        }
    }

    fn login(&mut self, session: &Session, message: &Incoming, dice: &mut Dice, now: Mono, out: &mut Vec<Word>) {
        let wrong = |why: &str| Word::Wrong(format!("the login `{}` is refused: {why}", shown(&message.payload)));
        let login = match name(&message.payload) {
            Ok(login) => login.to_owned(),
            Err(why) => return out.push(wrong(why)),
        };
        if session.login.as_ref().is_some_and(|only| *only != login) {
            return out.push(wrong("it is not the one under `login`"));
        }
        match self.guests.get(&login) {
            // it has not heard the id, or logs in twice
            Some(guest) if guest.asked.is_none() => {
                if let Ok(topic) = session.grant_topic(&login) {
                    out.push(Word::Send(topic, guest.grant.clone()));
                }
                return;
            }
            Some(_) if message.dup => return,
            // it has begun anew
            Some(_) => self.part(&login, "begins anew", None, out),
            None if self.guests.len() >= MOST => return out.push(wrong("there are 1000 clients already")),
            None => {}
        }
        let grant = dice.uuid();
        let made = (|| {
            let topic = session.grant_topic(&login)?;
            Ok((topic, session.listen_topic(&login, &grant)?, session.reply_topic(&login, &grant, "+")?))
        })();
        let (topic, listen, replies) = match made {
            Ok(made) => made,
            Err(why) => {
                let why: String = why;
                return out.push(wrong(&why));
            }
        };
        out.push(Word::Listen(replies.clone()));
        out.push(Word::Send(topic, grant.clone()));
        out.push(Word::Tell("granted", vec![("client", login.clone())]));
        let list = list(session.replies.len(), dice);
        let guest = Guest { grant, listen, replies, list, asked: None, asks: 0, next: now.after(BEGIN) };
        self.guests.insert(login, guest);
    }

    pub(super) fn due(&mut self, session: &Session, now: Mono, out: &mut Vec<Word>) {
        let due: Vec<String> =
            self.guests.iter().filter(|(_, g)| g.next <= now).map(|(login, _)| login.clone()).collect();
        for login in due {
            let Some(guest) = self.guests.get_mut(&login) else { continue };
            let at = guest.asked.as_ref().map_or(0, |(at, _)| *at);
            if guest.asks < ASKS {
                guest.ask(session, &login, at, now, out);
                continue;
            }
            let command = guest.list.get(at).map_or("", |c| session.command(*c));
            let reason = format!("{command} was not answered, asked {ASKS} times, {} each", waited(session));
            self.part(&login, "failed", Some(reason), out);
        }
    }

    /// A client goes.
    fn part(&mut self, login: &str, state: &'static str, reason: Option<String>, out: &mut Vec<Word>) {
        if let Some(guest) = self.guests.remove(login) {
            out.push(Word::Hush(guest.replies));
        }
        let mut about = vec![("client", login.to_owned())];
        about.extend(reason.map(|reason| ("reason", reason)));
        out.push(Word::Tell(state, about));
    }
}

impl Guest {
    fn ask(&mut self, session: &Session, login: &str, at: usize, now: Mono, out: &mut Vec<Word>) {
        let command = self.list.get(at).map_or("", |c| session.command(*c));
        match session.reply_topic(login, &self.grant, command) {
            Ok(topic) => self.asked = Some((at, topic)),
            Err(why) => out.push(Word::Wrong(format!("{command} cannot be asked: {why}"))),
        }
        self.asks += 1;
        self.next = now.after(session.timeout);
        out.push(Word::Send(self.listen.clone(), command.to_owned()));
    }
}

/// One of each command and up to [`MORE`] repeated ones, in any order.
fn list(commands: usize, dice: &mut Dice) -> Vec<usize> {
    let mut list: Vec<usize> = (0..commands).collect();
    for _ in 0..dice.below(MORE + 1) {
        list.push(dice.below(commands));
    }
    for i in (1..list.len()).rev() {
        list.swap(i, dice.below(i + 1));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sessions::{Role, Session};
    use crate::expr::{Scope, Template};
    use crate::model::Qos;
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn session() -> Session {
        let words = Scope::new().with_word("login").with_word("grant").with_word("command");
        let template = |text: &str| Template::compile(text, &words).unwrap();
        Session {
            name: "iot".into(),
            role: Role::Server,
            login_topic: "login".into(),
            login: None,
            qos: Qos::ExactlyOnce,
            grant: template("{{ login }}/UUID"),
            listen: template("{{ grant }}"),
            reply_to: template("{{ grant }}/{{ command }}"),
            replies: (1..=7).map(|n| (format!("CMD{n}"), Answer::Say(format!("word {n}")))).collect(),
            done: "done".into(),
            on_done: OnDone::Stay,
            timeout: Duration::from_secs(30),
        }
    }

    fn message(topic: &str, payload: &str) -> Incoming {
        Incoming { topic: topic.into(), payload: payload.into(), ..Incoming::default() }
    }

    #[test]
    fn a_thousand_clients_are_served_at_once_in_any_order_and_one_more_is_refused() {
        let (session, mut server, mut dice) = (session(), Server::default(), Dice(7));
        let mut out = Vec::new();
        for n in 0..=MOST {
            server.hear(&session, &message("login", &format!("c{n}")), &mut dice, Mono::default(), &mut out);
        }
        assert!(matches!(out.pop(), Some(Word::Wrong(why)) if why.contains("1000 clients")));
        let grants: BTreeSet<String> =
            out.iter().filter_map(|w| if let Word::Send(_, id) = w { Some(id.clone()) } else { None }).collect();
        assert_eq!(grants.len(), MOST, "every id is another one");
        out.clear();
        let now = Mono(BEGIN);
        server.due(&session, now, &mut out);
        // all of them answer, the last one first, until nothing is asked any more
        let (mut asked, mut done, mut seen) = (0, 0, BTreeSet::new());
        while let Some(word) = out.pop() {
            let Word::Send(listen, said) = word else { continue };
            match said.strip_prefix("CMD") {
                Some(n) => {
                    asked += 1;
                    seen.insert((listen.clone(), n.to_owned()));
                    let answer = message(&format!("{listen}/CMD{n}"), &format!("word {n}"));
                    server.hear(&session, &answer, &mut dice, now, &mut out);
                }
                None => done += usize::from(said == "done"),
            }
        }
        assert_eq!((done, seen.len()), (MOST, 7 * MOST), "everybody was asked everything");
        assert!((7 * MOST..=10 * MOST).contains(&asked), "{asked}");
        assert!(server.guests.is_empty() && server.next_wake().is_none());
    }
}
