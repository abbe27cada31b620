//! Compiling what changed gives what compiling everything gives: random worlds, edited at random.

use std::net::SocketAddr;

use undermesh_core::client::Client;
use undermesh_core::compile::{Compiled, Compiler, compile};
use undermesh_core::inputs::Inputs;
use undermesh_core::snapshot::Snapshot;
use undermesh_worlds::chance::Chance;
use undermesh_worlds::random::{World, read_anew, request};

/// All that can be seen of a snapshot from outside, for some clients and addresses.
fn seen(snapshot: &Snapshot, inputs: &Inputs, mut chance: Chance) -> String {
    let pods = inputs.pods.keys().filter_map(|key| snapshot.client_of_pod(&key.namespace, &key.name));
    let mut clients: Vec<Client> = pods.take(1).collect();
    clients.extend(["shop", "ops"].map(|namespace| Client::mesh(namespace, [])));
    let services = snapshot.services().iter();
    let of_service = services.flat_map(|service| {
        service.addresses.iter().flat_map(|it| service.ports.iter().map(|port| (*it, port.number).into()))
    });
    let mut addresses: Vec<SocketAddr> = of_service.collect();
    // A few, other ones each time.
    let start = chance.below(addresses.len());
    addresses.rotate_left(start);
    addresses.truncate(5);
    addresses
        .extend(["203.0.113.9:80", "240.1.2.3:80"].map(|it| it.parse::<SocketAddr>().expect("an address")));
    let mut text = format!("{:?}\n{:?}\n", snapshot.services(), snapshot.captures().collect::<Vec<_>>());
    for client in &clients {
        for address in &addresses {
            let outbound = snapshot.outbound(client, *address);
            text += &format!(
                "{} {address} {:?} {:?} {:?} {:?} {:?}\n",
                client.namespace,
                outbound.protocol,
                outbound.service,
                outbound.http.hosts(),
                outbound.http.no_host(),
                outbound.tcp
            );
        }
    }
    let gateway = Client::gateway("shop", [("istio".to_owned(), "in".to_owned())]);
    for port in snapshot.gateway(&gateway) {
        text += &format!("{} {:?} {:?}\n", port.port, port.servers, port.http.hosts());
    }
    text
}

fn assert_same(changed: &Compiled, whole: &Compiled, inputs: &Inputs, what: &str) {
    assert_eq!(changed.diagnostics, whole.diagnostics, "{what}");
    let chance = Chance::new(whole.snapshot.services().len() as u64 + inputs.pods.len() as u64);
    let (changed, whole) =
        (seen(&changed.snapshot, inputs, chance.clone()), seen(&whole.snapshot, inputs, chance));
    let differing = changed.lines().zip(whole.lines()).find(|(a, b)| a != b);
    assert!(changed == whole, "{what}: {differing:#?}");
}

#[test]
fn a_compiler_that_remembers_says_what_one_that_does_not_says() {
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(4);
    for seed in 0..seeds {
        let mut chance = Chance::new(seed);
        let mut world = World::new(30 + chance.below(60), &mut chance);
        let mut compiler = Compiler::default();
        compiler.compile(&world.inputs);
        for round in 0..40 {
            for _ in 0..1 + chance.below(3) {
                world.edit(&mut chance);
            }
            // Sometimes a source has read everything anew.
            if chance.once_in(20) {
                world.inputs = read_anew(&world.inputs);
            }
            let changed = compiler.compile(&world.inputs);
            assert_same(
                &changed,
                &compile(&world.inputs),
                &world.inputs,
                &format!("seed {seed} round {round}"),
            );
        }
    }
}

#[test]
fn what_did_not_change_is_not_made_anew() {
    let mut chance = Chance::new(7);
    let world = World::new(80, &mut chance);
    let mut compiler = Compiler::default();
    let first = compiler.compile(&world.inputs).snapshot;
    let second = compiler.compile(&world.inputs).snapshot;
    let pairs = first.services().iter().zip(second.services());
    assert!(pairs.into_iter().all(|(a, b)| std::sync::Arc::ptr_eq(a, b)));
    let anew = compiler.compile(&read_anew(&world.inputs));
    assert_same(&anew, &compile(&world.inputs), &world.inputs, "read anew");
}

#[test]
fn any_request_has_an_explanation() {
    let mut chance = Chance::new(99);
    for _ in 0..20 {
        let world = World::new(100, &mut chance);
        let snapshot = compile(&world.inputs).snapshot;
        for _ in 0..20 {
            undermesh_core::explain::explain(&snapshot, &request(&mut chance));
        }
    }
}
