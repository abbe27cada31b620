use super::*;

fn response(status: u16) -> TryOutcome {
    TryOutcome::Response { status, grpc_status: None, ratelimited: false }
}

fn grpc(code: u32) -> TryOutcome {
    TryOutcome::Response { status: 200, grpc_status: Some(code), ratelimited: false }
}

const SENT: TryOutcome = TryOutcome::Reset { request_sent: true };
const UNSENT: TryOutcome = TryOutcome::Reset { request_sent: false };

fn policy(list: &str) -> RetryPolicy {
    let (retry_on, unknown) = RetryOn::parse(list);
    assert!(unknown.is_empty(), "{unknown:?}");
    RetryPolicy { retry_on, ..RetryPolicy::default() }
}

#[test]
fn conditions_have_envoys_meanings() {
    use TryOutcome::*;
    for (list, yes, no) in [
        (
            "5xx",
            vec![response(500), response(599), ConnectFailure, SENT, RefusedStream, PerTryTimeout],
            vec![response(499), Overflow],
        ),
        (
            "gateway-error",
            vec![response(502), response(503), response(504), SENT, ConnectFailure],
            vec![response(500), response(505)],
        ),
        ("reset", vec![SENT, UNSENT, PerTryTimeout, ConnectFailure], vec![response(503)]),
        ("reset-before-request", vec![UNSENT, ConnectFailure], vec![SENT, PerTryTimeout]),
        ("connect-failure", vec![ConnectFailure], vec![SENT, UNSENT, response(503), RefusedStream]),
        ("refused-stream", vec![RefusedStream], vec![SENT, ConnectFailure]),
        ("retriable-4xx", vec![response(409)], vec![response(404), SENT]),
        ("503", vec![response(503)], vec![SENT, ConnectFailure, response(500)]),
        ("retriable-status-codes", vec![], vec![response(503)]),
        ("unavailable", vec![grpc(14)], vec![grpc(1), response(503)]),
        (
            "cancelled,deadline-exceeded,internal,resource-exhausted",
            vec![grpc(1), grpc(4), grpc(13), grpc(8)],
            vec![grpc(14), grpc(0)],
        ),
    ] {
        let policy = policy(list);
        for outcome in yes {
            assert!(policy.should_retry(&outcome), "{list} on {outcome:?}");
        }
        for outcome in no {
            assert!(!policy.should_retry(&outcome), "{list} on {outcome:?}");
        }
    }
}

#[test]
fn istios_default_retries_connections_and_grpc_but_no_status() {
    let policy = RetryPolicy::default();
    assert_eq!(policy.attempts, 2);
    for outcome in [TryOutcome::ConnectFailure, TryOutcome::RefusedStream, grpc(14), grpc(1)] {
        assert!(policy.should_retry(&outcome), "{outcome:?}");
    }
    for outcome in [response(503), SENT, TryOutcome::PerTryTimeout, grpc(13)] {
        assert!(!policy.should_retry(&outcome), "{outcome:?}");
    }
    assert!(!RetryPolicy::none().should_retry(&TryOutcome::ConnectFailure));
}

#[test]
fn a_rate_limit_elsewhere_is_tried_again_only_if_named() {
    let limited = TryOutcome::Response { status: 503, grpc_status: None, ratelimited: true };
    assert!(policy("envoy-ratelimited").should_retry(&limited));
    assert!(!policy("5xx,503,gateway-error").should_retry(&limited));
    assert!(!policy("envoy-ratelimited").should_retry(&response(503)));
}

#[test]
fn conditions_without_a_field_or_a_protocol_cover_nothing() {
    for list in ["retriable-headers", "http3-post-connect-failure"] {
        for outcome in [response(500), response(409), grpc(14), SENT, UNSENT, TryOutcome::ConnectFailure] {
            assert!(!policy(list).should_retry(&outcome), "{list} on {outcome:?}");
        }
    }
}

#[test]
fn unknown_entries_come_back() {
    let (parsed, unknown) = RetryOn::parse("5xx, 503,bogus,,99,600");
    assert_eq!(unknown, ["bogus", "99", "600"]);
    assert_eq!(parsed.names().collect::<Vec<_>>(), ["5xx", "retriable-status-codes", "503"]);
}

#[test]
fn back_off_doubles_from_the_base_up_to_ten_times_it_with_full_jitter() {
    /// Always the same number.
    struct Fixed(u64);
    impl RngCore for Fixed {
        fn next_u32(&mut self) -> u32 {
            self.0 as u32
        }
        fn next_u64(&mut self) -> u64 {
            self.0
        }
        fn fill_bytes(&mut self, _: &mut [u8]) {}
    }
    let back_off = BackOff::default();
    for (number, limit) in
        [(1, 25), (2, 50), (3, 100), (4, 200), (5, 250), (6, 250), (31, 250), (33, 250), (u32::MAX, 250)]
    {
        let limit = Duration::from_millis(limit);
        let nanos = limit.as_nanos() as u64;
        assert_eq!(
            back_off.delay(number, &mut Fixed(nanos - 1)),
            limit - Duration::from_nanos(1),
            "{number}"
        );
        assert_eq!(
            back_off.delay(number, &mut Fixed(nanos)),
            Duration::ZERO,
            "{number}: never the limit itself"
        );
    }
    assert_eq!(BackOff::new(Duration::ZERO).delay(3, &mut Fixed(7)), Duration::ZERO);
    assert_eq!(BackOff::new(Duration::MAX).max, Duration::MAX);
}

#[test]
fn grpc_statuses_stand_for_envoys_http_statuses() {
    let all: Vec<_> = (0..18).map(|code| GrpcStatus(code).to_http()).collect();
    assert_eq!(
        all,
        [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401, 500]
    );
}
