//! `--run kubernetes`: a machine with Kubernetes in it goes on from its saved state, is given our images, and the scenario of
//! `cargo xtask cluster` is run on it with kubectl and helm from outside.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use undermesh_cluster::{K3s, KUBERNETES, NodeProgram, Programs, Provider, Tools, prepare};

use super::emulator::{Emulator, Start};
use super::packages::{self, Qemu};
use super::saved::{Parts, Saved};
use super::{Kernel, guest};
use crate::cluster::stage::Stage;
use crate::cluster::{self, Part, What};
use crate::demo::report::progress;

/// Emulated, programs run at a tenth of the speed; what waits for them waits longer.
const SLOWER: u32 = 5;
const COMMAND: Duration = Duration::from_secs(300);

/// Whose Kubernetes is in the machine.
#[derive(Clone)]
pub(super) enum Distribution {
    /// Kubernetes' own programs, as units of systemd.
    Upstream(Programs),
    /// k3s's binary. Never run where it was written: there it could not be had.
    K3s(PathBuf),
}

/// Runs the scenario on one kernel after the other.
pub(super) fn run(
    cache: &Path,
    qemu: &Qemu,
    kernels: &[Kernel],
    args: &super::Args,
) -> anyhow::Result<Vec<String>> {
    let programs = prepare(progress)?;
    let distribution = match &args.k3s {
        Some(binary) => Distribution::K3s(K3s::find(Some(binary), false, progress)?),
        None => Distribution::Upstream(programs.clone()),
    };
    let images = cluster::images(!args.release)?;
    let plugin = cluster::plugin(!args.release)?;
    let scratch = super::folder().join(format!("kubernetes-{}", std::process::id()));
    let mut failures = Vec::new();
    for kernel in kernels {
        let unpacked = packages::kernel(cache, *kernel)?;
        let parts = Parts {
            cache,
            qemu,
            kernel: *kernel,
            unpacked: &unpacked,
            distribution: &distribution,
            programs: &programs,
            use_kvm: args.kvm,
        };
        let saved = Saved::find(&parts, &scratch)?;
        println!("\n== {} ==", unpacked.release);
        let began = Instant::now();
        let machine = Machine::go_on(&parts, &saved, &images, scratch.join("machine"))?;
        progress(&format!("the machine goes on after {:.1} s", began.elapsed().as_secs_f64()));
        let stage = Stage::new(Box::new(machine), Tools::of(&programs), plugin.clone(), Vec::new());
        let what = What { part: Part::Scenario, keep: args.keep };
        let outcome = cluster::perform(stage, &images, what);
        println!("\n{:.0} s on {}", began.elapsed().as_secs_f64(), unpacked.release);
        if let Err(e) = outcome {
            println!("{e:#}");
            failures.push(unpacked.release);
        }
    }
    let _ = std::fs::remove_dir_all(scratch);
    Ok(failures)
}

/// A machine that went on.
struct Machine {
    emulator: Emulator,
    description: String,
    kubeconfig: PathBuf,
    distribution: Distribution,
    payload: Vec<PathBuf>,
    is_emulated: bool,
}

impl Machine {
    /// From `saved`, with the archives `payload` on its second disk.
    fn go_on(parts: &Parts<'_>, saved: &Saved, payload: &[PathBuf], folder: PathBuf) -> anyhow::Result<Self> {
        let memory = saved.memory();
        let start = Start {
            qemu: parts.qemu,
            image: &parts.unpacked.image,
            folder: saved.folder(),
            payload,
            from: Some(&memory),
            use_kvm: parts.use_kvm,
        };
        let emulator = Emulator::start(&start, folder)?;
        emulator.monitor()?.go_on()?;
        let path = emulator.folder().join("kubeconfig");
        let kubeconfig = guest::kubeconfig(saved.folder(), emulator.port(), path)?;
        let what = match parts.distribution {
            Distribution::Upstream(_) => format!("Kubernetes {KUBERNETES}"),
            Distribution::K3s(_) => "k3s".to_owned(),
        };
        Ok(Self {
            emulator,
            description: format!("{what} on a machine with {}", parts.unpacked.release),
            kubeconfig,
            distribution: parts.distribution.clone(),
            payload: payload.to_owned(),
            is_emulated: !parts.use_kvm,
        })
    }
}

impl Provider for Machine {
    fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn import(&self, archive: &Path) -> anyhow::Result<()> {
        let known = self.payload.iter().any(|known| known == archive);
        ensure!(known, "a machine takes in what was put on its second disk at its start, and nothing else");
        let script = self.distribution.import(archive);
        self.emulator.channel()?.run(&script, COMMAND).map(drop).context("an image from the second disk")
    }

    fn cgroup(&self) -> Option<&str> {
        None
    }

    fn has_load_balancers(&self) -> bool {
        false
    }

    fn still_loaded(&self, programs: &[u32]) -> anyhow::Result<Vec<u32>> {
        let said = self.emulator.channel()?.run("bpftool --json prog list", COMMAND)?;
        let listed: serde_json::Value = serde_json::from_str(&said).context("bpftool's list")?;
        let loaded = listed.as_array().into_iter().flatten().filter_map(|p| p.get("id")?.as_u64());
        Ok(loaded.filter_map(|id| u32::try_from(id).ok()).filter(|id| programs.contains(id)).collect())
    }

    fn restart(&mut self, program: NodeProgram) -> anyhow::Result<bool> {
        let unit = match self.distribution {
            Distribution::Upstream(_) => program.name(),
            Distribution::K3s(_) => "k3s",
        };
        self.emulator.channel()?.run(&format!("systemctl restart {unit}"), COMMAND)?;
        Ok(true)
    }

    fn patience(&self) -> u32 {
        if self.is_emulated { SLOWER } else { 1 }
    }

    fn forward(&mut self, _: u16, _: SocketAddr) -> anyhow::Result<Option<SocketAddr>> {
        // QEMU's network leads to the machine's own address alone; `kubectl port-forward` to all else.
        Ok(None)
    }

    fn must_run(&mut self) -> anyhow::Result<()> {
        self.emulator.must_run()
    }

    fn end(self: Box<Self>) -> anyhow::Result<Vec<PathBuf>> {
        let folder = self.emulator.folder().to_owned();
        drop(self);
        Ok(if folder.exists() { vec![folder] } else { Vec::new() })
    }
}
