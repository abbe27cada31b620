//! What must hold for any bytes. Each function is a fuzz target: it takes bytes and panics if something does not hold.
//!
//! `cargo xtask fuzz` drives them with libFuzzer (the programs in `engine`, a workspace of its own); an ordinary `cargo test`
//! replays the files of `corpus`, which are what the fuzzer found worth keeping.
#![expect(clippy::panic, reason = "a panic is how a target says that something does not hold")]

use std::sync::OnceLock;

use undermesh::source::files::{load_text, read_text};
use undermesh_core::client::Client;
use undermesh_core::compile::{Compiler, compile};
use undermesh_core::edits::Edits;
use undermesh_core::explain::explain;
use undermesh_core::inputs::Inputs;
use undermesh_core::path::Normalization;
use undermesh_core::route::{Event, Facts, HttpTable, Observer, decide, request_edits, response_edits};
use undermesh_core::snapshot::Snapshot;
use undermesh_core::view::{RequestView, ResponseView};
use undermesh_proxy::http1;
use undermesh_proxy::http1::header::Slots;
use undermesh_proxy::http1::request::RequestHead;
use undermesh_worlds::agreement;
use undermesh_worlds::chance::Chance;
use undermesh_worlds::random::{World, request};

/// Takes bytes; panics if something does not hold.
pub type Target = fn(&[u8]);

/// The targets by name, as folders of the corpus and programs of the engine have it.
pub const TARGETS: [(&str, Target); 3] = [("yaml", yaml), ("config", config), ("head", head)];

/// A file of manifests: read and compiled, and a good document after it is read whatever it says.
pub fn yaml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let good = "\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: last}\n";
    let documents = read_text("a.yaml", &format!("{text}{good}"));
    let last = documents.last().and_then(|document| document.object.as_ref());
    assert!(last.is_some_and(|object| &*object.meta().name == "last"), "the last document is lost");
    let compiled = compile(&load_text("a.yaml", text).inputs);
    tables(&compiled.snapshot);
}

/// A configuration with edits and requests, drawn from the bytes: remembering changes nothing, and `explain` is right.
pub fn config(bytes: &[u8]) {
    let mut chance = Chance::scripted(bytes);
    let mut compiler = Compiler::default();
    let mut world = World::new(chance.below(40), &mut chance);
    for _ in 0..4 {
        let changed = compiler.compile(&world.inputs);
        let whole = compile(&world.inputs);
        assert_eq!(changed.diagnostics, whole.diagnostics);
        assert_eq!(changed.snapshot.services(), whole.snapshot.services());
        for _ in 0..4 {
            let request = request(&mut chance);
            agreement::check(&changed.snapshot, &request, 3, &mut chance)
                .unwrap_or_else(|what| panic!("{what}"));
            let (changed, whole) = (explain(&changed.snapshot, &request), explain(&whole.snapshot, &request));
            assert_eq!(format!("{changed:?}"), format!("{whole:?}"));
        }
        if chance.is_at_end() {
            return;
        }
        world.edit(&mut chance);
    }
}

/// The head of a request as it comes from a client: parsed, decided, written.
pub fn head(bytes: &[u8]) {
    static TABLES: OnceLock<Vec<HttpTable>> = OnceLock::new();
    let settings = http1::Settings {
        normalization: match bytes.first() {
            Some(b'g') => Normalization::DecodeAndMergeSlashes,
            Some(b'h') => Normalization::MergeSlashes,
            _ => Normalization::Base,
        },
        ..http1::Settings::default()
    };
    let mut slots = Slots::new();
    let Ok(Some(head)) = RequestHead::parse(bytes, &mut slots, &settings) else { return };
    assert!(head.len() <= bytes.len());
    for table in TABLES.get_or_init(all_tables) {
        let decision = decide(table, &head, &mut Chance::new(1), &mut ());
        assert_eq!(decision, decide(table, &head, &mut Chance::new(1), &mut Walk), "{}", head.target());
        let (mut edits, mut out) = (Edits::default(), Vec::new());
        request_edits(table, &decision, &head, &Facts::default(), &mut edits);
        head.write(&edits, &mut out);
        // What goes on is a request again, and nothing follows its head.
        let mut slots = Slots::new();
        match RequestHead::parse(&out, &mut slots, &http1::Settings::default()) {
            Ok(Some(sent)) => assert_eq!(sent.len(), out.len(), "{:?}", String::from_utf8_lossy(&out)),
            other => panic!("{:?} {:?}", other.err(), String::from_utf8_lossy(&out)),
        }
        let mut edits = Edits::default();
        response_edits(table, &decision, None::<&NoResponse>, &Facts::default(), &mut edits);
    }
}

/// Derives what clients meet.
fn tables(snapshot: &Snapshot) -> Vec<HttpTable> {
    let mut tables = Vec::new();
    for client in ["shop", "ops"].map(|namespace| Client::mesh(namespace, [])) {
        for service in snapshot.services().iter().take(20) {
            for address in service.addresses.iter().take(2) {
                for port in service.ports.iter().take(3) {
                    tables.push(snapshot.outbound(&client, (*address, port.number).into()).http.clone());
                }
            }
        }
        tables.push(snapshot.outbound(&client, ([203, 0, 113, 9], 80).into()).http.clone());
    }
    let gateway = Client::gateway("shop", [("istio".to_owned(), "in".to_owned())]);
    tables.extend(snapshot.gateway(&gateway).into_iter().map(|port| port.http));
    tables
}

/// Those of a few worlds with many rules.
fn all_tables() -> Vec<HttpTable> {
    let inputs: Vec<Inputs> = (0..3).map(|seed| World::new(150, &mut Chance::new(seed)).inputs).collect();
    inputs.iter().flat_map(|inputs| tables(&compile(inputs).snapshot)).collect()
}

/// Watches every step, so that the routes are walked one by one.
struct Walk;

impl Observer for Walk {
    fn event(&mut self, _: Event<'_>) {}
}

struct NoResponse;

impl ResponseView for NoResponse {
    fn status(&self) -> u16 {
        200
    }
    fn header_lines<'a>(&'a self, _: &str) -> impl Iterator<Item = &'a [u8]> {
        std::iter::empty()
    }
}
