//! A board in QEMU, and what its firmware says by semihosting.

use core::net::Ipv4Addr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;

use defmt_decoder::{DecodeError, Table};

use crate::build::{Firmware, Flavour};
use crate::line::Line;
use crate::watch::Watch;

/// A kind of board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The name that its firmware gives itself.
    pub name: &'static str,
    /// The compiler's target.
    pub target: &'static str,
    qemu: &'static str,
    machine: &'static [&'static str],
}

/// Cortex-M3.
pub const CORTEX_M3: Kind = Kind {
    name: "lm3s6965",
    target: "thumbv7m-none-eabi",
    qemu: "qemu-system-arm",
    machine: &["-machine", "lm3s6965evb"],
};

/// RISC-V without atomics, as in an ESP32-C3.
pub const RISC_V: Kind = Kind {
    name: "virt",
    target: "riscv32imc-unknown-none-elf",
    qemu: "qemu-system-riscv32",
    machine: &["-machine", "virt", "-bios", "none"],
};

/// A board that runs; switched off when dropped.
#[derive(Debug)]
pub struct Board {
    /// What it says, line by line; behind `error: ` what QEMU or a panic says.
    pub lines: Arc<Watch<String>>,
    child: Child,
    /// Kept open: QEMU has words for it.
    _switch: Arc<TcpStream>,
}

impl Board {
    /// Switches it on, with its UART at this line.
    ///
    /// # Panics
    /// When QEMU is missing, or there is no table for what is said by defmt.
    pub fn start(kind: Kind, firmware: &Firmware, flavour: Flavour, line: &Line) -> Self {
        let mut command = Command::new(kind.qemu);
        command.args(kind.machine).args(["-display", "none", "-monitor", "none"]);
        command.args(["-semihosting-config", "enable=on,target=native"]);
        let again = dials_again(kind);
        let socket = format!("socket,id=node,host=127.0.0.1,port={},{again}", line.port);
        command.args(["-chardev", &socket, "-serial", "chardev:node", "-kernel"]);
        command.arg(&firmware.path).stdin(Stdio::null());
        // It stands still until it is told to go by this connection.
        let switch = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let at = switch.local_addr().expect("it listens");
        command.args(["-S", "-qmp", &format!("tcp:{at}")]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("it has told its version");
        let lines = Arc::new(Watch::new());
        let out = child.stdout.take().expect("piped");
        let told = Arc::clone(&lines);
        match flavour {
            Flavour::Plain | Flavour::Typed => thread::spawn(move || read_text(out, &told)),
            Flavour::Defmt => {
                let table = Table::parse(&firmware.elf).expect("a table of this version of defmt");
                let table = table.expect("built with defmt");
                thread::spawn(move || read_defmt(out, &table, &told))
            }
        };
        let errors = BufReader::new(child.stderr.take().expect("piped"));
        let told = Arc::clone(&lines);
        thread::spawn(move || {
            errors
                .lines()
                .map_while(Result::ok)
                .for_each(|line| told.push(format!("error: {line}")));
        });
        let dialled = Arc::new(Watch::new());
        let told = Arc::clone(&dialled);
        thread::spawn(move || switch.accept().map(|(stream, _)| told.push(Arc::new(stream))));
        let take = |stream: &Arc<TcpStream>| Some(Arc::clone(stream));
        let (switch, _) = dialled.wait(0, "QEMU dials", take);
        // What the board writes before its line is there is lost.
        line.wait_for_board();
        let go = b"{\"execute\": \"qmp_capabilities\"}\n{\"execute\": \"cont\"}\n";
        (&*switch).write_all(go).expect("QEMU listens");
        Self { lines, child, _switch: switch }
    }

    /// Waits until it says a line with all these parts from `mark` on; returns the line, and the
    /// mark behind it.
    ///
    /// # Panics
    /// When that does not come.
    #[track_caller]
    pub fn says(&self, mark: usize, parts: &[&str]) -> (String, usize) {
        let what = format!("the board says {parts:?}");
        self.lines.wait(mark, &what, |line| {
            parts.iter().all(|part| line.contains(part)).then(|| line.clone())
        })
    }

    /// Waits until the firmware has ended by itself.
    ///
    /// # Panics
    /// When it does not.
    pub fn ended(mut self) -> ExitStatus {
        self.lines.wait_for_end();
        self.child.wait().expect("our child")
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The option by which QEMU dials again a second after it was cut off.
fn dials_again(kind: Kind) -> &'static str {
    let output = Command::new(kind.qemu).arg("--version").output().unwrap_or_else(|error| {
        panic!("{}: {error}; apt-get install qemu-system-arm qemu-system-misc", kind.qemu)
    });
    let words = String::from_utf8_lossy(&output.stdout);
    let major =
        words.split_whitespace().find_map(|word| word.split_once('.')?.0.parse::<u32>().ok());
    match major.unwrap_or_else(|| panic!("{} says {words:?}", kind.qemu)) {
        ..=9 => "reconnect=1",
        // The option above is gone there.
        10.. => "reconnect-ms=1000",
    }
}

fn read_text(out: ChildStdout, lines: &Watch<String>) {
    BufReader::new(out).lines().map_while(Result::ok).for_each(|line| lines.push(line));
    lines.end();
}

/// What the core says has its level before it, what the program says does not.
fn read_defmt(mut out: ChildStdout, table: &Table, lines: &Watch<String>) {
    let mut decoder = table.new_stream_decoder();
    let mut buf = [0; 1024];
    while let Ok(count @ 1..) = out.read(&mut buf) {
        decoder.received(buf.get(..count).unwrap_or(&[]));
        loop {
            match decoder.decode() {
                Ok(frame) => {
                    let level = frame.level().map(|level| format!("{} ", level.as_str()));
                    let message = frame.display_message();
                    lines.push(format!("{}{message}", level.unwrap_or_default()));
                }
                Err(DecodeError::UnexpectedEof) => break,
                Err(DecodeError::Malformed) => lines.push("error: no defmt frame".to_owned()),
            }
        }
    }
    lines.end();
}
