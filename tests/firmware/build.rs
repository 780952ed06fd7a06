//! Linker scripts: cortex-m-rt and riscv-rt bring `link.x`, the crate `lm3s6965` its own memory
//! map.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=src/board/virt.x");
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "riscv32") {
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
        fs::copy("src/board/virt.x", out.join("memory.x")).expect("a folder to write to");
        println!("cargo:rustc-link-search={}", out.display());
    }
    println!("cargo:rustc-link-arg-bins=-Tlink.x");
    if env::var_os("CARGO_FEATURE_DEFMT").is_some() {
        println!("cargo:rustc-link-arg-bins=-Tdefmt.x");
    }
}
