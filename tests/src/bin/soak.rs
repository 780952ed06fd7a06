//! `soak [--hours N] [--seed S]`: lives of 24 simulated hours, one after the other on every
//! processor, until N simulated hours have passed (default 1,000); then a table of faults and
//! recoveries. Exit code 1 with the seed if a check fails.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Instant as Clock;

use meshbeat_core::mutant::Mutation;
use meshbeat_tests::life::{Life, Summary};

const DAY: Duration = Duration::from_secs(86_400);

fn main() -> ExitCode {
    let Some((hours, seed)) = arguments(std::env::args().skip(1)) else {
        eprintln!("usage: soak [--hours N] [--seed S]");
        return ExitCode::from(2);
    };
    let start = Clock::now();
    let lives = hours.div_ceil(24);
    let next = AtomicU64::new(seed);
    let (total, failure) = (Mutex::new(Summary::default()), Mutex::new(None));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed_now = next.fetch_add(1, Ordering::Relaxed);
                    let failed = failure.lock().is_ok_and(|failure| failure.is_some());
                    if seed_now - seed >= lives || failed {
                        return;
                    }
                    match Life::whole(seed_now, Mutation::NONE, DAY) {
                        Ok(summary) => {
                            total.lock().expect("no panic while it is held").add(summary);
                        }
                        Err(violation) => {
                            *failure.lock().expect("no panic while it is held") = Some(violation);
                        }
                    }
                }
            });
        }
    });
    let total = total.into_inner().expect("all threads ended");
    println!("{total}");
    let seconds = start.elapsed().as_secs_f64();
    println!("{:.0} simulated hours per second", total.hours() / seconds);
    match failure.into_inner().expect("all threads ended") {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            eprintln!("{violation}");
            ExitCode::FAILURE
        }
    }
}

/// Hours and the first seed.
fn arguments(mut words: impl Iterator<Item = String>) -> Option<(u64, u64)> {
    let (mut hours, mut seed) = (1_000, 0);
    while let Some(word) = words.next() {
        let value = words.next()?.parse().ok()?;
        match word.as_str() {
            "--hours" => hours = value,
            "--seed" => seed = value,
            _ => return None,
        }
    }
    Some((hours, seed))
}
