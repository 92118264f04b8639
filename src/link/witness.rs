//! Wills beside the first. MQTT has one will for a connection; a gateway that speaks several dialects has several things
//! to be said when it is gone without a word. Each further will is kept by a witness: a connection of its own (the client
//! id with `-w1`, `-w2` behind it) that does nothing else. It comes before the first connection and ends with it, in the
//! same way: in order, without its will; or cut, with it. One that is lost alone ends the first too, so that what it
//! made the broker say is put right.
//!
//! A broker that refuses a witness (its id, the number of clients) costs that will, which is said, and nothing else.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use super::connection::Link;
use super::reason::{Cause, Ended, clean};
use super::session::{Heard, Opening, Report, Session};
use super::url::BrokerUrl;
use super::{LinkConfig, LinkEvent};

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// The witnesses of one connection.
#[derive(Default)]
pub(super) struct Witnesses(Vec<Session>);

impl Witnesses {
    /// Ready when one is lost; never without one. May be dropped half-way.
    pub async fn ended(&mut self) -> Ended {
        poll_fn(|cx| {
            for witness in &mut self.0 {
                while let Poll::Ready(report) = witness.reports.poll_recv(cx) {
                    let why = match report {
                        Some(Report::Heard(_)) => continue,
                        Some(Report::Ended(ended)) => ended.text,
                        None => "it stopped unexpectedly".into(),
                    };
                    return Poll::Ready(Ended::new(Cause::Broken, format!("the connection of a second will: {why}")));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Says goodbye: no will is sent.
    pub async fn leave(&mut self) {
        let leave = async {
            for mut witness in std::mem::take(&mut self.0) {
                witness.client.disconnect();
                while let Some(Report::Heard(_)) = witness.reports.recv().await {}
            }
        };
        let _ = timeout(GOODBYE, leave).await;
    }
}

/// The client id of a witness, from 1.
fn id(config: &LinkConfig, n: usize) -> String {
    format!("{}-w{n}", config.client_id)
}

impl Link {
    /// Witnesses at a broker. `None`: the owner wants to stop; an error: this broker cannot be reached.
    pub(super) async fn witnesses(&mut self, url: &BrokerUrl) -> Result<Option<Witnesses>, Ended> {
        let mut all = Vec::new();
        for (n, will) in (1..).zip(self.config.beside.clone()) {
            let opening = Opening {
                client_id: id(&self.config, n),
                will: Some(will.clone()),
                session_expiry: Duration::ZERO,
                kept_qos2: false,
                span: 1,
                channel: 1,
                ..self.opening(url)?
            };
            let mut session = Session::open(opening)?;
            let patience = self.config.patience.connect;
            let greeted = tokio::select! {
                greeted = timeout(patience, greeted(&mut session)) => greeted,
                () = self.asked_to_stop() => return Ok(None),
            };
            match greeted {
                Ok(Ok(())) => all.push(session),
                Ok(Err(ended)) if ended.cause == Cause::Refused => {
                    let (topic, id, why) = (clean(&will.topic), id(&self.config, n), ended.text);
                    let text = format!(
                        "the broker lets {id} not in, so it will not say on {topic} that the gateway is gone: {why}"
                    );
                    self.pending.push_back(LinkEvent::Problem(text));
                }
                Ok(Err(ended)) => return Err(ended),
                Err(_) => {
                    let text = format!("no answer within {} s", patience.as_secs_f32().ceil());
                    return Err(Ended::new(Cause::Unreachable, text));
                }
            }
        }
        Ok(Some(Witnesses(all)))
    }
}

async fn greeted(session: &mut Session) -> Result<(), Ended> {
    loop {
        match session.reports.recv().await {
            Some(Report::Heard(batch)) if batch.iter().any(|h| matches!(h, Heard::Up(_))) => return Ok(()),
            Some(Report::Heard(_)) => {}
            Some(Report::Ended(ended)) => return Err(ended),
            None => return Err(Ended::new(Cause::Broken, "the MQTT library stopped unexpectedly")),
        }
    }
}
