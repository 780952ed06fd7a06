//! P8: no wake-up but for input and due timers, at rest, while the node is away, and after it.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::net::TcpListener;
use std::thread;

use meshbeat::event_loop::{EventLoop, Program};
use meshbeat::sim::{Server, SimConfig};
use meshbeat::socket::TcpOptions;
use meshbeat::upstream::HostLink;
use meshbeat_core::{Event, Instant, LinkConfig};

/// Ends a given time after the link came up, or after the start.
struct Rest {
    span: Duration,
    until: Option<Instant>,
    done: bool,
}

impl Program for Rest {
    fn handle_event(&mut self, now: Instant, event: Event, _link: &HostLink) {
        if let Event::Configured { .. } = event {
            self.until = Some(now + self.span);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.done = self.until.is_some_and(|until| now >= until);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.until.filter(|_| !self.done)
    }

    fn is_done(&self) -> bool {
        self.done
    }
}

/// How often the loop woke up while `rest` lasted.
fn turns(address: SocketAddr, until: Option<Instant>) -> u64 {
    let node = (address.ip().to_string(), address.port());
    let mut rest = Rest { span: Duration::from_secs(4), until, done: false };
    let mut event_loop =
        EventLoop::new(node, LinkConfig::default(), TcpOptions::default(), 1).expect("a loop");
    event_loop.run(&mut rest).expect("a poll");
    event_loop.turns()
}

#[test]
fn at_rest_nothing_wakes_the_loop() {
    let mut server =
        Server::bind((Ipv4Addr::LOCALHOST, 0).into(), SimConfig::default(), 1).expect("a port");
    let (address, handle) = (server.local_addr(), server.handle());
    let served = thread::spawn(move || server.run());
    let turns = turns(address, None);
    handle.stop();
    served.join().expect("no panic").expect("a poll");
    // The connect, the handshake in a few reads, one probe and its answer, the end.
    assert!((5..40).contains(&turns), "{turns} turns in 4 s");
}

#[test]
fn while_the_node_refuses_only_the_retries_wake_the_loop() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let turns = turns(address, Some(Instant::from_millis(4000)));
    // At 0, 0.8 and 2.4 s, each with its refusal, and the end.
    assert!((4..20).contains(&turns), "{turns} turns in 4 s");
}
