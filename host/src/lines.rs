//! Log text between frames, put together to lines.

/// Longest line kept, in bytes; what is longer comes out in pieces.
const LONGEST: usize = 256;

/// Gathers noise and gives back its lines of text; other bytes are counted.
#[derive(Debug, Default)]
pub struct Lines {
    line: Vec<u8>,
    text: u64,
    skipped: u64,
}

impl Lines {
    /// Takes bytes that belong to no frame; each whole line of text goes to `on`, broken UTF-8
    /// replaced.
    pub fn push(&mut self, noise: &[u8], on: &mut dyn FnMut(&str)) {
        for byte in noise {
            match byte {
                b'\n' => self.end(on),
                _ if self.line.len() == LONGEST => {
                    self.end(on);
                    self.line.push(*byte);
                }
                _ => self.line.push(*byte),
            }
        }
    }

    /// Ends the line that is under way: a frame follows, or nothing.
    pub fn end(&mut self, on: &mut dyn FnMut(&str)) {
        let line = core::mem::take(&mut self.line);
        if is_text(&line) {
            self.text += 1;
            on(String::from_utf8_lossy(&line).trim_end());
        } else {
            self.skipped += line.len() as u64;
        }
    }

    /// Lines of text so far.
    pub fn text(&self) -> u64 {
        self.text
    }

    /// Bytes so far that were no text.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

/// Something to read, and mostly so: colours and a cut character are still text.
fn is_text(line: &[u8]) -> bool {
    let odd = |byte: &&u8| (**byte < 0x20 && !b"\t\r\x1b".contains(byte)) || **byte >= 0x7F;
    let readable = line.iter().filter(|byte| byte.is_ascii_graphic()).count();
    readable > 0 && line.iter().filter(odd).count() * 4 <= line.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(noise: &[&[u8]]) -> (Vec<String>, u64) {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for part in noise {
            lines.push(part, &mut |line| seen.push(line.to_owned()));
        }
        lines.end(&mut |line| seen.push(line.to_owned()));
        assert_eq!(lines.text(), seen.len() as u64);
        (seen, lines.skipped())
    }

    #[test]
    fn text_is_put_together_and_the_rest_is_counted() {
        assert_eq!(lines(&[b"INFO  | bo", b"ot\r\nWARN x\n"]).0, ["INFO  | boot", "WARN x"]);
        assert_eq!(lines(&[b"\x94\xC3\xFF\x00\x01\x02"]), (vec![], 6));
        assert_eq!(lines(&[b"caf\xC3 open\n"]).0, ["caf\u{FFFD} open"]);
        assert_eq!(lines(&[b"\n\n"]), (vec![], 0));
    }

    #[test]
    fn a_line_without_end_costs_bounded_memory() {
        let (seen, _) = lines(&[&[b'x'; 1000]]);
        assert_eq!(seen.iter().map(String::len).collect::<Vec<_>>(), [256, 256, 256, 232]);
    }
}
