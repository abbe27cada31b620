//! The life of an exchange on real sockets: answers of our own, retries, upgrades, time limits, drain, and what becomes of
//! the connections on both sides.
#![allow(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

mod support;

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use undermesh_proxy::buffer::BufferPool;
use undermesh_proxy::exchange::{AttemptError, End, Limit, Limits};
use undermesh_proxy::http1::{self, Settings};

use crate::support::upstream::Scripted;
use crate::support::{PATIENCE, Proxy, TestPath, contains, ends_with, get, request, run};

async fn start() -> (Scripted, Proxy) {
    let upstream = Scripted::start().await;
    let proxy = Proxy::start(upstream.address).await;
    (upstream, proxy)
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Lets everything else on this thread run until `done`.
async fn eventually(done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "it never happened");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn edits_reach_the_upstream_and_the_client() {
    run(async {
        let (upstream, proxy) = start().await;
        proxy.path.edit_request.set(|edits| {
            edits.set_target("/rewritten");
            edits.set_authority("other");
            edits.set("x-env", b"test");
        });
        proxy.path.edit_response.set(|edits| edits.set("x-answer", b"42"));
        let client = proxy.talk(&request("GET", "/", "X-Env: prod\r\n"), ends_with("/rewritten 0 ")).await;
        assert!(client.text().contains("\r\nx-answer: 42\r\n\r\n"));
        assert_eq!(
            upstream.last_head(),
            "GET /rewritten HTTP/1.1\r\nhost: other\r\nx-env: test\r\nx-envoy-attempt-count: 1\r\n\r\n"
        );
    });
}

#[test]
fn a_head_that_outgrows_its_block_is_still_sent() {
    run(async {
        let (upstream, proxy) = start().await;
        proxy.path.edit_request.set(|edits| edits.set("x-large", &[b'v'; 20_000]));
        let bytes = join(&[&request("POST", "/a", "Content-Length: 15000\r\n"), &[b'b'; 15_000]]);
        let client = proxy.talk(&bytes, |got| contains(got, "/a 15000 bbb")).await;
        assert_eq!(client.statuses(), [200]);
        assert!(upstream.last_head().len() > 20_000);
    });
}

#[test]
fn a_local_answer_keeps_the_connection_if_the_body_is_short() {
    run(async {
        let (upstream, proxy) = start().await;
        let client = proxy.talk(&join(&[&get("/local"), &get("/n")]), ends_with("/n 0 ")).await;
        assert!(client.text().starts_with(
            "HTTP/1.1 200 OK\r\ncontent-length: 12\r\ncontent-type: text/plain\r\n\r\nlocal answerHTTP/1.1 200"
        ));
        let post = request("POST", "/local", "Content-Length: 30000\r\n");
        let bytes = join(&[&post, &[b'x'; 30_000], &get("/n")]);
        let client = proxy.talk(&bytes, ends_with("/n 0 ")).await;
        assert_eq!(client.statuses(), [200, 200]);
        let bytes = join(&[
            &request("POST", "/local", "Transfer-Encoding: chunked\r\n"),
            b"2\r\nab\r\n0\r\n\r\n",
            &get("/n"),
        ]);
        let client = proxy.talk(&bytes, ends_with("/n 0 ")).await;
        assert_eq!(client.statuses(), [200, 200]);
        assert_eq!(upstream.count(), 3);
    });
}

#[test]
fn a_local_answer_to_head_has_no_body() {
    run(async {
        let (_upstream, proxy) = start().await;
        let bytes = join(&[&request("HEAD", "/local", ""), &get("/n")]);
        let client = proxy.talk(&bytes, ends_with("/n 0 ")).await;
        assert!(client.text().contains("content-length: 12") && !client.text().contains("local answer"));
    });
}

#[test]
fn a_local_answer_ends_the_connection_if_much_would_have_to_be_read_away() {
    run(async {
        let (upstream, proxy) = start().await;
        let plain = vec![b'x'; 1_000_000];
        let chunked = [b"f4240\r\n".as_slice(), &plain, b"\r\n0\r\n\r\n"].concat();
        let cases: [(&str, &[u8], bool); 3] = [
            ("Content-Length: 1000000\r\n", &plain, true),
            // It may never come.
            ("Content-Length: 5\r\nExpect: 100-continue\r\n", b"", true),
            // How long it is shows too late for the head.
            ("Transfer-Encoding: chunked\r\n", &chunked, false),
        ];
        for (lines, body, is_announced) in cases {
            let bytes = join(&[&request("POST", "/local", lines), body]);
            let client = proxy.talk(&bytes, |_| false).await;
            assert_eq!(client.statuses(), [200], "{lines}");
            assert_eq!(client.text().contains("connection: close"), is_announced, "{lines}");
        }
        assert_eq!(upstream.count(), 0);
    });
}

#[test]
fn a_response_judged_for_retry_is_dropped_and_the_attempts_are_counted() {
    run(async {
        let (upstream, proxy) = start().await;
        proxy.path.retry_on.set(503);
        proxy.path.attempts.set(12);
        let bytes = join(&[&request("POST", "/503", "Content-Length: 5\r\n"), b"hello", &get("/n")]);
        let client = proxy.talk(&bytes, ends_with("/n 0 ")).await;
        // The last one is relayed: nobody is left to ask.
        assert_eq!(client.statuses(), [503, 200]);
        let heads = upstream.heads.borrow();
        let count = |head: &String| support::upstream::header(head, "x-envoy-attempt-count");
        let counts: Vec<_> = heads.iter().map(|head| count(head).unwrap()).collect();
        let mut want: Vec<_> = (1..=12).map(|number: u32| number.to_string()).collect();
        want.push("1".to_owned());
        assert_eq!(counts, want);
        // The dropped responses were whole, so the connection was used for all of them.
        assert_eq!((proxy.path.idle().given_back.get(), proxy.path.idle().closed.get()), (13, 0));
    });
}

#[test]
fn a_body_that_left_the_buffer_cannot_be_sent_again() {
    run(async {
        let (upstream, proxy) = start().await;
        proxy.path.retry_on.set(503);
        proxy.path.attempts.set(3);
        for (length, heads) in [(100_000, 3), (1_000_000, 1)] {
            upstream.heads.borrow_mut().clear();
            let post = request("POST", "/503", &format!("Content-Length: {length}\r\n"));
            let client = proxy.talk(&join(&[&post, &vec![b'x'; length]]), ends_with("busy")).await;
            assert_eq!(client.statuses(), [503]);
            assert_eq!(upstream.count(), heads, "{length}");
        }
    });
}

#[test]
fn an_upgrade_is_a_tunnel_with_half_close() {
    run(async {
        let (upstream, proxy) = start().await;
        let lines = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n";
        let bytes = join(&[&request("GET", "/websocket", lines), b"early "]);
        let mut client = proxy.talk(&bytes, ends_with("hi!early ")).await;
        assert_eq!(client.statuses(), [101]);
        let head = client.text().to_lowercase();
        assert!(head.contains("\r\nconnection: upgrade\r\n") && head.contains("\r\nupgrade: websocket\r\n"));
        assert!(proxy.path.seen.borrow()[0].contains("Some(\"websocket\")"));
        let head = upstream.last_head().to_lowercase();
        assert!(head.contains("\r\nconnection: upgrade\r\nupgrade: websocket\r\n"), "{head}");
        client.exchange(b"over and ", ends_with("early over and ")).await;
        client.io.shutdown().await.unwrap();
        client.read_to_close().await;
        assert!(client.text().ends_with("over and bye"), "{}", client.text());
        eventually(|| proxy.path.last_end() == Some(End::Complete)).await;
        assert_eq!(proxy.path.idle().given_back.get(), 0);
    });
}

#[test]
fn a_refused_upgrade_is_an_ordinary_response() {
    run(async {
        let (_upstream, proxy) = start().await;
        let lines = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        let bytes = join(&[&request("GET", "/plain", lines), &get("/n")]);
        let client = proxy.talk(&bytes, ends_with("/n 0 ")).await;
        assert_eq!(client.statuses(), [200, 200]);
    });
}

#[test]
fn per_try_and_route_limits_are_told_apart() {
    run(async {
        let (_upstream, proxy) = start().await;
        let short = Some(Duration::from_millis(40));
        let long = Some(Duration::from_secs(40));
        for (limits, want) in [
            (Limits { per_try: short, route: long }, Limit::PerTry),
            (Limits { per_try: long, route: short }, Limit::Route),
            (Limits { per_try: short, route: None }, Limit::PerTry),
        ] {
            proxy.path.limits.set(limits);
            let client = proxy.talk(&get("/never"), |got| contains(got, "\r\n\r\n")).await;
            assert_eq!(client.statuses(), [504]);
            assert_eq!(proxy.path.errors.borrow().last(), Some(&AttemptError::Timeout(want)));
        }
    });
}

#[test]
fn the_route_limit_cuts_a_response_but_the_per_try_limit_does_not() {
    run(async {
        let (_upstream, proxy) = start().await;
        proxy.path.limits.set(Limits { per_try: None, route: Some(Duration::from_millis(60)) });
        let client = proxy.talk(&get("/stall"), |_| false).await;
        assert!(client.text().ends_with("abc"));
        assert_eq!(proxy.path.last_end(), Some(End::Timeout));
        proxy.path.limits.set(Limits { per_try: Some(Duration::from_millis(60)), route: None });
        let mut client = proxy.talk(&get("/stall"), ends_with("abc")).await;
        let more = tokio::time::timeout(Duration::from_millis(150), client.io.read(&mut [0; 1])).await;
        assert!(more.is_err(), "still open");
    });
}

#[test]
fn limits_start_when_the_request_is_whole() {
    run(async {
        let (_upstream, proxy) = start().await;
        proxy.path.limits.set(Limits { per_try: None, route: Some(Duration::from_millis(100)) });
        let mut client = proxy.connect().await;
        client.send(&request("POST", "/bench", "Content-Length: 4\r\n")).await;
        for byte in b"slow" {
            tokio::time::sleep(Duration::from_millis(50)).await;
            client.send(&[*byte]).await;
        }
        client.read_until(ends_with("/bench 4 slow")).await;
        assert_eq!(client.statuses(), [200]);
    });
}

#[test]
fn a_client_that_leaves_is_noticed_at_every_stage() {
    run(async {
        let (_upstream, proxy) = start().await;
        // While the upstream thinks.
        let mut client = proxy.connect().await;
        client.send(&get("/never")).await;
        eventually(|| proxy.path.seen.borrow().len() == 1).await;
        drop(client);
        eventually(|| proxy.path.errors.borrow().last() == Some(&AttemptError::ClientGone)).await;
        // In the middle of its own body.
        let mut client = proxy.connect().await;
        client.send(&join(&[&request("POST", "/bench", "Content-Length: 10\r\n"), b"half"])).await;
        eventually(|| proxy.path.seen.borrow().len() == 2).await;
        drop(client);
        eventually(|| proxy.path.errors.borrow().len() == 2).await;
        // In the middle of the response.
        let client = proxy.talk(&get("/stall"), ends_with("abc")).await;
        drop(client);
        eventually(|| proxy.path.last_end() == Some(End::ClientGone)).await;
        // During an injected delay.
        proxy.path.pause.set(Duration::from_secs(50));
        let mut client = proxy.connect().await;
        client.send(&get("/n")).await;
        eventually(|| proxy.path.seen.borrow().len() == 4).await;
        drop(client);
        eventually(|| Rc::strong_count(&proxy.path) == 2).await;
        assert_eq!(proxy.path.idle().given_back.get(), 0);
    });
}

#[test]
fn an_injected_delay_lasts_as_long_as_it_should_and_takes_the_body_in() {
    run(async {
        let (_upstream, proxy) = start().await;
        proxy.path.pause.set(Duration::from_millis(80));
        let started = Instant::now();
        let bytes = join(&[&request("POST", "/bench", "Content-Length: 3\r\n"), b"abc"]);
        let client = proxy.talk(&bytes, ends_with("/bench 3 abc")).await;
        assert_eq!(client.statuses(), [200]);
        assert!(started.elapsed() >= Duration::from_millis(80));
    });
}

#[test]
fn a_draining_path_ends_busy_connections_after_their_response_and_idle_ones_when_woken() {
    run(async {
        let (_upstream, proxy) = start().await;
        proxy.path.draining.set(true);
        let client = proxy.talk(&join(&[&get("/a"), &get("/b")]), |_| false).await;
        assert_eq!(client.statuses(), [200], "the pipelined one is left to a new connection");
        assert!(client.text().contains("\r\nconnection: close\r\n"));
        let client = proxy.talk(&get("/local"), |_| false).await;
        assert!(client.text().contains("\r\nconnection: close\r\n"));
    });
}

#[test]
fn idle_connections_and_slow_heads_have_a_time_limit() {
    run(async {
        let upstream = Scripted::start().await;
        let settings = Settings {
            idle_timeout: Duration::from_millis(60),
            head_timeout: Duration::from_millis(60),
            linger: Duration::from_millis(60),
            ..Settings::default()
        };
        let proxy = Proxy::with(upstream.address, settings).await;
        let mut client = proxy.talk(&get("/a"), ends_with("/a 0 ")).await;
        client.read_to_close().await;
        assert_eq!(client.statuses(), [200], "an idle connection ends without a word");
        let client = proxy.talk(b"GET /a HTTP/1.1\r\nHo", |_| false).await;
        assert_eq!(client.statuses(), [408]);
        assert_eq!(proxy.path.refused.borrow().last().map(|&(status, _)| status), Some(408));
    });
}

#[tokio::test(start_paused = true)]
async fn the_default_limits_are_an_hour_between_requests_and_a_minute_for_a_head() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            // Nothing here goes upstream, so no real socket disturbs the paused clock.
            let path = TestPath::new(([127, 0, 0, 1], 1).into());
            let serve =
                |io| http1::serve(io, Rc::clone(&path), Rc::new(Settings::default()), BufferPool::new(), b"");
            let (mut client, io) = tokio::io::duplex(4096);
            let task = tokio::task::spawn_local(serve(io));
            client.write_all(&get("/local")).await.unwrap();
            let started = tokio::time::Instant::now();
            task.await.unwrap();
            let waited = started.elapsed();
            assert!((3600..3602).contains(&waited.as_secs()), "{waited:?}");

            let (mut client, io) = tokio::io::duplex(4096);
            let task = tokio::task::spawn_local(serve(io));
            client.write_all(b"GET").await.unwrap();
            let started = tokio::time::Instant::now();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            let waited = started.elapsed();
            assert!((60..62).contains(&waited.as_secs()), "{waited:?}");
            assert!(answer.starts_with(b"HTTP/1.1 408 Request Timeout\r\n"));
            drop(client);
            task.await.unwrap();
        })
        .await;
}

#[test]
fn bytes_read_before_are_served_first() {
    run(async {
        let upstream = Scripted::start().await;
        let path = TestPath::new(upstream.address);
        let (mut client, io) = tokio::io::duplex(4096);
        let settings = Rc::new(Settings::default());
        let whole = get("/sniffed");
        let (sniffed, rest) = whole.split_at(7);
        let serving = http1::serve(io, path, settings, BufferPool::new(), sniffed);
        let task = tokio::task::spawn_local(serving);
        client.write_all(rest).await.unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"/sniffed 0 ") {
            assert_ne!(client.read_buf(&mut got).await.unwrap(), 0);
        }
        drop(client);
        task.await.unwrap();
    });
}

#[test]
fn nothing_is_held_while_a_connection_is_idle() {
    run(async {
        let (_upstream, proxy) = start().await;
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(proxy.talk(&get("/a"), ends_with("/a 0 ")).await);
        }
        eventually(|| proxy.path.transfers.borrow().len() == 20).await;
        assert_eq!(proxy.buffers.large_in_use(), 0);
        // One after the other, they all used the same two blocks.
        assert_eq!(proxy.buffers.free_bytes(), (16 + 128) * 1024);
    });
}
