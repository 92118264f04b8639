//! What is asked of the daemon itself, through `bridge/request/…`: the queue's figures, another level of logging, a
//! reload. A reload is passed on to who owns the file.

use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use tokio::task::JoinHandle;

use crate::config::scalar::Span;
use crate::engine::answers::send_reply;
use crate::engine::commands::Reply;
use crate::engine::requests::Request;
use crate::engine::{Effect, Event};
use crate::logging;
use crate::model::{Outcome, OutcomeKind};
use crate::wire::payload;

use super::Wanted;
use super::figures::figures;
use super::hub::Hub;

/// Puts the level of logging back when its time is over.
#[derive(Debug, Default)]
pub(super) struct LevelTimer(Option<JoinHandle<()>>);

impl LevelTimer {
    fn set(&mut self, time: Option<Duration>) {
        if let Some(before) = self.0.take() {
            before.abort();
        }
        self.0 = time.map(|time| {
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                logging::reset();
                log::info!("the level of logging is {} again", logging::level());
            })
        });
    }
}

impl Hub {
    pub(super) fn requested(&mut self, request: Request, reply: Reply, fx: &mut Vec<Effect>) {
        let result = match request {
            Request::Queue => {
                let (stats, words) = {
                    let queue = self.queue.lock();
                    (queue.stats(), queue.health().words)
                };
                Ok(figures(&stats, &words))
            }
            Request::LogLevel { level: None, .. } => Ok(Map::from_iter([("level".into(), json!(logging::level()))])),
            Request::LogLevel { level: Some(level), time } => self.log_level(&level, time),
            Request::Reload => match self.wanted.try_send(Wanted::Reload(Box::new(reply.clone()))) {
                // whoever owns the file answers
                Ok(()) => return,
                Err(_) => Err((OutcomeKind::Busy, "a reload is going on".to_owned())),
            },
        };
        let map = match result {
            Ok(map) => map,
            Err((kind, why)) => payload::outcome(&Outcome::because(kind, why), None, self.clock.now().wall),
        };
        self.reply(&reply, map, fx);
    }

    fn log_level(&mut self, level: &str, time: Option<Duration>) -> Result<Map<String, Json>, (OutcomeKind, String)> {
        if level.trim().is_empty() {
            return Err((OutcomeKind::Rejected, "`level` is empty; write debug, info, warn or error".into()));
        }
        logging::set_level(level).map_err(|e| (OutcomeKind::Rejected, e))?;
        self.level_timer.set(time);
        let mut map = Map::from_iter([("outcome".into(), json!("done")), ("level".into(), json!(logging::level()))]);
        let until = match time {
            Some(time) => {
                map.insert("for".into(), json!(Span(time).to_string()));
                format!("for {}", Span(time))
            }
            None => "until the next start".into(),
        };
        log::info!("the level of logging is {} {until}, as requested", logging::level());
        Ok(map)
    }

    /// Answers a request, with what every answer has.
    pub(super) fn reply(&mut self, reply: &Reply, mut map: Map<String, Json>, fx: &mut Vec<Effect>) {
        let now = self.clock.now();
        map.entry("time").or_insert_with(|| json!(payload::time_text(now.wall)));
        map.extend(reply.id.clone().map(|id| ("id".to_owned(), id)));
        map.extend(reply.transaction.clone().map(|t| ("transaction".to_owned(), t)));
        fx.extend(send_reply(reply, map, now.mono));
    }

    /// Says something on `bridge/event`.
    pub(super) fn say(&mut self, about: Json, fx: &mut Vec<Effect>) {
        let now = self.clock.now();
        self.engine.handle(Event::Say(about), &now, fx);
    }
}
