use super::*;

fn response(status: u16) -> TryOutcome {
    TryOutcome::Response { status, grpc_status: None, ratelimited: false, overloaded: false }
}

fn grpc(code: u32) -> TryOutcome {
    TryOutcome::Response { status: 200, grpc_status: Some(code), ratelimited: false, overloaded: false }
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
fn load_shed_elsewhere_is_never_tried_again() {
    let everything = policy("5xx,503,envoy-ratelimited");
    let shed = |ratelimited, overloaded| TryOutcome::Response {
        status: 503,
        grpc_status: None,
        ratelimited,
        overloaded,
    };
    assert!(!everything.should_retry(&shed(false, true)));
    assert!(everything.should_retry(&shed(true, false)));
    assert!(!policy("5xx,503").should_retry(&shed(true, false)));
}

#[test]
fn unknown_entries_come_back() {
    let (parsed, unknown) = RetryOn::parse("5xx, 503,bogus,,99,600");
    assert_eq!(unknown, ["bogus", "99", "600"]);
    assert_eq!(parsed.names().collect::<Vec<_>>(), ["5xx", "retriable-status-codes", "503"]);
}

#[test]
fn back_off_grows_to_its_cap() {
    struct Most;
    impl RngCore for Most {
        fn next_u32(&mut self) -> u32 {
            u32::MAX
        }
        fn next_u64(&mut self) -> u64 {
            // One less than a multiple of any limit below: always the longest wait but for a nanosecond.
            self.next_u32().into()
        }
        fn fill_bytes(&mut self, _: &mut [u8]) {}
    }
    let back_off = BackOff::default();
    for number in [1, 2, 3, 4, 31, 32, u32::MAX] {
        let limit =
            Duration::from_millis(if number < 5 { 25 * ((1 << number) - 1) } else { 250 }).min(back_off.max);
        assert!(back_off.delay(number, &mut Most) < limit, "{number}");
    }
    assert_eq!(BackOff::new(Duration::ZERO).delay(3, &mut Most), Duration::ZERO);
    assert_eq!(BackOff::new(Duration::MAX).max, Duration::MAX);
}
