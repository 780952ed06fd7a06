//! A link driven from an async task, whatever its executor: [`turn`] waits for bytes, for the
//! transport to take some, or for the deadline, whichever comes first.
//!
//! ```no_run
//! # use embedded_io_async::{Read, Write};
//! # use meshbeat_core::{Event, Instant, Link, asynchronous::turn};
//! # async fn run(mut link: Link<4>, mut rx: impl Read, mut tx: impl Write,
//! #              now: impl Fn() -> Instant, sleep_until: impl AsyncFn(Instant)) {
//! let mut buf = [0; 64];
//! link.open(now());
//! loop {
//!     while let Some(event) = link.poll_event() {
//!         match event {
//!             // A UART is open as soon as it is wanted; a socket is connected here.
//!             Event::OpenDue => link.handle_opened(now()),
//!             Event::Closed => return,
//!             _ => {}
//!         }
//!     }
//!     let done = turn(&mut link, &mut rx, &mut tx, &mut buf, &now, &sleep_until, |item| {
//!         // What came from the node.
//!         let _ = item;
//!     });
//!     if let Err(fault) = done.await {
//!         link.handle_closed(now(), fault);
//!     }
//! }
//! # }
//! ```

use core::future::{Future, pending, poll_fn};
use core::pin::pin;
use core::task::Poll;

use embedded_io_async::{Error, Read, Write};

use crate::fault::{Class, Fault};
use crate::link::{Item, Link};
use crate::time::Instant;

/// What a turn waited for.
enum Woken {
    Read(usize),
    Wrote(usize),
    Due,
}

/// One turn of the loop: writes what is due, and waits until bytes arrived, some were written, or
/// the deadline came. Hands all that arrived to `on_item`. Events are to be drained after it.
///
/// `now` is the clock, `sleep_until` waits for a moment of it. Without an open transport `rx` and
/// `tx` are not touched. Bytes are read into `buf`, at least 1; 64 will do.
///
/// What was waited for in vain is dropped, so `read` and `write` of the transport have to be
/// cancel-safe, as those of buffered UARTs and of sockets are: dropped unfinished, they have read
/// or written nothing.
///
/// # Errors
///
/// The transport's fault, for [`Link::handle_closed`]; its end is [`Class::ClosedByPeer`].
pub async fn turn<const OUTBOX: usize>(
    link: &mut Link<OUTBOX>,
    rx: &mut impl Read,
    tx: &mut impl Write,
    buf: &mut [u8],
    now: impl Fn() -> Instant,
    sleep_until: impl AsyncFn(Instant),
    mut on_item: impl FnMut(Item<'_>),
) -> Result<(), Fault> {
    // What goes out next may change the deadline.
    link.poll_pending(now());
    let (is_open, deadline) = (link.state().is_open(), link.poll_timeout());
    let bytes = link.poll_pending(now());
    let woken = {
        let mut read = pin!(async {
            if is_open { rx.read(buf).await.map_err(|e| e.kind()) } else { pending().await }
        });
        let mut write = pin!(async {
            if bytes.is_empty() {
                pending().await
            } else {
                tx.write(bytes).await.map_err(|e| e.kind())
            }
        });
        let mut sleep = pin!(async {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        });
        poll_fn(|context| {
            if let Poll::Ready(read) = read.as_mut().poll(context) {
                return Poll::Ready(read.map(Woken::Read));
            }
            if let Poll::Ready(wrote) = write.as_mut().poll(context) {
                return Poll::Ready(wrote.map(Woken::Wrote));
            }
            sleep.as_mut().poll(context).map(|()| Ok(Woken::Due))
        })
        .await
    };
    match woken.map_err(Fault::from_kind)? {
        Woken::Read(0) => return Err(Class::ClosedByPeer.into()),
        Woken::Read(n) => hand_on(link, now(), buf.get(..n).unwrap_or(&[]), &mut on_item),
        Woken::Wrote(0) | Woken::Due => {}
        Woken::Wrote(n) => link.handle_written(now(), n),
    }
    link.handle_timeout(now());
    // A torn frame may have been given up.
    hand_on(link, now(), &[], &mut on_item);
    Ok(())
}

fn hand_on<const OUTBOX: usize>(
    link: &mut Link<OUTBOX>,
    now: Instant,
    mut bytes: &[u8],
    on_item: &mut impl FnMut(Item<'_>),
) {
    loop {
        let received = link.handle_bytes(now, bytes);
        bytes = bytes.get(received.taken..).unwrap_or(&[]);
        match received.item {
            Some(item) => on_item(item),
            None if bytes.is_empty() => return,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
