//! Packets through every fault at once: what the link says of each one is compared with what the
//! node did. The checks are in `meshbeat_tests::world`, the lives in `meshbeat_tests::life`; here
//! is how many of them there are, and the proof that the checks find what they are there for.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Mutex;
use std::thread;
use std::time::Instant as Clock;

use meshbeat_core::mutant::{Mutant, Mutation};
use meshbeat_tests::life::{Life, Summary};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Plays the lives of all seeds on all processors and adds up; stops at the first that fails.
fn play(
    seeds: core::ops::Range<u64>,
    mutation: Mutation,
    span: Duration,
) -> (Summary, Vec<String>) {
    let next = AtomicU64::new(seeds.start);
    let (total, failed) = (Mutex::new(Summary::default()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    match Life::whole(seed, mutation, span) {
                        Ok(summary) => total.lock().unwrap().add(summary),
                        Err(violation) => failed.lock().unwrap().push(violation),
                    }
                }
            });
        }
    });
    (total.into_inner().unwrap(), failed.into_inner().unwrap())
}

#[track_caller]
fn all_well(seeds: core::ops::Range<u64>, span: Duration) {
    let start = Clock::now();
    let (total, failed) = play(seeds, Mutation::NONE, span);
    println!("{total}");
    println!("{:.0} simulated hours per second", total.hours() / start.elapsed().as_secs_f64());
    for violation in &failed {
        println!("{violation}");
    }
    assert_eq!(failed.len(), 0, "lives failed");
    let mail = total.mail;
    let ended = mail.confirmed + mail.refused + mail.expired + mail.unknown;
    assert_eq!(
        ended + mail.refusal_lost + mail.mistaken,
        mail.accepted,
        "each has one end: {mail:?}"
    );
    // The checks mean something only if everything happens.
    for (what, count) in [
        ("written again", mail.again),
        ("written under a fresh id", mail.fresh),
        ("confirmed", mail.confirmed),
        ("refused", mail.refused),
        ("expired", mail.expired),
        ("unknown", mail.unknown),
    ] {
        assert!(count > total.lives / 10, "{count} packets {what}");
    }
    // What no client can know stays rare.
    assert!((mail.refusal_lost + 100 * mail.mistaken) * 1_000 < mail.confirmed, "{mail:?}");
}

#[test]
fn a_few_lives() {
    all_well(10_000..10_060, 6 * HOUR);
}

#[test]
#[ignore = "slow"]
fn a_thousand_days() {
    all_well(0..1_000, DAY);
}

#[test]
fn a_life_is_reproduced_by_its_seed() {
    let steps = |seed| Life::whole(seed, Mutation::NONE, 3 * HOUR).unwrap().steps;
    assert_eq!(steps(5), steps(5));
    assert_ne!(steps(5), steps(6));
}

/// Each deliberate bug is found, in so many of so many lives.
#[test]
#[ignore = "slow"]
fn deliberate_bugs_are_caught() {
    const LIVES: u64 = 40;
    let mut missed = Vec::new();
    for mutant in Mutant::ALL {
        let (_, caught) = play(0..LIVES, Mutation::of(mutant), 12 * HOUR);
        let line = caught.first().and_then(|violation| violation.lines().next()).unwrap_or("-");
        println!("{:<24} {:>3} of {LIVES}  {line}", format!("{mutant:?}"), caught.len());
        if caught.is_empty() {
            missed.push(mutant);
        }
    }
    assert!(missed.is_empty(), "not found out: {missed:?}");
}
