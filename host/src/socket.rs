//! A non-blocking TCP or Unix socket for the link: connect in mio's documented steps, `embedded-io`
//! traits with an error that keeps `WouldBlock` and errno.

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::path::Path;

use meshbeat_core::fault::{Class, Fault};
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use socket2::{SockRef, TcpKeepalive};

/// The options of a TCP socket to the node. Whether more than the defaults harms ESP32 nodes is
/// disputed, so all but the user time-out are plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpOptions {
    /// How long written bytes may stay unacknowledged before the kernel gives the connection up
    /// (`TCP_USER_TIMEOUT`, RFC 5482; Linux only, acts locally, sends the node nothing). Default
    /// 35 s; `None` leaves it to the system, about 15 min.
    pub user_timeout: Option<Duration>,
    /// Idle time before the kernel's own keep-alive probes. Default none.
    pub keepalive: Option<Duration>,
    /// Send small writes at once (no Nagle). Default off.
    pub nodelay: bool,
    /// Size of the kernel's buffers in bytes, for tests of short writes. Default the system's.
    pub buffers: Option<usize>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            user_timeout: Some(Duration::from_secs(35)),
            keepalive: None,
            nodelay: false,
            buffers: None,
        }
    }
}

/// A connection to a node, or on its way to be one.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Begins to connect over TCP; [`Socket::poll_connected`] tells the end.
    pub fn connect(
        address: SocketAddr,
        options: &TcpOptions,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        options.apply(&stream)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream: Stream::Tcp(stream) })
    }

    /// Begins to connect to a Unix socket; [`Socket::poll_connected`] tells the end.
    pub fn connect_unix(path: &Path, registry: &Registry, token: Token) -> io::Result<Self> {
        let mut stream = UnixStream::connect(path)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream: Stream::Unix(stream) })
    }

    /// Whether the connection stands: only when there is no error and a peer. An event alone
    /// proves nothing, it may be spurious.
    pub fn poll_connected(&self) -> io::Result<bool> {
        let (error, peer) = match &self.stream {
            Stream::Tcp(stream) => (stream.take_error(), stream.peer_addr().map(|_| ())),
            Stream::Unix(stream) => (stream.take_error(), stream.peer_addr().map(|_| ())),
        };
        if let Some(error) = error? {
            return Err(error);
        }
        match peer {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) if fault_of(&error).class() == Class::NotReady => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Tells the peer that nothing more will come.
    pub fn half_close(&self) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl TcpOptions {
    fn apply(&self, stream: &TcpStream) -> io::Result<()> {
        let socket = SockRef::from(stream);
        #[cfg(any(target_os = "linux", target_os = "android"))]
        socket.set_tcp_user_timeout(self.user_timeout)?;
        if let Some(idle) = self.keepalive {
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))?;
        }
        if self.nodelay {
            socket.set_tcp_nodelay(true)?;
        }
        if let Some(bytes) = self.buffers {
            socket.set_send_buffer_size(bytes)?;
            socket.set_recv_buffer_size(bytes)?;
        }
        Ok(())
    }
}

/// A socket's error: the system's own, so that `WouldBlock` and errno are not lost on the way
/// through `embedded-io`, which has neither.
#[derive(Debug)]
pub struct SocketError(pub io::Error);

impl SocketError {
    /// What it means for the link.
    pub fn fault(&self) -> Fault {
        fault_of(&self.0)
    }
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::error::Error for SocketError {}

impl embedded_io::Error for SocketError {
    fn kind(&self) -> embedded_io::ErrorKind {
        self.0.kind().into()
    }
}

impl embedded_io::ErrorType for Socket {
    type Error = SocketError;
}

impl embedded_io::Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, SocketError> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.read(buf),
            Stream::Unix(stream) => stream.read(buf),
        }
        .map_err(SocketError)
    }
}

impl embedded_io::Write for Socket {
    fn write(&mut self, buf: &[u8]) -> Result<usize, SocketError> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write(buf),
            Stream::Unix(stream) => stream.write(buf),
        }
        .map_err(SocketError)
    }

    fn flush(&mut self) -> Result<(), SocketError> {
        Ok(())
    }
}

/// The fault behind an error of the standard library: by errno where the system is one whose
/// numbers the table knows, else by kind.
pub fn fault_of(error: &io::Error) -> Fault {
    let linux = cfg!(any(target_os = "linux", target_os = "android"));
    match (error.raw_os_error(), error.kind()) {
        (Some(errno), _) if linux => Fault::from_errno(errno),
        (_, io::ErrorKind::WouldBlock) => Fault::new(Class::NotReady),
        (
            _,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown,
        ) => Fault::new(Class::Unreachable),
        (_, io::ErrorKind::UnexpectedEof) => Fault::new(Class::ClosedByPeer),
        (_, kind) => Fault::from_kind(kind.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use embedded_io::{Error as _, Read as _, Write as _};
    use mio::{Events, Poll};

    use super::*;

    fn connected(address: SocketAddr) -> io::Result<(Socket, Poll)> {
        let mut poll = Poll::new()?;
        let socket = Socket::connect(address, &TcpOptions::default(), poll.registry(), Token(0))?;
        let mut events = Events::with_capacity(8);
        loop {
            poll.poll(&mut events, Some(Duration::from_secs(10)))?;
            assert!(!events.is_empty(), "no event for the connect");
            if socket.poll_connected()? {
                return Ok((socket, poll));
            }
        }
    }

    #[test]
    fn would_block_and_errno_survive_embedded_io() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut socket, _poll) = connected(listener.local_addr().unwrap()).unwrap();
        let error = socket.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), embedded_io::ErrorKind::Other, "all that embedded-io can say");
        assert_eq!(error.fault().class(), Class::NotReady);
        assert_eq!(error.fault().errno(), Some(11));
    }

    #[test]
    fn a_refused_connect_is_told_by_its_errno() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = connected(address).map(|_| ()).unwrap_err();
        assert_eq!(fault_of(&error), Fault::from_errno(111));
    }

    #[test]
    fn a_reset_is_told_by_its_errno() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut socket, mut poll) = connected(listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        let mut events = Events::with_capacity(8);
        let error = loop {
            match socket.read(&mut [0; 8]).map_err(|e| e.fault()) {
                Err(fault) if fault.class() == Class::NotReady => {
                    poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
                }
                result => break result.unwrap_err(),
            }
        };
        assert_eq!(error, Fault::from_errno(104));
        assert_eq!(socket.write(b"x").unwrap_err().fault(), Fault::from_errno(32));
    }
}
