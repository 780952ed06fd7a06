//! Builds what is run: the firmware for its target, and the program `meshbeat` with the simulated
//! node.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol, elf};

/// One way to build the firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Without an allocator.
    Plain,
    /// The same, and all it says as defmt frames.
    Defmt,
    /// With messages for prost.
    Typed,
}

/// A firmware that was built.
#[derive(Debug, Clone)]
pub struct Firmware {
    /// The ELF file.
    pub path: PathBuf,
    /// Its content.
    pub elf: Vec<u8>,
}

/// Builds the firmware for `target`.
///
/// # Panics
/// When that fails, with the compiler's words.
pub fn firmware(target: &str, flavour: Flavour) -> Firmware {
    // A folder for each flavour, for two of them are the same program.
    let (program, features, folder) = match flavour {
        Flavour::Plain => ("beat", "", "plain"),
        Flavour::Defmt => ("beat", "defmt", "defmt"),
        Flavour::Typed => ("typed", "typed", "typed"),
    };
    let folder = target_dir(&firmware_root()).join("firmware").join(folder);
    let mut cargo = cargo("meshbeat-firmware", &firmware_root(), &folder);
    cargo.args(["--release", "--target", target, "--bin", program, "--features", features]);
    run(cargo.env("DEFMT_LOG", "debug"));
    let path = folder.join(target).join("release").join(program);
    let elf = fs::read(&path).expect("cargo has built it");
    Firmware { path, elf }
}

/// Builds `meshbeat`, once.
///
/// # Panics
/// When that fails, with the compiler's words.
pub fn meshbeat() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let top = firmware_root().join("../..");
        let folder = target_dir(&top);
        run(&mut cargo("meshbeat", &top, &folder));
        folder.join("debug").join("meshbeat")
    })
}

impl Firmware {
    /// Bytes that are written to the flash.
    ///
    /// # Panics
    /// When it is no ELF file of 32 bits.
    pub fn flash(&self) -> u64 {
        let header = elf::FileHeader32::<Endianness>::parse(&*self.elf).expect("an ELF file");
        let endian = header.endian().expect("an ELF file");
        let segments = header.program_headers(endian, &*self.elf).expect("an ELF file");
        let loaded = segments.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD);
        loaded.map(|segment| u64::from(segment.p_filesz(endian))).sum()
    }

    /// Whether anything of an allocator is linked.
    ///
    /// # Panics
    /// When it is no ELF file.
    pub fn allocates(&self) -> bool {
        let file = object::File::parse(&*self.elf).expect("an ELF file");
        let mut names = file.symbols().filter_map(|symbol| symbol.name().ok());
        // The optimiser may leave any single function of it out, not all of them.
        names.any(|name| name.contains("alloc"))
    }
}

fn firmware_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where builds go of a package in `root`, as cargo would have it.
fn target_dir(root: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

fn cargo(package: &str, root: &Path, folder: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--locked", "--package", package]).current_dir(root);
    cargo.arg("--target-dir").arg(folder);
    cargo
}

fn run(command: &mut Command) {
    let output = command.output().expect("cargo is there, it runs this");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{words}", output.status);
}
