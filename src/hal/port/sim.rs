//! A byte stream in memory, whose other end is held by [`SimPort`]: the ports of `pinpost test`.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, futures::Notified};

/// Bytes of the gateway's that are kept until they are looked at; older ones go.
const KEPT: usize = 1 << 20;

/// The far end of a simulated port. Clones are the same.
#[derive(Clone, Default)]
pub struct SimPort(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// The gateway wrote.
    written: Notify,
    /// The port came back.
    back: Notify,
}

#[derive(Default)]
struct State {
    /// On their way to the gateway.
    coming: VecDeque<u8>,
    reader: Option<Waker>,
    /// What the gateway wrote.
    heard: VecDeque<u8>,
    gone: bool,
    /// Counts openings: a stream of an earlier one is dead.
    opened: u64,
}

impl SimPort {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Says these bytes; the gateway hears them when it has the port open. False: the port is gone.
    pub fn say(&self, bytes: &[u8]) -> bool {
        let mut state = self.state();
        if !state.gone {
            state.coming.extend(bytes);
            state.reader.take().into_iter().for_each(Waker::wake);
        }
        !state.gone
    }

    /// What the gateway wrote and was not taken yet.
    pub fn heard(&self) -> Vec<u8> {
        self.state().heard.iter().copied().collect()
    }

    /// Takes so many bytes of what the gateway wrote.
    pub fn take(&self, count: usize) {
        let mut state = self.state();
        let count = count.min(state.heard.len());
        state.heard.drain(..count);
    }

    /// Until the gateway writes after this call.
    pub fn written(&self) -> Notified<'_> {
        self.0.written.notified()
    }

    /// The adapter is unplugged, or plugged in again.
    pub fn plug(&self, there: bool) {
        let mut state = self.state();
        state.gone = !there;
        if there {
            self.0.back.notify_waiters();
        } else {
            state.coming.clear();
            state.opened += 1;
            state.reader.take().into_iter().for_each(Waker::wake);
        }
    }

    pub(super) fn open(&self) -> Option<SimStream> {
        let mut state = self.state();
        if state.gone {
            return None;
        }
        state.opened += 1;
        Some(SimStream { port: self.clone(), opened: state.opened })
    }

    /// Until the port is there again.
    pub(crate) async fn back(&self) {
        let back = self.0.back.notified();
        if self.state().gone {
            back.await;
        } else {
            std::future::pending().await
        }
    }
}

/// The gateway's end.
pub(super) struct SimStream {
    port: SimPort,
    opened: u64,
}

impl std::fmt::Debug for SimStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimStream")
    }
}

impl AsyncRead for SimStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.port.state();
        if state.opened != self.opened {
            return Poll::Ready(Ok(()));
        }
        if state.coming.is_empty() {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = buf.remaining().min(state.coming.len());
        let bytes: Vec<u8> = state.coming.drain(..count).collect();
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.port.state();
        if state.opened != self.opened {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        state.heard.extend(bytes);
        let over = state.heard.len().saturating_sub(KEPT);
        state.heard.drain(..over);
        self.port.0.written.notify_waiters();
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn both_ends_hear_each_other_and_an_unplugged_port_ends() {
        let port = SimPort::default();
        port.say(b"early");
        let mut stream = port.open().unwrap();
        let mut buffer = [0; 16];
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 5);
        stream.write_all(b"READ\r\n").await.unwrap();
        assert_eq!(port.heard(), b"READ\r\n");
        port.take(4);
        assert_eq!(port.heard(), b"\r\n");
        port.plug(false);
        assert!(!port.say(b"lost") && port.open().is_none());
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
        assert!(stream.write_all(b"x").await.is_err());
        port.plug(true);
        let mut again = port.open().unwrap();
        assert!(port.say(b"x"));
        assert_eq!(again.read(&mut buffer).await.unwrap(), 1);
    }
}
