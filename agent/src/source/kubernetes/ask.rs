//! One question to the API server.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use tokio::time::timeout;

use super::link::{Link, Trouble};
use super::wire;

/// A server that is there begins to answer within this time, and does not pause for longer within an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The part of a refusal that is read.
const MAX_REFUSAL: usize = 64 << 10;

/// Asks, and waits for the beginning of a good answer.
///
/// # Errors
/// There is none.
pub(super) async fn ask(client: &Client, path: &str) -> Result<Response<Body>, Trouble> {
    let request = Request::get(path)
        .header(http::header::ACCEPT, "application/json")
        // Watches are answered line by line; a compressor would hold lines back.
        .header(http::header::ACCEPT_ENCODING, "identity")
        .body(Body::empty())
        .map_err(|error| Trouble::Unreachable(error.to_string()))?;
    let response = match timeout(PATIENCE, client.send(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(Trouble::Unreachable(causes(&error))),
        Err(_) => return Err(Trouble::Unreachable(format!("no answer within {}s", PATIENCE.as_secs()))),
    };
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Ok(Some(Ok(frame))) = timeout(PATIENCE, body.frame()).await
        && text.len() < MAX_REFUSAL
    {
        text.extend_from_slice(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
    }
    let message = match serde_json::from_slice::<Value>(&text) {
        Ok(refusal) => wire::message(&refusal),
        Err(_) => String::from_utf8_lossy(&text).trim().chars().take(200).collect(),
    };
    Err(Trouble::Refused { status: status.as_u16(), message })
}

/// Asks, and reads the whole answer.
///
/// # Errors
/// There is none, or not all of it.
pub(super) async fn ask_all(client: &Client, link: &Link, path: &str) -> Result<Vec<u8>, Trouble> {
    let mut body = ask(client, path).await?.into_body();
    let mut text = Vec::new();
    while let Some(data) = next(&mut body, link, PATIENCE).await?.some() {
        text.extend_from_slice(&data);
    }
    Ok(text)
}

/// What came next of an answer.
pub(super) enum Part {
    /// Bytes.
    Data(Bytes),
    /// It is complete.
    End,
    /// Nothing, for too long.
    Silence,
}

impl Part {
    fn some(self) -> Option<Bytes> {
        if let Self::Data(data) = self { Some(data) } else { None }
    }
}

/// The next part of an answer.
///
/// # Errors
/// The connection broke.
pub(super) async fn next(body: &mut Body, link: &Link, patience: Duration) -> Result<Part, Trouble> {
    match timeout(patience, body.frame()).await {
        Ok(Some(Ok(frame))) => {
            let data = frame.into_data().unwrap_or_default();
            link.received(data.len());
            Ok(Part::Data(data))
        }
        Ok(Some(Err(error))) => Err(Trouble::Unreachable(causes(&error))),
        Ok(None) => Ok(Part::End),
        Err(_) => Ok(Part::Silence),
    }
}

/// An error with what caused it: the outermost alone says little ("client error").
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
