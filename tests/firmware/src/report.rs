//! What the program says, line by line, over semihosting: as text, or as defmt frames.

use core::fmt::{self, Arguments, Display, Write};

/// Says one line.
#[cfg(not(feature = "defmt"))]
pub fn line(words: Arguments<'_>) {
    semihosting::println!("{words}");
}

/// Says one line.
#[cfg(feature = "defmt")]
pub fn line(words: Arguments<'_>) {
    use defmt_semihosting as _;

    defmt::println!("{}", defmt::Display2Format(&words));
}

#[cfg(feature = "defmt")]
defmt::timestamp!("{=u64:ms}", crate::board::now().as_millis());

/// Bytes from the mesh as text on one line: what is no UTF-8, and control characters, are shown as
/// `U+FFFD`.
#[derive(Debug)]
pub struct Text<'a>(pub &'a [u8]);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                f.write_char(if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })?;
            }
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}
