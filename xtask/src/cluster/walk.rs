//! `--docs`: the commands of docs/kubernetes.md, in order, in a shell on a node, as its reader types them.
//!
//! What stands for k3s: the cluster, which has its paths; the images, imported before; an address for Services of the type
//! LoadBalancer, which k3s's servicelb would give; and one value for helm, since cgroup2 is elsewhere on these nodes.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use undermesh_cluster::Tools;

use crate::cargo::root;
use crate::cluster::guide::{self, Block, Section, Whose};
use crate::cluster::stage::Stage;
use crate::demo::report::{Finding, Report, progress};

/// How long a block is tried that may not succeed at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the page; a finding for each section. What follows a failure would only repeat it.
pub(crate) fn all(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let page = root().join(guide::PATH);
    let page = fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let sections = guide::parse(&page).context(guide::PATH)?;
    let shell = Shell::new(stage)?;
    let _balancer = Balancer::start(&stage.tools, stage.cluster.kubeconfig());
    for section in sections {
        let title = format!("{}: {}", guide::PATH, section.title);
        progress(&title);
        let outcome = shell.section(&title, &section);
        let failed = outcome.as_ref().map_or(true, |finding| !finding.is_as_asked());
        report.add(&title, outcome);
        if failed {
            progress("the rest of the page is left out");
            break;
        }
    }
    Ok(())
}

/// What a reader has before them. Variables live on from one block to the next.
struct Shell<'a> {
    stage: &'a Stage,
    folder: PathBuf,
}

/// What a block came to.
struct Outcome {
    success: bool,
    said: String,
}

impl<'a> Shell<'a> {
    fn new(stage: &'a Stage) -> anyhow::Result<Self> {
        let folder = stage.plugin.join("walk");
        fs::create_dir_all(folder.join("bin"))?;
        fs::write(folder.join("variables"), "")?;
        let helm = format!(
            "#!/bin/sh\ncase $1 in install|upgrade) set -- \"$@\" --set agent.cgroupHostPath={} ;; esac\nexec {} \"$@\"\n",
            stage.cluster.cgroup().context("the nodes' cgroup2")?,
            stage.tools.helm.display()
        );
        let path = folder.join("bin/helm");
        fs::write(&path, helm)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self { stage, folder })
    }

    fn section(&self, title: &str, section: &Section) -> anyhow::Result<Finding> {
        let (mut commands, mut elsewhere, mut detail) = (0, 0, String::new());
        let mut wrong = None;
        for block in &section.blocks {
            if !block.whose.is_ours() {
                elsewhere += 1;
                let how = if block.whose == Whose::Build { "built before" } else { "the harness, for k3s" };
                // Writing to a String cannot fail.
                let _ = block.text.lines().try_for_each(|line| writeln!(detail, "({how}) {line}"));
                continue;
            }
            commands += 1;
            let (outcome, fault) = self.block(block)?;
            let _ = block.text.lines().try_for_each(|line| writeln!(detail, "# {line}"));
            let lines: Vec<&str> = outcome.said.lines().collect();
            // All of it where something is wrong; else enough to see what it is like.
            let shown = if fault.is_some() { lines.len() } else { 12 };
            for line in lines.iter().take(shown) {
                let _ = writeln!(detail, "{}", line.chars().take(150).collect::<String>());
            }
            if lines.len() > shown {
                let _ = writeln!(detail, "({} more lines)", lines.len() - shown);
            }
            wrong = fault;
            if wrong.is_some() {
                break;
            }
        }
        let expectations: usize =
            section.blocks.iter().map(|block| block.says.len() + block.never_says.len()).sum();
        Ok(Finding::new(title)
            .asked(format!("{commands} blocks of commands succeed and say {expectations} things"))
            .seen(wrong.clone().unwrap_or_else(|| match elsewhere {
                0 => "they do".to_owned(),
                some => format!("they do; {some} blocks were the harness' to do"),
            }))
            .detail(detail)
            .holds(wrong.is_none()))
    }

    /// Runs it, again if that may help, and gives what is wrong with it in the end.
    fn block(&self, block: &Block) -> anyhow::Result<(Outcome, Option<String>)> {
        let end = Instant::now() + PATIENCE;
        loop {
            let outcome = self.run(&block.text)?;
            let fault = if outcome.success { fault(block, &outcome.said)? } else { Some("it failed".into()) };
            if fault.is_none() || block.whose == Whose::Run || Instant::now() > end {
                return Ok((outcome, fault));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn run(&self, text: &str) -> anyhow::Result<Outcome> {
        let variables = self.folder.join("variables").display().to_string();
        // Errors go where the rest goes, as on a terminal.
        let begin = format!("exec 2>&1\n. {variables}\ncd {}\nset -eua\n", root().display());
        let script = format!("{begin}{text}\nset +eua\nexport -p > {variables}\n");
        let mut command =
            self.stage.cluster.on_a_node().context("commands are run on a node of the harness")?;
        command.args(["bash", "-c", &script]).stdin(Stdio::null());
        let kubectl = self.stage.tools.kubectl.parent().context("kubectl is in a folder")?;
        let ordinary = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{}:{ordinary}", self.folder.join("bin").display(), kubectl.display());
        command.env("PATH", path).env("HOME", &self.folder).env_remove("KUBECONFIG");
        let output = command.output().context("cannot run bash on a node")?;
        let said = [output.stdout, output.stderr].concat();
        Ok(Outcome { success: output.status.success(), said: String::from_utf8_lossy(&said).into_owned() })
    }
}

/// What the output of a block lacks, or has and should not.
fn fault(block: &Block, said: &str) -> anyhow::Result<Option<String>> {
    for pattern in &block.says {
        if !is_in(pattern, said)? {
            return Ok(Some(format!("it does not say `{pattern}`")));
        }
    }
    for pattern in &block.never_says {
        if is_in(pattern, said)? {
            return Ok(Some(format!("it says `{pattern}`")));
        }
    }
    Ok(None)
}

/// Whether a line matches an extended regular expression, by grep.
fn is_in(pattern: &str, text: &str) -> anyhow::Result<bool> {
    use std::io::Write as _;
    let mut grep = Command::new("grep");
    grep.args(["-E", "-e", pattern]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = grep.spawn().context("cannot run grep")?;
    child.stdin.take().context("it is piped")?.write_all(text.as_bytes())?;
    match child.wait()?.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        code => anyhow::bail!("`{pattern}` is no expression for grep -E ({code:?})"),
    }
}

/// What k3s's servicelb does: the address of a node for each Service of the type LoadBalancer.
struct Balancer {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Balancer {
    fn start(tools: &Tools, kubeconfig: &Path) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, kubectl, kubeconfig) = (is_over.clone(), tools.kubectl.clone(), kubeconfig.to_owned());
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                // An API server that is busy is asked again.
                let _ = give_addresses(&kubectl, &kubeconfig);
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        Self { is_over, thread: Some(thread) }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn give_addresses(kubectl: &Path, kubeconfig: &Path) -> anyhow::Result<()> {
    let run = |arguments: &[&str]| {
        let output = Command::new(kubectl).env("KUBECONFIG", kubeconfig).args(arguments).output()?;
        ensure!(output.status.success(), "kubectl {arguments:?}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let services: Value =
        serde_json::from_str(&run(&["get", "services", "--all-namespaces", "-o", "json"])?)?;
    for service in services.get("items").and_then(Value::as_array).into_iter().flatten() {
        let text = |pointer: &str| service.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        if text("/spec/type") != "LoadBalancer" || service.pointer("/status/loadBalancer/ingress").is_some() {
            continue;
        }
        let address = r#"jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}"#;
        let addresses = run(&["get", "nodes", "-o", address])?;
        // One for each family of the node, in the order of its own.
        let address = addresses.split_whitespace().next().unwrap_or_default();
        let status =
            serde_json::json!({"status": {"loadBalancer": {"ingress": [{ "ip": address }]}}}).to_string();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        run(&[
            "patch",
            "service",
            name,
            "-n",
            namespace,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(says: &[&str], never_says: &[&str]) -> Block {
        let all = |patterns: &[&str]| patterns.iter().map(|it| (*it).to_owned()).collect();
        Block { whose: Whose::Run, text: String::new(), says: all(says), never_says: all(never_says) }
    }

    #[test]
    fn a_block_is_wrong_if_it_lacks_a_line_or_has_one_that_it_should_not() {
        let said = "  92 reviews-v1\n   8 reviews-v3\n";
        let good = block(&["^ *9[0-9] reviews-v1", "v3"], &["reviews-v2"]);
        assert_eq!(fault(&good, said).expect("patterns"), None);
        for bad in [block(&["reviews-v1.*reviews-v3"], &[]), block(&[], &["v3$"])] {
            assert!(fault(&bad, said).expect("patterns").is_some(), "{bad:?}");
        }
        assert!(fault(&block(&["("], &[]), said).is_err(), "no expression");
    }
}
