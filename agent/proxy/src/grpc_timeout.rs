//! A gRPC client's deadline, as its `grpc-timeout` header says it.
//!
//! Istio sets Envoy's `max_grpc_timeout` on every route to the route's timeout, 0 if it has none, which Envoy takes for "no
//! maximum": the client's deadline counts with and without a timeout of the route, and never for longer than that. The server
//! is told what is left (Envoy: `FilterUtility::finalTimeout`, `setTimeoutHeaders`).
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use std::time::Duration;

use undermesh_core::view::RequestView;

use crate::digits::Digits;

/// The header.
pub(crate) const GRPC_TIMEOUT: &str = "grpc-timeout";

/// How long a gRPC call may take where the route allows `route`: `None` is for ever.
pub(crate) fn limit(head: &impl RequestView, route: Option<Duration>) -> Option<Duration> {
    let asked = head.header(GRPC_TIMEOUT).and_then(parse);
    match (asked, route) {
        (Some(asked), Some(route)) => Some(asked.min(route)),
        (asked, route) => asked.or(route),
    }
}

/// A number of at most eight digits and a unit. Nothing is as fine as a millisecond, so what is finer is rounded up; zero is
/// no deadline (Envoy's reading).
fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let millis = match unit {
        b'H' => count * 3_600_000,
        b'M' => count * 60_000,
        b'S' => count * 1000,
        b'm' => count,
        b'u' => count.div_ceil(1000),
        b'n' => count.div_ceil(1_000_000),
        _ => return None,
    };
    (millis > 0).then(|| Duration::from_millis(millis))
}

/// The header's text for `time`: milliseconds, or the next unit that has room.
pub(crate) fn render(time: Duration) -> Vec<u8> {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let units = [(millis, b'm'), (millis / 1000, b'S'), (millis / 60_000, b'M'), (millis / 3_600_000, b'H')];
    let (count, unit) = units.into_iter().find(|(count, _)| *count <= MOST).unwrap_or((MOST, b'H'));
    let mut text = Digits::of(count).as_bytes().to_vec();
    text.push(unit);
    text
}

/// Eight digits.
const MOST: u64 = 99_999_999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_a_number_and_a_unit() {
        for (text, millis) in [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("5S", Some(5000)),
            ("99999999S", Some(99_999_999_000)),
            ("500m", Some(500)),
            ("1u", Some(1)),
            ("1001u", Some(2)),
            ("1n", Some(1)),
            ("0S", None),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("5", None),
            ("5s", None),
            ("-5S", None),
            ("5 S", None),
        ] {
            assert_eq!(parse(text.as_bytes()), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn a_time_is_said_in_eight_digits() {
        for (millis, want) in
            [(500, "500m"), (99_999_999, "99999999m"), (100_000_000, "100000S"), (u64::MAX, "99999999H")]
        {
            assert_eq!(String::from_utf8_lossy(&render(Duration::from_millis(millis))), want);
        }
    }
}
