//! Between the versions: HTTP/1.1 clients with an HTTP/2 upstream, and the client side that HTTP/2 requests use towards an
//! HTTP/1.1 upstream.
#![allow(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

mod support;

use std::future::poll_fn;

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use undermesh_proxy::buffer::BufferPool;
use undermesh_proxy::exchange::{AttemptError, End, Limit, Limits};
use undermesh_proxy::http1::client::{Head, Http1Stream, Truncated};

use crate::support::upstream::Scripted;
use crate::support::{Proxy, TestPath, contains, ends_with, get, request, run};

/// Speaks HTTP/2; what it does is named by the path of the request.
async fn serve_http2(listener: TcpListener) {
    let (io, _) = listener.accept().await.unwrap();
    io.set_nodelay(true).unwrap();
    let mut connection = h2::server::handshake(io).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        spawn_local(async move {
            // What fails here shows at the client.
            let _ = answer(request, respond).await;
        });
    }
}

async fn answer(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let (parts, mut body) = request.into_parts();
    let mut response = Response::builder().header("x-seen", format!("{} {}", parts.method, parts.uri));
    for name in ["te", "x-env", "x-envoy-attempt-count", "content-length", "transfer-encoding", "expect"] {
        if let Some(value) = parts.headers.get(name) {
            response = response.header(format!("seen-{name}"), value);
        }
    }
    match parts.uri.path() {
        "/reset" => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        }
        "/refused" => {
            respond.send_reset(Reason::REFUSED_STREAM);
            return Ok(());
        }
        "/never" => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            return Ok(());
        }
        "/503" => {
            respond.send_response(response.status(503).body(()).unwrap(), true)?;
            return Ok(());
        }
        "/early" => {
            let mut send = respond.send_response(response.status(413).body(()).unwrap(), false)?;
            send.send_data(Bytes::from_static(b"big"), true)?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            return Ok(());
        }
        "/cut" => {
            let mut send = respond.send_response(response.body(()).unwrap(), false)?;
            send.send_data(Bytes::from_static(b"half"), false)?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            send.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        }
        "/hints" => {
            let hints = Response::builder().status(103).header("link", "</a>").body(()).unwrap();
            respond.send_informational(hints)?;
        }
        "/big" => {
            let mut send = respond.send_response(response.body(()).unwrap(), false)?;
            let mut left = Bytes::from(vec![b'y'; 3_000_000]);
            while !left.is_empty() {
                send.reserve_capacity(left.len());
                let Some(Ok(count)) = poll_fn(|cx| send.poll_capacity(cx)).await else { return Ok(()) };
                send.send_data(left.split_to(count.min(left.len())), left.is_empty())?;
            }
            return Ok(());
        }
        _ => {}
    }
    let mut got = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        got.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len())?;
    }
    if let Some(trailers) = body.trailers().await? {
        response = response.header("seen-trailer", trailers["x-t"].clone());
    }
    let text = format!("{} {}", got.len(), String::from_utf8_lossy(&got[..got.len().min(20)]));
    match parts.uri.path() {
        "/length" => {
            let response = response.header("content-length", text.len()).body(()).unwrap();
            let is_head = parts.method == http::Method::HEAD;
            let mut send = respond.send_response(response, is_head)?;
            if !is_head {
                send.send_data(text.into(), true)?;
            }
        }
        "/empty" => drop(respond.send_response(response.body(()).unwrap(), true)?),
        _ => {
            let mut send = respond.send_response(response.body(()).unwrap(), false)?;
            send.send_data(text.into(), false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            send.send_trailers(trailers)?;
        }
    }
    Ok(())
}

async fn start() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(serve_http2(listener));
    let io = TcpStream::connect(address).await.unwrap();
    io.set_nodelay(true).unwrap();
    let (handle, connection) = h2::client::handshake(io).await.unwrap();
    spawn_local(async move {
        // Ends with the test.
        let _ = connection.await;
    });
    let proxy = Proxy::start(address).await;
    *proxy.path.http2.borrow_mut() = Some(handle);
    proxy
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

const END: &str = "0\r\ngrpc-status: 0\r\n\r\n";

#[test]
fn a_request_becomes_a_stream_and_its_answer_chunks_with_trailers() {
    run(async {
        let proxy = start().await;
        proxy.path.edit_request.set(|edits| {
            edits.set_target("/rewritten?q");
            edits.set_authority("other:81");
            edits.set("x-env", b"test");
        });
        proxy.path.edit_response.set(|edits| edits.set("x-answer", b"42"));
        let lines = "X-Env: prod\r\nConnection: x-mine\r\nX-Mine: 1\r\nKeep-Alive: 3\r\nTE: trailers\r\n";
        let client = proxy.talk(&request("GET", "/", lines), ends_with(END)).await;
        let text = client.text();
        for want in [
            "HTTP/1.1 200 OK\r\n",
            "x-seen: GET http://other:81/rewritten?q\r\n",
            "seen-x-env: test\r\n",
            "seen-te: trailers\r\n",
            "seen-x-envoy-attempt-count: 1\r\n",
            "transfer-encoding: chunked\r\n",
            "x-answer: 42\r\n\r\n2\r\n0 \r\n0\r\n",
        ] {
            assert!(text.contains(want), "{want} not in {text}");
        }
        assert!(!text.contains("seen-transfer-encoding"));
    });
}

#[test]
fn bodies_are_taken_out_of_their_chunks_and_trailers_go_on() {
    run(async {
        let proxy = start().await;
        let chunked = request("POST", "/echo", "Transfer-Encoding: chunked\r\nTrailer: x-t\r\n");
        let bytes = join(&[&chunked, b"5\r\nhello\r\n6;e\r\n world\r\n0\r\nx-t: sum\r\n\r\n"]);
        let mut client = proxy.talk(&bytes, ends_with(END)).await;
        assert!(client.text().contains("\r\nseen-trailer: sum\r\n"), "{}", client.text());
        assert!(client.text().contains("\r\n11 hello world\r\n"), "{}", client.text());
        let bytes = join(&[&request("POST", "/length", "Content-Length: 5\r\n"), b"hello", &get("/empty")]);
        client.exchange(&bytes, ends_with("content-length: 0\r\n\r\n")).await;
        assert!(
            client.text().contains("content-length: 7\r\n\r\n5 helloHTTP/1.1 200 OK\r\n"),
            "{}",
            client.text()
        );
        assert!(client.text().contains("seen-content-length: 5\r\n"));
        let received: Vec<_> =
            proxy.path.transfers.borrow().iter().map(|one| (one.received, one.sent)).collect();
        assert_eq!(received, [(11, 14), (5, 7), (0, 0)]);
    });
}

#[test]
fn a_body_byte_by_byte_arrives() {
    run(async {
        let proxy = start().await;
        let chunked = request("POST", "/echo", "Transfer-Encoding: chunked\r\n");
        let mut client = proxy.connect().await;
        for byte in join(&[&chunked, b"5\r\nhello\r\n0\r\nx-t: sum\r\n\r\n"]) {
            client.send(&[byte]).await;
            tokio::task::yield_now().await;
        }
        client.read_until(ends_with(END)).await;
        assert!(client.text().contains("\r\n5 hello\r\n") && client.text().contains("seen-trailer: sum"));
    });
}

#[test]
fn large_bodies_respect_the_windows_in_both_directions() {
    run(async {
        let proxy = start().await;
        let post = request("POST", "/length", "Content-Length: 2000000\r\n");
        let client =
            proxy.talk(&join(&[&post, &vec![b'q'; 2_000_000]]), |got| contains(got, "2000000 qqqq")).await;
        assert_eq!(client.statuses(), [200]);
        let client = proxy.talk(&get("/big"), ends_with("\r\n0\r\n\r\n")).await;
        let body = client.text().find("\r\n\r\n").unwrap();
        assert_eq!(client.got[body..].iter().filter(|&&byte| byte == b'y').count(), 3_000_000);
        assert_eq!(proxy.path.transfers.borrow().last().unwrap().sent, 3_000_000);
    });
}

#[test]
fn head_and_interim_responses_are_written_as_they_must_be() {
    run(async {
        let proxy = start().await;
        let bytes = join(&[&request("HEAD", "/length", ""), &get("/hints")]);
        let client = proxy.talk(&bytes, ends_with(END)).await;
        assert_eq!(client.statuses(), [200, 103, 200]);
        assert!(
            client.text().contains("content-length: 2\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
        );
        let expecting = request("POST", "/length", "Expect: 100-continue\r\nContent-Length: 5\r\n");
        let mut client = proxy.talk(&expecting, ends_with("\r\n\r\n")).await;
        assert_eq!(client.text(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.exchange(b"hello", ends_with("5 hello")).await;
        assert!(!client.text().contains("seen-expect"));
    });
}

#[test]
fn streams_that_fail_are_told_apart() {
    run(async {
        let proxy = start().await;
        for (path, refused) in [("/reset", false), ("/refused", true)] {
            let client = proxy.talk(&join(&[&get(path), &get("/length")]), ends_with("0 ")).await;
            assert_eq!(client.statuses(), [503, 200], "{path}");
            let error = AttemptError::Reset { reused: false, refused };
            assert_eq!(proxy.path.errors.borrow().last(), Some(&error), "{path}");
        }
        let client = proxy.talk(&get("/cut"), |_| false).await;
        assert!(client.text().ends_with("4\r\nhalf\r\n"), "no last chunk: {}", client.text());
        assert_eq!(proxy.path.last_end(), Some(End::UpstreamReset));
        proxy.path.limits.set(Limits { per_try: Some(Duration::from_millis(40)), route: None });
        let client = proxy.talk(&get("/never"), |got| contains(got, "\r\n\r\n")).await;
        assert_eq!(client.statuses(), [504]);
        let error = AttemptError::Timeout(Limit::PerTry);
        assert_eq!(proxy.path.errors.borrow().last(), Some(&error));
    });
}

#[test]
fn a_retry_sends_the_body_again() {
    run(async {
        let proxy = start().await;
        proxy.path.retry_on.set(503);
        proxy.path.attempts.set(3);
        let bytes = join(&[
            &request("POST", "/503", "Transfer-Encoding: chunked\r\n"),
            b"2\r\nab\r\n0\r\n\r\n",
            &get("/empty"),
        ]);
        let client = proxy.talk(&bytes, |got| contains(got, "GET http")).await;
        assert_eq!(client.statuses(), [503, 200]);
        assert!(client.text().contains("seen-x-envoy-attempt-count: 3\r\n"), "{}", client.text());
    });
}

#[test]
fn an_early_answer_ends_the_connection() {
    run(async {
        let proxy = start().await;
        let head = request("POST", "/early", "Content-Length: 4000000\r\n");
        let client = proxy.talk(&join(&[&head, &vec![b'z'; 300_000]]), |_| false).await;
        assert_eq!(client.statuses(), [413]);
        assert!(client.text().ends_with("3\r\nbig\r\n0\r\n\r\n"), "{}", client.text());
        assert_eq!(proxy.path.last_end(), Some(End::Complete));
    });
}

#[test]
fn a_client_that_breaks_its_framing_is_refused() {
    run(async {
        let proxy = start().await;
        let head = request("POST", "/echo", "Transfer-Encoding: chunked\r\n");
        let client = proxy.talk(&join(&[&head, b"5\r\nhelloX"]), |_| false).await;
        assert_eq!(client.statuses(), [400]);
        assert_eq!(proxy.path.errors.borrow().last(), Some(&AttemptError::ClientProtocol));
    });
}

// The other way: `Http1Stream`.

struct Answer {
    informed: u32,
    head: Response<()>,
    body: Result<Vec<u8>, Truncated>,
    trailers: Option<HeaderMap>,
}

/// One exchange as an HTTP/2 server would drive it.
async fn ask(
    path: &TestPath,
    head: Request<()>,
    body: &[u8],
    trailers: Option<&HeaderMap>,
) -> Result<Answer, AttemptError> {
    let lease = path.lease(false).await.unwrap();
    let is_empty = body.is_empty() && trailers.is_none();
    let mut stream = Http1Stream::open(lease, &BufferPool::new(), &head, is_empty)?;
    let mut rest = body;
    let mut informed = 0;
    let mut is_ended = false;
    let head = poll_fn(|cx| {
        while let std::task::Poll::Ready(Some(_)) = stream.poll_room(cx) {
            let count = stream.push(rest);
            rest = &rest[count..];
            if rest.is_empty() {
                is_ended = is_ended || stream.end(trailers);
                break;
            }
        }
        let _ = stream.poll_flush(cx);
        loop {
            match std::task::ready!(stream.poll_head(cx)) {
                Ok(Head::Informational(_)) => informed += 1,
                Ok(Head::Final(head)) => return std::task::Poll::Ready(Ok(head)),
                Err(error) => return std::task::Poll::Ready(Err(error)),
            }
        }
    })
    .await?;
    let mut got = Ok(Vec::new());
    while let Some(data) = poll_fn(|cx| stream.poll_data(cx)).await {
        match (data, &mut got) {
            (Ok(data), Ok(got)) => got.extend_from_slice(&data),
            (Err(cut), _) => {
                got = Err(cut);
                break;
            }
            _ => {}
        }
    }
    let trailers = stream.take_trailers();
    stream.finish();
    Ok(Answer { informed, head, body: got, trailers })
}

fn http2_request(method: &str, path: &str) -> Request<()> {
    let uri = format!("http://svc:80{path}");
    Request::builder().method(method).uri(uri).header("x-envoy-attempt-count", 1).body(()).unwrap()
}

#[test]
fn a_request_of_http2_is_written_as_http1() {
    run(async {
        let upstream = Scripted::start().await;
        let path = TestPath::new(upstream.address);
        let mut head = http2_request("GET", "/bench?q");
        for crumb in ["a=1", "b=2"] {
            head.headers_mut().append("cookie", HeaderValue::from_static(crumb));
        }
        head.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        let answer = ask(&path, head, b"", None).await.unwrap();
        assert_eq!((answer.head.status().as_u16(), answer.body), (200, Ok(b"/bench 0 ".to_vec())));
        assert_eq!(
            upstream.last_head(),
            "GET /bench?q HTTP/1.1\r\nhost: svc:80\r\nx-envoy-attempt-count: 1\r\ncookie: a=1; b=2\r\n\
             connection: te\r\nte: trailers\r\n\r\n"
        );
        let _ = ask(&path, http2_request("POST", "/bench"), b"", None).await.unwrap();
        assert!(upstream.last_head().contains("content-length: 0\r\n"));
        assert_eq!((path.idle().given_back.get(), path.idle().closed.get()), (2, 0));
    });
}

#[test]
fn its_body_is_chunked_unless_the_length_is_known() {
    run(async {
        let upstream = Scripted::start().await;
        let path = TestPath::new(upstream.address);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-t", HeaderValue::from_static("1"));
        let answer = ask(&path, http2_request("POST", "/bench"), b"hello", Some(&trailers)).await.unwrap();
        assert_eq!(answer.body, Ok(b"/bench 23 5|hello|0|x-t: 1||".to_vec()));
        let mut head = http2_request("POST", "/bench");
        head.headers_mut().insert("content-length", 2_000_000.into());
        let answer = ask(&path, head, &vec![b'q'; 2_000_000], None).await.unwrap();
        assert!(answer.body.unwrap().starts_with(b"/bench 2000000 qqq"));
        let answer = ask(&path, http2_request("POST", "/bench"), &vec![b'q'; 500_000], None).await.unwrap();
        assert_eq!(answer.head.status(), 200);
        assert_eq!(path.idle().given_back.get(), 3);
    });
}

#[test]
fn trailers_larger_than_a_small_block_are_sent_and_endless_ones_end_the_attempt() {
    run(async {
        let upstream = Scripted::start().await;
        let path = TestPath::new(upstream.address);
        for (size, want) in [(40_000, true), (200_000, false)] {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-t", HeaderValue::from_str(&"t".repeat(size)).unwrap());
            let head = http2_request("POST", "/bench");
            let lease = path.lease(true).await.unwrap();
            let mut stream = Http1Stream::open(lease, &BufferPool::new(), &head, false).unwrap();
            assert_eq!(stream.push(b"hello"), 5);
            assert_eq!(stream.end(Some(&trailers)), want);
            let room = poll_fn(|cx| std::task::Poll::Ready(stream.poll_room(cx))).await;
            assert_eq!(room == std::task::Poll::Ready(None), !want);
            if want {
                poll_fn(|cx| stream.poll_flush(cx)).await;
                assert!(matches!(poll_fn(|cx| stream.poll_head(cx)).await, Ok(Head::Final(_))));
            }
        }
    });
}

#[test]
fn its_response_is_taken_out_of_its_framing() {
    run(async {
        let upstream = Scripted::start().await;
        let path = TestPath::new(upstream.address);
        let answer = ask(&path, http2_request("GET", "/chunked"), b"", None).await.unwrap();
        assert_eq!(answer.body, Ok(b"hello".to_vec()));
        assert_eq!(answer.trailers.unwrap()["x-sum"], "9");
        assert!(!answer.head.headers().contains_key("transfer-encoding"));
        let answer = ask(&path, http2_request("GET", "/103"), b"", None).await.unwrap();
        assert_eq!((answer.informed, answer.body), (1, Ok(b"ok".to_vec())));
        let answer = ask(&path, http2_request("HEAD", "/bench"), b"", None).await.unwrap();
        assert_eq!(
            (&answer.head.headers()["content-length"], answer.body),
            (&HeaderValue::from(1234), Ok(Vec::new()))
        );
        let answer = ask(&path, http2_request("GET", "/hop"), b"", None).await.unwrap();
        assert_eq!(answer.head.headers().len(), 1, "{:?}", answer.head.headers());
        assert_eq!((path.idle().given_back.get(), path.idle().closed.get()), (4, 0));
        let answer = ask(&path, http2_request("GET", "/no-length"), b"", None).await.unwrap();
        assert_eq!(answer.body, Ok(b"until close".to_vec()));
        let answer = ask(&path, http2_request("GET", "/surplus"), b"", None).await.unwrap();
        assert_eq!(answer.body, Ok(b"ok".to_vec()));
        assert_eq!(path.idle().given_back.get(), 4, "neither of these two can be used again");
    });
}

#[test]
fn malformed_and_cut_responses_are_never_taken_for_whole_ones() {
    run(async {
        let upstream = Scripted::start().await;
        let path = TestPath::new(upstream.address);
        for target in ["/both", "/two-lengths", "/half-head", "/unasked-101"] {
            let answer = ask(&path, http2_request("GET", target), b"", None).await;
            assert_eq!(answer.err(), Some(AttemptError::UpstreamProtocol), "{target}");
        }
        for target in ["/truncated", "/bad-chunk", "/no-length-reset"] {
            let answer = ask(&path, http2_request("GET", target), b"", None).await.unwrap();
            assert_eq!(answer.body, Err(Truncated), "{target}");
        }
        let fresh = AttemptError::Reset { reused: false, refused: false };
        let answer = ask(&path, http2_request("GET", "/hangup"), b"", None).await;
        assert_eq!(answer.err(), Some(fresh));
        let _ = ask(&path, http2_request("GET", "/stale"), b"", None).await.unwrap();
        let answer = ask(&path, http2_request("GET", "/stale"), b"", None).await;
        assert_eq!(answer.err(), Some(AttemptError::Reset { reused: true, refused: false }));
        assert_eq!(path.idle().given_back.get(), 1);
    });
}
