//! A session cut at every byte in both directions: whatever byte the connection ends behind, no half
//! frame is delivered or left over, and the next session comes up whole.
//!
//! The frames themselves are compared by the world, with the node's record of what it wrote.

use core::time::Duration;
use std::collections::BTreeSet;

use meshbeat::sim::{Record, SimConfig};
use meshbeat_core::fault::Fault;
use meshbeat_core::{Event, LinkConfig};
use meshbeat_tests::world::{Direction, WireConfig, World};

/// How long the session goes on after its handshake: some packets, a probe and a heartbeat.
const SESSION: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(60);

/// A node that knows ten others and hears of them now and then.
fn node() -> SimConfig {
    let mut node = SimConfig::default();
    node.identity.nodes = 10;
    node.traffic.per_minute = 3;
    node
}

fn world(splits: u32) -> World {
    let wire = WireConfig { splits, ..WireConfig::default() };
    World::with(7, LinkConfig::default(), node(), wire)
}

/// The bytes of the session in each direction, if nothing cuts it.
fn whole_session(splits: u32) -> (u64, u64) {
    let mut world = world(splits);
    world.run_until_up(LIMIT);
    world.run(SESSION);
    let stats = world.link().stats();
    assert!(stats.heartbeats >= 3 && stats.frames_in > 60, "{stats:?}");
    (stats.bytes_out, stats.bytes_in)
}

#[test]
fn from_node_to_client_at_every_byte() {
    for splits in [0, 100] {
        let (_, bytes) = whole_session(splits);
        let mut frames = BTreeSet::new();
        for cut in 0..=bytes as usize {
            let world = cut_once(splits, Direction::Down, cut);
            assert_eq!(bytes_read(&world), cut, "bytes read when cut behind byte {cut}");
            frames.insert(world.frames().iter().filter(|frame| frame.conn.0 == 1).count());
        }
        // Every frame was once the first that did not arrive.
        assert_eq!(frames.len(), frames.last().map_or(0, |most| most + 1));
    }
}

#[test]
fn from_client_to_node_at_every_byte() {
    for splits in [0, 100] {
        let (bytes, _) = whole_session(splits);
        assert!(bytes >= 28, "{bytes}");
        for cut in 0..=bytes as usize {
            cut_once(splits, Direction::Up, cut);
        }
    }
}

/// Cuts the first session behind so many bytes; lets the second one live.
fn cut_once(splits: u32, direction: Direction, bytes: usize) -> World {
    let mut world = world(splits);
    world.cut_next(direction, bytes);
    let lost =
        |world: &World| world.seen().iter().any(|seen| matches!(seen.event, Event::Lost { .. }));
    world.run_until(LIMIT + SESSION, lost);
    let before = world.frames().len();
    world.run_until_up(LIMIT);
    world.run(SESSION);

    let losses: Vec<_> = world
        .seen()
        .iter()
        .filter_map(|seen| match seen.event {
            Event::Lost { fault, .. } => Some(fault),
            _ => None,
        })
        .collect();
    let reset = Fault::from_errno(104);
    assert_eq!(losses, [reset], "one loss, {direction:?} behind byte {bytes}: {world:?}");
    assert!(world.link().state().is_up());
    assert_eq!(world.undelivered(), 0);
    // The second session is whole: what the node wrote since then, and nothing before it.
    let written =
        world.node().log().count(|what| matches!(what, Record::Frame { conn, .. } if conn.0 == 2));
    assert_eq!(world.frames().len() - before, written);
    assert_eq!(world.link().stats().noise, noise_of_first(&world) as u64);
    world
}

/// Bytes of the first connection that the link took.
fn bytes_read(world: &World) -> usize {
    let second: u64 = world
        .node()
        .log()
        .entries()
        .filter_map(|entry| match entry.what {
            Record::Frame { conn, end, .. } if conn.0 == 2 => Some(end),
            _ => None,
        })
        .max()
        .unwrap_or(0);
    (world.link().stats().bytes_in - second) as usize
}

/// Bytes of the half frame at the end of the first connection.
fn noise_of_first(world: &World) -> usize {
    let read = bytes_read(world) as u64;
    let whole = world.node().log().entries().filter_map(|entry| match entry.what {
        Record::Frame { conn, end, .. } if conn.0 == 1 && end <= read => Some(end),
        _ => None,
    });
    (read - whole.max().unwrap_or(0)) as usize
}
