//! The key of consistent hashing: which part of a request says where it belongs, and the cookie that is made when it says nothing.
//!
//! Hashed as Envoy's `HashPolicyImpl` does; a key that a request lacks leaves the choice to chance.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::xxhash;
use crate::route::query_value;
use crate::view::RequestView;

/// Istio: the `HashKey` of `ConsistentHashLB`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// A header, in lower case. All its lines count, in any order.
    Header(Box<str>),
    /// A cookie.
    Cookie(HashCookie),
    /// The client's address; the only key that TCP has.
    SourceIp,
    /// The raw first value of a query parameter.
    QueryParameter(Box<str>),
}

/// A cookie as key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HashCookie {
    /// Its name.
    pub name: Box<str>,
    /// A request without it is given one that lasts so long; zero: for the session. `None`: it is not.
    pub ttl: Option<Duration>,
    /// Of a cookie that is given; may be empty.
    pub path: Box<str>,
    /// Further attributes; those without a value are flags.
    pub attributes: Box<[(Box<str>, Box<str>)]>,
}

/// Where a request belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// The hash of its key.
    pub hash: u64,
    /// The value of the `set-cookie` line that the response must carry, if the key was made here.
    pub set_cookie: Option<Box<str>>,
}

impl HashKey {
    /// The hash of a request's key; `None` if it has none. `source` is the client's address, `connection` both ends of its
    /// connection: the cookies that requests on one connection are given are the same.
    pub fn of_request(
        &self,
        head: &impl RequestView,
        source: IpAddr,
        connection: (SocketAddr, SocketAddr),
    ) -> Option<Hashed> {
        let of_text = |text: &[u8]| Some(xxhash::hash(text, 0));
        let hash = match self {
            Self::Header(name) => match &**name {
                ":authority" | "host" => of_text(head.authority().as_bytes()),
                ":path" => of_text(head.target().as_bytes()),
                ":method" => of_text(head.method().as_bytes()),
                ":scheme" => of_text(head.scheme().as_bytes()),
                name => of_lines(head, name),
            },
            Self::Cookie(cookie) => match (cookie.value(head), cookie.ttl) {
                (Some(value), _) => of_text(value),
                (None, Some(ttl)) => return Some(cookie.make(ttl, connection)),
                (None, None) => None,
            },
            Self::SourceIp => {
                return self.of_connection(source).map(|hash| Hashed { hash, set_cookie: None });
            }
            Self::QueryParameter(name) => {
                query_value(head.target(), name).and_then(|it| of_text(it.as_bytes()))
            }
        };
        hash.map(|hash| Hashed { hash, set_cookie: None })
    }

    /// The hash of the key that a connection without requests has.
    pub fn of_connection(&self, source: IpAddr) -> Option<u64> {
        matches!(self, Self::SourceIp).then(|| xxhash::hash(source.to_canonical().to_string().as_bytes(), 0))
    }
}

/// As Istio's field, then what it names.
impl fmt::Display for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "httpHeaderName {name}"),
            Self::Cookie(cookie) => write!(f, "httpCookie {}", cookie.name),
            Self::SourceIp => f.write_str("useSourceIp"),
            Self::QueryParameter(name) => write!(f, "httpQueryParameterName {name}"),
        }
    }
}

fn of_lines(head: &impl RequestView, name: &str) -> Option<u64> {
    let mut lines = head.header_lines(name);
    let first = lines.next()?;
    let Some(second) = lines.next() else { return Some(xxhash::hash(first, 0)) };
    let mut all: Vec<_> = [first, second].into_iter().chain(lines).collect();
    all.sort_unstable();
    Some(all.iter().fold(0, |seed, line| xxhash::hash(line, seed)))
}

impl HashCookie {
    /// What the request's cookie says, if it has it and it says something.
    fn value<'a>(&self, head: &'a impl RequestView) -> Option<&'a [u8]> {
        let pairs = head.header_lines("cookie").flat_map(|line| line.split(|&byte| byte == b';'));
        let named = pairs
            .map(<[u8]>::trim_ascii)
            .filter_map(|pair| pair.strip_prefix(self.name.as_bytes())?.strip_prefix(b"="));
        let value = named
            .map(|value| value.strip_prefix(b"\"").and_then(|it| it.strip_suffix(b"\"")).unwrap_or(value));
        value.take(1).find(|value| !value.is_empty())
    }

    /// A cookie for requests of a connection.
    fn make(&self, ttl: Duration, (remote, local): (SocketAddr, SocketAddr)) -> Hashed {
        let value = format!("{:016x}", xxhash::hash(format!("{remote}{local}").as_bytes(), 0));
        let mut line = format!("{}=\"{value}\"", self.name);
        if ttl.as_secs() > 0 {
            line += &format!("; Max-Age={}", ttl.as_secs());
        }
        if !self.path.is_empty() {
            line += &format!("; Path={}", self.path);
        }
        for (name, value) in &self.attributes {
            line += &if value.is_empty() { format!("; {name}") } else { format!("; {name}={value}") };
        }
        line += "; HttpOnly";
        Hashed { hash: xxhash::hash(value.as_bytes(), 0), set_cookie: Some(line.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::HttpVersion;

    struct Head(&'static [(&'static str, &'static str)]);

    impl RequestView for Head {
        fn version(&self) -> HttpVersion {
            HttpVersion::Http1
        }
        fn method(&self) -> &str {
            "GET"
        }
        fn scheme(&self) -> &str {
            "http"
        }
        fn authority(&self) -> &str {
            "catalog"
        }
        fn target(&self) -> &str {
            "/x?user=jason&user=other&empty="
        }
        fn header_lines<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
            let name = name.to_owned();
            self.0.iter().filter(move |(it, _)| *it == name).map(|(_, value)| value.as_bytes())
        }
    }

    fn ends() -> (SocketAddr, SocketAddr) {
        (([10, 0, 0, 1], 4000).into(), ([10, 96, 0, 1], 80).into())
    }

    fn hash(key: &HashKey, lines: &'static [(&'static str, &'static str)]) -> Option<u64> {
        key.of_request(&Head(lines), [10, 0, 0, 1].into(), ends()).map(|it| it.hash)
    }

    fn of(text: &str) -> Option<u64> {
        Some(xxhash::hash(text.as_bytes(), 0))
    }

    #[test]
    fn each_key_hashes_its_part_of_the_request() {
        let header = |name: &str| HashKey::Header(name.into());
        let query = |name: &str| HashKey::QueryParameter(name.into());
        let session = HashKey::Cookie(HashCookie { name: "sess".into(), ..HashCookie::default() });
        for (key, lines, want) in [
            (header("x-k"), &[("x-k", "a")][..], of("a")),
            (header("x-k"), &[("x-other", "a")], None),
            (header("host"), &[], of("catalog")),
            (query("user"), &[], of("jason")),
            (query("empty"), &[], of("")),
            (query("none"), &[], None),
            (HashKey::SourceIp, &[], of("10.0.0.1")),
            (session.clone(), &[("cookie", "a=b; sess=abc; sess=d")], of("abc")),
            (session.clone(), &[("cookie", "a=b"), ("cookie", "sess=\"abc\"")], of("abc")),
            (session.clone(), &[("cookie", "mysess=abc; sess")], None),
            (session.clone(), &[("cookie", "sess=")], None),
            (session, &[], None),
        ] {
            assert_eq!(hash(&key, lines), want, "{key} of {lines:?}");
        }
    }

    #[test]
    fn the_order_of_a_header_s_lines_does_not_matter_but_the_lines_do() {
        let key = HashKey::Header("x-k".into());
        let two = hash(&key, &[("x-k", "a"), ("x-k", "b")]);
        assert_eq!(two, hash(&key, &[("x-k", "b"), ("x-k", "a")]));
        assert_ne!(two, hash(&key, &[("x-k", "a")]));
    }

    #[test]
    fn a_cookie_is_made_only_if_it_has_a_ttl_and_is_missing() {
        let cookie = |ttl, attributes: &[(&str, &str)]| {
            HashKey::Cookie(HashCookie {
                name: "user".into(),
                ttl,
                path: "/p".into(),
                attributes: attributes.iter().map(|&(name, value)| (name.into(), value.into())).collect(),
            })
        };
        let made = |key: &HashKey, head: &Head| {
            key.of_request(head, [10, 0, 0, 1].into(), ends()).and_then(|it| it.set_cookie)
        };
        let lasting = cookie(Some(Duration::from_secs(60)), &[("SameSite", "Strict"), ("Secure", "")]);
        let line = made(&lasting, &Head(&[])).expect("a cookie");
        assert!(line.starts_with("user=\""), "{line}");
        assert!(line.ends_with("\"; Max-Age=60; Path=/p; SameSite=Strict; Secure; HttpOnly"), "{line}");
        let session = made(&cookie(Some(Duration::ZERO), &[]), &Head(&[])).expect("a cookie");
        assert!(session.ends_with("\"; Path=/p; HttpOnly"), "{session}");
        assert_eq!(made(&lasting, &Head(&[("cookie", "user=x")])), None);
        assert_eq!(made(&cookie(None, &[]), &Head(&[])), None);
    }

    #[test]
    fn a_made_cookie_leads_back_to_where_it_was_made() {
        let cookie = HashCookie { name: "user".into(), ttl: Some(Duration::ZERO), ..HashCookie::default() };
        let made = cookie.make(Duration::ZERO, ends());
        let line = made.set_cookie.expect("a line");
        let value = line.split('"').nth(1).expect("a quoted value");
        assert_eq!(of(value), Some(made.hash));
    }

    #[test]
    fn only_the_source_is_a_key_of_a_connection() {
        assert_eq!(HashKey::SourceIp.of_connection([10, 0, 0, 1].into()), of("10.0.0.1"));
        assert_eq!(HashKey::Header("x-k".into()).of_connection([10, 0, 0, 1].into()), None);
    }
}
