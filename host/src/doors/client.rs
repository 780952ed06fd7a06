//! One connection: its socket, what is known of the socket's readiness, and what it is for.

use core::fmt;
use core::time::Duration;
use std::io::{self, IoSlice, Read, Write};

use meshbeat_core::Instant;
use meshbeat_core::fault::Fault;
use mio::net::{TcpStream, UnixStream};
use socket2::{SockRef, TcpKeepalive};

use crate::relay::ClientId;

/// Silence before the kernel asks whether a client is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Longest time for which written bytes may stay unacknowledged (`TCP_USER_TIMEOUT`).
const USER_TIMEOUT: Duration = Duration::from_secs(90);

/// Names a question on the daemon's socket; never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ControlId(pub(super) u64);

/// A connection. Events come on edges only, so what is still possible has to be remembered.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) stream: Stream,
    pub(super) role: Role,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// It stands in the queue of those to be read, to be written.
    pub(super) in_reads: bool,
    pub(super) in_writes: bool,
    /// A write failed; what arrived before is read first.
    pub(super) broken: Option<Fault>,
    /// When something has to be done about it although nothing happens.
    pub(super) deadline: Option<Instant>,
}

/// What a connection is for.
#[derive(Debug)]
pub(super) enum Role {
    /// On the daemon's socket, before the first byte.
    Undecided,
    /// It began a control line.
    Asking { id: ControlId, line: Vec<u8> },
    /// The program works on its control line.
    Waiting { id: ControlId },
    /// It is being answered.
    Answered { bytes: Vec<u8>, written: usize },
    /// A session of the relay.
    Client {
        id: ClientId,
        /// It has sent something, so something may be owed to it.
        heard: bool,
        /// It has ended its side, and is served until then at the latest.
        until: Option<Instant>,
    },
}

impl Conn {
    /// A new connection. mio tells that it is readable, if it is.
    pub(super) fn new(stream: Stream, role: Role) -> Self {
        Self {
            stream,
            role,
            readable: false,
            writable: true,
            in_reads: false,
            in_writes: false,
            broken: None,
            deadline: None,
        }
    }
}

/// A client's socket.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Frames leave at once, and a client that vanished is noticed. A socket that cannot be set so
    /// is broken, and reading will tell.
    pub(super) fn set_options(&self, buffers: Option<usize>) {
        let socket = match self {
            Self::Tcp(stream) => {
                let _ = stream.set_nodelay(true);
                let socket = SockRef::from(stream);
                let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
                #[cfg(any(target_os = "linux", target_os = "android"))]
                let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
                socket
            }
            Self::Unix(stream) => SockRef::from(stream),
        };
        if let Some(bytes) = buffers {
            let _ = socket.set_send_buffer_size(bytes);
            let _ = socket.set_recv_buffer_size(bytes);
        }
    }

    pub(super) fn source(&mut self) -> &mut dyn mio::event::Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buf),
            Self::Unix(stream) => stream.write(buf),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write_vectored(slices),
            Self::Unix(stream) => stream.write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Display for ControlId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "question {}", self.0)
    }
}
