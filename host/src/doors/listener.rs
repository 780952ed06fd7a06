//! Where clients come in: addresses as a person writes them, and the listening sockets.
//!
//! What goes wrong here is met by people who have just installed the program, often on the machine
//! of the node itself, so each error is one line that says what would work.

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use mio::net::{TcpListener, UnixListener, UnixStream};
use socket2::SockRef;

use super::client::Stream;
use crate::relay::admission::Policy;

/// Connections that may wait to be taken; the system may allow fewer. With too few a crowd that
/// comes at once, as after an outage, is kept waiting for seconds by TCP.
const BACKLOG: i32 = 1024;
/// Ports tried above one that is taken.
const TRIED: u16 = 100;

/// An address to listen on: `IP:PORT`, `[IPV6]:PORT` or `unix:PATH`, each perhaps with a policy
/// behind a comma.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddr {
    /// A TCP port.
    Tcp {
        /// Address and port; port 0 picks a free one.
        address: SocketAddr,
        /// As written; `None` leaves it to [`ListenAddr::policy`].
        policy: Option<Policy>,
    },
    /// A Unix stream socket.
    Unix {
        /// The file to be made.
        path: PathBuf,
        /// As written; `None` leaves it to [`ListenAddr::policy`].
        policy: Option<Policy>,
    },
}

impl ListenAddr {
    /// What clients may do here: as written, else everything for programs on this machine (Unix
    /// and loopback) and no administration for others, whom an unspecified address lets in.
    pub fn policy(&self) -> Policy {
        match self {
            Self::Tcp { policy: Some(policy), .. } | Self::Unix { policy: Some(policy), .. } => {
                *policy
            }
            Self::Tcp { address, .. } if !address.ip().to_canonical().is_loopback() => {
                Policy::NoAdmin
            }
            Self::Tcp { .. } | Self::Unix { .. } => Policy::Full,
        }
    }
}

/// Why a text is no address to listen on: one line that says what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddrError(String);

impl fmt::Display for ListenAddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for ListenAddrError {}

impl FromStr for ListenAddr {
    type Err = ListenAddrError;

    fn from_str(text: &str) -> Result<Self, ListenAddrError> {
        let (place, policy) = match text.rsplit_once(',') {
            Some((place, word)) => match word.parse::<Policy>() {
                Ok(policy) => (place, Some(policy)),
                // A path may hold a comma.
                Err(_) if text.starts_with("unix:") => (text, None),
                Err(error) => return Err(ListenAddrError(error.to_string())),
            },
            None => (text, None),
        };
        if let Some(path) = place.strip_prefix("unix:") {
            return match path {
                "" => Err(ListenAddrError("the path is missing, write unix:PATH".into())),
                _ => Ok(Self::Unix { path: path.into(), policy }),
            };
        }
        let address = place.parse().map_err(|_| ListenAddrError(what_would_be_right(place)))?;
        Ok(Self::Tcp { address, policy })
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = match self {
            Self::Tcp { address, policy } => {
                address.fmt(f)?;
                policy
            }
            Self::Unix { path, policy } => {
                write!(f, "unix:{}", path.display())?;
                policy
            }
        };
        policy.map_or(Ok(()), |policy| write!(f, ",{policy}"))
    }
}

fn what_would_be_right(place: &str) -> String {
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
    if let Ok(port) = place.strip_prefix(':').unwrap_or(place).parse::<u16>() {
        return format!("the address is missing, write 127.0.0.1:{port} or 0.0.0.0:{port}");
    }
    if let Ok(ip) = place.trim_matches(['[', ']']).parse::<IpAddr>() {
        return format!("the port is missing, write {}", SocketAddr::new(ip, 4403));
    }
    if host.eq_ignore_ascii_case("localhost") {
        return "write an address instead of a name, such as 127.0.0.1:4403".into();
    }
    "write IP:PORT, [IPV6]:PORT or unix:PATH, such as 127.0.0.1:4403".into()
}

/// Why the doors cannot be opened: one line that says what would work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorError(String);

impl fmt::Display for DoorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for DoorError {}

impl DoorError {
    pub(super) fn new(line: impl Into<String>) -> Self {
        Self(line.into())
    }
}

/// A socket that listens on TCP, or on a file that is removed with it.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl Listener {
    /// Listens on a TCP address. `node` is where the node is, if it is on this machine: its port
    /// is left to it even while it does not run.
    pub(super) fn tcp(
        address: SocketAddr,
        policy: Option<Policy>,
        node: Option<SocketAddr>,
    ) -> Result<Self, DoorError> {
        let is_nodes = node.is_some_and(|node| covers(address, node));
        let bound = TcpListener::bind(address).and_then(|listener| {
            SockRef::from(&listener).listen(BACKLOG)?;
            Ok(listener)
        });
        let why = match bound {
            Ok(listener) if !is_nodes => return Ok(Self::Tcp(listener)),
            Ok(_) => "is the node's own address",
            Err(error) => match error.kind() {
                ErrorKind::AddrInUse if is_nodes => "is in use (by the node itself?)",
                ErrorKind::AddrInUse => "is in use",
                ErrorKind::AddrNotAvailable => {
                    let line = format!(
                        "{address}: this machine has no such address; \
                         write one that it has, 127.0.0.1, or 0.0.0.0 for all"
                    );
                    return Err(DoorError(line));
                }
                ErrorKind::PermissionDenied => {
                    let line = format!(
                        "{address}: no permission to listen there; \
                         ports below 1024 belong to root, 4403 is the usual one"
                    );
                    return Err(DoorError(line));
                }
                _ => return Err(DoorError(format!("{address}: cannot listen there: {error}"))),
            },
        };
        Err(DoorError(match free_above(address, node) {
            Some(free) => {
                let listen = ListenAddr::Tcp { address: free, policy };
                format!("{address} {why}; {free} is free: --listen {listen}")
            }
            None => format!("{address} {why}; choose another one with --listen"),
        }))
    }

    /// Listens on a file with these permissions. A socket file on which nobody answers is replaced.
    ///
    /// The file takes its name when it has its permissions and can be connected to: it is made in a
    /// folder of its own that nobody else can enter.
    pub(super) fn unix(path: &Path, mode: u32) -> Result<Self, UnixError> {
        if is_alive(path)? {
            return Err(UnixError::Alive);
        }
        let name = path.file_name().unwrap_or_default().display();
        let folder = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let made = folder.join("s");
        // What a process of the same number left when it was killed here.
        let _ = fs::remove_file(&made);
        let _ = fs::remove_dir(&folder);
        DirBuilder::new().mode(0o700).create(&folder)?;
        let listening = listen_on(&made, mode).and_then(|listener| {
            fs::rename(&made, path)?;
            Ok(Self::Unix(listener, SocketFile::new(path)?))
        });
        if listening.is_err() {
            // There may be none; the error is told already.
            let _ = fs::remove_file(&made);
        }
        fs::remove_dir(&folder)?;
        Ok(listening?)
    }

    pub(super) fn source(&mut self) -> &mut dyn mio::event::Source {
        match self {
            Self::Tcp(listener) => listener,
            Self::Unix(listener, _) => listener,
        }
    }

    /// The next connection, and what it is called.
    pub(super) fn accept(&self) -> io::Result<(Stream, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                Ok((Stream::Tcp(stream), peer.to_string()))
            }
            Self::Unix(listener, _) => Ok((Stream::Unix(listener.accept()?.0), "unix".into())),
        }
    }

    /// The file of a Unix socket.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(_, file) => Some(&file.path),
        }
    }

    /// The address as it would be written, with the port that was picked.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.to_string(),
                Err(error) => error.to_string(),
            },
            Self::Unix(_, file) => format!("unix:{}", file.path.display()),
        }
    }
}

fn listen_on(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    SockRef::from(&listener).listen(BACKLOG)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Why there is no Unix socket.
#[derive(Debug)]
pub(super) enum UnixError {
    /// Somebody listens there.
    Alive,
    /// Something else has that name.
    NoSocket,
    System(io::Error),
}

impl From<io::Error> for UnixError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl UnixError {
    /// In one line, for the option that named the path.
    pub(super) fn line(&self, path: &Path, option: &str) -> String {
        let shown = path.display();
        let folder = path.parent().unwrap_or(path).display();
        match self {
            Self::Alive => format!("{shown}: another program listens there, see {option}"),
            Self::NoSocket => {
                format!("{shown} exists and is no socket; name another path with {option}")
            }
            Self::System(error) => match error.kind() {
                ErrorKind::NotFound => {
                    format!("{shown}: there is no folder {folder}; make it, or see {option}")
                }
                ErrorKind::PermissionDenied => {
                    format!("{shown}: no permission to use it or its folder, see {option}")
                }
                ErrorKind::InvalidInput => {
                    format!("{shown}: too long for a socket's path, see {option}")
                }
                _ => format!("{shown}: cannot listen there: {error}, see {option}"),
            },
        }
    }
}

/// Whether somebody listens at `path`; what is there must be a socket or nothing.
fn is_alive(path: &Path) -> Result<bool, UnixError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(UnixError::NoSocket),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            // Its queue of connections is full.
            ErrorKind::WouldBlock => Ok(true),
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => Ok(false),
            _ => Err(error.into()),
        },
    }
}

/// The file of a Unix socket, removed when dropped if it is still the one that was made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.into(), identity: identity(&fs::symlink_metadata(path)?) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|now| identity(&now) == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::debug!(target: "relay", "{}: cannot be removed: {error}", self.path.display());
        }
    }
}

/// Device and inode.
fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Whether who listens on `address` takes what is meant for `node`.
fn covers(address: SocketAddr, node: SocketAddr) -> bool {
    let (here, there) = (address.ip().to_canonical(), node.ip().to_canonical());
    address.port() == node.port() && (here == there || here.is_unspecified())
}

/// A free address: the same with a higher port, but not the node's.
fn free_above(taken: SocketAddr, node: Option<SocketAddr>) -> Option<SocketAddr> {
    (1..=TRIED)
        .filter_map(|above| Some(SocketAddr::new(taken.ip(), taken.port().checked_add(above)?)))
        .filter(|&address| !node.is_some_and(|node| covers(address, node)))
        .find(|&address| TcpListener::bind(address).is_ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as StdUnixStream;

    use super::*;

    fn parsed(text: &str) -> String {
        match text.parse::<ListenAddr>() {
            Ok(address) => format!("{address} is {}", address.policy()),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn every_way_to_write_a_listener() {
        for (text, meaning) in [
            ("127.0.0.1:4403", "127.0.0.1:4403 is full"),
            ("127.8.0.1:4403", "127.8.0.1:4403 is full"),
            ("[::1]:4403", "[::1]:4403 is full"),
            ("[::ffff:127.0.0.1]:4403", "[::ffff:127.0.0.1]:4403 is full"),
            ("0.0.0.0:4403", "0.0.0.0:4403 is no-admin"),
            ("[::]:4403", "[::]:4403 is no-admin"),
            ("10.0.0.5:0", "10.0.0.5:0 is no-admin"),
            ("[fe80::1%2]:4403", "[fe80::1%2]:4403 is no-admin"),
            ("0.0.0.0:4403,full", "0.0.0.0:4403,full is full"),
            ("0.0.0.0:4403,read-only", "0.0.0.0:4403,read-only is read-only"),
            ("127.0.0.1:4403,no-admin", "127.0.0.1:4403,no-admin is no-admin"),
            ("unix:/run/x.sock", "unix:/run/x.sock is full"),
            ("unix:x,no-admin", "unix:x,no-admin is no-admin"),
            ("unix:a,b", "unix:a,b is full"),
            ("unix:a,b,read-only", "unix:a,b,read-only is read-only"),
        ] {
            assert_eq!(parsed(text), meaning);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("", "write IP:PORT"),
            ("4403", "write 127.0.0.1:4403"),
            (":4404", "write 127.0.0.1:4404"),
            ("127.0.0.1", "write 127.0.0.1:4403"),
            ("::1", "write [::1]:4403"),
            ("[::1]", "write [::1]:4403"),
            ("localhost:4403", "such as 127.0.0.1:4403"),
            ("host:4403", "write IP:PORT"),
            ("127.0.0.1:99999", "write IP:PORT"),
            ("127.0.0.1:4403,admin", "\"admin\" is no policy"),
            ("127.0.0.1:4403,", "\"\" is no policy"),
            ("unix:", "write unix:PATH"),
            ("unix:,full", "write unix:PATH"),
        ] {
            let line = parsed(text);
            assert!(line.starts_with("error: ") && line.contains(part), "{text:?}: {line}");
        }
    }

    fn taken() -> (TcpListener, SocketAddr) {
        // Not at the upper end, so that there are ports above it.
        loop {
            let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            if address.port() < 60_000 {
                return (listener, address);
            }
        }
    }

    /// The address that a line names behind `--listen`.
    fn named(error: &DoorError) -> SocketAddr {
        let line = error.to_string();
        let (_, listen) = line.rsplit_once("--listen ").expect("a suggestion");
        match listen.parse().expect("an address to listen on") {
            ListenAddr::Tcp { address, .. } => address,
            ListenAddr::Unix { .. } => panic!("{line}"),
        }
    }

    #[test]
    fn an_address_in_use_names_a_free_one() {
        let (_listener, address) = taken();
        let error = Listener::tcp(address, None, None).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{address} is in use; ")), "{error}");
        let free = named(&error);
        assert!(free.ip() == address.ip() && free.port() > address.port());
        Listener::tcp(free, None, None).expect("it is free");
        let error = Listener::tcp(address, Some(Policy::ReadOnly), None).unwrap_err();
        assert!(error.to_string().ends_with(",read-only"), "{error}");
    }

    #[test]
    fn the_nodes_own_address_is_left_to_it() {
        let (listener, address) = taken();
        let error = Listener::tcp(address, None, Some(address)).unwrap_err();
        assert!(error.to_string().contains("in use (by the node itself?); "), "{error}");
        drop(listener);
        let error = Listener::tcp(address, None, Some(address)).unwrap_err();
        assert!(error.to_string().contains("is the node's own address; "), "{error}");
        let all = SocketAddr::new("0.0.0.0".parse().unwrap(), address.port());
        let error = Listener::tcp(all, None, Some(address)).unwrap_err();
        assert!(error.to_string().contains("is the node's own address; "), "{error}");
        assert_ne!(named(&error).port(), address.port());
    }

    #[test]
    fn an_address_of_another_machine_is_named() {
        // TEST-NET-1, RFC 5737.
        let error = Listener::tcp("192.0.2.1:4403".parse().unwrap(), None, None).unwrap_err();
        assert!(error.to_string().contains("no such address"), "{error}");
    }

    /// A folder of this test alone.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let name = format!("meshbeat-{test}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_unix_socket_has_its_permissions_and_is_removed() {
        let folder = Folder::new("mode");
        let path = folder.0.join("s.sock");
        for mode in [0o600, 0o660, 0o666] {
            let listener = Listener::unix(&path, mode).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, mode);
            assert_eq!(folder.names(), ["s.sock"], "nothing else is left");
            StdUnixStream::connect(&path).expect("it listens");
            drop(listener);
            assert!(folder.names().is_empty());
        }
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_living_one_left_alone() {
        let folder = Folder::new("stale");
        let path = folder.0.join("s.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the file outlives its listener");
        let listener = Listener::unix(&path, 0o600).unwrap();
        StdUnixStream::connect(&path).expect("it listens");
        assert!(matches!(Listener::unix(&path, 0o600), Err(UnixError::Alive)));
        StdUnixStream::connect(&path).expect("it still listens");
        assert_eq!(folder.names(), ["s.sock"]);

        // Somebody else's by now.
        fs::remove_file(&path).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = Folder::new("file");
        let path = folder.0.join("s.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::unix(&path, 0o600), Err(UnixError::NoSocket)));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let nowhere = folder.0.join("no/s.sock");
        let error = Listener::unix(&nowhere, 0o600).unwrap_err();
        assert!(error.line(&nowhere, "--socket").contains("there is no folder"));
        let long = folder.0.join("x".repeat(200));
        let error = Listener::unix(&long, 0o600).map(|_| ());
        assert_eq!(folder.names(), ["s.sock"], "{error:?}");
    }
}
