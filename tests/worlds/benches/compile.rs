//! Compiling a large mesh, whole and after one change: `cargo bench -p undermesh-worlds --bench compile`.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use undermesh_core::api::Object;
use undermesh_core::compile::{Compiler, compile};
use undermesh_worlds::scale::{self, Size};

fn benches(criterion: &mut Criterion) {
    let inputs = scale::inputs(Size::LARGE);
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10);
    group.bench_function("everything", |bencher| bencher.iter(|| compile(black_box(&inputs))));

    let mut compiler = Compiler::default();
    let mut last = compiler.compile(&inputs);
    let mut round = 0;
    group.bench_function("one endpoint", |bencher| {
        bencher.iter_batched(
            || {
                round += 1;
                let mut changed = inputs.clone();
                changed.insert(Object::EndpointSlice(scale::slice(4_711, 9 + round % 2, Size::LARGE.nodes)));
                changed
            },
            |changed| last = compiler.compile(&changed),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("one VirtualService", |bencher| {
        bencher.iter_batched(
            || {
                round += 1;
                let mut changed = inputs.clone();
                changed.insert(scale::virtual_service(1_042, 80 + round as u32 % 2));
                changed
            },
            |changed| last = compiler.compile(&changed),
            BatchSize::PerIteration,
        );
    });
    group.finish();
    drop(last);
}

criterion_group!(all, benches);
criterion_main!(all);
