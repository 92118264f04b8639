//! `pinpost view`: the latest frames of a JPEG topic as a web page, for a camera and a browser.
//!
//! It promises: a viewer sees the newest frame, never a backlog (one that reads slowly misses frames); memory is one
//! frame and a fixed number of viewers; it listens on this machine only, unless asked.

mod web;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use log::LevelFilter;
use tokio::net::TcpListener;
use tokio::signal::unix::SignalKind;
use tokio::sync::{Semaphore, watch};

use super::mqtt::BrokerOptions;
use super::out::say;
use super::subscribe::signal_of;
use super::{Failure, Outcome, block_on};
use crate::link::simple::{self, Client, Event, Qos};
use crate::logging;

/// How many browsers are served at once; a further one is told so.
const VIEWERS: usize = 32;
/// The largest frame that is kept.
const LARGEST: usize = 32 * 1024 * 1024;
/// How a JPEG begins (ISO/IEC 10918-1, annex B: the SOI marker and the first byte of the next).
const JPEG: [u8; 3] = [0xff, 0xd8, 0xff];

/// Arguments of `pinpost view`.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  pinpost view -t home/camera                       then open http://127.0.0.1:8081
  pinpost view -h pi -t home/camera --listen 0.0.0.0:8081
                                                    for every machine that reaches this one
  curl http://127.0.0.1:8081/frame.jpg > now.jpg    one frame"
)]
pub struct ViewArgs {
    /// Topic whose payloads are JPEG pictures, + and # allowed
    #[arg(short, long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Where the page is served
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// Highest quality of delivery: 0, 1 or 2
    #[arg(short, long, value_name = "QOS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    #[command(flatten)]
    broker: BrokerOptions,
}

/// Subscribes and serves the page, until a signal.
pub fn run(args: &ViewArgs) -> Outcome {
    logging::init(if args.broker.debug { LevelFilter::Debug } else { LevelFilter::Error });
    let target = args.broker.target()?;
    let Some(topic) = args.topic.clone().or(target.topic) else {
        return Err(Failure::usage("name the topic of the pictures: pinpost view -t home/camera"));
    };
    simple::check_filter(&topic).map_err(Failure::usage)?;
    let qos = Qos::try_from(args.qos).map_err(Failure::usage)?;
    block_on(async {
        let mut terminate = signal_of(SignalKind::terminate())?;
        let mut interrupt = signal_of(SignalKind::interrupt())?;
        let listen = args.listen;
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|e| Failure::failed(format!("cannot listen on {listen}: {e}; --listen takes another address")))?;
        let address = listener.local_addr().unwrap_or(listen);
        let (frames, latest) = watch::channel(Bytes::new());
        let site = Arc::new(web::Site { topic: topic.clone(), latest, loopback: address.ip().is_loopback() });
        let mut client = Client::connect(target.options).map_err(Failure::failed)?;
        client.subscribe(&[(topic, qos)]).map_err(Failure::usage)?;
        say(&format!("pinpost: the pictures are at http://{address}/"));
        let outcome = tokio::select! {
            outcome = collect(&mut client, &frames) => outcome,
            outcome = serve(listener, site) => outcome,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        client.disconnect().await;
        outcome
    })
}

/// Keeps the latest picture. Ends when the broker cannot be had.
async fn collect(client: &mut Client, frames: &watch::Sender<Bytes>) -> Outcome {
    let mut complained = false;
    while let Some(event) = client.next().await {
        match event {
            Event::Message(m) if m.payload.starts_with(&JPEG) && m.payload.len() <= LARGEST => {
                complained = false;
                frames.send_replace(m.payload);
            }
            // an empty payload is a topic being cleared
            Event::Message(m) if !m.payload.is_empty() && !std::mem::replace(&mut complained, true) => {
                let size = m.payload.len();
                say(&format!("pinpost: {}: {size} bytes that are no JPEG picture are left out", m.topic));
            }
            Event::Subscribed(answers) => {
                if let Some((filter, Some(why))) = answers.into_iter().find(|(_, why)| why.is_some()) {
                    return Err(Failure::failed(format!("{filter}: {why}")));
                }
            }
            Event::Lost(trouble) => say(&format!("pinpost: {trouble}; connecting again")),
            Event::Failed(trouble) => return Err(Failure::failed(trouble.to_string())),
            Event::Message(_) | Event::Connected | Event::Delivered { .. } => {}
        }
    }
    Ok(())
}

async fn serve(listener: TcpListener, site: Arc<web::Site>) -> Outcome {
    let room = Arc::new(Semaphore::new(VIEWERS));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (site, room) = (site.clone(), room.clone());
                tokio::spawn(async move {
                    let place = room.try_acquire();
                    // a viewer that has gone is no news
                    let _ = web::answer(stream, &site, place.is_ok()).await;
                });
            }
            // out of file descriptors, say: it passes when viewers leave
            Err(e) => {
                log::warn!("a viewer could not be let in: {e}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}
