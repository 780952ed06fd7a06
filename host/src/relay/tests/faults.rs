//! Every fault of the catalogue while clients are there: no client is dropped for it, each text that
//! was confirmed reaches every other client once and in the same order, and whoever sent one that
//! was not is told so once.

use super::*;

/// Texts that each of three clients sends, one every ten seconds.
const TEXTS: u32 = 6;

#[test]
fn no_fault_of_the_node_is_a_fault_for_its_clients() {
    for fault in sim::Fault::catalogue() {
        let name = fault.name();
        let mut bench = Bench::up();
        let clients = [bench.configured(), bench.configured(), bench.configured()];
        bench.node.inject(bench.now, fault);
        for round in 0..TEXTS {
            for (index, client) in clients.into_iter().enumerate() {
                let id = id_of(index, round);
                bench.text(client, id, &line(id));
            }
            let mut heard = text_packet(900 + round, "heard");
            heard.from = 2;
            bench.node.hear(bench.now, heard);
            bench.run(10_000);
        }
        bench.run(240_000);
        bench.node.recover(bench.now);
        bench.run(900_000);
        assert!(bench.link.state().is_up(), "{name}: {:?}", bench.link.state());
        check(&mut bench, name, clients);
    }
}

fn id_of(client: usize, round: u32) -> u32 {
    1 + round * 10 + u32::try_from(client).unwrap()
}

/// A packet that is tried again after a refusal has another id on the mesh, but the same words.
fn line(id: u32) -> String {
    format!("line {id}.")
}

fn check(bench: &mut Bench, name: &str, clients: [ClientId; 3]) {
    let all = clients.map(|client| bench.words(client));
    let mut confirmed = 0;
    for (index, words) in all.iter().enumerate() {
        assert!(!bench.is_closed(clients[index]), "{name}");
        for round in 0..TEXTS {
            let id = id_of(index, round);
            let count = |words: &[String], part: &str| {
                words.iter().filter(|word| word.contains(part)).count()
            };
            assert_eq!(count(words, &format!("status {id} res 0")), 1, "{name}: {words:?}");
            let errors = count(words, &format!("routing {id} "));
            let fate = bench.relay.fate(id);
            let seen = usize::from(fate == Some(PacketState::Confirmed));
            confirmed += seen;
            assert!(fate.is_some_and(PacketState::is_final), "{name}: {id} is {fate:?}");
            assert_eq!(errors, 1 - seen, "{name}: {id} is {fate:?}: {words:?}");
            for (other, words) in all.iter().enumerate() {
                let expected = if other == index { 0 } else { seen };
                assert_eq!(count(words, &line(id)), expected, "{name}: {words:?}");
            }
        }
    }
    assert!(confirmed > 0, "{name}");
    // The same news in the same order for all, but for what each has sent itself.
    let news = |index: usize, but: usize| -> Vec<&String> {
        let own = |word: &str, client: usize| {
            (0..TEXTS).any(|round| word.ends_with(&line(id_of(client, round))))
        };
        let texts = all[index].iter().filter(|word| word.starts_with("text"));
        texts.filter(|word| !own(word, index) && !own(word, but)).collect()
    };
    assert_eq!(news(0, 1), news(1, 0), "{name}");
    assert_eq!(news(0, 2), news(2, 0), "{name}");
}
