//! What is spoken on a port, as its declaration says.

/// The declared protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.x, which may be upgraded.
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// gRPC, on HTTP/2 without TLS.
    Grpc,
    /// gRPC-Web, on HTTP/1.1.
    GrpcWeb,
    /// HTTP inside TLS.
    Https,
    /// Any TLS.
    Tls,
    /// Opaque.
    Tcp,
    /// Not TCP at all: never captured.
    Udp,
    /// Opaque.
    Mongo,
    /// Opaque, the server speaks first.
    MySql,
    /// Opaque.
    Redis,
    /// Not declared: the first bytes decide.
    Auto,
}

impl Protocol {
    /// The protocol of a TCP service port: `appProtocol` if set, else the port name's prefix up to the first `-`; without
    /// either, ports of well-known server-first protocols are TCP. Istio: `pkg/config/kube/conversion.go`.
    pub fn of_port(name: &str, app_protocol: Option<&str>, number: u16) -> Self {
        let declared = match app_protocol {
            Some("kubernetes.io/h2c") => return Self::Http2,
            Some("kubernetes.io/ws") => return Self::Http,
            Some("kubernetes.io/wss") => return Self::Https,
            Some(app_protocol) => app_protocol,
            None => name,
        };
        let is_grpc_web = declared.get(..8).is_some_and(|prefix| prefix.eq_ignore_ascii_case("grpc-web"));
        let prefix = if is_grpc_web { "grpc-web" } else { declared.split('-').next().unwrap_or_default() };
        match Self::parse(prefix) {
            Some(protocol) => protocol,
            // SMTP, DNS, MySQL, MongoDB: sniffing would wait for a client that waits for the server.
            None if matches!(number, 25 | 53 | 3306 | 27017) => Self::Tcp,
            None => Self::Auto,
        }
    }

    /// By its name in any case, as in `port.protocol` of Gateway and ServiceEntry.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "http" => Self::Http,
            "http2" => Self::Http2,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "mongo" => Self::Mongo,
            "mysql" => Self::MySql,
            "redis" => Self::Redis,
            _ => return None,
        })
    }

    /// Whether HTTP rules apply: HTTP of any kind in clear text.
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether the endpoint wants HTTP/2.
    pub const fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }

    /// Whether TLS rules apply, by SNI.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Whether bytes are passed on unread.
    pub const fn is_opaque(self) -> bool {
        matches!(self, Self::Tcp | Self::Mongo | Self::MySql | Self::Redis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_protocol_then_name_prefix_then_well_known_number() {
        for (name, app_protocol, number, want) in [
            ("http", None, 80, Protocol::Http),
            ("http-web", None, 80, Protocol::Http),
            ("HTTP2-x", None, 80, Protocol::Http2),
            ("grpc", None, 80, Protocol::Grpc),
            ("grpc-web", None, 80, Protocol::GrpcWeb),
            ("grpc-web-x", None, 80, Protocol::GrpcWeb),
            ("grpc-x", None, 80, Protocol::Grpc),
            ("https-x", None, 443, Protocol::Https),
            ("tcp-http", None, 80, Protocol::Tcp),
            ("mysql", None, 80, Protocol::MySql),
            ("", None, 80, Protocol::Auto),
            ("web", None, 80, Protocol::Auto),
            ("httpx", None, 80, Protocol::Auto),
            ("http_x", None, 80, Protocol::Auto),
            ("db", None, 3306, Protocol::Tcp),
            ("http", None, 3306, Protocol::Http),
            ("tcp", Some("http"), 80, Protocol::Http),
            ("http", Some("kubernetes.io/h2c"), 80, Protocol::Http2),
            ("x", Some("kubernetes.io/ws"), 80, Protocol::Http),
            ("x", Some("kubernetes.io/wss"), 80, Protocol::Https),
            ("http", Some("example.com/own"), 80, Protocol::Auto),
            ("http\u{e9}", None, 80, Protocol::Auto),
            ("grpc-we\u{e9}", None, 80, Protocol::Grpc),
        ] {
            assert_eq!(
                Protocol::of_port(name, app_protocol, number),
                want,
                "{name} {app_protocol:?} {number}"
            );
        }
    }
}
