//! Upstreams that speak HTTP/1.

use std::io;

use tokio::io::AsyncWriteExt as _;

use crate::case::lines;
use crate::upstream::{Accepted, Answer, RECORD};
use crate::wire::{Rewind, Stream};

/// Answers requests until the connection ends.
pub(crate) async fn serve<S: Stream>(accepted: Accepted, mut io: Rewind<S>) -> io::Result<()> {
    while let Some(head) = io.head().await? {
        let [method, path, version] = &head.start;
        let body = String::from_utf8_lossy(&io.body(&head, false).await?).into_owned();
        let authority = head.header("host").unwrap_or_default();
        let number = accepted.saw(version, [method, path, authority], head.headers.clone(), &body);
        let behaviour = &accepted.upstream.behaviour;
        let is_websocket = head.header("upgrade").is_some_and(|it| it.eq_ignore_ascii_case("websocket"));
        if behaviour.websocket && is_websocket {
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n{RECORD}: {number}\r\n\r\n"
            );
            io.io.write_all(head.as_bytes()).await?;
            // Held until the other side ends it.
            while io.fill().await? > 0 {}
            return Ok(());
        }
        accepted.pause().await;
        let status = match accepted.upstream.answer(path, false) {
            Answer::Status(status) => status,
            Answer::Grpc(_) | Answer::Reset => return Ok(()),
        };
        let report = if status == 204 || status == 304 { String::new() } else { accepted.report(number) };
        let mut answer = format!(
            "HTTP/1.1 {status} Echo\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{RECORD}: {number}\r\n",
            report.len()
        );
        for (name, value) in &behaviour.response_headers {
            for line in lines(value) {
                answer.push_str(&format!("{name}: {line}\r\n"));
            }
        }
        let is_last = version == "HTTP/1.0"
            || head.header("connection").is_some_and(|it| it.eq_ignore_ascii_case("close"));
        if is_last {
            answer.push_str("connection: close\r\n");
        }
        answer.push_str("\r\n");
        if method != "HEAD" {
            answer.push_str(&report);
        }
        io.io.write_all(answer.as_bytes()).await?;
        if is_last {
            return io.io.shutdown().await;
        }
    }
    Ok(())
}
