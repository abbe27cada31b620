//! Durations as Istio writes them: `1h`, `1m30s`, `1.5s`, `10ms`.
//!
//! The format is Go's `time.ParseDuration`, which Istio's CRDs and `google.protobuf.Duration` fields accept. Whether a value
//! is *sensible* for a field (most want at least 1 ms and whole milliseconds) is for `validate`, so values such as `0s`
//! parse. Negative values never make sense in this API and are refused here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// A duration field as written. Zero and sub-millisecond values are kept for validation to see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

impl Duration {
    /// How it names itself to a deserializer, by which a recorded [`Schema`](super::schema::Schema) tells it from any text.
    pub(super) const NAME: &'static str = "Duration";

    /// The value itself.
    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl From<std::time::Duration> for Duration {
    fn from(value: std::time::Duration) -> Self {
        Self(value)
    }
}

impl From<Duration> for std::time::Duration {
    fn from(value: Duration) -> Self {
        value.0
    }
}

/// Why a text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseDurationError {
    /// Not of the form number + unit, repeated.
    #[error("not a duration, write it like 1h, 30s or 1.5s")]
    Syntax,
    /// The last number lacks its unit.
    #[error("missing unit in duration, write it like 1h, 30s or 10ms")]
    MissingUnit,
    /// A unit that Go does not know (days and weeks, mostly).
    #[error("unknown unit in duration, use h, m, s, ms, us or ns")]
    UnknownUnit,
    /// Below zero.
    #[error("a duration cannot be negative")]
    Negative,
    /// Beyond 2^63 nanoseconds (about 292 years), Go's limit.
    #[error("duration is too long")]
    TooLong,
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix('+').unwrap_or(text);
        if rest.starts_with('-') {
            return Err(ParseDurationError::Negative);
        }
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(ParseDurationError::Syntax);
        }
        let mut nanos: u128 = 0;
        let mut rest = rest;
        while !rest.is_empty() {
            let (part, after) = part(rest)?;
            nanos = nanos.checked_add(part).ok_or(ParseDurationError::TooLong)?;
            rest = after;
        }
        let nanos = i64::try_from(nanos).map_err(|_| ParseDurationError::TooLong)?;
        Ok(Self(std::time::Duration::from_nanos(nanos.unsigned_abs())))
    }
}

/// Reads one number + unit: its nanoseconds, and what follows.
fn part(text: &str) -> Result<(u128, &str), ParseDurationError> {
    let (whole, rest) = digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(ParseDurationError::Syntax);
    }
    let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, after) = rest.split_at(end);
    let scale: u128 = match unit {
        "" => return Err(ParseDurationError::MissingUnit),
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(ParseDurationError::UnknownUnit),
    };
    let whole: u128 = match whole {
        "" => 0,
        // 20 digits of hours cannot overflow u128 nanoseconds; more are too long in any unit.
        digits if digits.len() <= 20 => digits.parse().map_err(|_| ParseDurationError::TooLong)?,
        _ => return Err(ParseDurationError::TooLong),
    };
    // Digits below a nanosecond fall away, as in Go.
    let (mut numerator, mut divisor): (u128, u128) = (0, 1);
    for digit in fraction.bytes().take(18) {
        numerator = numerator * 10 + u128::from(digit - b'0');
        divisor *= 10;
    }
    let value = whole * scale + numerator * scale / divisor;
    Ok((value, after))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Duration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"5s\"")
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Duration, D::Error> {
                inner.deserialize_str(self)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                text.parse().map_err(|error| E::custom(format_args!("invalid duration {text:?}: {error}")))
            }
        }
        deserializer.deserialize_newtype_struct(Self::NAME, Visitor)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_parse() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("+5s", 5_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("0.0001s", 100_000),
            ("10ms", 10_000_000),
            ("1h1m1s1ms", 3_661_001_000_000),
            ("1m30.5s", 90_500_000_000),
            ("1.5h", 5_400_000_000_000),
            ("0.000000001s", 1),
            ("0.0000000001s", 0),
            ("3us", 3_000),
            ("3\u{b5}s", 3_000),
            ("7ns", 7),
        ] {
            let want = Duration(std::time::Duration::from_nanos(nanos));
            assert_eq!(text.parse(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        use ParseDurationError::*;
        for (text, want) in [
            ("", Syntax),
            ("s", Syntax),
            (".s", Syntax),
            ("abc", Syntax),
            ("5", MissingUnit),
            ("1s5", MissingUnit),
            ("1 s", UnknownUnit),
            ("1d", UnknownUnit),
            ("1S", UnknownUnit),
            ("-1s", Negative),
            ("9999999999h", TooLong),
            ("99999999999999999999999999999s", TooLong),
        ] {
            assert_eq!(text.parse::<Duration>(), Err(want), "{text}");
        }
    }
}
