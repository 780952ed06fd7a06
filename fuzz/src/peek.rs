//! Any payload, read by peek and by prost.

use crate::against_prost;

/// # Panics
/// If peek and prost do not see the same in `data`.
pub fn run(data: &[u8]) {
    against_prost::from_radio(data);
    against_prost::to_radio(data);
}
