//! `peer RUNS FILE...`: has the official Rust client library read each file as a node's stream,
//! through a pipe in memory, so often. A line for each: how many messages came out, and the median
//! of the nanoseconds that it took; then the same for the pipe with nobody but a counter behind it.

use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use meshtastic::api::{StreamApi, StreamHandle};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::runtime::{Builder, Runtime};

/// What the pipe holds; the library reads 1,024 bytes at once.
const PIPE: usize = 64 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let runs = args.next().ok_or("usage: peer RUNS FILE...")?.parse()?;
    // One thread: handing each kilobyte to another processor is slower.
    let runtime = Builder::new_current_thread().enable_time().build()?;
    for file in args {
        let stream = fs::read(file)?;
        let (messages, took) = median(&runtime, runs, &stream, library)?;
        let (_, pipe) = median(&runtime, runs, &stream, pipe)?;
        println!("{messages} {} {}", took.as_nanos(), pipe.as_nanos());
    }
    Ok(())
}

/// What every run counted, and the median of what they took.
fn median(
    runtime: &Runtime,
    runs: usize,
    stream: &[u8],
    read: impl AsyncFn(DuplexStream) -> Result<usize, Box<dyn Error>>,
) -> Result<(usize, Duration), Box<dyn Error>> {
    let mut counts = Vec::new();
    let mut times = Vec::new();
    for _ in 0..runs {
        let bytes = stream.to_vec();
        let (near, mut far) = tokio::io::duplex(PIPE);
        let start = Instant::now();
        let count = runtime.block_on(async {
            // The end of the stream is that of `far`.
            let writer = tokio::spawn(async move { far.write_all(&bytes).await });
            let count = read(near).await?;
            writer.await??;
            Ok::<_, Box<dyn Error>>(count)
        })?;
        times.push(start.elapsed());
        counts.push(count);
    }
    counts.dedup();
    times.sort_unstable();
    match (&counts[..], times.get(times.len() / 2)) {
        ([count], Some(median)) => Ok((*count, *median)),
        _ => Err(format!("runs differ, or there are none: {counts:?}").into()),
    }
}

/// Messages that the library hands out until the stream ends.
async fn library(near: DuplexStream) -> Result<usize, Box<dyn Error>> {
    let (mut messages, api) = StreamApi::new().connect(StreamHandle::from_stream(near)).await;
    let mut count = 0;
    while let Some(message) = messages.recv().await {
        std::hint::black_box(&message);
        count += 1;
    }
    drop(api);
    Ok(count)
}

/// Bytes that come through.
async fn pipe(mut near: DuplexStream) -> Result<usize, Box<dyn Error>> {
    let mut count = 0;
    let mut buffer = [0; 1024];
    loop {
        match near.read(&mut buffer).await? {
            0 => return Ok(count),
            n => count += n,
        }
    }
}
