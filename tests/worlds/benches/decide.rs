//! Deciding over few and many routes: `cargo bench -p undermesh-worlds --bench decide`.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use undermesh_core::client::Client;
use undermesh_core::compile::compile;
use undermesh_core::route::decide;
use undermesh_core::snapshot::Outbound;
use undermesh_core::view::{HttpVersion, RequestView};
use undermesh_worlds::chance::Chance;
use undermesh_worlds::scale::{self, Size};

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

fn outbound(routes: usize, with_expressions: bool) -> Arc<Outbound> {
    let size = Size { services: 1, endpoints: 3, virtual_services: 0, destination_rules: 0, nodes: 1 };
    let mut inputs = scale::inputs(size);
    inputs.insert(scale::many_routes(routes, with_expressions));
    let client = Client::mesh("team-000", []);
    compile(&inputs).snapshot.outbound(&client, SocketAddr::new(scale::address(0), 80))
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    for routes in [1usize, 10, 100, 1_000, 10_000] {
        let table = outbound(routes, false);
        // The last of the exact paths, and a path that only the last route takes.
        let last = (0..routes.saturating_sub(1)).rev().find(|at| at % 10 < 7).unwrap_or(0);
        let exact = Head(format!("/api/v1/items/{last:05}?page=2"));
        let other = Head("/somewhere/else?page=2".to_owned());
        for (name, head) in [("exact", exact), ("last", other)] {
            group.bench_with_input(BenchmarkId::new(name, routes), &head, |bencher, head| {
                let mut chance = Chance::new(1);
                bencher.iter(|| decide(&table.http, black_box(head), &mut chance, &mut ()));
            });
        }
    }
    let table = outbound(100, true);
    let head = Head("/api/v1/items/00096".to_owned());
    group.bench_function("10 of 100 are expressions", |bencher| {
        let mut chance = Chance::new(1);
        bencher.iter(|| decide(&table.http, black_box(&head), &mut chance, &mut ()));
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
