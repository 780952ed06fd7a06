//! Names to addresses, off the event loop, afresh for every attempt.
//!
//! The system's resolver blocks, sometimes for half a minute, so it runs in a thread of its own
//! that is started with the first name; an address as such needs no thread. One question at a time:
//! while one is under way a further one only renews it.

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use std::io;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread;

use mio::Waker;

/// What a name resolved to, in the resolver's order of preference.
pub type Resolved = io::Result<Vec<SocketAddr>>;

/// Resolves one host and port, again and again.
#[derive(Debug)]
pub struct Resolver {
    host: String,
    port: u16,
    waker: Arc<Waker>,
    worker: Option<Worker>,
    /// A question is with the worker.
    asked: bool,
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.host, self.port)
    }
}

#[derive(Debug)]
struct Worker {
    questions: Sender<()>,
    answers: Receiver<Resolved>,
}

impl Resolver {
    /// A resolver that rings `waker` when an answer is there.
    pub fn new((host, port): (String, u16), waker: Arc<Waker>) -> Self {
        Self { host, port, waker, worker: None, asked: false }
    }

    /// Asks for the addresses. The answer is returned at once for an address, else it is for
    /// [`Resolver::poll`] once the waker has rung.
    pub fn ask(&mut self) -> Option<Resolved> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Some(Ok(vec![SocketAddr::new(address, self.port)]));
        }
        if self.asked {
            return None;
        }
        match self.start() {
            Ok(worker) if worker.questions.send(()).is_ok() => {
                self.asked = true;
                None
            }
            Ok(_) => {
                self.worker = None;
                Some(Err(io::Error::other("the resolver's thread ended")))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// The answer to the last question, if it is there.
    pub fn poll(&mut self) -> Option<Resolved> {
        let worker = self.worker.as_ref()?;
        let answer = match worker.answers.try_recv() {
            Ok(answer) => answer,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                self.worker = None;
                Err(io::Error::other("the resolver's thread ended"))
            }
        };
        (core::mem::take(&mut self.asked)).then_some(answer)
    }

    fn start(&mut self) -> io::Result<&Worker> {
        if self.worker.is_none() {
            let (questions, asked) = mpsc::channel();
            let (answer, answers) = mpsc::channel();
            let (host, port, waker) = (self.host.clone(), self.port, Arc::clone(&self.waker));
            thread::Builder::new().name("resolve".into()).spawn(move || {
                while asked.recv().is_ok() {
                    let resolved = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
                    if answer.send(resolved).is_err() || waker.wake().is_err() {
                        return;
                    }
                }
            })?;
            self.worker = Some(Worker { questions, answers });
        }
        self.worker.as_ref().ok_or_else(|| io::Error::other("no resolver"))
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;

    fn resolve(host: &str) -> Resolved {
        let mut poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let mut resolver = Resolver::new((host.into(), 4403), waker);
        if let Some(answer) = resolver.ask() {
            return answer;
        }
        assert!(resolver.ask().is_none(), "a further question only renews it");
        let mut events = Events::with_capacity(1);
        loop {
            poll.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
            if let Some(answer) = resolver.poll() {
                assert!(resolver.poll().is_none(), "one answer for one question");
                return answer;
            }
        }
    }

    #[test]
    fn an_address_is_its_own_answer() {
        assert_eq!(resolve("10.0.0.5").unwrap(), ["10.0.0.5:4403".parse().unwrap()]);
        assert_eq!(resolve("::1").unwrap(), ["[::1]:4403".parse().unwrap()]);
    }

    #[test]
    fn localhost_has_a_loopback_address() {
        assert!(resolve("localhost").unwrap().iter().all(|a| a.ip().is_loopback()));
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        assert!(resolve("no-such-host.invalid").is_err());
    }
}
