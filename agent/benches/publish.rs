//! What one change costs the agent, from the source's object to the kernel's maps: the end of "The parts" in docs/scale.md.

use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use undermesh::app::enrolment::{LocalPods, Rules};
use undermesh::app::publish::Published;
use undermesh::source::Loaded;
use undermesh_core::api::Object;
use undermesh_core::inputs::Inputs;
use undermesh_redirect::netns::NetnsCookie;
use undermesh_redirect::plan::{self, FailMode, Node};
use undermesh_worlds::scale::{self, Size};

fn main() {
    println!(
        "\n## From the object to the kernel's maps\n\n| what | least | median | target |\n|---|---:|---:|---:|"
    );
    whole_path(&scale::inputs(Size::LARGE));
}

/// One endpoint of a service comes or goes.
fn one_endpoint(inputs: &mut Inputs, round: usize) {
    inputs.insert(Object::EndpointSlice(scale::slice(4_711, 9 + round % 2, Size::LARGE.nodes)));
}

/// From the source's change to the changes of the kernel's maps, as the agent does it.
fn whole_path(inputs: &Inputs) {
    let published = Published::new();
    let mut local = LocalPods::new("node-0007");
    let node = Node {
        host_netns: NetnsCookie(1),
        agent_cgroup: None,
        unknown: FailMode::Open,
        heartbeat_timeout: None,
        event_sample: 0,
    };
    let loaded = |inputs: &Inputs| Loaded { inputs: inputs.clone(), ..Loaded::default() };
    let snapshot = published.publish(loaded(inputs));
    local.of(inputs, Rules::default());
    let mut maps = plan::plan(snapshot.captures(), &[], &node, 1);
    let (mut changed, mut before_it) = (inputs.clone(), snapshot);
    let mut parts: [Rounds; 5] = Default::default();
    for round in 0..20 {
        let [source, publish, pods, planning, whole] = &mut parts;
        let before = cpu();
        source.time(|| one_endpoint(&mut changed, round));
        let snapshot = publish.time(|| published.publish(loaded(&changed)));
        pods.time(|| local.of(&changed, Rules::default()));
        planning.time(|| {
            let generation = snapshot.generation();
            if snapshot.captures_same(&before_it) {
                black_box(plan::workloads(&[], &node, generation));
                return;
            }
            let wanted = plan::plan(snapshot.captures(), &[], &node, generation);
            black_box(plan::diff(&maps.services, &wanted.services));
            maps = wanted;
        });
        before_it = snapshot;
        whole.0.push(cpu() - before);
    }
    let names = [
        "one endpoint, source: the object into the inputs",
        "one endpoint, publish: compile, number, swap",
        "one endpoint, enrolment: the pods of this node",
        "one endpoint, redirect: plan of the maps, and difference",
        "**one endpoint, the whole path**",
    ];
    for (part, name) in parts.iter_mut().zip(names) {
        part.row(name, if name.starts_with('*') { "< 20 ms" } else { "" });
    }
}

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
