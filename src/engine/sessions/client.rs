//! The end that logs in and answers.

use std::collections::BTreeSet;

use crate::model::{Incoming, Mono};

use super::{Answer, Asked, OnDone, REST, Session, Word, name, shown, waited};

/// Where a client stands.
#[derive(Debug, Default)]
pub(super) struct Client {
    phase: Phase,
}

#[derive(Debug, Default)]
enum Phase {
    /// The broker was not there yet.
    #[default]
    New,
    /// It has logged in, and asks again then.
    Asked(Mono),
    /// It was granted an id.
    Granted(Granted),
    /// It has heard the last word.
    Done,
    /// It logs in again then.
    Resting(Mono),
}

#[derive(Debug)]
struct Granted {
    grant: String,
    /// Where commands come.
    listen: String,
    /// A silence until then begins it anew.
    until: Mono,
    /// Commands that were answered under this id.
    answered: BTreeSet<usize>,
}

impl Client {
    pub(super) fn next_wake(&self) -> Option<Mono> {
        match &self.phase {
            Phase::Asked(until) | Phase::Resting(until) => Some(*until),
            Phase::Granted(granted) => Some(granted.until),
            Phase::New | Phase::Done => None,
        }
    }

    /// The broker is there (again): the link has brought the subscriptions back.
    pub(super) fn up(&mut self, session: &Session, now: Mono, out: &mut Vec<Word>) {
        match &mut self.phase {
            Phase::Granted(granted) => granted.until = now.after(session.timeout),
            Phase::New | Phase::Asked(_) => self.login(session, now, out),
            Phase::Done | Phase::Resting(_) => {}
        }
    }

    fn login(&mut self, session: &Session, now: Mono, out: &mut Vec<Word>) {
        if let Phase::Granted(granted) = &self.phase {
            out.push(Word::Hush(granted.listen.clone()));
        }
        self.phase = Phase::Asked(now.after(session.timeout));
        out.push(Word::Send(session.login_topic.clone(), session.login.clone().unwrap_or_default()));
    }

    pub(super) fn due(&mut self, session: &Session, now: Mono, out: &mut Vec<Word>) {
        if self.next_wake().is_none_or(|at| at > now) {
            return;
        }
        match &self.phase {
            Phase::Asked(_) => out.push(Word::Tell("no answer", vec![("after", waited(session))])),
            Phase::Granted(_) => out.push(Word::Tell("silent", vec![("after", waited(session))])),
            _ => {}
        }
        self.login(session, now, out);
    }

    pub(super) fn hear(&mut self, session: &Session, message: &Incoming, now: Mono, out: &mut Vec<Word>) {
        let login = session.login.as_deref().unwrap_or_default();
        if session.grant_topic(login).is_ok_and(|topic| topic == message.topic) {
            return self.granted(session, message, now, out);
        }
        let Phase::Granted(granted) = &mut self.phase else { return };
        if granted.listen != message.topic {
            return;
        }
        granted.until = now.after(session.timeout);
        if message.payload == session.done.as_bytes() {
            out.push(Word::Tell("done", vec![("said", session.done.clone())]));
            out.push(Word::Hush(granted.listen.clone()));
            self.phase = match session.on_done {
                OnDone::Stay => Phase::Done,
                OnDone::Restart => Phase::Resting(now.after(REST)),
                OnDone::Exit => {
                    out.push(Word::Exit);
                    Phase::Done
                }
            };
            return;
        }
        let found = session.replies.iter().position(|(command, _)| command.as_bytes() == message.payload);
        let Some(command) = found else {
            let text = format!("`{}` is no command of `replies`; it is not answered", shown(&message.payload));
            return out.push(Word::Wrong(text));
        };
        // marked as repeated does not mean that it came before
        if message.dup && granted.answered.contains(&command) {
            return;
        }
        granted.answered.insert(command);
        let grant = granted.grant.clone();
        match session.replies.get(command) {
            Some((_, Answer::Move { .. })) if message.backlog => {
                let reason = "the broker kept it while the gateway was away".to_owned();
                let command = session.command(command).to_owned();
                out.push(Word::Tell("not answered", vec![("command", command), ("reason", reason)]));
            }
            Some((_, Answer::Say(word))) => reply(session, &grant, command, word.clone(), out),
            Some((_, Answer::Move { .. })) => out.push(Word::Wish(command, grant)),
            None => {}
        }
    }

    fn granted(&mut self, session: &Session, message: &Incoming, now: Mono, out: &mut Vec<Word>) {
        let login = session.login.as_deref().unwrap_or_default();
        let made = name(&message.payload).map_err(str::to_owned).and_then(|grant| {
            // the topics of an id that cannot be are found out now
            session.reply_topic(login, grant, "command")?;
            Ok((grant.to_owned(), session.listen_topic(login, grant)?))
        });
        let (grant, listen) = match made {
            Ok(made) => made,
            Err(why) => {
                let text = format!("the id `{}` cannot be used: {why}", shown(&message.payload));
                return out.push(Word::Wrong(text));
            }
        };
        match &self.phase {
            Phase::Asked(_) => {}
            // the server has begun anew
            Phase::Granted(old) if old.grant != grant && !message.dup => out.push(Word::Hush(old.listen.clone())),
            _ => return,
        }
        out.push(Word::Listen(listen.clone()));
        out.push(Word::Tell("granted", Vec::new()));
        let until = now.after(session.timeout);
        self.phase = Phase::Granted(Granted { grant, listen, until, answered: BTreeSet::new() });
    }

    /// What became of a wish.
    pub(super) fn moved(
        &mut self,
        session: &Session,
        asked: &Asked,
        said: Result<String, String>,
        out: &mut Vec<Word>,
    ) {
        let Phase::Granted(granted) = &mut self.phase else { return };
        if granted.grant != asked.grant {
            return;
        }
        match said {
            Ok(word) => reply(session, &asked.grant, asked.command, word, out),
            Err(why) => {
                // asked again it may be wished again
                granted.answered.remove(&asked.command);
                let command = session.command(asked.command).to_owned();
                out.push(Word::Tell("not answered", vec![("command", command), ("reason", why)]));
            }
        }
    }
}

fn reply(session: &Session, grant: &str, command: usize, word: String, out: &mut Vec<Word>) {
    let login = session.login.as_deref().unwrap_or_default();
    match session.reply_topic(login, grant, session.command(command)) {
        Ok(topic) => out.push(Word::Send(topic, word)),
        Err(why) => out.push(Word::Wrong(format!("{} cannot be answered: {why}", session.command(command)))),
    }
}
