//! Every target, on any compiler: over its committed seeds, over seeds with mutations, and over
//! random bytes. What libFuzzer finds becomes a named seed and is run here for ever.

use core::panic::AssertUnwindSafe;
use std::fs;
use std::panic::{catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use meshbeat_core::rng::Rng;
use meshbeat_fuzz::mutate::{mutate, random};
use meshbeat_fuzz::{TARGETS, Target};

/// Inputs per target beyond the corpus, half mutated seeds, half random.
const INPUTS: u64 = 10_000;

#[test]
fn the_corpus() {
    for target in TARGETS {
        for (name, bytes) in corpus(target.0) {
            check(*target, &format!("corpus/{}/{name}", target.0), &bytes);
        }
    }
}

#[test]
fn mutated_and_random_inputs() {
    for target in TARGETS {
        let corpus = corpus(target.0);
        for seed in 0..INPUTS {
            let mut rng = Rng::new(seed);
            let mut pick = || &corpus[rng.below(corpus.len() as u32) as usize].1;
            let (first, second) = (pick(), pick());
            let input = match seed % 2 {
                0 => mutate(&mut rng, first, second),
                _ => random(&mut rng, 300),
            };
            check(*target, &format!("seed {seed}"), &input);
        }
    }
}

#[test]
fn every_target_is_whole() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut files = names(&root().join("fuzz_targets"));
    let mut folders = names(&root().join("corpus"));
    folders.retain(|name| name != "README.md");
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} has no [[bin]]");
        let file = format!("{name}.rs");
        let text = fs::read_to_string(root().join("fuzz_targets").join(&file)).unwrap();
        assert!(text.contains(&format!("meshbeat_fuzz::{name}::run(data)")), "{file}");
        files.retain(|other| *other != file);
        folders.retain(|other| other != name);
    }
    assert!(files.is_empty() && folders.is_empty(), "not in TARGETS: {files:?} {folders:?}");
}

#[test]
fn every_seed_is_explained() {
    let readme = fs::read_to_string(root().join("corpus/README.md")).unwrap();
    for (target, _) in TARGETS {
        for (name, _) in corpus(target) {
            let row = format!("| `{target}/{name}` |");
            assert!(readme.contains(&row), "corpus/README.md has no row {row}");
        }
    }
}

fn check((name, run): Target, what: &str, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(input))) {
        eprintln!("target {name}, {what}: {input:02x?}");
        resume_unwind(panic);
    }
}

/// The seeds of a target, by name; never none.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = root().join("corpus").join(target);
    let seeds: Vec<_> = names(&folder)
        .into_iter()
        .map(|name| {
            let bytes = fs::read(folder.join(&name)).unwrap();
            (name, bytes)
        })
        .collect();
    assert!(!seeds.is_empty(), "{} is empty", folder.display());
    seeds
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}
