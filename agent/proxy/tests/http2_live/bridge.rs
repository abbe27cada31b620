//! HTTP/2 clients of HTTP/1.1 upstreams. The upstreams are scripts of bytes.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use undermesh_proxy::exchange::{AttemptError, End, Limits, Transfer};

use super::support::*;

/// An upstream that hands each connection, with its number from 1, to `script`.
async fn scripted<F, R>(script: F) -> SocketAddr
where
    F: Fn(usize, TcpStream) -> R + 'static,
    R: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        let mut number = 0;
        while let Ok((io, _)) = listener.accept().await {
            number += 1;
            spawn_local(script(number, io));
        }
    });
    address
}

/// Reads until `end` has come; everything read.
async fn read_to(io: &mut TcpStream, end: &str) -> String {
    let (mut all, mut some) = (Vec::new(), [0; 16 * 1024]);
    while !all.ends_with(end.as_bytes()) {
        match io.read(&mut some).await {
            Ok(count @ 1..) => all.extend_from_slice(&some[..count]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// An upstream that reads up to `end`, answers with `answer` and keeps the connection. What it read goes to `seen`.
async fn canned(end: &'static str, answer: &'static str, seen: Rc<RefCell<Vec<String>>>) -> SocketAddr {
    scripted(move |_, mut io| {
        let seen = seen.clone();
        async move {
            let request = read_to(&mut io, end).await;
            seen.borrow_mut().push(request);
            io.write_all(answer.as_bytes()).await.unwrap();
            let _ = io.read(&mut [0]).await;
        }
    })
    .await
}

fn double(upstream: SocketAddr) -> Double {
    Double { http1: Some(0), ..Double::to(upstream) }
}

/// One request without body.
async fn ask(path: &Rc<Double>, request: Request<()>) -> Result<Response<RecvStream>, h2::Error> {
    let proxy = proxy(path).await;
    let mut client = client(proxy.address).await;
    let (response, _) = client.send_request(request, true)?;
    response.await
}

#[test]
fn a_request_becomes_a_line_and_headers_and_its_answer_comes_back() {
    run(async {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Kept: 1\r\nConnection: keep-alive, x-hop\r\n\
                      Keep-Alive: timeout=5\r\nX-Hop: 1\r\n\r\nhello";
        let path = Rc::new(double(canned("\r\n\r\n", answer, seen.clone()).await));
        let mut request = request("GET", "/a?b=c");
        for cookie in ["one=1", "two=2"] {
            request.headers_mut().append("cookie", HeaderValue::from_static(cookie));
        }
        request.headers_mut().insert("x-user", HeaderValue::from_static("jason"));
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        let response = ask(&path, request).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut names: Vec<_> = response.headers().keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        assert_eq!(names, ["content-length", "x-kept"]);
        let (body, trailers) = collect(response.into_body()).await.unwrap();
        assert_eq!((&body[..], trailers), (&b"hello"[..], None));
        let seen = seen.take().remove(0);
        let mut lines: Vec<_> = seen.trim_end().split("\r\n").collect();
        assert_eq!(lines.remove(0), "GET /a?b=c HTTP/1.1");
        lines.sort_unstable();
        let want = [
            "connection: te",
            "cookie: one=1; two=2",
            "host: shop.test",
            "te: trailers",
            "x-envoy-attempt-count: 1",
            "x-user: jason",
        ];
        assert_eq!(lines, want);
        assert_eq!(
            path.record().await,
            Record::Relayed(Transfer { received: 0, sent: 5, end: End::Complete, grpc_status: None })
        );
        until("the connection back", || path.home.given_back.get() == 1).await;
        assert_eq!(path.home.closed.get(), 0);
    });
}

#[test]
fn a_body_of_unknown_length_is_chunked_and_its_trailers_follow() {
    run(async {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                      3\r\none\r\n3;ext=1\r\ntwo\r\n0\r\nGrpc-Status: 0\r\n\r\n";
        let upstream = canned("0\r\nx-checksum: 17\r\n\r\n", answer, seen.clone()).await;
        let path = Rc::new(double(upstream));
        let proxy = proxy(&path).await;
        let mut client = client(proxy.address).await;
        let (response, mut stream) = client.send_request(request("POST", "/"), false).unwrap();
        stream.send_data("question".into(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", 17.into());
        stream.send_trailers(trailers).unwrap();
        let response = response.await.unwrap();
        assert!(response.headers().get("transfer-encoding").is_none());
        let (body, trailers) = collect(response.into_body()).await.unwrap();
        assert_eq!(body, b"onetwo");
        assert_eq!(trailers.unwrap().get("grpc-status").unwrap(), "0");
        let seen = seen.take().remove(0);
        let (head, body) = seen.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("transfer-encoding: chunked") && !head.contains("content-length"), "{head}");
        assert_eq!(body, "8\r\nquestion\r\n0\r\nx-checksum: 17\r\n\r\n");
        until("the connection back", || path.home.given_back.get() == 1).await;
    });
}

#[test]
fn a_body_of_known_length_goes_as_it_is() {
    run(async {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let path = Rc::new(double(canned("question", "HTTP/1.1 204 No Content\r\n\r\n", seen.clone()).await));
        let proxy = proxy(&path).await;
        let mut post = request("POST", "/");
        post.headers_mut().insert("content-length", 8.into());
        let (response, mut stream) = client(proxy.address).await.send_request(post, false).unwrap();
        stream.send_data("question".into(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 204);
        assert!(response.body().is_end_stream());
        let seen = seen.take().remove(0);
        assert!(seen.contains("content-length: 8\r\n") && !seen.contains("chunked"), "{seen}");
        until("the connection back", || path.home.given_back.get() == 1).await;
    });
}

#[test]
fn two_mebibytes_go_each_way_at_once_without_a_deadlock() {
    run(async {
        const SIZE: usize = 2 * 1024 * 1024;
        let upstream = scripted(|_, io| async move {
            let (mut read, mut write) = io.into_split();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(read.read_u8().await.unwrap());
            }
            write
                .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").as_bytes())
                .await
                .unwrap();
            tokio::io::copy(&mut read.take(SIZE as u64), &mut write).await.unwrap();
            std::future::pending::<()>().await;
        })
        .await;
        let path = Rc::new(double(upstream));
        let proxy = proxy(&path).await;
        let mut post = request("POST", "/");
        post.headers_mut().insert("content-length", SIZE.into());
        let (response, mut stream) = client(proxy.address).await.send_request(post, false).unwrap();
        let payload = pattern(SIZE);
        let upload = payload.clone();
        let sending = spawn_local(async move { send_all(&mut stream, upload, true).await });
        let (body, _) = collect(response.await.unwrap().into_body()).await.unwrap();
        sending.await.unwrap().unwrap();
        assert!(body == payload, "the echo differs");
        until("the connection back", || path.home.given_back.get() == 1).await;
    });
}

#[test]
fn a_client_is_slowed_to_the_pace_of_its_upstream() {
    run(async {
        let upstream = scripted(|_, io| async move {
            // Takes nothing, but stays.
            let _held = io;
            std::future::pending::<()>().await;
        })
        .await;
        let path = Rc::new(double(upstream));
        let proxy = proxy(&path).await;
        let (_response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        let mut sent = 0;
        let wait = Duration::from_millis(500);
        while let Ok(done) =
            tokio::time::timeout(wait, send_all(&mut stream, pattern(64 * 1024), false)).await
        {
            done.unwrap();
            sent += 64 * 1024;
            // What two kernels buffer on loopback is a few MiB.
            assert!(sent < 64 * 1024 * 1024, "{sent} bytes went into a request that nobody reads");
        }
    });
}

#[test]
fn answers_without_body_end_with_their_head() {
    run(async {
        for (method, answer, length) in [
            ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n", Some("99")),
            ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n", Some("99")),
            ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
            ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Some("0")),
        ] {
            let path = Rc::new(double(canned("\r\n\r\n", answer, Rc::default()).await));
            let response = ask(&path, request(method, "/")).await.unwrap();
            assert!(response.body().is_end_stream(), "{method} {answer}");
            let got = response.headers().get("content-length").map(|value| value.to_str().unwrap());
            assert_eq!(got, length, "{method} {answer}");
            until("the connection back", || path.home.given_back.get() == 1).await;
        }
    });
}

#[test]
fn an_answer_that_ends_with_its_connection_is_whole() {
    run(async {
        let upstream = scripted(|_, mut io| async move {
            read_to(&mut io, "\r\n\r\n").await;
            io.write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it").await.unwrap();
        })
        .await;
        let path = Rc::new(double(upstream));
        let response = ask(&path, request("GET", "/")).await.unwrap();
        assert_eq!(collect(response.into_body()).await.unwrap().0, b"all of it");
        until("the connection closed", || path.home.closed.get() == 1).await;
    });
}

#[test]
fn a_client_may_take_an_answer_that_came_in_time_as_slowly_as_it_likes() {
    run(async {
        let upstream = scripted(|_, mut io| async move {
            read_to(&mut io, "\r\n\r\n").await;
            let answer =
                [&b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"[..], &pattern(100_000)].concat();
            io.write_all(&answer).await.unwrap();
            let _ = io.read(&mut [0]).await;
        })
        .await;
        let limits = Limits { per_try: None, route: Some(Duration::from_millis(200)) };
        let path = Rc::new(Double { limits, ..double(upstream) });
        let response = ask(&path, request("GET", "/")).await.unwrap();
        // More than the client's window is left at the proxy meanwhile.
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert!(collect(response.into_body()).await.unwrap().0 == pattern(100_000));
    });
}

#[test]
fn a_truncated_answer_is_never_a_clean_end() {
    run(async {
        for answer in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"[..],
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense\r\n",
        ] {
            let upstream = scripted(move |_, mut io| async move {
                read_to(&mut io, "\r\n\r\n").await;
                io.write_all(answer).await.unwrap();
            })
            .await;
            let path = Rc::new(double(upstream));
            // The reset overtakes what is queued, so that the head may or may not be seen.
            let whole = async { collect(ask(&path, request("GET", "/")).await?.into_body()).await };
            assert_eq!(whole.await.unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
            let end = End::UpstreamReset;
            assert!(matches!(path.record().await, Record::Relayed(Transfer { end: got, .. }) if got == end));
            assert_eq!((path.home.given_back.get(), path.home.closed.get()), (0, 1));
        }
    });
}

#[test]
fn an_answer_that_is_none_is_a_protocol_error() {
    run(async {
        for answer in [
            "SSH-2.0-OpenSSH_9.2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        ] {
            let path = Rc::new(double(canned("\r\n\r\n", answer, Rc::default()).await));
            let response = ask(&path, request("GET", "/")).await.unwrap();
            assert_eq!(response.status(), 502, "{answer}");
            assert_eq!(*path.errors.borrow(), [AttemptError::UpstreamProtocol], "{answer}");
            assert_eq!((path.home.given_back.get(), path.home.closed.get()), (0, 1));
        }
    });
}

#[test]
fn a_connection_closed_before_the_answer_is_stale_if_it_was_used_before() {
    run(async {
        for served in [0, 3] {
            let upstream = scripted(|_, mut io| async move {
                read_to(&mut io, "\r\n\r\n").await;
            })
            .await;
            let path = Rc::new(Double { http1: Some(served), ..Double::to(upstream) });
            let response = ask(&path, request("GET", "/")).await.unwrap();
            assert_eq!(response.status(), 503);
            let want = AttemptError::Reset { reused: served > 0, refused: false };
            assert_eq!(*path.errors.borrow(), [want]);
        }
    });
}

#[test]
fn a_clients_reset_closes_the_connection() {
    run(async {
        let ended = Rc::new(RefCell::new(false));
        let upstream = {
            let ended = ended.clone();
            scripted(move |_, mut io| {
                let ended = ended.clone();
                async move {
                    read_to(&mut io, "\r\n\r\n").await;
                    // Whatever still comes, then the end.
                    let _ = io.read_to_end(&mut Vec::new()).await;
                    *ended.borrow_mut() = true;
                }
            })
            .await
        };
        let path = Rc::new(double(upstream));
        let proxy = proxy(&path).await;
        let (_response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        until("the request", || path.started.get() == 1).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        stream.send_reset(Reason::CANCEL);
        assert_eq!(path.record().await, Record::ClientGone);
        until("the end", || *ended.borrow()).await;
        assert_eq!((path.home.given_back.get(), path.home.closed.get()), (0, 1));
    });
}

#[test]
fn informational_heads_pass_before_the_answer() {
    run(async {
        let upstream = scripted(|_, mut io| async move {
            read_to(&mut io, "\r\n\r\n").await;
            io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            read_to(&mut io, "0\r\n\r\n").await;
            io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            let _ = io.read(&mut [0]).await;
        })
        .await;
        let path = Rc::new(double(upstream));
        let proxy = proxy(&path).await;
        let mut post = request("POST", "/");
        post.headers_mut().insert("expect", HeaderValue::from_static("100-continue"));
        let (mut response, mut stream) = client(proxy.address).await.send_request(post, false).unwrap();
        let go_on = poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(go_on.status(), 100);
        stream.send_data("x".into(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn a_503_is_tried_again_on_a_new_connection_with_the_same_body() {
    run(async {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let upstream = {
            let seen = seen.clone();
            scripted(move |number, mut io| {
                let seen = seen.clone();
                async move {
                    let request = read_to(&mut io, "0\r\n\r\n").await;
                    seen.borrow_mut().push(request);
                    let status = if number == 1 { "503 Busy" } else { "200 OK" };
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                    io.write_all(answer.as_bytes()).await.unwrap();
                    let _ = io.read(&mut [0]).await;
                }
            })
            .await
        };
        let path = Rc::new(Double { max_attempts: 2, ..double(upstream) });
        let proxy = proxy(&path).await;
        let (response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        stream.send_data("question".into(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        let seen = seen.take();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].replace("attempt-count: 1", "attempt-count: 2"), seen[1]);
        assert!(seen[1].contains("question"));
    });
}

#[test]
fn an_answer_before_the_end_of_the_request_costs_the_connection() {
    run(async {
        let upstream = scripted(|_, mut io| async move {
            read_to(&mut io, "1\r\nx\r\n").await;
            io.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            let _ = io.read(&mut [0]).await;
        })
        .await;
        let path = Rc::new(double(upstream));
        let proxy = proxy(&path).await;
        let (response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        stream.send_data(Bytes::from_static(b"x"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 413);
        assert_eq!(poll_fn(|cx| stream.poll_reset(cx)).await.unwrap(), Reason::NO_ERROR);
        until("the connection closed", || path.home.closed.get() == 1).await;
        assert_eq!(path.home.given_back.get(), 0);
    });
}

#[test]
fn bytes_beyond_the_answer_cost_the_connection() {
    run(async {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n";
        let path = Rc::new(double(canned("\r\n\r\n", answer, Rc::default()).await));
        let response = ask(&path, request("GET", "/")).await.unwrap();
        assert_eq!(collect(response.into_body()).await.unwrap().0, b"ok");
        until("the connection closed", || path.home.closed.get() == 1).await;
        assert_eq!(path.home.given_back.get(), 0);
    });
}
