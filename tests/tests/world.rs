//! Months of link life under every fault at once, from many seeds; and proof that the checks which
//! watch over it can fail.

use core::time::Duration;
use std::time::Instant as Clock;

use meshbeat::sim::{Chance, Fault, Record, Schedule, SimConfig};
use meshbeat_core::LinkConfig;
use meshbeat_core::backoff::BackoffConfig;
use meshbeat_core::rng::Rng;
use meshbeat_tests::world::{Flaw, WireConfig, World};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// Different worlds, and how long each one lives under faults.
const SEEDS: u64 = 30;
const LIFE: Duration = Duration::from_secs(2 * 86_400);

/// All faults that concern the link, with spans that leave time for more than one of them.
fn faults() -> Vec<Fault> {
    let second = Duration::from_secs(1);
    let mut faults = Fault::catalogue();
    faults.retain(|fault| !matches!(fault, Fault::Storm { .. } | Fault::Stolen { .. }));
    faults.extend([
        Fault::Storm { span: 300 * second },
        Fault::Stolen { life: second..=second, span: 120 * second },
        Fault::Stolen { life: 31 * second..=90 * second, span: 600 * second },
        Fault::Stall { frames: 0 },
        Fault::Cut { handshake: true, frames: 0 },
        Fault::Cut { handshake: true, frames: 50 },
        Fault::Cut { handshake: false, frames: 3 },
        Fault::Blackhole { span: 10 * second },
        Fault::Refuse { span: 300 * second },
        Fault::Shared { chance: Chance::percent(90) },
    ]);
    faults
}

/// A world of its own kind, for each seed another.
fn world(seed: u64) -> World {
    let mut rng = Rng::new(seed ^ 0x0073_6B79);
    let mut node = SimConfig::default();
    node.identity.nodes = rng.below(120);
    node.identity.replays = rng.below(2) == 0;
    node.traffic.per_minute = rng.below(8);
    node.heartbeat.answered = rng.below(5) > 0;
    node.stream.notices_fin = rng.below(4) > 0;
    let wire = if rng.below(3) == 0 { WireConfig::default() } else { WireConfig::random(&mut rng) };
    World::with(seed, LinkConfig::default(), node, wire)
}

/// Faults of the node every ten minutes, and faults of the wire between them.
fn live(world: &mut World, seed: u64, life: Duration) -> Result<(), String> {
    let schedule = Schedule::new(world.now(), faults(), 10 * MINUTE, seed);
    world.node_mut().play(schedule);
    let mut rng = Rng::new(seed ^ 0x7769_7265);
    let end = world.now() + life;
    while world.now() < end {
        world.try_run(Duration::from_secs(u64::from(rng.below(1800))))?;
        let span = Duration::from_secs(u64::from(rng.below(120)));
        match rng.below(5) {
            0 => world.unplug(span),
            1 => world.unroute(span),
            2 => world.cut(),
            3 => world.rewire(WireConfig::random(&mut rng)),
            _ => world.rewire(WireConfig::default()),
        }
    }
    Ok(())
}

/// When all faults are over the link comes back, and both sides agree about what was.
fn end_well(world: &mut World) -> Result<(), String> {
    world.rewire(WireConfig::default());
    let nothing = Schedule::new(world.now(), Vec::new(), DAY, 0);
    world.node_mut().play(nothing);
    world.recover();
    let limit = BackoffConfig::DEFAULT.crowded_cap.as_duration() + MINUTE;
    world.try_run(MINUTE)?;
    world.try_run_until(limit, |world| world.link().state().is_up())?;
    world.try_run(10 * MINUTE)?;
    if !world.link().state().is_up() || world.undelivered() > 0 {
        return Err(format!("{} frames withheld", world.undelivered()));
    }
    let (node, link) = (world.node().log().totals(), world.totals());
    for (what, node, link) in [
        ("connects", node.connects, link.connects),
        ("handshakes asked for", node.want_configs, link.want_configs),
        ("heartbeats", node.heartbeats, link.heartbeats),
        ("handshakes done", link.sessions, node.configured),
        ("frames", link.frames, node.frames + link.tears),
    ] {
        if node > link {
            return Err(format!("{what}: {node} at one end, {link} at the other"));
        }
    }
    match world.node().log().count(|what| matches!(what, Record::Transmitted { .. })) {
        0 => Ok(()),
        sent => Err(format!("{sent} packets went on the air for a link that only listens")),
    }
}

#[test]
fn months_under_all_faults() {
    let start = Clock::now();
    let mut hours = 0;
    let mut steps = 0;
    let mut sessions = 0;
    let mut frames = 0;
    for seed in 0..SEEDS {
        let mut world = world(seed);
        let lived = live(&mut world, seed, LIFE).and_then(|()| end_well(&mut world));
        lived.unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        hours += world.now().as_millis() / 3_600_000;
        steps += world.steps();
        sessions += world.totals().sessions;
        frames += world.totals().frames;
    }
    assert!(sessions > SEEDS * 100, "{sessions} sessions");
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{SEEDS} worlds, {hours} h, {sessions} sessions, {frames} frames, {steps} steps in \
         {seconds:.1} s: {:.0} simulated hours per second",
        hours as f64 / seconds
    );
}

#[test]
fn a_run_is_reproduced_by_its_seed() {
    let run = |seed| {
        let mut world = world(seed);
        live(&mut world, seed, DAY / 4).unwrap();
        (world.seen().to_vec(), world.frames().to_vec(), world.steps())
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).0, run(4).0);
}

/// Drivers that do what no caller may are found out, whichever check it is that speaks.
#[test]
fn wrong_drivers_are_caught() {
    for (flaw, words) in [
        (Flaw::LosesBytes, &["came out", "lost", "is none", "not delivered", "did not happen"][..]),
        (Flaw::ReadsTwice, &["came out", "twice", "is none", "lost"]),
        (Flaw::KeepsOldBytes, &["came out", "twice", "is none", "lost"]),
        (Flaw::ConfirmsHalf, &["is no frame", "no message", "next attempt in"]),
        (Flaw::Impatient, &["two connects at once"]),
        (Flaw::ForgetsTime, &["livelock"]),
        (Flaw::StopsReading, &["left unread"]),
    ] {
        let mut caught = 0;
        for seed in 0..10 {
            let mut node = SimConfig::default();
            node.traffic.per_minute = 6;
            let wire = WireConfig::default();
            let mut world = World::with(seed, LinkConfig::default(), node, wire);
            world.set_flaw(flaw);
            if let Err(violation) = live(&mut world, seed, DAY) {
                let known = words.iter().any(|word| violation.contains(word));
                assert!(known, "{flaw:?} was found out as: {violation}");
                caught += 1;
            }
        }
        assert_eq!(caught, 10, "{flaw:?} was not found out");
    }
}

/// A deadline that does not move on is found out although nothing else is wrong.
#[test]
fn what_does_not_happen_is_an_error() {
    let mut world = World::new(1);
    world.unplug(DAY);
    let up = world.try_run_until(DAY / 2, |world| world.link().state().is_up());
    assert!(up.unwrap_err().contains("did not happen"));
}
