//! Writes everything that is generated from `proto/proto`, after a change there.

use core::error::Error;
use std::fs;
use std::path::Path;

use meshbeat_tests::{messages, schema};

fn main() -> Result<(), Box<dyn Error>> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let generated = messages::generate()?;
    let table = schema::generate(&generated.descriptors);
    for (file, bytes) in [
        (messages::RUST, generated.rust.as_bytes()),
        (messages::DESCRIPTORS, &generated.descriptors),
        (schema::TABLE, table.as_bytes()),
    ] {
        fs::write(top.join(file), bytes)?;
        println!("{file}");
    }
    Ok(())
}
