//! HTTP/1.1 requests, on one kept connection or a new one each.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, anyhow, ensure};
use bytes::Bytes;
use clap::Args;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{Pace, ends, failure, milliseconds, print};

/// `client http`
#[derive(Debug, Args)]
pub(crate) struct Http {
    /// http://HOST:PORT/PATH; an address is dialled as it is, a name needs DNS.
    url: Uri,
    /// The Host header, if not what is dialled.
    #[arg(long)]
    host: Option<String>,
    /// Another header, `name: value`; may be repeated.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The method.
    #[arg(long, default_value = "GET")]
    method: Method,
    /// A body to send.
    #[arg(long, default_value = "")]
    body: String,
    /// A new connection for each request instead of one for all.
    #[arg(long)]
    new_connections: bool,
    #[command(flatten)]
    pace: Pace,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    local: Option<String>,
    peer: Option<String>,
}

impl Http {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let address = self.address()?;
        let mut kept = None;
        let mut n = 0;
        while self.pace.go_on(n).await {
            let began = Instant::now();
            let one = tokio::time::timeout(self.pace.timeout(), self.request(&address, &mut kept, began));
            let event = match one.await {
                Ok(Ok(event)) => event,
                Ok(Err(e)) => {
                    kept = None;
                    failure(began, &e)
                }
                Err(_) => {
                    kept = None;
                    failure(began, &anyhow!(std::io::Error::from(std::io::ErrorKind::TimedOut)))
                }
            };
            print(event);
            n += 1;
        }
        Ok(())
    }

    fn address(&self) -> anyhow::Result<String> {
        ensure!(self.url.scheme_str() == Some("http"), "{}: only http:// can be called", self.url);
        let authority = self.url.authority().context("the URL has no address")?;
        Ok(if authority.port().is_some() { authority.to_string() } else { format!("{authority}:80") })
    }

    async fn request(
        &self,
        address: &str,
        kept: &mut Option<Connection>,
        began: Instant,
    ) -> anyhow::Result<Value> {
        let mut connection = match kept.take().filter(|c| !c.sender.is_closed()) {
            Some(connection) => connection,
            None => connect(address).await?,
        };
        let connected = milliseconds(began);
        let path = self.url.path_and_query().map_or("/", |p| p.as_str());
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(path)
            .body(Full::new(Bytes::from(self.body.clone())))?;
        let host = self.host.clone().unwrap_or_else(|| address.to_owned());
        request.headers_mut().insert(HOST, HeaderValue::from_str(&host)?);
        for (name, value) in &self.headers {
            request.headers_mut().append(name, value.clone());
        }
        connection.sender.ready().await?;
        let answer = connection.sender.send_request(request).await?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        let event = json!({
            "status": head.status.as_u16(),
            "headers": map(&head.headers),
            "body": String::from_utf8_lossy(&body),
            "local": connection.local,
            "peer": connection.peer,
            "connect_ms": connected,
            "ms": milliseconds(began),
        });
        if !self.new_connections {
            *kept = Some(connection);
        }
        Ok(event)
    }
}

async fn connect(address: &str) -> anyhow::Result<Connection> {
    let stream = TcpStream::connect(address).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    let (local, peer) = ends(stream.local_addr(), stream.peer_addr());
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its error comes out of the request on it, too.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(Connection { sender, local, peer })
}

fn map(headers: &HeaderMap) -> BTreeMap<&str, String> {
    let mut all: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let slot = all.entry(name.as_str()).or_default();
        if !slot.is_empty() {
            slot.push_str(", ");
        }
        slot.push_str(&value);
    }
    all
}

fn header(text: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':').context("a header is `name: value`")?;
    Ok((name.trim().parse()?, value.trim().parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_name_and_value() {
        let (name, value) = header("End-User: jason").expect("well formed");
        assert_eq!((name.as_str(), value.as_bytes()), ("end-user", &b"jason"[..]));
        for wrong in ["", "no colon", "sp ace: x", "a: \u{1}"] {
            assert!(header(wrong).is_err(), "{wrong:?}");
        }
    }
}
