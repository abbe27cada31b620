//! What the parts of a large mesh cost: most of "The parts" in docs/scale.md; the agent's are made by
//! `cargo bench -p undermesh --bench publish`.
//!
//! Times are CPU times of the one thread that does the work (the machine may have other work), the least and the median of
//! several rounds. Memory is what the allocator has handed out and not got back.

mod counting;

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use undermesh_core::api::Object;
use undermesh_core::client::Client;
use undermesh_core::compile::{Compiler, compile};
use undermesh_core::inputs::Inputs;
use undermesh_core::route::decide;
use undermesh_core::snapshot::Snapshot;
use undermesh_core::view::{HttpVersion, RequestView};
use undermesh_worlds::chance::Chance;
use undermesh_worlds::scale::{self, Size};

use counting::Taken;

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// One measured thing after another.
#[derive(Default)]
struct Rounds(Vec<Duration>);

impl Rounds {
    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let before = cpu();
        let result = black_box(work());
        self.0.push(cpu() - before);
        result
    }

    fn row(&mut self, what: &str, target: &str) {
        self.0.sort_unstable();
        let least = self.0.first().copied().unwrap_or_default();
        let median = self.0.get(self.0.len() / 2).copied().unwrap_or_default();
        println!("| {what} | {} | {} | {target} |", shown(least), shown(median));
    }
}

fn shown(time: Duration) -> String {
    match time.as_nanos() {
        nanos @ 0..1_000 => format!("{nanos} ns"),
        nanos @ 1_000..1_000_000 => format!("{:.1} µs", nanos as f64 / 1e3),
        nanos => format!("{:.2} ms", nanos as f64 / 1e6),
    }
}

fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

struct Head(String);

impl RequestView for Head {
    fn version(&self) -> HttpVersion {
        HttpVersion::Http1
    }
    fn method(&self) -> &str {
        "GET"
    }
    fn scheme(&self) -> &str {
        "http"
    }
    fn authority(&self) -> &str {
        "service-00000"
    }
    fn target(&self) -> &str {
        &self.0
    }
    fn header_lines<'a>(&'a self, _: &str) -> impl Iterator<Item = &'a [u8]> {
        std::iter::empty()
    }
}

/// One endpoint of a service comes or goes.
fn one_endpoint(inputs: &mut Inputs, round: usize) {
    inputs.insert(Object::EndpointSlice(scale::slice(4_711, 9 + round % 2, Size::LARGE.nodes)));
}

/// A pod becomes another one at the same place in its service.
fn one_pod(inputs: &mut Inputs, round: usize) {
    inputs.insert(Object::Pod(scale::running(815, 3, Size::LARGE.nodes - round % 2)));
}

fn one_service(inputs: &mut Inputs, round: usize) {
    let extra = scale::service(Size::LARGE.services);
    if round.is_multiple_of(2) {
        inputs.insert(Object::Service(extra));
    } else {
        inputs.services.remove(&extra.meta.key());
    }
}

fn one_virtual_service(inputs: &mut Inputs, round: usize) {
    inputs.insert(scale::virtual_service(1_042, 80 + (round % 2) as u32));
}

fn main() {
    let size = Size::LARGE;
    let before = Taken::now();
    let inputs = scale::inputs(size);
    let of_inputs = Taken::now().since(before).bytes;

    println!("## The parts\n");
    println!(
        "Made by `cargo bench -p undermesh-worlds --bench report` and, the agent's part, `cargo bench -p undermesh --bench \
         publish`. Times are CPU times of the one thread that does the work; memory is what the allocator \
         has handed out.\n"
    );
    println!(
        "The mesh: {} services in namespaces of a hundred, {} endpoints and as many pods on {} nodes, {} VirtualServices of three \
         rules, {} DestinationRules of two subsets.\n",
        size.services,
        size.services * size.endpoints,
        size.nodes,
        size.virtual_services,
        size.destination_rules
    );
    memory(&inputs, of_inputs);
    println!("\n### CPU time\n\n| what | least | median | target |\n|---|---:|---:|---:|");
    compiling(&inputs);
    println!("\n### Tables and decisions\n\n| what | least | median | target |\n|---|---:|---:|---:|");
    tables(&compile(&inputs).snapshot);
    for routes in [1, 100, 10_000] {
        deciding(routes);
    }
}

fn memory(inputs: &Inputs, of_inputs: usize) {
    let before = Taken::now();
    let snapshot = compile(inputs).snapshot;
    let of_snapshot = Taken::now().since(before).bytes;
    drop(snapshot);
    let before = Taken::now();
    let mut compiler = Compiler::default();
    let first = compiler.compile(inputs);
    let of_both = Taken::now().since(before).bytes;
    let mut changed = inputs.clone();
    one_endpoint(&mut changed, 0);
    let before = Taken::now();
    let second = compiler.compile(&changed);
    let of_second = Taken::now().since(before).bytes;
    println!("### Memory\n\n| what | MiB | target |\n|---|---:|---:|");
    println!("| the objects, as the source keeps them | {:.1} | |", mebibytes(of_inputs));
    println!("| the snapshot | {:.1} | < 120 |", mebibytes(of_snapshot));
    println!("| the snapshot, and what the compiler remembers | {:.1} | |", mebibytes(of_both));
    println!("| a second snapshot beside the first, one endpoint apart | {:.2} | |", mebibytes(of_second));
    drop((first, second));
}

fn compiling(inputs: &Inputs) {
    let mut rounds = Rounds::default();
    for _ in 0..5 {
        rounds.time(|| compile(inputs));
    }
    rounds.row("compile everything", "< 1.5 s");
    let mut compiler = Compiler::default();
    let mut last = compiler.compile(inputs);
    type Change = fn(&mut Inputs, usize);
    let changes: [(&str, Change, &str); 4] = [
        ("compile after one endpoint came or went", one_endpoint, "< 20 ms"),
        ("compile after one pod changed", one_pod, ""),
        ("compile after one VirtualService changed", one_virtual_service, ""),
        ("compile after one Service came or went", one_service, ""),
    ];
    for (what, change, target) in changes {
        let (mut rounds, mut changed) = (Rounds::default(), inputs.clone());
        for round in 0..20 {
            change(&mut changed, round);
            // The old snapshot goes with the last reader; that is part of what a change costs.
            rounds.time(|| last = compiler.compile(&changed));
        }
        rounds.row(what, target);
    }
    drop(last);
}

fn tables(snapshot: &Snapshot) {
    let client = Client::mesh("team-003", []);
    let mut rounds = Rounds::default();
    for service in (0..10_000).step_by(97) {
        let dialled = SocketAddr::new(scale::address(service), 80);
        rounds.time(|| snapshot.outbound(&client, dialled));
    }
    rounds.row("the tables of one client for one address", "");
    let mut rounds = Rounds::default();
    for _ in 0..20 {
        rounds.time(|| snapshot.outbound(&client, "203.0.113.9:80".parse().expect("an address")));
    }
    rounds.row("the tables of one client for an address of nobody", "");
}

fn deciding(routes: usize) {
    let small = Size { services: 1, endpoints: 3, virtual_services: 0, destination_rules: 0, nodes: 1 };
    let mut inputs = scale::inputs(small);
    inputs.insert(scale::many_routes(routes, false));
    let snapshot = compile(&inputs).snapshot;
    let client = Client::mesh("team-000", []);
    let outbound = snapshot.outbound(&client, SocketAddr::new(scale::address(0), 80));
    let last = (0..routes.saturating_sub(1)).rev().find(|at| at % 10 < 7).unwrap_or(0);
    let head = Head(format!("/api/v1/items/{last:05}?page=2"));
    let mut chance = Chance::new(1);
    let mut rounds = Rounds::default();
    const TIMES: u32 = 10_000;
    for _ in 0..20 {
        let before = cpu();
        for _ in 0..TIMES {
            black_box(decide(&outbound.http, black_box(&head), &mut chance, &mut ()));
        }
        rounds.0.push((cpu() - before) / TIMES);
    }
    let target = if routes == 100 { "< 1 µs" } else { "" };
    rounds.row(&format!("decide over {routes} routes, the last exact path"), target);
}
