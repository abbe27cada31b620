//! What a working request looks like: heads, bodies, trailers, flow control, gRPC, local replies.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, spawn_local};
use undermesh_proxy::buffer::BufferPool;
use undermesh_proxy::exchange::{End, Transfer};
use undermesh_proxy::http2::{ServerSettings, serve};

use super::support::*;

const MIB: usize = 1024 * 1024;

fn complete(received: usize, sent: usize) -> Record {
    Record::Relayed(Transfer {
        received: received as u64,
        sent: sent as u64,
        end: End::Complete,
        grpc_status: None,
    })
}

#[test]
fn a_request_is_routed_edited_and_answered() {
    run(async {
        let address = upstream(|_, request, mut respond| async move {
            let mut response = status(201);
            for name in ["x-envoy-attempt-count", "x-user", "x-added", "x-gone"] {
                let lines = request.headers().get_all(name).iter().count();
                response.headers_mut().insert(http::HeaderName::from_static(name), lines.into());
            }
            let uri = request.uri().to_string();
            response.headers_mut().insert("x-uri", uri.parse().unwrap());
            response.headers_mut().insert("x-secret", "1".parse().unwrap());
            let mut stream = respond.send_response(response, false).unwrap();
            stream.send_data("hello".into(), true).unwrap();
        })
        .await;
        let path = Rc::new(Double {
            request_edits: Some(|edits| {
                edits.set_target("/new?q=1");
                edits.set_authority("other.test:81");
                edits.remove("x-gone");
                edits.add("x-added", b"1");
            }),
            response_edits: Some(|edits| {
                edits.remove("x-secret");
                edits.add("x-rule", b"7");
            }),
            ..Double::to(address)
        });
        let proxy = proxy(&path).await;
        let mut ask = request("GET", "/old?q=0");
        ask.headers_mut().insert("x-user", "jason".parse().unwrap());
        ask.headers_mut().insert("x-gone", "1".parse().unwrap());
        ask.headers_mut().insert("x-envoy-attempt-count", "9".parse().unwrap());
        let (response, _) = client(proxy.address).await.send_request(ask, true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 201);
        let line = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(line("x-uri").as_deref(), Some("http://other.test:81/new?q=1"));
        assert_eq!(line("x-envoy-attempt-count").as_deref(), Some("1"));
        assert_eq!(line("x-user").as_deref(), Some("1"));
        assert_eq!(line("x-added").as_deref(), Some("1"));
        assert_eq!(line("x-gone").as_deref(), Some("0"));
        assert_eq!(line("x-secret"), None);
        assert_eq!(line("x-rule").as_deref(), Some("7"));
        let (body, trailers) = collect(response.into_body()).await.unwrap();
        assert_eq!((&body[..], trailers), (&b"hello"[..], None));
        assert_eq!(path.record().await, complete(0, 5));
        assert_eq!(*path.heads.borrow(), ["GET http://shop.test/old?q=0"]);
    });
}

#[test]
fn trailers_pass_both_ways() {
    run(async {
        let address = upstream(|_, request, mut respond| async move {
            let (body, trailers) = collect(request.into_body()).await.unwrap();
            assert_eq!(body, b"question");
            let echoed = trailers.unwrap().get("x-checksum").cloned().unwrap();
            let mut stream = respond.send_response(status(200), false).unwrap();
            stream.send_data("answer".into(), false).unwrap();
            stream
                .send_trailers(HeaderMap::from_iter([(http::HeaderName::from_static("x-seen"), echoed)]))
                .unwrap();
        })
        .await;
        let path = Rc::new(Double::to(address));
        let proxy = proxy(&path).await;
        let (response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        stream.send_data("question".into(), false).unwrap();
        let name = http::HeaderName::from_static("x-checksum");
        stream.send_trailers(HeaderMap::from_iter([(name, "17".parse().unwrap())])).unwrap();
        let (body, trailers) = collect(response.await.unwrap().into_body()).await.unwrap();
        assert_eq!(body, b"answer");
        assert_eq!(trailers.unwrap().get("x-seen").unwrap(), "17");
        assert_eq!(path.record().await, complete(8, 6));
    });
}

#[test]
fn four_mebibytes_go_each_way_at_once_without_a_deadlock() {
    run(async {
        let address = upstream(|_, request, mut respond| async move {
            let mut stream = respond.send_response(status(200), false).unwrap();
            let mut body = request.into_body();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                let length = data.len();
                send_all(&mut stream, data, false).await.unwrap();
                body.flow_control().release_capacity(length).unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
        })
        .await;
        let path = Rc::new(Double::to(address));
        let proxy = proxy(&path).await;
        let (response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        let payload = pattern(4 * MIB);
        let upload = payload.clone();
        let sending = spawn_local(async move {
            for start in (0..upload.len()).step_by(16 * 1024) {
                send_all(&mut stream, upload.slice(start..start + 16 * 1024), false).await.unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
        });
        let (body, _) = collect(response.await.unwrap().into_body()).await.unwrap();
        sending.await.unwrap();
        assert!(body == payload, "the echo differs");
        assert_eq!(path.record().await, complete(4 * MIB, 4 * MIB));
    });
}

#[test]
fn an_answer_is_seen_while_the_request_still_goes_on() {
    run(async {
        let address = upstream(|_, request, mut respond| async move {
            let mut stream = respond.send_response(status(200), false).unwrap();
            let mut body = request.into_body();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                stream.send_data(data, false).unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
        })
        .await;
        let path = Rc::new(Double::to(address));
        let proxy = proxy(&path).await;
        let (response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        for number in 0..100_u32 {
            let message = grpc_message(&number.to_be_bytes());
            stream.send_data(message.clone(), false).unwrap();
            let mut echo = Vec::new();
            while echo.len() < message.len() {
                echo.extend_from_slice(&body.data().await.unwrap().unwrap());
            }
            assert_eq!(echo, message);
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none_or(|data| data.is_ok_and(|data| data.is_empty())));
    });
}

#[test]
fn a_client_is_slowed_to_the_pace_of_its_upstream() {
    run(async {
        let (_open, closed) = oneshot::channel::<()>();
        let closed = std::cell::RefCell::new(Some(closed));
        let address = upstream(move |_, request, respond| {
            let closed = closed.borrow_mut().take();
            async move {
                // Takes nothing, but stays.
                let _held = (request, respond);
                let _ = closed.unwrap().await;
            }
        })
        .await;
        let path = Rc::new(Double::to(address));
        let settings = ServerSettings::default();
        let bound = settings.stream_window as usize
            + 64 * 1024 // the proxy's queue towards the upstream
            + 64 * 1024; // the upstream's window, as `h2` has it by default
        let proxy = proxy_with(&path, settings).await;
        let (_response, mut stream) =
            client(proxy.address).await.send_request(request("POST", "/"), false).unwrap();
        let mut sent = 0;
        while let Ok(done) =
            tokio::time::timeout(Duration::from_millis(300), send_all(&mut stream, pattern(16 * 1024), false))
                .await
        {
            done.unwrap();
            sent += 16 * 1024;
            assert!(sent <= bound, "{sent} bytes went into a request that nobody reads");
        }
        assert!(sent >= 64 * 1024, "only {sent} bytes went out");
    });
}

#[test]
fn an_upstream_is_slowed_to_the_pace_of_its_client() {
    run(async {
        let (told, mut tells) = watch::channel(0_usize);
        let address = upstream(move |_, _request, mut respond| {
            let told = told.clone();
            async move {
                let mut stream = respond.send_response(status(200), false).unwrap();
                while send_all(&mut stream, pattern(16 * 1024), false).await.is_ok() {
                    told.send_modify(|sent| *sent += 16 * 1024);
                }
            }
        })
        .await;
        let path = Rc::new(Double::to(address));
        let proxy = proxy(&path).await;
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        let response = response.await.unwrap();
        while tokio::time::timeout(Duration::from_millis(300), tells.changed()).await.is_ok() {
            let sent = *tells.borrow();
            // The upstream's window with us, our queue towards the client, the client's window.
            assert!(
                sent <= 256 * 1024 + 64 * 1024 + 64 * 1024,
                "{sent} bytes of a response that nobody reads"
            );
        }
        assert!(*tells.borrow() >= 64 * 1024);
        drop(response);
    });
}

#[test]
fn two_hundred_streams_share_a_connection() {
    run(async {
        let address = upstream(|_, request, mut respond| async move {
            let (body, _) = collect(request.into_body()).await.unwrap();
            let mut stream = respond.send_response(status(200), false).unwrap();
            send_all(&mut stream, body.into(), true).await.unwrap();
        })
        .await;
        let path = Rc::new(Double::to(address));
        let proxy = proxy(&path).await;
        let client = client(proxy.address).await;
        let mut calls = JoinSet::new();
        for number in 0..200_usize {
            let client = client.clone();
            calls.spawn_local(async move {
                let mut client = client.ready().await.unwrap();
                let (response, mut stream) = client.send_request(request("POST", "/"), false).unwrap();
                let payload = pattern(number * 100);
                send_all(&mut stream, payload.clone(), true).await.unwrap();
                let (body, _) = collect(response.await.unwrap().into_body()).await.unwrap();
                assert!(body == payload, "stream {number} got another's bytes");
            });
        }
        calls.join_all().await;
        assert_eq!(path.started.get(), 200);
    });
}

#[test]
fn a_grpc_call_keeps_its_messages_and_its_status() {
    run(async {
        let address = upstream(|_, request, mut respond| async move {
            assert_eq!(request.headers().get("te").unwrap(), "trailers");
            assert_eq!(request.uri().path(), "/shop.Catalog/List");
            let (body, _) = collect(request.into_body()).await.unwrap();
            assert_eq!(body, grpc_message(b"list"));
            let mut head = status(200);
            head.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data(grpc_message(b"one"), false).unwrap();
            stream.send_data(grpc_message(b"two"), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", 0.into());
            stream.send_trailers(trailers).unwrap();
        })
        .await;
        let path = Rc::new(Double::to(address));
        let proxy = proxy(&path).await;
        let mut ask = request("POST", "/shop.Catalog/List");
        ask.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        ask.headers_mut().insert("te", "trailers".parse().unwrap());
        let (response, mut stream) = client(proxy.address).await.send_request(ask, false).unwrap();
        stream.send_data(grpc_message(b"list"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers().get("content-type").unwrap(), "application/grpc");
        let (body, trailers) = collect(response.into_body()).await.unwrap();
        assert_eq!(body, [grpc_message(b"one"), grpc_message(b"two")].concat());
        assert_eq!(trailers.unwrap().get("grpc-status").unwrap(), "0");
    });
}

#[test]
fn a_grpc_error_in_the_head_stays_in_the_head() {
    run(async {
        let address = upstream(|_, _, mut respond| async move {
            let mut head = status(200);
            head.headers_mut().insert("grpc-status", 14.into());
            respond.send_response(head, true).unwrap();
        })
        .await;
        let path = Rc::new(Double::to(address));
        let proxy = proxy(&path).await;
        let (response, _) =
            client(proxy.address).await.send_request(request("POST", "/a.B/C"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers().get("grpc-status").unwrap(), "14");
        assert!(response.body().is_end_stream(), "a header-only reply must end with its head");
        assert_eq!(path.record().await, complete(0, 0));
    });
}

#[test]
fn a_local_reply_without_body_ends_with_its_head() {
    run(async {
        let lines =
            [("content-type", "application/grpc"), ("grpc-status", "14"), ("grpc-message", "no route")];
        let path = Rc::new(Double::answering(200, &lines, b""));
        let proxy = proxy(&path).await;
        let (response, _stream) =
            client(proxy.address).await.send_request(request("POST", "/a.B/C"), false).unwrap();
        let response = response.await.unwrap();
        assert!(response.body().is_end_stream());
        assert_eq!(response.headers().get("grpc-status").unwrap(), "14");
        assert_eq!(response.headers().get("content-type").unwrap(), "application/grpc");
        assert_eq!(
            path.record().await,
            Record::Answered(Transfer { received: 0, sent: 0, end: End::Complete, grpc_status: None })
        );
    });
}

#[test]
fn a_local_reply_may_be_larger_than_the_clients_window() {
    run(async {
        let body = pattern(200_000);
        let path = Rc::new(Double::answering(503, &[("x-envoy-overloaded", "true")], &body));
        let proxy = proxy(&path).await;
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers().get("content-type").unwrap(), "text/plain");
        assert_eq!(response.headers().get("content-length").unwrap(), "200000");
        assert_eq!(response.headers().get("x-envoy-overloaded").unwrap(), "true");
        let (got, _) = collect(response.into_body()).await.unwrap();
        assert!(got == body);
    });
}

#[test]
fn a_local_reply_to_head_tells_its_length_and_sends_none_of_it() {
    run(async {
        let path = Rc::new(Double::answering(404, &[], b"gone"));
        let proxy = proxy(&path).await;
        let (response, _) = client(proxy.address).await.send_request(request("HEAD", "/"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers().get("content-length").unwrap(), "4");
        assert!(response.body().is_end_stream());
    });
}

#[test]
fn early_hints_pass_before_the_response() {
    run(async {
        let address = upstream(|_, _, mut respond| async move {
            let mut hints = status(103);
            hints.headers_mut().insert("link", "</a.css>".parse().unwrap());
            respond.send_informational(hints).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            respond.send_response(status(200), true).unwrap();
        })
        .await;
        let path = Rc::new(Double::to(address));
        let proxy = proxy(&path).await;
        let (mut response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        let hints = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(
            (hints.status().as_u16(), hints.headers().get("link").unwrap()),
            (103, &"</a.css>".parse().unwrap())
        );
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

#[test]
fn bytes_read_by_sniffing_are_served_too() {
    run(async {
        let path = Rc::new(Double::answering(204, &[], b""));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_drain, draining) = watch::channel(false);
        let serving = path.clone();
        spawn_local(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            let mut prefix = [0; 30];
            io.read_exact(&mut prefix).await.unwrap();
            serve(io, &prefix, serving, Rc::default(), BufferPool::new(), draining).await
        });
        // The `h2` client speaks through a relay that could not care less; here straight.
        let (response, _) = client(address).await.send_request(request("GET", "/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 204);
    });
}

#[test]
fn a_body_without_end_is_told_from_none() {
    run(async {
        let path = Rc::new(Double::answering(204, &[], b""));
        let proxy = proxy(&path).await;
        let mut client = client(proxy.address).await;
        let (response, _stream) = client.send_request(request("POST", "/a"), false).unwrap();
        response.await.unwrap();
        let (response, _) = client.send_request(request("POST", "/b"), true).unwrap();
        response.await.unwrap();
        assert_eq!(*path.heads.borrow(), ["POST http://shop.test/a +body", "POST http://shop.test/b"]);
    });
}

#[test]
fn a_client_that_says_nothing_is_not_waited_for() {
    run(async {
        let path = Rc::new(Double::answering(204, &[], b""));
        let settings =
            ServerSettings { handshake_timeout: Duration::from_millis(50), ..ServerSettings::default() };
        let proxy = proxy_with(&path, settings).await;
        let mut io = TcpStream::connect(proxy.address).await.unwrap();
        io.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.unwrap();
        until("the end", || !proxy.ends.borrow().is_empty()).await;
        assert!(proxy.ends.borrow()[0].is_err());
    });
}
