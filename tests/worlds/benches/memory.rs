//! What the objects of a large cluster take in memory, kind by kind, and what is made of them (docs/scale.md).

mod counting;

use std::collections::BTreeMap;

use undermesh_core::api::meta::Key;
use undermesh_core::api::origin::Origin;
use undermesh_core::api::{Object, parse};
use undermesh_core::compile::Compiler;
use undermesh_core::inputs::Inputs;
use undermesh_core::pool::Pool;
use undermesh_worlds::cluster::{self, Size};

use counting::Taken;

fn row(what: &str, objects: usize, taken: Taken, target: &str) {
    let each = |number: usize| number.checked_div(objects).map(|each| each.to_string()).unwrap_or_default();
    let objects_text = if objects == 0 { String::new() } else { objects.to_string() };
    let mebibytes = taken.bytes as f64 / f64::from(1 << 20);
    println!(
        "| {what} | {objects_text} | {mebibytes:.1} | {} | {} | {target} |",
        each(taken.bytes),
        each(taken.count)
    );
}

fn main() {
    let size = Size::LARGE;
    println!(
        "The cluster, as its API server sends it: {} Services with {} endpoints, which are {} pods (an application's {} services have \
         the same {} pods), on {} nodes; {} VirtualServices of three rules and as many DestinationRules of two subsets.\n",
        size.services,
        size.endpoints(),
        size.pods(),
        size.services_per_app,
        size.pods_per_app,
        size.nodes,
        size.rules,
    );
    println!(
        "| what | objects | MiB | bytes each | allocations each | target |\n|---|---:|---:|---:|---:|---:|"
    );
    let mut inputs = Inputs::default();
    let mut pool = Pool::default();
    let mut kinds: BTreeMap<&str, (usize, Taken)> = BTreeMap::new();
    let mut all = Taken::default();
    for object in cluster::objects(size) {
        let text = object.to_string();
        drop(object);
        let before = Taken::now();
        let value = serde_json::from_str(&text).expect("its own text");
        let parsed = parse(value, Origin::default()).validated();
        let mut object = parsed.object.expect("an object that is read");
        pool.share(&mut object);
        let kind = object.kind();
        inputs.put(object);
        drop(parsed.diagnostics);
        drop(parsed.identity);
        let taken = Taken::now().since(before);
        let (count, sum) = kinds.entry(kind).or_default();
        *count += 1;
        *sum += taken;
        all += taken;
    }
    for (kind, (count, taken)) in &kinds {
        row(&format!("{kind}s"), *count, *taken, "");
    }
    row("all objects, as the source keeps them", 0, all, "");
    let before = Taken::now();
    let mut compiler = Compiler::default();
    let first = compiler.compile(&inputs);
    let both = Taken::now().since(before);
    let before = Taken::now();
    drop(compiler);
    row("the snapshot", 0, Taken { bytes: both.bytes - before.since(Taken::now()).bytes, count: 0 }, "< 60");
    row("the snapshot, and what the compiler remembers", 0, both, "");
    let mut compiler = Compiler::default();
    drop(first);
    let first = compiler.compile(&inputs);
    let changed =
        serde_json::from_str(&cluster::slice(size, 4_711, false).to_string()).expect("its own text");
    let changed = parse(changed, Origin::default()).object.expect("an object that is read");
    let key: Key = changed.key();
    assert!(matches!(changed, Object::EndpointSlice(_)) && inputs.endpoint_slices.contains_key(&key));
    let before = Taken::now();
    inputs.put(changed);
    let second = compiler.compile(&inputs);
    row("a second one beside the first, one endpoint apart", 0, Taken::now().since(before), "");
    drop((first, second));
}
