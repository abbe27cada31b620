//! `undermesh explain`

use std::io::{Read, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use undermesh_core::compile::compile;
use undermesh_core::explain::Requests;

use super::Answer;
use super::output::{Output, document};
use super::source::ClusterArgs;
use crate::admin::client;
use crate::admin::explain::answers;

mod text;

/// Say why a request goes where it goes, by the very code that routes it.
///
/// Without --config it asks the agent of this node about what is in force; with it, the answer is worked out from files, and
/// with --kubernetes from the cluster's objects.
/// The request is given by flags, or many of them by --requests (docs/explain-schema.md has the format of both sides).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  undermesh explain --pod default/productpage-v1 --header end-user:jason http://reviews:9080/reviews/0
  undermesh explain --config ./mesh --gateway istio=ingressgateway http://istio.k3s.local/productpage
  undermesh explain --config ./mesh --requests requests.json --output json")]
pub(super) struct Args {
    /// The request: http://HOST[:PORT]/PATH. HOST is the Host header, and if --address does not say otherwise, the
    /// service that is dialled.
    #[arg(value_name = "URL", required_unless_present = "requests")]
    url: Option<String>,
    /// The method.
    #[arg(long, short = 'X', default_value = "GET", value_name = "METHOD")]
    method: String,
    /// A request header, name:value; may be given several times.
    #[arg(long, short = 'H', value_name = "NAME:VALUE")]
    header: Vec<String>,
    /// The client: a pod, as namespace/name.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pod: Option<String>,
    /// The client's namespace, if it is no known pod.
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The client's labels, if it is no known pod.
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE,...")]
    labels: Vec<String>,
    /// The request enters at the gateway with these labels, in place of a client in the mesh.
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE,...", conflicts_with_all = ["pod", "labels"])]
    gateway: Vec<String>,
    /// The address that is dialled, IP or IP:PORT.
    #[arg(long, value_name = "IP[:PORT]")]
    address: Option<String>,
    /// http1, http1.0, http2, grpc, tls or tcp. Default: http1; of an https URL tls, as that is what leaves a pod.
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// Many requests at once, as `{"requests": [{"id": "a", "port": 9080, "authority": "reviews", "path": "/"}, ...]}`
    /// (docs/explain-schema.md has all keys); `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "header", "pod", "gateway"])]
    requests: Option<PathBuf>,
    /// Folders and files of configuration; without it, the running agent is asked.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["kubernetes", "kubeconfig", "context"])]
    config: Vec<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The admin socket of the agent or gateway.
    #[arg(long, default_value = crate::admin::DEFAULT_SOCKET, env = "UNDERMESH_ADMIN_SOCKET", value_name = "PATH")]
    admin_socket: PathBuf,
    /// How to print.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Answer> {
        let requests = match &self.requests {
            Some(path) if path.as_os_str() == "-" => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
                text
            }
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| format!("the requests {}", path.display()))?
            }
            None => json!({ "requests": [self.request()?] }).to_string(),
        };
        let is_offline = self.cluster.is_asked() || !self.config.is_empty();
        let answer: Value = if !is_offline {
            serde_json::from_slice(&client::post(&self.admin_socket, "/explain", Bytes::from(requests))?)?
        } else {
            let loaded = match self.config.as_slice() {
                [] => self.cluster.load()?,
                paths => super::check::load(paths)?,
            };
            let compiled = compile(&loaded.inputs);
            let requests = Requests::parse(requests.as_bytes()).context("the requests")?;
            let snapshot = compiled.snapshot.with_generation(1);
            serde_json::to_value(answers(&snapshot, &loaded.inputs, &loaded.diagnostics, &requests))?
        };
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        match self.output {
            Output::Table => text::print(&mut out, &answer)?,
            Output::Json | Output::Yaml => document(&mut out, self.output, &answer)?,
        }
        out.flush()?;
        Ok(Answer::Yes)
    }

    fn request(&self) -> anyhow::Result<Value> {
        let url = self.url.as_deref().unwrap_or_default();
        let (scheme, rest) = match url.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
            Some((other, _)) => bail!("`{other}` is not a scheme: write http:// or https://"),
            None => ("http", url),
        };
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) if rest[at..].starts_with('/') => (&rest[..at], rest[at..].to_owned()),
            Some(at) => (&rest[..at], format!("/{}", &rest[at..])),
            None => (rest, "/".to_owned()),
        };
        let is_tls = scheme == "https" && self.gateway.is_empty();
        let protocol = self.protocol.as_deref().unwrap_or(if is_tls { "tls" } else { "http1" });
        let mut request = json!({
            "id": "1", "protocol": protocol, "scheme": scheme, "method": self.method, "authority": authority, "path": path,
        });
        if protocol == "tls" {
            request["sni"] = authority.rsplit_once(':').map_or(authority, |(host, _)| host).into();
        }
        let mut headers = Map::new();
        for line in &self.header {
            let (name, value) =
                line.split_once(':').with_context(|| format!("`{line}` is not of the form name:value"))?;
            let values = headers.entry(name.trim().to_ascii_lowercase()).or_insert_with(|| json!([]));
            if let Some(values) = values.as_array_mut() {
                values.push(value.trim().into());
            }
        }
        request["headers"] = headers.into();
        let port = port_of(authority).unwrap_or(if scheme == "https" { 443 } else { 80 });
        if self.gateway.is_empty() {
            let mut source = Map::new();
            for (key, value) in [("pod", &self.pod), ("namespace", &self.namespace)] {
                if let Some(value) = value {
                    source.insert(key.to_owned(), value.as_str().into());
                }
            }
            if !self.labels.is_empty() {
                source.insert("labels".to_owned(), labels(&self.labels)?);
            }
            request["source"] = source.into();
            match self.address.as_deref().map(|text| address(text, port)).transpose()? {
                Some((ip, port)) => {
                    request["address"] = ip.into();
                    request["port"] = port.into();
                }
                None => request["port"] = port.into(),
            }
        } else {
            request["gateway"] = json!({ "labels": labels(&self.gateway)?, "port": port });
            if let Some(namespace) = &self.namespace {
                request["gateway"]["namespace"] = namespace.as_str().into();
            }
        }
        Ok(request)
    }
}

fn labels(pairs: &[String]) -> anyhow::Result<Value> {
    let mut labels = Map::new();
    for pair in pairs {
        let (key, value) =
            pair.split_once('=').with_context(|| format!("`{pair}` is not of the form key=value"))?;
        labels.insert(key.to_owned(), value.into());
    }
    Ok(labels.into())
}

fn port_of(authority: &str) -> Option<u16> {
    let (host, port) = authority.rsplit_once(':')?;
    // Not within an IPv6 address.
    (!host.contains(':') || host.ends_with(']')).then(|| port.parse().ok())?
}

fn address(text: &str, port: u16) -> anyhow::Result<(String, u16)> {
    if let Ok(ip) = text.parse::<std::net::IpAddr>() {
        return Ok((ip.to_string(), port));
    }
    let address: std::net::SocketAddr = text.parse().with_context(|| {
        format!("`{text}` is neither IP nor IP:PORT (an IPv6 address with port needs [])")
    })?;
    Ok((address.ip().to_string(), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_also_behind_ipv6_addresses() {
        for (authority, port) in [
            ("reviews", None),
            ("reviews:9080", Some(9080)),
            ("[fd00::1]:80", Some(80)),
            ("fd00::1", None),
            ("a:", None),
        ] {
            assert_eq!(port_of(authority), port, "{authority}");
        }
    }

    #[test]
    fn addresses_have_the_port_of_the_url_unless_they_say_one() {
        assert_eq!(address("10.0.0.1", 80).unwrap(), ("10.0.0.1".to_owned(), 80));
        assert_eq!(address("10.0.0.1:81", 80).unwrap(), ("10.0.0.1".to_owned(), 81));
        assert_eq!(address("[fd00::1]:81", 80).unwrap(), ("fd00::1".to_owned(), 81));
        assert!(address("reviews", 80).is_err());
    }
}
