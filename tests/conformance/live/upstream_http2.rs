//! Upstreams that speak HTTP/2, and gRPC on it.

use std::io;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};

use crate::case::lines;
use crate::upstream::{Accepted, Answer, RECORD};
use crate::wire::{Rewind, Stream};

/// Answers requests, each in a task of its own, until the connection ends.
pub(crate) async fn serve<S: Stream + 'static>(accepted: Accepted, io: Rewind<S>) -> io::Result<()> {
    let mut connection = h2::server::handshake(io).await.map_err(io::Error::other)?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request.map_err(io::Error::other)?;
        let accepted = accepted.clone();
        tokio::spawn(async move { drop(answer(&accepted, request, respond).await) });
    }
    Ok(())
}

async fn answer(
    accepted: &Accepted,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (head, body) = request.into_parts();
    let body = read(body).await?;
    let is_grpc =
        head.headers.get("content-type").is_some_and(|it| it.as_bytes().starts_with(b"application/grpc"));
    let authority = head
        .uri
        .authority()
        .map_or_else(|| head.headers.get("host").map(text).unwrap_or_default(), |it| it.as_str().to_owned());
    let path = head.uri.path_and_query().map_or("/", |it| it.as_str());
    let headers = pairs(&head.headers);
    let number = accepted.saw(
        "HTTP/2",
        [head.method.as_str(), path, &authority],
        headers,
        &String::from_utf8_lossy(&body),
    );
    accepted.pause().await;
    let mut response = Response::builder().header(RECORD, number);
    for (name, value) in &accepted.upstream.behaviour.response_headers {
        for line in lines(value) {
            response = response.header(name, line);
        }
    }
    match accepted.upstream.answer(path, is_grpc) {
        Answer::Reset => respond.send_reset(Reason::INTERNAL_ERROR),
        Answer::Grpc(0) => {
            let response = response.header("content-type", "application/grpc").body(()).expect("a response");
            let mut body = respond.send_response(response, false)?;
            // An empty message.
            body.send_data(Bytes::from_static(&[0; 5]), false)?;
            let trailer = (HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
            body.send_trailers([trailer].into_iter().collect())?;
        }
        Answer::Grpc(status) => {
            let response = response.header("content-type", "application/grpc").header("grpc-status", status);
            respond.send_response(response.body(()).expect("a response"), true)?;
        }
        Answer::Status(status) => {
            let response = response.status(status).header("content-type", "application/json");
            let mut body = respond.send_response(response.body(()).expect("a response"), false)?;
            body.send_data(accepted.report(number).into(), true)?;
        }
    }
    Ok(())
}

/// The whole body.
pub(crate) async fn read(mut body: RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        // What was sent within the window is given back to it.
        let _ = body.flow_control().release_capacity(chunk.len());
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Header lines as text.
pub(crate) fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

fn text(value: &HeaderValue) -> String {
    value.as_bytes().iter().map(|&byte| char::from(byte)).collect()
}
