//! `meshbeat decode`: the frames in a raw byte capture.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Read, Write};
use std::path::PathBuf;

use meshbeat::dest::node_id;
use meshbeat::lines::Lines;
use meshbeat_core::decoder::{Decoder, Item};
use meshbeat_core::peek::FromRadio;
use serde_json::json;

use crate::commands::unless_broken_pipe;
use crate::exit::{Exit, Failure};

/// Prints the frames found in a raw byte capture of what a node wrote; a frame is one whose payload
/// is a valid `FromRadio`. The summary goes to standard error.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One JSON object per frame
    #[arg(long, conflicts_with = "hex")]
    json: bool,
    /// The payload of each frame in lower-case hex, one per line
    #[arg(long)]
    hex: bool,
    /// The capture; standard input without it
    file: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let name = match &args.file {
        Some(path) => format!("{:?}", path.display().to_string()),
        None => "standard input".into(),
    };
    let cannot_read =
        |error: io::Error| Failure::new(Exit::Failed, format!("cannot read {name}: {error}"));
    let mut input: Box<dyn Read> = match &args.file {
        Some(path) => Box::new(File::open(path).map_err(cannot_read)?),
        None if io::stdin().is_terminal() => {
            let line = "no capture: name a file, or pipe one to standard input";
            return Err(Failure::new(Exit::Usage, line));
        }
        None => Box::new(io::stdin().lock()),
    };
    let form = match (args.json, args.hex) {
        (true, _) => Form::Json,
        (_, true) => Form::Hex,
        _ => Form::Plain,
    };
    let out = BufWriter::new(io::stdout().lock());
    let mut capture = Capture { out, form, frames: 0, offset: 0, lines: Lines::default() };
    let written = capture.decode(&mut input).map_err(cannot_read)?;
    let Capture { frames, lines, .. } = capture;
    unless_broken_pipe(written)?;
    let (text, skipped) = (lines.text(), lines.skipped());
    unless_broken_pipe(writeln!(
        io::stderr(),
        "{frames} frames, {text} text lines, {skipped} bytes skipped"
    ))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Json,
    Hex,
}

struct Capture<W> {
    out: W,
    form: Form,
    frames: u64,
    /// Where in the capture the next item begins.
    offset: u64,
    lines: Lines,
}

impl<W: Write> Capture<W> {
    /// Reads to the end; what each read completes is flushed, for somebody may be watching. The
    /// outer error is the input's, the inner one the output's.
    fn decode(&mut self, input: &mut dyn Read) -> io::Result<io::Result<()>> {
        let mut decoder = Decoder::new();
        let mut buf = vec![0; 64 * 1024];
        loop {
            let n = match input.read(&mut buf) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                n => n?,
            };
            let fed = self.feed(&mut decoder, buf.get(..n).unwrap_or(&[]));
            if let Err(error) = fed.and_then(|()| self.out.flush()) {
                return Ok(Err(error));
            }
            if n == 0 {
                break;
            }
        }
        // Nothing will complete what is held; whole frames may lie in it.
        while decoder.held() > 0 {
            decoder.give_up();
            if let Err(error) = self.feed(&mut decoder, &[]) {
                return Ok(Err(error));
            }
        }
        self.end_line();
        Ok(self.out.flush())
    }

    fn feed(&mut self, decoder: &mut Decoder, bytes: &[u8]) -> io::Result<()> {
        let mut at = 0;
        loop {
            let decoded = decoder.decode(bytes.get(at..).unwrap_or(&[]));
            at += decoded.taken;
            match decoded.item {
                Some(Item::Frame(payload)) => match FromRadio::peek(payload) {
                    Some(message) => self.frame(payload, &message)?,
                    None => at -= decoder.reject(),
                },
                Some(Item::Noise(noise)) => {
                    self.offset += noise.len() as u64;
                    self.lines.push(noise, &mut |_| {});
                }
                None if at == bytes.len() => return Ok(()),
                None => {}
            }
        }
    }

    fn frame(&mut self, payload: &[u8], message: &FromRadio<'_>) -> io::Result<()> {
        self.end_line();
        self.frames += 1;
        let (offset, len) = (self.offset, payload.len());
        self.offset += (meshbeat_core::frame::HEADER_LEN + len) as u64;
        match self.form {
            Form::Hex => {
                let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(self.out, "{hex}")
            }
            Form::Json => {
                let mut object = json!({ "offset": offset, "len": len, "variant": message.name() });
                if let (Some(object), serde_json::Value::Object(more)) =
                    (object.as_object_mut(), details(message))
                {
                    object.extend(more);
                }
                writeln!(self.out, "{object}")
            }
            Form::Plain => {
                write!(self.out, "{offset:>8} {len:>4} {}", message.name())?;
                if let serde_json::Value::Object(more) = details(message) {
                    for (name, value) in more {
                        write!(self.out, " {name}={}", value.to_string().trim_matches('"'))?;
                    }
                }
                writeln!(self.out)
            }
        }
    }

    fn end_line(&mut self) {
        self.lines.end(&mut |_| {});
    }
}

/// What is worth knowing of a message at a glance.
fn details(message: &FromRadio<'_>) -> serde_json::Value {
    match message {
        FromRadio::Packet(packet) => match packet.data {
            Some(data) => json!({
                "from": node_id(packet.from), "to": node_id(packet.to), "id": packet.id,
                "port": data.port, "request_id": data.request_id,
            }),
            None => {
                json!({ "from": node_id(packet.from), "to": node_id(packet.to), "id": packet.id })
            }
        },
        FromRadio::MyInfo(info) => json!({ "node": node_id(info.node), "reboots": info.reboots }),
        FromRadio::ConfigComplete(nonce) => json!({ "nonce": nonce }),
        FromRadio::QueueStatus(status) => json!({
            "res": status.res, "free": status.free, "maxlen": status.maxlen, "id": status.id,
        }),
        _ => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(stream: &[u8], form: Form) -> (String, u64, u64, u64) {
        let mut out = Vec::new();
        let mut capture =
            Capture { out: &mut out, form, frames: 0, offset: 0, lines: Lines::default() };
        capture.decode(&mut &stream[..]).unwrap().unwrap();
        let counts = (capture.frames, capture.lines.text(), capture.lines.skipped());
        (String::from_utf8(out).unwrap(), counts.0, counts.1, counts.2)
    }

    const STREAM: &[u8] = b"boot\n\x94\xC3\x00\x02\x38\x05\x94\x94\xC3\x00\x00\x94\xC3\x00\x09x";

    #[test]
    fn frames_text_and_noise_are_counted() {
        let (out, frames, text, skipped) = decode(STREAM, Form::Hex);
        assert_eq!(out, "3805\n\n");
        assert_eq!((frames, text, skipped), (2, 1, 1 + 5));
    }

    #[test]
    fn json_has_offset_len_and_variant() {
        let (out, ..) = decode(STREAM, Form::Json);
        let lines: Vec<serde_json::Value> =
            out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            lines[0],
            json!({ "offset": 5, "len": 2, "variant": "config_complete_id", "nonce": 5 })
        );
        assert_eq!(lines[1], json!({ "offset": 12, "len": 0, "variant": "unknown" }));
    }
}
