//! Changes to a good payload as a bad line, a torn frame or an ill-willed peer make them.

use meshbeat_core::rng::Rng;

/// A copy of `payload` with one to four changes; `other` lends bytes to splices.
pub fn mutate(rng: &mut Rng, payload: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = payload.to_vec();
    for _ in 0..=rng.below(4) {
        change(rng, &mut bytes, other);
    }
    bytes
}

/// Up to `most` random bytes.
pub fn random(rng: &mut Rng, most: u32) -> Vec<u8> {
    (0..rng.below(most + 1)).map(|_| rng.next_u32() as u8).collect()
}

fn change(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = rng.below(bytes.len() as u32) as usize;
    match rng.below(8) {
        // A bit flips, a byte changes.
        0 => apply(bytes, at, |byte| byte ^ 1 << rng.below(8)),
        1 => apply(bytes, at, |_| rng.next_u32() as u8),
        // The end is missing, or a stretch in the middle.
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..at + rng.below((bytes.len() - at) as u32) as usize)),
        // Bytes come in: random ones, or those that mean most to the wire format.
        4 => drop(bytes.splice(at..at, random(rng, 8))),
        5 => {
            const KEYS: [&[u8]; 9] = [
                b"\x12\x00",
                b"\x0B\x0C",
                b"\x0B\x14",
                b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
                b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02",
                b"\xFF\xFF\xFF\xFF\x0F",
                b"\x94\xC3",
                b"\x22\x02\x08\x01",
                b"\x00",
            ];
            let key = KEYS[rng.below(KEYS.len() as u32) as usize];
            drop(bytes.splice(at..at, key.iter().copied()));
        }
        // A length lies a little.
        6 => apply(bytes, at, |byte| byte.wrapping_add(rng.below(5) as u8).wrapping_sub(2)),
        // The start of one message, the end of another.
        _ => {
            bytes.truncate(at);
            bytes.extend_from_slice(&other[rng.below(other.len() as u32) as usize..]);
        }
    }
}

fn apply(bytes: &mut [u8], at: usize, new: impl FnOnce(u8) -> u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = new(*byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_changes_and_most_change_something() {
        let changed = |seed| mutate(&mut Rng::new(seed), b"some payload", b"another one");
        assert_eq!(changed(1), changed(1));
        let same = (0..1000).filter(|seed| changed(*seed) == b"some payload").count();
        assert!(same < 100, "{same} of 1000 are unchanged");
    }

    #[test]
    fn nothing_can_be_changed_too() {
        (0..1000).for_each(|seed| drop(mutate(&mut Rng::new(seed), b"", b"")));
    }
}
