//! `kubectl undermesh VERB …`: this binary by the name `kubectl-undermesh` in the PATH.
//!
//! A verb asks the agent of a node over a socket that is only there. So the plugin finds the agent of the node on which the
//! verb's `--pod` runs, and runs the verb in its container by `kubectl exec`. All of that by kubectl itself: it knows how the
//! user reaches the cluster (contexts, credential plugins, proxies), and the user's own rights apply.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use clap::Parser;

use super::Answer;

const AGENTS: &str = "app=undermesh-agent";

/// Undermesh's verbs, run by the agent of the right node.
///
/// The node is that of the verb's --pod, or --node. Otherwise the verb is asked of one agent, for all know the whole mesh; and
/// `doctor` of every agent.
#[derive(Debug, Parser)]
#[command(name = "kubectl undermesh", version, max_term_width = 110)]
#[command(after_help = "Examples:
  kubectl undermesh doctor
  kubectl undermesh --node n1 workloads
  kubectl undermesh explain http://reviews:9080/ --pod default/productpage-v1-7d9c-abcde")]
pub struct Plugin {
    /// The kubeconfig's context.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<String>,
    /// Ask the agent of this node.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Where Undermesh is installed.
    #[arg(
        long,
        default_value = "undermesh-system",
        env = "UNDERMESH_SYSTEM_NAMESPACE",
        value_name = "NAMESPACE"
    )]
    system: String,
    /// The verb and its arguments, as `undermesh` takes them.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "VERB")]
    verb: Vec<String>,
}

/// Which agents to ask.
#[derive(Debug, PartialEq, Eq)]
enum Of {
    /// That of the node of this pod: namespace and name.
    Pod(String, String),
    Node(String),
    Any,
    All,
}

/// Whether the program has been called as the plugin.
#[must_use]
pub fn is_called(program: Option<&OsStr>) -> bool {
    program.and_then(|path| Path::new(path).file_stem()).is_some_and(|name| name == "kubectl-undermesh")
}

impl Plugin {
    /// Runs the verb there. What it prints goes where it goes here.
    ///
    /// # Errors
    /// There is no kubectl, no such pod, no agent; the verb is for files of this machine.
    pub fn run(self) -> anyhow::Result<Answer> {
        let agents = match self.of()? {
            Of::Any => vec!["daemonset/undermesh-agent".to_owned()],
            Of::All => self.agents(&[])?,
            Of::Node(node) => self.agents(&[&on(&node)])?,
            Of::Pod(namespace, name) => {
                let node = ["get", "pod", &name, "-n", &namespace, "-o", "jsonpath={.spec.nodeName}"];
                let node = self.told(&node)?;
                ensure!(!node.is_empty(), "the pod {namespace}/{name} is not on a node yet");
                self.agents(&[&on(&node)])?
            }
        };
        let mut answer = Answer::Yes;
        for agent in &agents {
            if agents.len() > 1 {
                println!("{agent}:");
            }
            let status = self.kubectl(&self.exec(agent)).status().context("cannot run kubectl")?;
            match status.code() {
                Some(0) => {}
                Some(1) => answer = Answer::No,
                _ => bail!("the verb could not be run in {agent} ({status})"),
            }
        }
        Ok(answer)
    }

    fn of(&self) -> anyhow::Result<Of> {
        let verb = self.verb.first().map(String::as_str).unwrap_or_default();
        ensure!(!verb.starts_with('-'), "{verb} is not known here: kubectl undermesh --help");
        if matches!(verb, "agent" | "gateway" | "probe") {
            bail!("`{verb}` is not for a running agent: the chart starts those");
        }
        if verb == "check" || self.flag("--config").is_some() || self.flag("--requests").is_some() {
            bail!("this reads files of this machine: run `undermesh {}` here", self.verb.join(" "));
        }
        if let Some(node) = &self.node {
            return Ok(Of::Node(node.clone()));
        }
        if let Some(pod) = self.flag("--pod") {
            let (namespace, name) =
                pod.split_once('/').with_context(|| format!("--pod {pod}: write it as namespace/name"))?;
            return Ok(Of::Pod(namespace.to_owned(), name.to_owned()));
        }
        Ok(if verb == "doctor" && !self.is_asked("--help") { Of::All } else { Of::Any })
    }

    /// The value of a flag of the verb.
    fn flag(&self, name: &str) -> Option<&str> {
        let mut arguments = self.verb.iter();
        while let Some(argument) = arguments.next() {
            if argument == name {
                return arguments.next().map(String::as_str);
            }
            if let Some(value) = argument.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
                return Some(value);
            }
        }
        None
    }

    fn is_asked(&self, flag: &str) -> bool {
        self.verb.iter().any(|argument| argument == flag)
    }

    /// The names of the agents' pods, in kubectl's form.
    fn agents(&self, more: &[&str]) -> anyhow::Result<Vec<String>> {
        let list = ["get", "pods", "-n", &self.system, "-l", AGENTS, "-o", "name"];
        let told = self.told(&[&list, more].concat())?;
        let agents: Vec<_> = told.lines().map(str::to_owned).collect();
        ensure!(
            !agents.is_empty(),
            "no agent in the namespace {}{}: look at `kubectl -n {} get pods -o wide`, or give --system",
            self.system,
            if more.is_empty() { "" } else { " on that node" },
            self.system
        );
        Ok(agents)
    }

    fn exec<'a>(&'a self, agent: &'a str) -> Vec<&'a str> {
        let mut arguments = vec!["exec", "-n", &self.system, agent, "-c", "agent", "--", "/undermesh"];
        arguments.extend(self.verb.iter().map(String::as_str));
        arguments
    }

    fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut kubectl = Command::new("kubectl");
        for (flag, value) in [("--context", &self.context), ("--kubeconfig", &self.kubeconfig)] {
            if let Some(value) = value {
                kubectl.arg(format!("{flag}={value}"));
            }
        }
        kubectl.args(arguments);
        kubectl
    }

    fn told(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.kubectl(arguments).output().context("cannot run kubectl")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {}", arguments.join(" "), error.trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// kubectl's argument for the pods of a node.
fn on(node: &str) -> String {
    format!("--field-selector=spec.nodeName={node},status.phase=Running")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(line: &str) -> Plugin {
        Plugin::parse_from(std::iter::once("kubectl-undermesh").chain(line.split(' ')))
    }

    #[test]
    fn it_is_called_by_its_name() {
        for (program, want) in [
            ("/usr/local/bin/kubectl-undermesh", true),
            ("kubectl-undermesh", true),
            ("kubectl-undermesh.exe", true),
            ("/undermesh", false),
            ("kubectl", false),
        ] {
            assert_eq!(is_called(Some(OsStr::new(program))), want, "{program}");
        }
        assert!(!is_called(None));
    }

    #[test]
    fn the_agent_is_that_of_the_pods_node() {
        let pod = || Of::Pod("shop".to_owned(), "cart-1".to_owned());
        for (line, want) in [
            ("status", Of::Any),
            ("status -o json", Of::Any),
            ("doctor", Of::All),
            ("doctor --help", Of::Any),
            ("--node n1 doctor", Of::Node("n1".to_owned())),
            ("explain http://a/ --pod shop/cart-1", pod()),
            ("routes --pod=shop/cart-1 --host reviews", pod()),
            // --node of the user's goes before.
            ("--node n2 routes --pod shop/cart-1", Of::Node("n2".to_owned())),
        ] {
            assert_eq!(plugin(line).of().unwrap(), want, "{line}");
        }
    }

    #[test]
    fn what_is_of_this_machine_is_refused_with_the_reason() {
        for (line, want) in [
            ("check ./mesh", "run `undermesh check ./mesh` here"),
            ("explain http://a/ --config ./mesh", "files of this machine"),
            ("explain --requests=a.json", "files of this machine"),
            ("agent", "not for a running agent"),
            ("routes --pod cart-1", "namespace/name"),
        ] {
            let error = plugin(line).of().unwrap_err().to_string();
            assert!(error.contains(want), "{line}: {error}");
        }
    }

    #[test]
    fn kubectl_is_asked_in_these_words() {
        let plugin = plugin("--context dev --system mesh routes --pod shop/cart-1 -o json");
        let command = plugin.kubectl(&plugin.exec("pod/undermesh-agent-x"));
        let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(
            words.join(" "),
            "--context=dev exec -n mesh pod/undermesh-agent-x -c agent -- /undermesh routes --pod shop/cart-1 -o json"
        );
        assert_eq!(on("n1"), "--field-selector=spec.nodeName=n1,status.phase=Running");
    }
}
