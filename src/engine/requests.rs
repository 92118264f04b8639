//! `bridge/request/<verb>` that asks something of the gateway itself, not of a device.

use std::time::Duration;

use serde_json::{Map, Value as Json};

use crate::config::scalar::Span;
use crate::model::{Now, Outcome};

use super::commands::Reply;
use super::{Effect, Engine};

/// What the daemon is to do and to answer itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Tell the queue's figures.
    Queue,
    /// Read the file anew and run it.
    Reload,
    /// Log at another level.
    LogLevel {
        /// A level or a filter; `None`: tell the present one.
        level: Option<String>,
        /// For how long; `None`: until the end.
        time: Option<Duration>,
    },
}

impl Engine {
    /// Tells every state, whatever the broker may know of it.
    pub(super) fn repeat_states(&mut self, now: &Now, fx: &mut Vec<Effect>) {
        self.points.announce(now.mono.after(Duration::from_nanos(1)), now, fx);
    }

    /// A request to the gateway itself. False: it is none; the error is for the sender.
    pub(super) fn gateway_request(
        &mut self,
        verb: &str,
        map: &Map<String, Json>,
        reply: &Reply,
        now: &Now,
        fx: &mut Vec<Effect>,
    ) -> Result<bool, String> {
        let text = |key: &str, example: &str| match map.get(key) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("`{key}` is a text: {example}")),
        };
        let request = match verb {
            "health" => {
                fx.push(Effect::Health(Some(reply.clone())));
                return Ok(true);
            }
            "rediscover" => {
                self.introduce(now, fx);
                self.homie_introduce(fx);
                self.repeat_states(now, fx);
                self.answer_request(verb, reply, &Outcome::done(None), now, fx);
                return Ok(true);
            }
            "queue" => Request::Queue,
            "reload" => Request::Reload,
            "log_level" => {
                let example = "{\"level\":\"debug\",\"for\":\"10m\"}";
                let level = text("level", example)?.or(text("value", example)?);
                let time = text("for", example)?.map(|t| t.parse::<Span>()).transpose();
                let time = time.map_err(|e| format!("`for`: {e}"))?.map(|s| s.0);
                if level.is_none() && time.is_some() {
                    return Err(format!("`level` is missing: {example}"));
                }
                Request::LogLevel { level, time }
            }
            _ => return Ok(false),
        };
        fx.push(Effect::Daemon(request, reply.clone()));
        Ok(true)
    }
}
