//! `service2`: answers with what reached it, so that a caller sees what happened on the way.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use crate::reply::{self, Reply};
use crate::server::Role;

/// The service.
pub(crate) struct Service2 {
    /// Name of its pod.
    pub(crate) pod: String,
}

impl Role for Service2 {
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Reply {
        let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (name, value) in request.headers() {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers.entry(name.as_str()).or_default().push(value);
        }
        reply::json(
            StatusCode::OK,
            &json!({
                "service": "service2",
                "pod": self.pod,
                // On a dual-stack socket an IPv4 client is ::ffff:a.b.c.d.
                "client": peer.ip().to_canonical().to_string(),
                "method": request.method().as_str(),
                "path": request.uri().to_string(),
                "headers": headers,
            }),
        )
    }
}
