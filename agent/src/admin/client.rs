//! Asking a running agent: one HTTP request over its unix socket.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;

/// An agent that does not answer for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// The body of the answer to `GET path`.
///
/// # Errors
/// Nobody listens at `socket`, or the answer is not 200; the message says which.
pub fn get(socket: &Path, path: &str) -> anyhow::Result<Bytes> {
    get_within(socket, path, PATIENCE)
}

/// As [`get`], for a question that takes its time.
///
/// # Errors
/// As [`get`].
pub fn get_within(socket: &Path, path: &str, patience: Duration) -> anyhow::Result<Bytes> {
    ask(socket, Method::GET, path, Bytes::new(), patience)
}

/// The body of the answer to `POST path`.
///
/// # Errors
/// As [`get`].
pub fn post(socket: &Path, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
    ask(socket, Method::POST, path, body, PATIENCE)
}

/// Percent-encodes a value for a query.
pub fn query_value(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    value
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn ask(socket: &Path, method: Method, path: &str, body: Bytes, patience: Duration) -> anyhow::Result<Bytes> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::time::timeout(patience, exchange(socket, method, path, body))
            .await
            .with_context(|| format!("the agent at {} does not answer", socket.display()))?
    })
}

async fn exchange(socket: &Path, method: Method, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
    let io = tokio::net::UnixStream::connect(socket).await.with_context(|| {
        format!("no agent listens at {} (is it running, and is --admin-socket the same?)", socket.display())
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    let connection = tokio::spawn(connection);
    let request =
        Request::builder().method(method).uri(path).header("host", "undermesh").body(Full::new(body))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    drop(sender);
    // The answer is complete; how the connection ends is of no interest.
    let _ = connection.await;
    if !status.is_success() {
        bail!("the agent answered {status}: {}", String::from_utf8_lossy(&body).trim_end());
    }
    Ok(body)
}
