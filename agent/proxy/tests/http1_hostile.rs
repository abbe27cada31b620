//! Bytes that have broken proxies before, against the engine on real sockets: what must be refused, what must not leak
//! from one message into the next, and what must still work.

mod support;

use std::time::Duration;

use undermesh_proxy::exchange::{AttemptError, End, Limits};

use crate::support::upstream::Scripted;
use crate::support::{Proxy, contains, ends_with, get, request, run};

async fn start() -> (Scripted, Proxy) {
    let upstream = Scripted::start().await;
    let proxy = Proxy::start(upstream.address).await;
    (upstream, proxy)
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn a_plain_request_passes_and_the_connection_stays() {
    run(async {
        let (upstream, proxy) = start().await;
        let mut client = proxy.talk(&get("/bench"), ends_with("/bench 0 ")).await;
        assert_eq!(client.statuses(), [200]);
        assert!(
            upstream.last_head().ends_with("\r\nx-envoy-attempt-count: 1\r\n\r\n"),
            "{}",
            upstream.last_head()
        );
        client.exchange(&get("/again"), ends_with("/again 0 ")).await;
        assert_eq!(client.statuses(), [200, 200]);
        assert_eq!(proxy.path.seen.borrow()[0], "GET http svc.default.svc.cluster.local /bench None false");
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    run(async {
        let (_upstream, proxy) = start().await;
        let three = join(&[&get("/a?1"), &get("/b"), &get("/c")]);
        let client = proxy.talk(&three, ends_with("/c 0 ")).await;
        let text = client.text();
        assert_eq!(client.statuses(), [200, 200, 200]);
        assert!(text.find("/a 0") < text.find("/b 0") && text.find("/b 0") < text.find("/c 0"), "{text}");
    });
}

#[test]
fn a_head_byte_by_byte_is_a_head() {
    run(async {
        let (_upstream, proxy) = start().await;
        let mut client = proxy.connect().await;
        for byte in request("GET", "/bench", "X-A: b\r\n") {
            client.send(&[byte]).await;
            tokio::task::yield_now().await;
        }
        client.read_until(ends_with("/bench 0 ")).await;
        assert_eq!(client.statuses(), [200]);
    });
}

const CHUNKED: &str = "5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nx-t: 1\r\n\r\n";

#[test]
fn a_chunked_request_with_trailers_passes_as_it_came() {
    run(async {
        let (upstream, proxy) = start().await;
        let head = request("POST", "/bench", "Transfer-Encoding: chunked\r\nTrailer: x-t\r\n");
        let body = CHUNKED.as_bytes();
        let mut client = proxy.talk(&join(&[&head, body]), ends_with("x-t: 1||")).await;
        assert!(client.text().ends_with("/bench 40 5|hello|6;ext=1| world|0|x-t: 1||"), "{}", client.text());
        client.exchange(&get("/next"), ends_with("/next 0 ")).await;
        assert_eq!(client.statuses(), [200, 200]);
        assert!(upstream.heads.borrow()[0].contains("Trailer: x-t"));
        // The content, not the chunks around it.
        assert_eq!(proxy.path.transfers.borrow()[0].received, 11);
    });
}

#[test]
fn a_chunked_request_byte_by_byte_passes() {
    run(async {
        let (_upstream, proxy) = start().await;
        let mut client = proxy.connect().await;
        let head = request("POST", "/bench", "Transfer-Encoding: chunked\r\n");
        for byte in join(&[&head, CHUNKED.as_bytes()]) {
            client.send(&[byte]).await;
            tokio::task::yield_now().await;
        }
        client.read_until(ends_with("x-t: 1||")).await;
        assert_eq!(client.statuses(), [200]);
    });
}

#[test]
fn a_body_with_a_length_ends_where_the_next_request_starts() {
    run(async {
        let (_upstream, proxy) = start().await;
        let post = request("POST", "/bench", "Content-Length: 5\r\n");
        let client = proxy.talk(&join(&[&post, b"hello", &get("/next")]), ends_with("/next 0 ")).await;
        assert_eq!(client.statuses(), [200, 200]);
        assert!(client.text().contains("/bench 5 hello"));
    });
}

#[test]
fn the_upstreams_100_continue_reaches_the_client_before_it_sends_the_body() {
    run(async {
        let (_upstream, proxy) = start().await;
        let head = request("POST", "/bench", "Expect: 100-continue\r\nContent-Length: 5\r\n");
        let mut client = proxy.talk(&head, ends_with("\r\n\r\n")).await;
        assert_eq!(client.text(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.exchange(b"hello", ends_with("/bench 5 hello")).await;
        assert_eq!(client.statuses(), [100, 200]);
    });
}

#[test]
fn responses_without_a_body_end_with_their_head() {
    run(async {
        let (_upstream, proxy) = start().await;
        let bytes = join(&[&request("HEAD", "/bench", ""), &get("/n")]);
        let client = proxy.talk(&bytes, ends_with("/n 0 ")).await;
        assert_eq!(client.statuses(), [200, 200]);
        assert!(client.text().contains("1234"));
        let bytes = join(&[&get("/204"), &get("/304"), &get("/n")]);
        let client = proxy.talk(&bytes, ends_with("/n 0 ")).await;
        assert_eq!(client.statuses(), [204, 304, 200]);
    });
}

#[test]
fn an_early_answer_is_seen_and_then_the_connection_ends() {
    run(async {
        let (_upstream, proxy) = start().await;
        let head = request("POST", "/early", "Content-Length: 4000000\r\n");
        let client = proxy.talk(&join(&[&head, &vec![b'z'; 300_000]]), |_| false).await;
        assert_eq!(client.statuses(), [413]);
        assert!(client.text().ends_with("big") && client.closed, "{}", client.text());
        assert_eq!(proxy.path.last_end(), Some(End::Complete));
        assert_eq!(proxy.path.idle().given_back.get(), 0, "the upstream is not used again");
    });
}

#[test]
fn a_stale_pooled_connection_is_told_from_a_refusal() {
    run(async {
        let (_upstream, proxy) = start().await;
        for _ in 0..3 {
            let client = proxy.talk(&get("/stale"), ends_with("ok")).await;
            assert_eq!(client.statuses(), [200]);
        }
        let reset = AttemptError::Reset { reused: true, refused: false };
        assert_eq!(*proxy.path.errors.borrow(), [reset, reset]);
        let client = proxy.talk(&get("/hangup"), |got| contains(got, "\r\n\r\n")).await;
        assert_eq!(client.statuses(), [503]);
        let client = proxy.talk(&get("/hangup"), |got| contains(got, "\r\n\r\n")).await;
        assert_eq!(client.statuses(), [503]);
        let fresh = AttemptError::Reset { reused: false, refused: false };
        assert_eq!(proxy.path.errors.borrow().last(), Some(&fresh));
    });
}

#[test]
fn an_upstream_that_closed_while_idle_is_replaced() {
    run(async {
        let (_upstream, proxy) = start().await;
        let client = proxy.talk(&get("/close"), ends_with("ok")).await;
        assert_eq!(client.statuses(), [200]);
        let client = proxy.talk(&get("/bench"), ends_with("/bench 0 ")).await;
        assert_eq!(client.statuses(), [200]);
    });
}

#[test]
fn ambiguous_requests_are_refused_and_never_reach_the_upstream() {
    run(async {
        let (upstream, proxy) = start().await;
        let post = |lines: &str, body: &str| join(&[&request("POST", "/bench", lines), body.as_bytes()]);
        let many: String = (0..300).map(|index| format!("X-{index}: a\r\n")).collect();
        let cases: Vec<(&str, Vec<u8>, u16)> = vec![
            ("CL and TE", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400),
            ("TE and CL", post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), 400),
            ("lengths differ", post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"), 400),
            ("length list differs", post("Content-Length: 5, 6\r\n", "hello"), 400),
            ("length with a sign", post("Content-Length: +5\r\n", "hello"), 400),
            ("TE xchunked", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 501),
            ("TE chunked, identity", post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), 501),
            (
                "TE twice",
                post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
                501,
            ),
            ("space before colon", post("Content-Length : 5\r\n", "hello"), 400),
            ("folded line", request("GET", "/bench", "X-A: b\r\n c\r\n"), 400),
            ("two hosts", request("GET", "/bench", "Host: evil\r\n"), 400),
            ("no host", b"GET /bench HTTP/1.1\r\n\r\n".to_vec(), 400),
            ("host with a user", b"GET /bench HTTP/1.1\r\nHost: good@evil\r\n\r\n".to_vec(), 400),
            ("host list", b"GET /bench HTTP/1.1\r\nHost: good, evil\r\n\r\n".to_vec(), 400),
            ("NUL in a value", request("GET", "/bench", "X-A: a\0b\r\n"), 400),
            ("bare CR in a value", request("GET", "/bench", "X-A: a\rb\r\n"), 400),
            ("no target", b"GET HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 400),
            ("target of another scheme", b"GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 400),
            ("authority form", b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_vec(), 405),
            ("unknown expectation", request("POST", "/bench", "Expect: tea\r\n"), 417),
            ("HTTP/1.0", b"GET /bench HTTP/1.0\r\nHost: a\r\n\r\n".to_vec(), 426),
            ("HTTP/2.0", b"GET /bench HTTP/2.0\r\nHost: a\r\n\r\n".to_vec(), 505),
            ("300 headers", request("GET", "/bench", &many), 431),
            ("head of 70 KB", request("GET", "/bench", &format!("X-Big: {}\r\n", "a".repeat(70_000))), 431),
            ("no HTTP", b"\x01\x02\x03\r\n\r\n".to_vec(), 400),
        ];
        for (name, bytes, status) in &cases {
            let client = proxy.talk(&join(&[bytes, &get("/smuggled")]), |_| false).await;
            assert_eq!(client.statuses(), [*status], "{name}: {}", client.text());
            assert!(client.text().contains("\r\nconnection: close\r\n"), "{name}");
        }
        assert_eq!(upstream.count(), 0, "{:?}", upstream.heads.borrow());
        let refused: Vec<u16> = proxy.path.refused.borrow().iter().map(|&(status, _)| status).collect();
        assert_eq!(refused, cases.iter().map(|&(_, _, status)| status).collect::<Vec<_>>());
    });
}

#[test]
fn unusual_but_clear_requests_pass() {
    run(async {
        let (upstream, proxy) = start().await;
        let big = request("GET", "/bench", &format!("X-Big: {}\r\n", "a".repeat(50_000)));
        let many: String = (0..99).map(|index| format!("X-{index}: a\r\n")).collect();
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("same length twice", request("GET", "/bench", "Content-Length: 0\r\nContent-Length: 0\r\n")),
            ("head of 50 KB", big),
            ("100 headers", request("GET", "/bench", &many)),
            ("bare LF line ends", b"GET /bench HTTP/1.1\nHost: a\nX-A: b\n\n".to_vec()),
            ("empty lines before", join(&[b"\r\n\r\n", &get("/bench")])),
            ("empty host", b"GET /bench HTTP/1.1\r\nHost:\r\n\r\n".to_vec()),
        ];
        for (name, bytes) in &cases {
            let client = proxy.talk(bytes, ends_with("/bench 0 ")).await;
            assert_eq!(client.statuses(), [200], "{name}: {}", client.text());
            assert!(!upstream.last_head().replace("\r\n", "").contains('\n'), "{name}: one kind of line end");
        }
        assert_eq!(upstream.count(), cases.len());
    });
}

#[test]
fn a_broken_chunked_body_ends_the_connection() {
    run(async {
        let (_upstream, proxy) = start().await;
        for body in ["zz\r\nhello\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n", "fffffffffffffffff\r\n"] {
            let head = request("POST", "/bench", "Transfer-Encoding: chunked\r\n");
            let client = proxy.talk(&join(&[&head, body.as_bytes(), &get("/smuggled")]), |_| false).await;
            assert_eq!(client.statuses(), [400], "{body}");
        }
        assert_eq!(proxy.path.errors.borrow().last(), Some(&AttemptError::ClientProtocol));
        assert_eq!(proxy.path.idle().given_back.get(), 0);
    });
}

#[test]
fn a_chunked_answer_in_pieces_passes_with_its_trailers() {
    run(async {
        let (_upstream, proxy) = start().await;
        let client = proxy.talk(&join(&[&get("/chunked"), &get("/n")]), ends_with("/n 0 ")).await;
        assert_eq!(client.statuses(), [200, 200]);
        assert!(
            client.text().contains("\r\n\r\n5;a=b\r\nhello\r\n0\r\nx-sum: 9\r\n\r\nHTTP/1.1 200"),
            "{}",
            client.text()
        );
    });
}

#[test]
fn malformed_answers_become_502_and_the_connection_stays() {
    run(async {
        let (_upstream, proxy) = start().await;
        for path in ["/both", "/two-lengths", "/half-head", "/unasked-101"] {
            let client = proxy.talk(&join(&[&get(path), &get("/n")]), ends_with("/n 0 ")).await;
            assert_eq!(client.statuses(), [502, 200], "{path}: {}", client.text());
            assert_eq!(proxy.path.errors.borrow().last(), Some(&AttemptError::UpstreamProtocol), "{path}");
        }
    });
}

#[test]
fn a_cut_answer_is_never_ended_cleanly() {
    run(async {
        let (_upstream, proxy) = start().await;
        let client = proxy.talk(&get("/truncated"), |_| false).await;
        assert!(client.text().ends_with("\r\n\r\nabc"), "{}", client.text());
        let client = proxy.talk(&get("/bad-chunk"), |_| false).await;
        assert!(!client.text().ends_with("0\r\n\r\n"), "{}", client.text());
        assert_eq!(proxy.path.last_end(), Some(End::UpstreamReset));
        // Only a reset tells the client here that something is missing.
        let mut client = proxy.connect().await;
        client.send(&get("/no-length-reset")).await;
        let mut bytes = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut client.io, &mut bytes).await;
        assert_eq!(read.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));
        assert_eq!(proxy.path.idle().given_back.get(), 0);
    });
}

#[test]
fn an_answer_without_a_length_ends_with_the_connection() {
    run(async {
        let (_upstream, proxy) = start().await;
        let client = proxy.talk(&get("/no-length"), |_| false).await;
        assert_eq!(client.statuses(), [200]);
        assert!(client.text().contains("\r\nconnection: close\r\n\r\nuntil close"), "{}", client.text());
        assert_eq!(proxy.path.last_end(), Some(End::Complete));
    });
}

#[test]
fn bytes_beyond_an_answer_are_given_to_nobody() {
    run(async {
        let (_upstream, proxy) = start().await;
        let client = proxy.talk(&join(&[&get("/surplus"), &get("/n")]), ends_with("/n 0 ")).await;
        assert_eq!(client.statuses(), [200, 200]);
        assert!(!client.text().contains("evil"));
        assert_eq!((proxy.path.idle().closed.get(), proxy.path.idle().given_back.get()), (1, 1));
    });
}

#[test]
fn hop_by_hop_headers_stay_on_their_hop_but_framing_cannot_be_taken_away() {
    run(async {
        let (upstream, proxy) = start().await;
        let lines = "Connection: x-mine, content-length, host, x-request-id\r\nX-Mine: 1\r\nKeep-Alive: 3\r\n\
                     X-Request-Id: r\r\nContent-Length: 2\r\nX-Envoy-Attempt-Count: 7\r\nProxy-Connection: x\r\n";
        let client = proxy.talk(&join(&[&request("POST", "/hop", lines), b"ab"]), ends_with("ok")).await;
        let (answer, head) = (client.text().to_lowercase(), upstream.last_head().to_lowercase());
        assert!(!answer.contains("secret") && !answer.contains("keep-alive"), "{answer}");
        for gone in ["x-mine", "keep-alive", "proxy-connection", "attempt-count: 7", "connection:"] {
            assert!(!head.contains(gone), "{gone} in {head}");
        }
        for kept in ["content-length: 2", "host: svc", "x-request-id: r", "x-envoy-attempt-count: 1"] {
            assert!(head.contains(kept), "{kept} not in {head}");
        }
    });
}

#[test]
fn early_hints_are_relayed_before_the_answer() {
    run(async {
        let (_upstream, proxy) = start().await;
        let client = proxy.talk(&join(&[&get("/103"), &get("/n")]), ends_with("/n 0 ")).await;
        assert_eq!(client.statuses(), [103, 200, 200]);
        assert!(client.text().contains("Link: </a>"));
        let client = proxy.talk(&join(&[&get("/103-hangup"), &get("/n")]), ends_with("/n 0 ")).await;
        assert_eq!(client.statuses(), [103, 503, 200]);
    });
}

#[test]
fn large_bodies_pass_whole_in_both_directions() {
    run(async {
        let (_upstream, proxy) = start().await;
        let client = proxy.talk(&get("/big"), |got| got.len() > 3_000_000 && got.ends_with(b"yyy")).await;
        let at = client.text().find("\r\n\r\n").unwrap() + 4;
        assert_eq!(client.got.len() - at, 3_000_000);
        let post = request("POST", "/bench", "Content-Length: 2000000\r\n");
        let bytes = join(&[&post, &vec![b'q'; 2_000_000]]);
        let client = proxy.talk(&bytes, |got| contains(got, "/bench 2000000 qqqq")).await;
        assert_eq!(client.statuses(), [200]);
        let transfers = proxy.path.transfers.borrow();
        assert_eq!((transfers[0].sent, transfers[1].received), (3_000_000, 2_000_000));
    });
}

#[test]
fn connection_close_is_honoured_on_both_sides() {
    run(async {
        let (upstream, proxy) = start().await;
        let client = proxy.talk(&request("GET", "/bench", "Connection: close\r\n"), |_| false).await;
        assert_eq!(client.statuses(), [200]);
        assert!(client.text().contains("\r\nconnection: close\r\n"));
        assert!(!upstream.last_head().to_lowercase().contains("connection"), "the upstream is kept");
        let _ = proxy.talk(&get("/old"), ends_with("ok")).await;
        assert_eq!(proxy.path.idle().given_back.get(), 1, "http/1.0 without keep-alive is not");
    });
}

#[test]
fn an_absolute_target_names_the_host() {
    run(async {
        let (upstream, proxy) = start().await;
        for (target, want) in [
            ("http://svc/bench", "GET /bench "),
            ("HTTPS://svc/bench?a=b", "GET /bench?a=b "),
            ("http://svc", "GET / "),
            ("http://svc?q", "GET /?q "),
        ] {
            let bytes = format!("GET {target} HTTP/1.1\r\nHost: evil\r\n\r\n");
            let client = proxy.talk(bytes.as_bytes(), |got| contains(got, " 0 ")).await;
            assert_eq!(client.statuses(), [200]);
            let head = upstream.last_head();
            assert!(
                head.starts_with(want) && !head.contains("evil") && head.contains("\r\nhost: svc\r\n"),
                "{head}"
            );
        }
    });
}

#[test]
fn a_time_limit_answers_504_and_the_connection_stays() {
    run(async {
        let (_upstream, proxy) = start().await;
        for limits in [
            Limits { route: Some(Duration::from_millis(50)), per_try: None },
            Limits { route: Some(Duration::from_secs(50)), per_try: Some(Duration::from_millis(50)) },
        ] {
            proxy.path.limits.set(limits);
            let client = proxy.talk(&join(&[&get("/never"), &get("/n")]), ends_with("/n 0 ")).await;
            assert_eq!(client.statuses(), [504, 200]);
        }
    });
}
