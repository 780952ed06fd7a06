//! What went wrong with a transport, and what to do about it: one table of classes, and two that
//! lead into it, from [`embedded_io::ErrorKind`] and from the raw errno of hosts that have one.
//!
//! A fault is classified here and nowhere else. The first rows are the origin of this project:
//! broken pipe (32), connection reset (104), connection refused (111) and a time-out are expected,
//! debug lines, and answered with a reconnect; anything unusual is one warning.

use core::fmt;

use embedded_io::ErrorKind;

/// What to do after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Verdict {
    /// Nothing is wrong: wait until the transport is ready.
    Ignore,
    /// Make the same call again at once.
    RetryNow,
    /// Drop the transport and open a new one after the back-off.
    Reconnect,
    /// Trying again with the same settings cannot help: a one-shot command stops here. A link that
    /// must never give up reconnects all the same.
    GiveUp,
}

/// How loud a fault is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Level {
    /// Expected in the life of a link.
    Debug,
    /// Unusual: one warning, with number and name.
    Warn,
}

macro_rules! classes {
    ($($(#[$doc:meta])* $class:ident $verdict:ident $level:ident $text:literal)*) => {
        /// The kind of a fault, whatever reported it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        #[non_exhaustive]
        pub enum Class { $($(#[$doc])* $class,)* }

        impl Class {
            /// Every class, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$class),*];

            /// What to do.
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$class => Verdict::$verdict,)* }
            }

            /// How loud to say it.
            pub const fn level(self) -> Level {
                match self { $(Self::$class => Level::$level,)* }
            }

            /// Its name in words.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$class => $text,)* }
            }
        }
    };
}

// The table of classes: verdict, level, words.
classes! {
    /// The peer was gone when we wrote.
    BrokenPipe         Reconnect Debug "broken pipe"
    /// The peer reset the connection.
    ConnectionReset    Reconnect Debug "connection reset"
    /// Nobody listens at the peer's port: a node that reboots.
    ConnectionRefused  Reconnect Debug "connection refused"
    /// No answer in time: to the connect, or to bytes written (`TCP_USER_TIMEOUT`).
    TimedOut           Reconnect Debug "timed out"
    /// No route, or the network or host is down.
    Unreachable        Reconnect Debug "unreachable"
    /// The peer closed politely.
    ClosedByPeer       Reconnect Debug "closed by peer"
    /// This machine gave the connection up.
    ConnectionAborted  Reconnect Debug "connection aborted"
    /// The connection was not, or no longer, there.
    NotConnected       Reconnect Debug "not connected"
    /// No byte came back although the node was asked.
    Silent             Reconnect Debug "no answer to heartbeats"
    /// The handshake stood still.
    HandshakeStalled   Reconnect Debug "handshake stalled"
    /// The handshake went on, and never ended.
    HandshakeEndless   Reconnect Debug "handshake never completed"
    /// The name of the node has no address now.
    NameNotResolved    Reconnect Debug "name not resolved"
    /// The call was interrupted by a signal.
    Interrupted        RetryNow  Debug "interrupted"
    /// The transport is not ready; not a fault.
    NotReady           Ignore    Debug "not ready"
    /// The local address, port or address family cannot be had.
    AddressUnavailable Reconnect Warn  "address not available"
    /// Memory, buffers or file descriptors of this machine ran out.
    Exhausted          Reconnect Warn  "resources exhausted"
    /// The system forbids it: a firewall, a missing right.
    PermissionDenied   GiveUp    Warn  "permission denied"
    /// The device or path is not there.
    NotFound           Reconnect Warn  "not found"
    /// The call itself was wrong.
    Misuse             GiveUp    Warn  "invalid call"
    /// Anything else.
    Unusual            Reconnect Warn  "unusual error"
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text())
    }
}

/// A classified fault: its class and, where the system gave one, its errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Fault {
    class: Class,
    errno: Option<i32>,
}

impl Fault {
    /// A fault known by its class alone.
    pub const fn new(class: Class) -> Self {
        Self { class, errno: None }
    }

    /// The fault that an `embedded-io` transport reports.
    ///
    /// `embedded-io` has no `WouldBlock`: a host's arrives as `Other`, as do host unreachable,
    /// network down and unexpected end of file. So `Other` means reconnect, and a transport that
    /// can block must keep its own error and use [`Fault::from_errno`].
    pub const fn from_kind(kind: ErrorKind) -> Self {
        Self::new(match kind {
            ErrorKind::BrokenPipe => Class::BrokenPipe,
            ErrorKind::ConnectionReset => Class::ConnectionReset,
            ErrorKind::ConnectionRefused => Class::ConnectionRefused,
            ErrorKind::TimedOut => Class::TimedOut,
            ErrorKind::ConnectionAborted => Class::ConnectionAborted,
            ErrorKind::NotConnected => Class::NotConnected,
            ErrorKind::WriteZero => Class::ClosedByPeer,
            ErrorKind::Interrupted => Class::Interrupted,
            ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable => Class::AddressUnavailable,
            ErrorKind::OutOfMemory => Class::Exhausted,
            ErrorKind::PermissionDenied => Class::PermissionDenied,
            ErrorKind::NotFound => Class::NotFound,
            ErrorKind::InvalidInput | ErrorKind::Unsupported => Class::Misuse,
            // Other, AlreadyExists, InvalidData, and what embedded-io may add.
            _ => Class::Unusual,
        })
    }

    /// The fault behind a raw errno, with the numbers of Linux (`asm-generic/errno.h`).
    pub fn from_errno(errno: i32) -> Self {
        let row = ERRNOS.iter().find(|row| row.0 == errno);
        Self { class: row.map_or(Class::Unusual, |row| row.2), errno: Some(errno) }
    }

    /// The kind of fault.
    pub const fn class(self) -> Class {
        self.class
    }

    /// What to do.
    pub const fn verdict(self) -> Verdict {
        self.class.verdict()
    }

    /// How loud to say it.
    pub const fn level(self) -> Level {
        self.class.level()
    }

    /// The raw errno, if the system gave one.
    pub const fn errno(self) -> Option<i32> {
        self.errno
    }
}

impl From<Class> for Fault {
    fn from(class: Class) -> Self {
        Self::new(class)
    }
}

/// `broken pipe`, or with an errno `broken pipe (32 EPIPE)`.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class.text())?;
        match self.errno {
            None => Ok(()),
            Some(errno) => match errno_name(errno) {
                Some(name) => write!(f, " ({errno} {name})"),
                None => write!(f, " (errno {errno})"),
            },
        }
    }
}

/// The symbolic name of a Linux errno that a socket can give.
pub fn errno_name(errno: i32) -> Option<&'static str> {
    ERRNOS.iter().find(|row| row.0 == errno).map(|row| row.1)
}

/// The table of errnos (Linux), the project's seeds first.
const ERRNOS: &[(i32, &str, Class)] = &[
    (32, "EPIPE", Class::BrokenPipe),
    (104, "ECONNRESET", Class::ConnectionReset),
    (111, "ECONNREFUSED", Class::ConnectionRefused),
    (110, "ETIMEDOUT", Class::TimedOut),
    (113, "EHOSTUNREACH", Class::Unreachable),
    (101, "ENETUNREACH", Class::Unreachable),
    (100, "ENETDOWN", Class::Unreachable),
    (112, "EHOSTDOWN", Class::Unreachable),
    (103, "ECONNABORTED", Class::ConnectionAborted),
    (107, "ENOTCONN", Class::NotConnected),
    (108, "ESHUTDOWN", Class::BrokenPipe),
    (102, "ENETRESET", Class::ConnectionReset),
    (4, "EINTR", Class::Interrupted),
    (11, "EAGAIN", Class::NotReady),
    (115, "EINPROGRESS", Class::NotReady),
    (114, "EALREADY", Class::NotReady),
    (97, "EAFNOSUPPORT", Class::AddressUnavailable),
    (98, "EADDRINUSE", Class::AddressUnavailable),
    (99, "EADDRNOTAVAIL", Class::AddressUnavailable),
    (105, "ENOBUFS", Class::Exhausted),
    (12, "ENOMEM", Class::Exhausted),
    (24, "EMFILE", Class::Exhausted),
    (23, "ENFILE", Class::Exhausted),
    (1, "EPERM", Class::PermissionDenied),
    (13, "EACCES", Class::PermissionDenied),
    (9, "EBADF", Class::Misuse),
    (22, "EINVAL", Class::Misuse),
    (14, "EFAULT", Class::Misuse),
    (88, "ENOTSOCK", Class::Misuse),
    (106, "EISCONN", Class::Misuse),
    (92, "ENOPROTOOPT", Class::Misuse),
    (2, "ENOENT", Class::NotFound),
    (6, "ENXIO", Class::NotFound),
    (19, "ENODEV", Class::NotFound),
    (5, "EIO", Class::Unusual),
    (71, "EPROTO", Class::Unusual),
];

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;

    #[test]
    fn kinds_as_one_table() {
        use Verdict::{GiveUp, Reconnect, RetryNow};
        let table = [
            (ErrorKind::BrokenPipe, Class::BrokenPipe, Reconnect, Level::Debug),
            (ErrorKind::ConnectionReset, Class::ConnectionReset, Reconnect, Level::Debug),
            (ErrorKind::ConnectionRefused, Class::ConnectionRefused, Reconnect, Level::Debug),
            (ErrorKind::TimedOut, Class::TimedOut, Reconnect, Level::Debug),
            (ErrorKind::ConnectionAborted, Class::ConnectionAborted, Reconnect, Level::Debug),
            (ErrorKind::NotConnected, Class::NotConnected, Reconnect, Level::Debug),
            (ErrorKind::WriteZero, Class::ClosedByPeer, Reconnect, Level::Debug),
            (ErrorKind::Interrupted, Class::Interrupted, RetryNow, Level::Debug),
            (ErrorKind::AddrInUse, Class::AddressUnavailable, Reconnect, Level::Warn),
            (ErrorKind::AddrNotAvailable, Class::AddressUnavailable, Reconnect, Level::Warn),
            (ErrorKind::OutOfMemory, Class::Exhausted, Reconnect, Level::Warn),
            (ErrorKind::PermissionDenied, Class::PermissionDenied, GiveUp, Level::Warn),
            (ErrorKind::NotFound, Class::NotFound, Reconnect, Level::Warn),
            (ErrorKind::InvalidInput, Class::Misuse, GiveUp, Level::Warn),
            (ErrorKind::Unsupported, Class::Misuse, GiveUp, Level::Warn),
            (ErrorKind::InvalidData, Class::Unusual, Reconnect, Level::Warn),
            (ErrorKind::AlreadyExists, Class::Unusual, Reconnect, Level::Warn),
            (ErrorKind::Other, Class::Unusual, Reconnect, Level::Warn),
        ];
        for (kind, class, verdict, level) in table {
            let fault = Fault::from_kind(kind);
            assert_eq!((fault.class(), fault.verdict(), fault.level()), (class, verdict, level));
        }
    }

    #[test]
    fn errnos_as_one_table() {
        use Verdict::{GiveUp, Ignore, Reconnect, RetryNow};
        let expected_faults = [32, 104, 111, 110, 113, 101, 100, 112, 103, 107];
        let warnings = [97, 98, 99, 105, 12, 24, 23];
        let wrong_calls = [9, 13, 22];
        for errno in expected_faults {
            let fault = Fault::from_errno(errno);
            assert_eq!((fault.verdict(), fault.level()), (Reconnect, Level::Debug), "{fault}");
        }
        for errno in warnings {
            let fault = Fault::from_errno(errno);
            assert_eq!((fault.verdict(), fault.level()), (Reconnect, Level::Warn), "{fault}");
        }
        for errno in wrong_calls {
            let fault = Fault::from_errno(errno);
            assert_eq!((fault.verdict(), fault.level()), (GiveUp, Level::Warn), "{fault}");
        }
        assert_eq!(Fault::from_errno(4).verdict(), RetryNow);
        assert_eq!(Fault::from_errno(11).verdict(), Ignore);
    }

    #[test]
    fn an_unusual_errno_is_named_by_its_number() {
        let fault = Fault::from_errno(4095);
        assert_eq!((fault.verdict(), fault.level()), (Verdict::Reconnect, Level::Warn));
        assert_eq!(fault.to_string(), "unusual error (errno 4095)");
        assert_eq!(Fault::from_errno(32).to_string(), "broken pipe (32 EPIPE)");
        assert_eq!(Fault::new(Class::Silent).to_string(), "no answer to heartbeats");
    }

    #[test]
    fn no_errno_stands_twice() {
        for (i, row) in ERRNOS.iter().enumerate() {
            assert!(ERRNOS[i + 1..].iter().all(|other| other.0 != row.0), "{}", row.1);
        }
    }
}
