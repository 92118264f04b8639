//! Sessions, resolved: topics compiled, targets found.

use std::time::Duration;

use crate::config::flows::{OnDone as RawDone, Session as RawSession, SessionReply, SessionRole};
use crate::engine::sessions::{Answer, LONGEST, OnDone, Plan, Role, Session};
use crate::expr::{Given, Scope, Template};
use crate::model::{Qos, Value};
use crate::wire::Topics;
use crate::wire::topics::check_topic;

use super::points::Points;
use super::rules::House;
use super::{DevicePlan, Resolver};

/// The shortest time in which one end may give the other up.
const LEAST: Duration = Duration::from_secs(1);
/// Where the id is handed out, where commands come and where they are answered.
const GRANT: &str = "{{ login }}/UUID";
const LISTEN: &str = "{{ grant }}";
const REPLY_TO: &str = "{{ grant }}/{{ command }}";

impl Resolver<'_> {
    pub(super) fn sessions(&mut self, devices: &[DevicePlan], all: &Points, topics: &mut Topics) -> Plan {
        let scope = Scope::new();
        let house = House { devices, all, scope: &scope };
        let raw = self.raw;
        let sessions: Vec<Session> =
            raw.sessions.iter().filter_map(|(name, session)| self.session(name, session, &house)).collect();
        for session in &sessions {
            let login = session.login.as_deref().unwrap_or_default();
            match session.role {
                Role::Server => topics.listen_to(&session.login_topic, session.qos),
                Role::Client => {
                    let granted = session.grant.render(&Given { words: &[("login", login)], ..Given::default() });
                    granted.into_iter().for_each(|topic| topics.listen_to(&topic, session.qos));
                }
            }
        }
        Plan { sessions, seed: 0 }
    }

    fn session(&mut self, name: &str, raw: &RawSession, house: &House) -> Option<Session> {
        let path = ["sessions", name];
        let role = match raw.role {
            SessionRole::Client => Role::Client,
            SessionRole::Server => Role::Server,
        };
        let login_topic = raw.login.topic.clone().unwrap_or_else(|| "login".into());
        if let Err(text) = check_topic(&login_topic) {
            self.error(&["sessions", name, "login", "topic"], text, "write a topic such as login");
        }
        let login = raw.login.payload.clone().map(|p| p.0);
        if role == Role::Client && login.is_none() && !self.places.dropped(&["sessions", name, "login"]) {
            let help = "write login: { topic: login, payload: \"12345\" }";
            self.error(&path, format!("session `{name}` does not say who it logs in as"), help);
        }
        if login.as_ref().is_some_and(|login| login.is_empty() || login.len() > LONGEST) {
            let at = ["sessions", name, "login", "payload"];
            self.error(&at, "a login has 1 to 128 bytes", "write a short name or number");
        }
        let words = Scope::new().with_word("login");
        let grant_path = ["sessions", name, "grant", "topic"];
        let given = [("login", login.as_deref().filter(|login| !login.is_empty()).unwrap_or("login"))];
        let grant = self.topic(&grant_path, raw.grant.topic.as_deref().unwrap_or(GRANT), &words, &given);
        let words = words.with_word("grant");
        let given = [given[0], ("grant", "id")];
        let at = |key: &'static str| ["sessions", name, key];
        let listen = self.topic(&at("listen"), raw.listen.as_deref().unwrap_or(LISTEN), &words, &given);
        let words = words.with_word("command");
        let given = [given[0], given[1], ("command", "command")];
        let reply_to = self.topic(&at("reply_to"), raw.reply_to.as_deref().unwrap_or(REPLY_TO), &words, &given);
        if role == Role::Server && raw.replies.is_empty() && !self.places.dropped(&at("replies")) {
            let help = "write replies: { CMD1: Apple, CMD2: Cat }";
            self.error(&path, format!("session `{name}` has no commands to ask"), help);
        }
        let done = raw.done.clone().map_or_else(|| "done".to_owned(), |p| p.0);
        let mut replies = Vec::new();
        for (command, reply) in &raw.replies {
            if *command == done {
                let text = format!("`{command}` is a command and the last word `done` at once");
                self.error(&["sessions", name, "replies", command], text, "give one of them another name");
            }
            replies.extend(self.session_reply(name, role, command, reply, house).map(|r| (command.clone(), r)));
        }
        let timeout = raw.timeout.map_or(Duration::from_secs(30), |s| s.0);
        if timeout < LEAST {
            self.error(&at("timeout"), "`timeout` is at least 1s", "write timeout: 30s");
        }
        Some(Session {
            name: name.to_owned(),
            role,
            login_topic,
            login,
            qos: raw.login.qos.and_then(Qos::from_number).unwrap_or(Qos::ExactlyOnce),
            grant: grant?,
            listen: listen?,
            reply_to: reply_to?,
            replies,
            done,
            on_done: match raw.on_done.unwrap_or(RawDone::Stay) {
                RawDone::Stay => OnDone::Stay,
                RawDone::Exit => OnDone::Exit,
                RawDone::Restart => OnDone::Restart,
            },
            timeout,
        })
    }

    /// What a command is answered with. A server moves nothing: it only expects the word.
    fn session_reply(
        &mut self,
        name: &str,
        role: Role,
        command: &str,
        reply: &SessionReply,
        house: &House,
    ) -> Option<Answer> {
        let (moves, say) = match reply {
            SessionReply::Say(word) => return Some(Answer::Say(word.0.clone())),
            SessionReply::Move(moves) => (moves, moves.reply.as_ref().map(|p| p.0.clone())),
        };
        if role == Role::Server {
            return Some(Answer::Say(say.unwrap_or_else(|| moves.to.0.clone())));
        }
        let path = ["sessions", name, "replies", command, "set"];
        let (device, point, _) = self.target(&path, "set", &moves.set, house)?;
        Some(Answer::Move { device, point, to: Value::Text(moves.to.0.clone()), say })
    }

    /// A template that gives a topic.
    fn topic(&mut self, path: &[&str], text: &str, words: &Scope, given: &[(&str, &str)]) -> Option<Template> {
        let template = self.template(path, text, words)?;
        // as it will be with an id, as far as that can be told
        let topic = template.render(&Given { words: given, ..Given::default() }).ok()?;
        match check_topic(&topic) {
            Ok(()) => Some(template),
            Err(wrong) => {
                self.error(path, wrong, "write a topic such as {{ grant }}/{{ command }}");
                None
            }
        }
    }
}
