//! Which cluster, and who one is there.

use std::path::PathBuf;

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// How to reach a cluster.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// A kubeconfig. `None`: the service account of the pod this runs in, else `$KUBECONFIG`, else `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context, if not its current one.
    pub context: Option<String>,
}

impl Access {
    /// The address and credentials.
    ///
    /// # Errors
    /// Neither a service account nor a kubeconfig is there, or it cannot be read.
    async fn config(&self) -> anyhow::Result<Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        if let Some(path) = &self.kubeconfig {
            let kubeconfig =
                Kubeconfig::read_from(path).with_context(|| format!("the kubeconfig {}", path.display()))?;
            return Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .with_context(|| format!("the kubeconfig {}", path.display()));
        }
        // Within a pod it is the service account that has the permissions, whatever else lies about in the image.
        let of_pod = if self.context.is_none() { Config::incluster().ok() } else { None };
        match of_pod {
            Some(config) => Ok(config),
            None => Config::from_kubeconfig(&options).await.context(
                "no service account of a pod and no kubeconfig: give --kubeconfig, or set KUBECONFIG",
            ),
        }
    }

    /// The client, and the server's address for people. Belongs to the runtime it is made in.
    pub(crate) async fn client(&self) -> anyhow::Result<(Client, String)> {
        let mut config = self.config().await?;
        // Every answer has a time limit of its own, and failures are ours to pace and to count.
        config.read_timeout = None;
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).context("the client of the Kubernetes API")?;
        Ok((client, server))
    }
}
