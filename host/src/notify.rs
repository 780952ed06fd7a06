//! What systemd is told: `READY=1`, one line of status, the watchdog's sign of life, `STOPPING=1`
//! (`sd_notify(3)`).
//!
//! Without `$NOTIFY_SOCKET` every call does nothing. There is no thread: the sign of life is given
//! by the event loop itself, so a loop that stands still is one that systemd restarts.

use core::time::Duration;
use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;

use log::debug;
use meshbeat_core::Instant;

/// The one who is told how the program is.
#[derive(Debug, Default)]
pub struct Notify {
    service: Option<(UnixDatagram, SocketAddr)>,
    /// Half of the span that systemd grants between two signs of life.
    every: Option<Duration>,
    /// When the next sign of life is due; `None` before [`Notify::ready`].
    due: Option<Instant>,
    /// The status told last.
    status: String,
}

impl Notify {
    /// Tells nobody.
    pub fn silent() -> Self {
        Self::default()
    }

    /// As the environment says: `$NOTIFY_SOCKET` (a path, or `@NAME` for an abstract one),
    /// `$WATCHDOG_USEC`, and `$WATCHDOG_PID` unless that is another process.
    pub fn from_env() -> Self {
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let ours = env::var_os("WATCHDOG_PID").is_none()
            || number("WATCHDOG_PID") == Some(process::id().into());
        let watchdog = number("WATCHDOG_USEC").filter(|_| ours).map(Duration::from_micros);
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Self::silent() };
        Self::new(&name, watchdog).unwrap_or_else(|error| {
            debug!(target: "run", "NOTIFY_SOCKET {}: {error}", name.display());
            Self::silent()
        })
    }

    /// Tells the datagram socket called `name`, a path or `@NAME`; with `watchdog` at least that
    /// often.
    ///
    /// # Errors
    /// The name is no address, or the system gives no socket.
    pub fn new(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let every = watchdog.map(|span| span / 2).filter(|span| !span.is_zero());
        Ok(Self { service: Some((socket, address(name)?)), every, ..Self::default() })
    }

    /// The program serves: `READY=1`. From now on the watchdog gets its signs of life.
    pub fn ready(&mut self, now: Instant) {
        self.tell("READY=1");
        self.due = self.every.map(|every| now + every);
    }

    /// One line for people; told only if it is another one than before.
    pub fn status(&mut self, line: &str) {
        if self.status != line {
            line.clone_into(&mut self.status);
            let line: String = line.chars().filter(|c| !c.is_control()).collect();
            self.tell(&format!("STATUS={line}"));
        }
    }

    /// The program ends: `STOPPING=1`.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Gives the sign of life that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let (Some(due), Some(every)) = (self.due, self.every)
            && now >= due
        {
            self.due = Some(now + every);
            self.tell("WATCHDOG=1");
        }
    }

    /// When the next sign of life is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// What cannot be told is not worth stopping for.
    fn tell(&self, what: &str) {
        if let Some((socket, address)) = &self.service
            && let Err(error) = socket.send_to_addr(what.as_bytes(), address)
        {
            debug!(target: "run", "systemd was not told {what}: {error}");
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::ffi::OsStrExt as _;

    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    SocketAddr::from_pathname(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    /// All datagrams that were sent so far; they arrive as they are sent.
    fn told(service: &UnixDatagram) -> Vec<String> {
        service.set_nonblocking(true).expect("a socket");
        let mut buf = [0; 256];
        let mut told = Vec::new();
        while let Ok(len) = service.recv(&mut buf) {
            told.push(String::from_utf8_lossy(&buf[..len]).into_owned());
        }
        told
    }

    fn script(notify: &mut Notify, service: &UnixDatagram) {
        assert_eq!(notify.poll_timeout(), None, "systemd counts from READY on");
        notify.ready(at(0));
        notify.status("up");
        notify.status("up");
        notify.status("down:\nREADY=0");
        assert_eq!(told(service), ["READY=1", "STATUS=up", "STATUS=down:READY=0"]);
        assert_eq!(notify.poll_timeout(), Some(at(10)));
        notify.handle_timeout(at(9));
        assert!(told(service).is_empty());
        notify.handle_timeout(at(11));
        assert_eq!(notify.poll_timeout(), Some(at(21)));
        notify.stopping();
        assert_eq!(told(service), ["WATCHDOG=1", "STOPPING=1"]);
    }

    #[test]
    fn a_socket_by_its_path() {
        let path = env::temp_dir().join(format!("meshbeat-notify-{}", process::id()));
        let service = UnixDatagram::bind(&path).expect("a temporary file");
        let mut notify = Notify::new(path.as_os_str(), Some(20 * SECOND)).expect("a path");
        script(&mut notify, &service);
        std::fs::remove_file(&path).expect("it is ours");
        notify.status("nobody hears this");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_socket_by_its_abstract_name() {
        use std::os::linux::net::SocketAddrExt as _;

        let name = format!("meshbeat-notify-{}", process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("short");
        let service = UnixDatagram::bind_addr(&address).expect("nobody else has it");
        let name = format!("@{name}");
        let mut notify = Notify::new(OsStr::new(&name), Some(20 * SECOND)).expect("short");
        script(&mut notify, &service);
    }

    #[test]
    fn without_systemd_nothing_is_due() {
        let mut notify = Notify::silent();
        notify.ready(at(0));
        notify.status("up");
        assert_eq!(notify.poll_timeout(), None);
        assert!(Notify::new(OsStr::new(&"x".repeat(200)), None).is_err(), "no such address");
    }
}
