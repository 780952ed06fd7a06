//! Written, read again, and damaged between.

use super::super::disk;
use super::*;

/// A snapshot with all that can be in one, small.
fn rich() -> Snapshot {
    let mut bench = Bench::new(4, |config| config.identity.bad_utf8 = true);
    let (mut snapshot, _) = snapshot_of(&bench.session(1));
    snapshot.repeats = true;
    for (id, port) in [(1, PortNum::TextMessageApp), (2, PortNum::PositionApp)] {
        let content = if id == 1 { b"hi".to_vec() } else { place(1) };
        hear(&mut snapshot, &packet(port, content, |packet| packet.id = id));
    }
    snapshot
}

#[test]
fn what_is_encoded_is_decoded() {
    let snapshot = rich();
    let bytes = snapshot.encode();
    let mut again = Snapshot::decode(&bytes).unwrap();
    assert_eq!(again.encode(), bytes);
    for (_, ask) in NONCES {
        assert_eq!(told(&again, ask), told(&snapshot, ask));
    }
    assert_eq!(replayed(&again), replayed(&snapshot));
    assert!(again.repeats && again.replays().count() >= 2);
    let position = packet(PortNum::PositionApp, place(1), |packet| packet.id = 2);
    assert_eq!(hear(&mut again, &position), Heard::Replay);
    again.memory.retain(|_| false);
    assert_eq!(hear(&mut again, &position), Heard::Replay, "known by its id too");
}

/// Whether the bytes are refused; if not, they are a snapshot like any other.
fn is_refused(bytes: &[u8]) -> bool {
    match Snapshot::decode(bytes) {
        Ok(snapshot) => {
            let encoded = snapshot.encode();
            assert_eq!(Snapshot::decode(&encoded).unwrap().encode(), encoded);
            false
        }
        Err(_) => true,
    }
}

#[test]
fn damaged_bytes_are_refused() {
    let bytes = rich().encode();
    assert!(!is_refused(&bytes));
    for len in 0..bytes.len() {
        assert!(is_refused(&bytes[..len]), "cut to {len}");
    }
    assert!(is_refused(&[&bytes[..], b"x"].concat()));
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        assert!(is_refused(&bytes), "byte {at}");
    }
}

#[test]
fn bytes_with_a_right_check_are_refused_or_a_snapshot() {
    const BODY: usize = 28;
    let bytes = rich().encode();
    let mut counts = [0; 2];
    for seed in 0..10_000 {
        let mut rng = Rng::new(seed);
        let mut body = bytes[BODY..].to_vec();
        for _ in 0..1 + rng.below(4) {
            let at = rng.below(body.len() as u32) as usize;
            match rng.below(4) {
                0 => body[at] = rng.next_u32() as u8,
                1 => body[at] ^= 1 << rng.below(8),
                2 => body.truncate(at + 1),
                _ => {
                    let to = body.len().min(at + 1 + rng.below(40) as usize);
                    body.drain(at..to);
                    body.push(0);
                }
            }
        }
        counts[usize::from(is_refused(&disk::sealed(&body)))] += 1;
    }
    assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
    let of_frames = |frames: &[&[u8]]| disk::sealed(&[&[0, 0, 0], &frames.concat()[..]].concat());
    let my_info = wire::framed(&payload(Script::new().0.remove(0))).unwrap();
    let position = wire::framed(&packet(PortNum::PositionApp, place(1), |_| ())).unwrap();
    let text = wire::framed(&packet(PortNum::TextMessageApp, vec![1], |_| ())).unwrap();
    assert!(!is_refused(&of_frames(&[&my_info])));
    assert!(!is_refused(&of_frames(&[&my_info, &position])));
    assert!(is_refused(&of_frames(&[])), "no handshake");
    assert!(is_refused(&of_frames(&[&position])), "no handshake");
    assert!(is_refused(&of_frames(&[&position, &my_info])), "order");
    assert!(is_refused(&of_frames(&[&my_info, &text])), "texts are not kept");
    assert!(is_refused(&disk::sealed(&[0, 0xFF, 0xFF])), "more seen than there are bytes");
}
