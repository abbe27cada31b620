//! `undermesh gateway`

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::agent::CommonArgs;
use super::{Answer, Logging};
use crate::app;

/// The proxy as a gateway.
///
/// Serves the ports of every Gateway whose selector finds --labels, with the VirtualServices bound to it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  undermesh gateway --config /etc/undermesh --labels istio=ingressgateway
  undermesh gateway --kubernetes --labels istio=ingressgateway")]
pub(super) struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// The labels of this gateway's workload.
    #[arg(long, required = true, value_delimiter = ',', value_parser = label, value_name = "KEY=VALUE,...")]
    labels: Vec<(String, String)>,
    /// The namespace of this gateway's workload.
    #[arg(long, default_value = "istio-system", env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: String,
    /// The name of this gateway's workload. Default: the host name.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    name: Option<String>,
    /// The address to listen on. Default: all, of both families.
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` is not of the form key=value"))?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Args {
    pub(super) fn logging(&self) -> &Logging {
        &self.common.logging
    }

    pub(super) fn run(self) -> anyhow::Result<Answer> {
        let name =
            self.name.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
        app::gateway::run(app::gateway::Settings {
            common: self.common.settings(),
            labels: self.labels.into_iter().collect::<BTreeMap<_, _>>(),
            namespace: self.namespace,
            name,
            bind: self.bind,
        })?;
        Ok(Answer::Yes)
    }
}
