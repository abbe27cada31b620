//! Clients that break the rules: none gets past the codec, none makes it spend without bound, none panics it.

use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, Request};
use undermesh_proxy::exchange::{AttemptError, End, Transfer};
use undermesh_proxy::http2::ServeError;

use super::frames::*;
use super::support::*;

/// An upstream that must not be reached.
async fn unreachable() -> std::net::SocketAddr {
    upstream(|_, request, _| async move { panic!("a bad request reached the upstream: {request:?}") }).await
}

#[test]
fn malformed_heads_are_refused_before_they_are_routed() {
    let without =
        |name: &str| -> Vec<(&str, &str)> { GOOD.into_iter().filter(|(at, _)| *at != name).collect() };
    let with = |line| -> Vec<(&str, &str)> { GOOD.into_iter().chain([line]).collect() };
    let in_place = |name: &'static str, value: &'static str| -> Vec<(&str, &str)> {
        GOOD.into_iter().map(|(at, old)| (at, if at == name { value } else { old })).collect()
    };
    let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("connection", with(("connection", "close"))),
        ("keep-alive", with(("keep-alive", "timeout=5"))),
        ("proxy-connection", with(("proxy-connection", "close"))),
        ("transfer-encoding", with(("transfer-encoding", "chunked"))),
        ("upgrade", with(("upgrade", "websocket"))),
        ("te other than trailers", with(("te", "gzip"))),
        ("upper case in a name", with(("X-Upper", "1"))),
        ("line feed in a value", with(("x", "1\nhost: evil"))),
        ("NUL in a value", with(("x", "1\0"))),
        ("colon in a name", with(("x:y", "1"))),
        ("empty name", with(("", "1"))),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("empty path", in_place(":path", "")),
        ("path without slash", in_place(":path", "x")),
        ("space in the path", in_place(":path", "/a b")),
        ("two methods", with((":method", "POST"))),
        ("two paths", with((":path", "/admin"))),
        ("status in a request", with((":status", "200"))),
        ("unknown pseudo header", with((":user", "root"))),
        ("protocol without CONNECT", with((":protocol", "websocket"))),
        ("late pseudo header", vec![GOOD[0], GOOD[1], ("x", "1"), GOOD[2], GOOD[3]]),
        ("space in the authority", in_place(":authority", "shop.test evil")),
        ("line feed in the authority", in_place(":authority", "shop.test\nx: y")),
        ("content-length that is no number", with(("content-length", "+5"))),
        ("content-length of a request without body", with(("content-length", "5"))),
        (
            "extended CONNECT that was not offered",
            vec![(":method", "CONNECT"), (":protocol", "websocket"), GOOD[1], GOOD[2], GOOD[3]],
        ),
    ];
    run(async {
        let path = Rc::new(Double::to(unreachable().await));
        let proxy = proxy(&path).await;
        for (name, lines) in cases {
            let mut client = RawClient::connect(proxy.address).await;
            client.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&lines))).await;
            let verdict = client.verdict().await.unwrap_or_else(|| panic!("{name}: closed without a word"));
            match verdict.kind {
                // A response: only ours, and never a good one. 0x8c is `:status: 400` (RFC 7541 appendix A).
                HEADERS => assert_eq!(verdict.payload.first(), Some(&0x8c), "{name}"),
                _ => assert!(
                    [PROTOCOL_ERROR, 9 /* COMPRESSION_ERROR */].contains(&verdict.code().unwrap()),
                    "{name}: {verdict:?}"
                ),
            }
        }
        assert_eq!(path.started.get(), 0);
    });
}

#[test]
fn a_good_head_made_by_hand_passes() {
    run(async {
        let address = upstream(|_, _, mut respond| async move {
            respond.send_response(status(200), true).unwrap();
        })
        .await;
        let path = Rc::new(Double::to(address));
        let proxy = proxy(&path).await;
        let mut client = RawClient::connect(proxy.address).await;
        let lines: Vec<_> = GOOD.into_iter().chain([("te", "trailers"), ("x", "1")]).collect();
        client.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&lines))).await;
        let verdict = client.verdict().await.unwrap();
        // 0x88 is `:status: 200`.
        assert_eq!((verdict.kind, verdict.payload.first()), (HEADERS, Some(&0x88)));
    });
}

#[test]
fn refusals_of_our_own_are_answered_and_told_to_the_path() {
    let lines = |request: &mut Request<()>, name: &'static str, count: usize, value: &str| {
        for _ in 0..count {
            request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
        }
    };
    run(async {
        let path = Rc::new(Double::to(unreachable().await));
        let proxy = proxy(&path).await;
        let mut client = client(proxy.address).await;
        let mut differing = request("GET", "/");
        lines(&mut differing, "host", 1, "evil.test");
        let mut many = request("GET", "/");
        lines(&mut many, "x", 101, "1");
        let mut large = request("GET", "/");
        lines(&mut large, "x", 1, &"v".repeat(61 * 1024));
        let mut far_too_large = request("GET", "/");
        lines(&mut far_too_large, "x", 2, &"v".repeat(61 * 1024));
        let connect = Request::builder().method("CONNECT").uri("shop.test:443").body(()).unwrap();
        for (name, request, want, is_told) in [
            ("host differs", differing, 400, true),
            ("too many lines", many, 431, true),
            ("too large", large, 431, true),
            ("far too large, refused by h2", far_too_large, 431, false),
            ("connect", connect, 405, true),
        ] {
            let before = path.refusals.borrow().len();
            let (response, _) = client.send_request(request, true).unwrap();
            assert_eq!(response.await.unwrap().status(), want, "{name}");
            let told: Vec<_> = path.refusals.borrow()[before..].iter().map(|(status, _)| *status).collect();
            assert_eq!(told, if is_told { vec![want] } else { vec![] }, "{name}");
        }
        assert_eq!(path.started.get(), 0);
    });
}

#[test]
fn a_header_bomb_ends_the_connection() {
    run(async {
        let path = Rc::new(Double::to(unreachable().await));
        let proxy = proxy(&path).await;
        let mut client = RawClient::connect(proxy.address).await;
        // One line of 4,000 bytes put into the table, then referred to by single bytes: 15,000 times 4,000 bytes.
        let mut bomb = block(&GOOD);
        bomb.extend_from_slice(&[0x40, 1, b'x', 127]);
        bomb.extend_from_slice(&[(4000 - 127) as u8 & 127 | 128, ((4000 - 127) >> 7) as u8]);
        bomb.extend_from_slice(&[b'v'; 4000]);
        bomb.extend_from_slice(&[0x80 | 62; 10_000]);
        client.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)).await;
        assert!(client.goaway().await.is_some_and(|code| code != 0));
        assert_eq!(path.started.get(), 0);
    });
}

#[test]
fn continuation_without_end_ends_the_connection() {
    run(async {
        let path = Rc::new(Double::to(unreachable().await));
        let proxy = proxy(&path).await;
        let mut client = RawClient::connect(proxy.address).await;
        client.write(&frame(HEADERS, 0, 1, &block(&GOOD))).await;
        let more = frame(CONTINUATION, 0, 1, &block(&[("x", "1")]));
        for _ in 0..20_000 {
            client.write(&more).await;
        }
        // The peer stopped reading long before: its GOAWAY may be lost to a reset, the end is not.
        until("the end", || !proxy.ends.borrow().is_empty()).await;
        assert!(matches!(proxy.ends.borrow()[..], [Err(ServeError::Connection(_))]));
    });
}

#[test]
fn a_body_that_belies_its_length_is_never_passed_as_whole() {
    run(async {
        let address = upstream(|_, request, mut respond| async move {
            // Would answer only a whole request.
            if collect(request.into_body()).await.is_ok() {
                let _ = respond.send_response(status(200), true);
            }
        })
        .await;
        for (name, body) in [("short", &b"abc"[..]), ("long", &b"abcdefgh"[..])] {
            let path = Rc::new(Double::to(address));
            let proxy = proxy(&path).await;
            let mut client = RawClient::connect(proxy.address).await;
            let lines: Vec<_> = GOOD.into_iter().chain([("content-length", "5")]).collect();
            client.write(&frame(HEADERS, END_HEADERS, 1, &block(&lines))).await;
            until("the request", || path.started.get() == 1).await;
            client.write(&frame(DATA, END_STREAM, 1, body)).await;
            let verdict = client.verdict().await.unwrap();
            assert_eq!((verdict.kind, verdict.code()), (RST_STREAM, Some(PROTOCOL_ERROR)), "{name}");
            assert!(matches!(
                path.record().await,
                Record::Answered(Transfer { end: End::ClientProtocol, sent: 0, .. })
            ));
            assert_eq!(*path.errors.borrow(), [AttemptError::ClientProtocol], "{name}");
        }
    });
}

#[test]
fn bytes_that_are_no_http2_end_the_connection() {
    run(async {
        let path = Rc::new(Double::to(unreachable().await));
        let proxy = proxy(&path).await;
        let mut client = RawClient::connect(proxy.address).await;
        client.write(b"GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
        assert!(client.goaway().await.is_some_and(|code| code != 0));
        until("the end", || !proxy.ends.borrow().is_empty()).await;
        assert!(matches!(proxy.ends.borrow()[..], [Err(ServeError::Connection(_))]));
    });
}

#[test]
fn a_burst_of_rapid_resets_is_cut_off_by_h2() {
    run(async {
        let path = Rc::new(Double { hangs: true, ..Double::default() });
        let proxy = proxy(&path).await;
        let mut client = RawClient::connect(proxy.address).await;
        let mut burst = Vec::new();
        for number in 0..1000 {
            let stream = 2 * number + 1;
            burst.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&GOOD)));
            burst.extend(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
        }
        client.write(&burst).await;
        assert_eq!(client.goaway().await, Some(ENHANCE_YOUR_CALM));
        assert!(path.started.get() < 300, "{} streams were served", path.started.get());
        until("all dropped", || path.records.borrow().len() == path.started.get()).await;
    });
}

#[test]
fn a_steady_stream_of_rapid_resets_is_cut_off_by_us() {
    run(async {
        let path = Rc::new(Double { hangs: true, ..Double::default() });
        let proxy = proxy(&path).await;
        let mut client = RawClient::connect(proxy.address).await;
        for number in 0..1000_u32 {
            if !proxy.ends.borrow().is_empty() {
                break;
            }
            let stream = 2 * number + 1;
            client.write(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&GOOD))).await;
            // Waits until the stream is accepted, so that h2 counts nothing.
            let accepted = || path.started.get() > number as usize || !proxy.ends.borrow().is_empty();
            until("the stream", accepted).await;
            client.write(&frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())).await;
            let dropped = || path.records.borrow().len() > number as usize || !proxy.ends.borrow().is_empty();
            until("its end", dropped).await;
        }
        assert_eq!(client.goaway().await, Some(ENHANCE_YOUR_CALM));
        until("the end", || !proxy.ends.borrow().is_empty()).await;
        assert!(matches!(proxy.ends.borrow()[..], [Err(ServeError::TooManyResets)]));
        assert_eq!(path.started.get(), 250);
    });
}

#[test]
fn a_client_that_cancels_after_the_answer_is_not_taken_for_an_attacker() {
    run(async {
        let address = upstream(|_, _, mut respond| async move {
            let mut stream = respond.send_response(status(200), false).unwrap();
            let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
        })
        .await;
        let path = Rc::new(Double::to(address));
        let proxy = proxy(&path).await;
        let mut client = client(proxy.address).await;
        for _ in 0..300 {
            let (response, mut stream) = client.send_request(request("POST", "/"), false).unwrap();
            response.await.unwrap();
            stream.send_reset(h2::Reason::CANCEL);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(proxy.ends.borrow().is_empty());
    });
}

#[test]
fn more_streams_than_allowed_are_refused() {
    run(async {
        let path = Rc::new(Double { hangs: true, ..Double::default() });
        let settings = undermesh_proxy::http2::ServerSettings {
            max_concurrent_streams: 10,
            ..undermesh_proxy::http2::ServerSettings::default()
        };
        let proxy = proxy_with(&path, settings).await;
        let mut client = RawClient::connect(proxy.address).await;
        for number in 0..11 {
            client.write(&frame(HEADERS, END_HEADERS, 2 * number + 1, &block(&GOOD))).await;
        }
        let verdict = client.verdict().await.unwrap();
        assert_eq!(
            (verdict.kind, verdict.stream, verdict.code()),
            (RST_STREAM, 21, Some(7 /* REFUSED_STREAM */))
        );
        until("the others", || path.started.get() == 10).await;
    });
}

#[test]
fn a_flood_of_pings_does_not_stop_the_others() {
    run(async {
        let path = Rc::new(Double::answering(204, &[], b""));
        let proxy = proxy(&path).await;
        let mut flood = RawClient::connect(proxy.address).await;
        let pings: Vec<u8> = (0..1000).flat_map(|_| frame(PING, 0, 0, &[0; 8])).collect();
        // Never reads an answer: at most the socket buffers fill.
        for _ in 0..50 {
            let _ = tokio::time::timeout(Duration::from_millis(5), flood.write(&pings)).await;
        }
        let (response, _) = client(proxy.address).await.send_request(request("GET", "/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 204);
    });
}

#[test]
fn random_bytes_after_the_preface_never_hang_or_panic() {
    run(async {
        let path = Rc::new(Double::answering(204, &[], b""));
        let proxy = proxy(&path).await;
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..300_usize {
            let mut client = RawClient::connect(proxy.address).await;
            let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&GOOD));
            bytes.extend(frame(DATA, END_STREAM, 3, b"x"));
            for _ in 0..=round % 4 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let at = (seed >> 8) as usize % bytes.len();
                bytes[at] = seed as u8;
            }
            client.write(&bytes).await;
            drop(client);
            until("the end", || proxy.ends.borrow().len() == round + 1).await;
        }
    });
}
