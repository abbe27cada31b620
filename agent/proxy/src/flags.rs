//! Envoy's response flags: why a request ended as it did, in two or three letters that operators already know.

use std::fmt;

/// A set of response flags. Displays as Envoy prints them: comma-separated in a fixed order, `-` when empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ResponseFlags(u32);

macro_rules! flags {
    ($($bit:literal $name:ident $text:literal $doc:literal;)*) => {
        impl ResponseFlags {
            $(#[doc = $doc] pub const $name: Self = Self(1 << $bit);)*

            const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $text)),*];
        }
    };
}

flags! {
    0 NO_HEALTHY_UPSTREAM "UH" "No endpoint could be chosen; 503.";
    1 UPSTREAM_CONNECTION_FAILURE "UF" "Connecting to the endpoint failed; 503.";
    2 UPSTREAM_OVERFLOW "UO" "A connection pool limit was met (circuit breaker); 503.";
    3 NO_ROUTE_FOUND "NR" "No virtual host or route matched; 404.";
    4 UPSTREAM_RETRY_LIMIT_EXCEEDED "URX" "All retries were used up.";
    5 NO_CLUSTER_FOUND "NC" "The route names a host, subset or port that does not exist; 503.";
    6 DOWNSTREAM_CONNECTION_TERMINATION "DC" "The client left before the response was complete.";
    7 UPSTREAM_CONNECTION_TERMINATION "UC" "The endpoint closed or reset the connection; 503 if before the response.";
    8 UPSTREAM_REMOTE_RESET "UR" "The endpoint reset the HTTP/2 stream; 503.";
    9 UPSTREAM_REQUEST_TIMEOUT "UT" "The route's or the try's time limit passed; 504 if before the response.";
    10 DELAY_INJECTED "DI" "A fault delay was injected.";
    11 FAULT_INJECTED "FI" "A fault abort was injected.";
    12 DOWNSTREAM_PROTOCOL_ERROR "DPE" "The client broke the protocol; 4xx.";
    13 UPSTREAM_PROTOCOL_ERROR "UPE" "The endpoint broke the protocol; 502.";
    14 STREAM_IDLE_TIMEOUT "SI" "Nothing moved for too long.";
}

impl ResponseFlags {
    /// No flag.
    pub const NONE: Self = Self(0);

    /// Adds the flags of `other`.
    pub fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether all flags of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("-");
        }
        let mut separator = "";
        for (flag, text) in Self::ALL {
            if self.contains(*flag) {
                f.write_str(separator)?;
                f.write_str(text)?;
                separator = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_envoy_does() {
        assert_eq!(ResponseFlags::NONE.to_string(), "-");
        let mut flags = ResponseFlags::UPSTREAM_CONNECTION_FAILURE;
        assert_eq!(flags.to_string(), "UF");
        flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        assert_eq!(flags.to_string(), "UF,URX");
        assert!(flags.contains(ResponseFlags::UPSTREAM_CONNECTION_FAILURE));
        assert!(!flags.contains(ResponseFlags::NO_ROUTE_FOUND));
    }

    #[test]
    fn each_flag_has_a_bit_of_its_own() {
        let mut all = ResponseFlags::NONE;
        for (flag, _) in ResponseFlags::ALL {
            assert!(!all.contains(*flag));
            all.insert(*flag);
        }
    }
}
