//! `recovery [--frames N] [--seed S]`: how many of the whole frames of a disturbed stream come out,
//! for each kind of disturbance, of our parser and of others. N frames for each kind (default
//! 100,000).

use core::ops::Range;
use std::collections::HashSet;
use std::process::ExitCode;

use meshbeat_tests::hostile::parsers::{everything, ours, plain, search};
use meshbeat_tests::hostile::{Disturbance, Stream};

/// As much as `decode` reads at once.
const SLICE: usize = 64 * 1024;

fn main() -> ExitCode {
    let Some((frames, seed)) = arguments(std::env::args().skip(1)) else {
        eprintln!("usage: recovery [--frames N] [--seed S]");
        return ExitCode::from(2);
    };
    println!("whole frames that came out of {frames}, and + what came out and is none\n");
    let heads = ["our parser", "a plain parser", "search from left", "every candidate"];
    print!("{:<20}", "between the frames");
    heads.iter().for_each(|head| print!("{head:>18}"));
    println!("{:>16}", "overlapped");
    for disturbance in Disturbance::ALL {
        let stream = Stream::new(disturbance, seed, frames);
        let (found, _) = ours(&stream.bytes, SLICE);
        let ours: Vec<_> = found.into_iter().map(|found| found.frame).collect();
        let bytes = &stream.bytes;
        print!("{:<20}", disturbance.name());
        for found in [ours, plain(bytes), search(bytes), everything(bytes)] {
            print!("{:>18}", score(&stream, &found));
        }
        let overlapped = stream.ambiguity().overlapped.iter().filter(|is| **is).count();
        println!("{overlapped:>16}");
    }
    println!(
        "\nplain: works as the firmware does; trusts any length up to 512, never looks back.\n\
         search from left: has the whole stream, takes the first valid frame and goes on behind it.\n\
         every candidate: whatever is valid by itself; nobody finds more.\n\
         overlapped: whole frames into which bytes reach that are no frame and look like one, such as\n\
         a frame cut short in its last field, which the next header completes."
    );
    ExitCode::SUCCESS
}

/// Frames and the first seed.
fn arguments(mut args: impl Iterator<Item = String>) -> Option<(usize, u64)> {
    let (mut frames, mut seed) = (100_000, 1);
    while let Some(name) = args.next() {
        let value = args.next()?;
        match name.as_str() {
            "--frames" => frames = value.parse().ok()?,
            "--seed" => seed = value.parse().ok()?,
            _ => return None,
        }
    }
    Some((frames, seed))
}

fn score(stream: &Stream, found: &[Range<usize>]) -> String {
    let truth: HashSet<_> = stream.frames.iter().collect();
    let recovered = found.iter().filter(|frame| truth.contains(frame)).count();
    format!("{recovered} + {}", found.len() - recovered)
}
