//! How each program is linked: the two whose size is compared without start-up code, the one that
//! is run with the script of `cortex-m-rt` for a micro:bit.

use std::path::PathBuf;

const MEMORY: &str = "\
MEMORY {
    FLASH : ORIGIN = 0x00000000, LENGTH = 256K
    RAM : ORIGIN = 0x20000000, LENGTH = 16K
}
";

fn main() {
    for bin in ["empty", "minimal"] {
        println!("cargo::rustc-link-arg-bin={bin}=--entry=main");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    std::fs::write(out.join("memory.x"), MEMORY).expect("the build's own folder");
    println!("cargo::rustc-link-search={}", out.display());
    println!("cargo::rustc-link-arg-bin=measure=-Tlink.x");
    println!("cargo::rerun-if-changed=build.rs");
}
