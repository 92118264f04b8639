//! A TCP proxy in front of a broker that harms what passes: it cuts, swallows, garbles or delays, at a byte that the
//! test names.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens at a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Both sides see the end (FIN).
    Close,
    /// Both sides see a reset.
    Reset,
    /// Nothing passes any more in either direction, and nobody is told.
    Swallow,
    /// This byte and all behind it are inverted.
    Garble,
}

/// One connection; the default lets everything pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fault {
    /// From the client, behind so many bytes.
    pub up: Option<(usize, Harm)>,
    /// From the broker, likewise.
    pub down: Option<(usize, Harm)>,
    /// Before each piece.
    pub delay: Duration,
    /// Longest piece; 0: as it comes.
    pub piece: usize,
}

pub struct FaultProxy {
    pub port: u16,
    /// Connections so far.
    pub connections: watch::Receiver<usize>,
}

impl FaultProxy {
    /// The n-th connection suffers the n-th fault; all later ones none.
    pub async fn to(broker: u16, faults: Vec<Fault>) -> FaultProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, connections) = watch::channel(0);
        tokio::spawn(async move {
            let mut faults = faults.into_iter();
            while let Ok((client, _)) = listener.accept().await {
                let fault = faults.next().unwrap_or_default();
                tell.send_modify(|n| *n += 1);
                tokio::spawn(pass(client, broker, fault));
            }
        });
        FaultProxy { port, connections }
    }
}

async fn pass(client: TcpStream, broker: u16, fault: Fault) {
    let Ok(broker) = TcpStream::connect(("127.0.0.1", broker)).await else { return };
    for socket in [&client, &broker] {
        socket.set_nodelay(true).unwrap();
    }
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_broker, mut to_broker) = broker.into_split();
    let harm = tokio::select! {
        harm = one_way(&mut from_client, &mut to_broker, fault.up, fault) => harm,
        harm = one_way(&mut from_broker, &mut to_client, fault.down, fault) => harm,
    };
    if harm == Some(Harm::Swallow) {
        // The client gives up some time; the broker is not told before.
        let mut rest = [0; 4096];
        while from_client.read(&mut rest).await.is_ok_and(|n| n > 0) {}
    }
    if harm == Some(Harm::Reset) {
        for (from, to) in [(from_client, to_client), (from_broker, to_broker)] {
            let socket = from.reunite(to).unwrap();
            socket.set_zero_linger().unwrap();
        }
    }
}

async fn one_way(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    harm: Option<(usize, Harm)>,
    fault: Fault,
) -> Option<Harm> {
    let mut passed = 0;
    let mut chunk = vec![0; if fault.piece == 0 { 4096 } else { fault.piece }];
    loop {
        if let Some((at, harm)) = harm
            && passed >= at
            && harm != Harm::Garble
        {
            return Some(harm);
        }
        let n = from.read(&mut chunk).await.ok().filter(|n| *n > 0)?;
        if !fault.delay.is_zero() {
            tokio::time::sleep(fault.delay).await;
        }
        let piece = match harm {
            Some((at, Harm::Garble)) => {
                let clean = at.saturating_sub(passed).min(n);
                chunk[clean..n].iter_mut().for_each(|b| *b = !*b);
                &chunk[..n]
            }
            Some((at, _)) => &chunk[..n.min(at - passed)],
            None => &chunk[..n],
        };
        to.write_all(piece).await.ok()?;
        passed += piece.len();
    }
}
