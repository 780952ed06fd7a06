//! Addresses, destinations and policies as a person types them: no panic, what is written again is
//! read as the same, and what is refused is refused in one line that can be printed as it is.

use core::fmt::{Debug, Display};
use core::str::FromStr;

use meshbeat::dest::Dest;
use meshbeat::doors::ListenAddr;
use meshbeat::node::NodeAddr;
use meshbeat::relay::admission::Policy;

/// All of the input is the text. A command line that is not UTF-8 is refused before it comes here.
///
/// # Panics
/// If a text is read as something that is written in a way that is not read as the same, or if an
/// error is not one line.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for text in [&*text, text.trim_ascii()] {
        check::<NodeAddr>(text);
        check::<ListenAddr>(text);
        check::<Dest>(text);
        check::<Policy>(text);
    }
}

fn check<T>(text: &str)
where
    T: FromStr<Err: Display> + Display + Debug + PartialEq,
{
    match text.parse::<T>() {
        Ok(value) => {
            let written = value.to_string();
            match written.parse::<T>() {
                Ok(again) => assert_eq!(again, value, "{text:?} is written {written:?}"),
                Err(error) => panic!("{text:?} is written {written:?}: {error}"),
            }
        }
        Err(error) => {
            let line = error.to_string();
            assert!(!line.is_empty(), "{text:?} is refused without a word");
            assert!(!line.contains(char::is_control), "{text:?}: {line:?}");
        }
    }
}
