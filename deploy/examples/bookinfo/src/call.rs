//! Calls to another service: a name for the Host header, an address to dial, and connections kept for the next call.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Bookinfo's productpage waits 3 s for a service, and tries reviews twice.
const PATIENCE: Duration = Duration::from_secs(3);
/// More idle connections than that are closed.
const IDLE: usize = 16;
/// And those that were idle for so long. Bookinfo keeps none at all; one from before the mesh would go on as it was made.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// A service that others call.
#[derive(Debug)]
pub(crate) struct Service {
    authority: HeaderValue,
    address: String,
    idle: Mutex<Vec<(Instant, SendRequest<Empty<Bytes>>)>>,
}

impl Service {
    /// The service called `authority`, at `address`: IP:PORT, or NAME:PORT where there is DNS.
    pub(crate) fn new(authority: &'static str, address: String) -> Self {
        Self { authority: HeaderValue::from_static(authority), address, idle: Mutex::default() }
    }

    /// GETs `path` and gives status and whole body, both of any kind.
    pub(crate) async fn get(&self, path: &str, headers: &HeaderMap) -> anyhow::Result<(StatusCode, Bytes)> {
        let authority = self.authority.to_str().unwrap_or_default();
        tokio::time::timeout(PATIENCE, self.attempt(path, headers))
            .await
            .with_context(|| format!("{authority} took longer than {PATIENCE:?}"))?
            .with_context(|| format!("cannot call {authority}"))
    }

    /// GETs `path` and gives the JSON of an answer with status 200.
    pub(crate) async fn json(&self, path: &str, headers: &HeaderMap) -> anyhow::Result<serde_json::Value> {
        let (status, body) = self.get(path, headers).await?;
        ensure!(status == StatusCode::OK, "{path} answered {status}");
        serde_json::from_slice(&body)
            .with_context(|| format!("{path} answered with something else than JSON"))
    }

    async fn attempt(&self, path: &str, headers: &HeaderMap) -> anyhow::Result<(StatusCode, Bytes)> {
        // A kept connection may be closed by the other side at this very moment: then once more on a new one.
        if let Some(kept) = self.kept()
            && let Ok(answer) = self.exchange(kept, path, headers).await
        {
            return Ok(answer);
        }
        let stream = TcpStream::connect(&self.address).await.with_context(|| self.address.clone())?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Its error comes out of the request on it, too.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        self.exchange(sender, path, headers).await
    }

    async fn exchange(
        &self,
        mut connection: SendRequest<Empty<Bytes>>,
        path: &str,
        headers: &HeaderMap,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = Request::builder().method(Method::GET).uri(path).body(Empty::new())?;
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(HOST, self.authority.clone());
        connection.ready().await?;
        let answer = connection.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push((Instant::now(), connection));
        }
        Ok((status, body))
    }

    fn kept(&self) -> Option<SendRequest<Empty<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, c)| !c.is_closed() && since.elapsed() < IDLE_TIME);
        idle.pop().map(|(_, connection)| connection)
    }
}
