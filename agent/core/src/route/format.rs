//! Envoy's format strings, which header values are: text, `%%`, and operators such as `%REQ(x-id?x-request-id):8%`.
//!
//! Parsed once. An operator that Envoy does not know makes Envoy refuse its whole configuration, so it is an error here and
//! refuses the route. A missing value is empty, and an empty value adds no header (Envoy: `keep_empty_value` is off).

use std::net::SocketAddr;
use std::time::Duration;

use crate::edits::Edits;
use crate::view::{HttpVersion, RequestView, ResponseView};

/// Facts about a connection that operators may ask for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// The client's address.
    pub downstream_remote: Option<SocketAddr>,
    /// The address the client dialled.
    pub downstream_local: Option<SocketAddr>,
    /// When the request came, since the Unix epoch.
    pub start: Option<Duration>,
    /// The name of the node or gateway pod.
    pub hostname: &'a str,
}

/// A parsed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatString {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Request(HeaderOperator),
    Response(HeaderOperator),
    ResponseCode,
    StartTime,
    Protocol,
    RouteName,
    Hostname,
    RemoteAddress,
    RemoteIp,
    RemotePort,
    LocalAddress,
    LocalIp,
    LocalPort,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct HeaderOperator {
    name: Box<str>,
    otherwise: Option<Box<str>>,
    max_length: Option<usize>,
}

/// Why a value is no format string for its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A `%` without its other.
    #[error("unbalanced %, write %% for a literal one")]
    Unbalanced,
    /// An operator that is not known, or not here.
    #[error("the operator %{0}% is not supported here")]
    Unsupported(String),
}

/// Where a value is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    Response,
}

impl FormatString {
    /// Parses a value of a request header operation.
    pub fn request(text: &str) -> Result<Self, FormatError> {
        Self::parse(text, Direction::Request)
    }

    /// Parses a value of a response header operation. `%REQ()%` is not supported there.
    pub fn response(text: &str) -> Result<Self, FormatError> {
        Self::parse(text, Direction::Response)
    }

    pub(crate) fn parse(text: &str, direction: Direction) -> Result<Self, FormatError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            let (operator, after) = after.split_once('%').ok_or(FormatError::Unbalanced)?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal).into()));
            }
            parts.push(parse_operator(operator, direction)?);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal.into()));
        }
        Ok(Self { parts })
    }

    /// The value, if no operator is in it.
    pub fn as_literal(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the value. Headers are read as they are at this point: the message's, changed by `edits`.
    pub(super) fn write(
        &self,
        message: &impl Message,
        edits: &Edits,
        context: &Context<'_>,
        out: &mut Vec<u8>,
    ) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Request(operator) | Part::Response(operator) => operator.write(message, edits, out),
                Part::ResponseCode => maybe(out, message.response_code()),
                Part::StartTime => context.facts.start.into_iter().for_each(|start| write_time(start, out)),
                Part::Protocol => out.extend_from_slice(message.protocol().as_bytes()),
                Part::RouteName => out.extend_from_slice(context.route_name.as_bytes()),
                Part::Hostname => out.extend_from_slice(context.facts.hostname.as_bytes()),
                Part::RemoteAddress => maybe(out, context.facts.downstream_remote),
                Part::RemoteIp => maybe(out, context.facts.downstream_remote.map(|it| it.ip())),
                Part::RemotePort => maybe(out, context.facts.downstream_remote.map(|it| it.port())),
                Part::LocalAddress => maybe(out, context.facts.downstream_local),
                Part::LocalIp => maybe(out, context.facts.downstream_local.map(|it| it.ip())),
                Part::LocalPort => maybe(out, context.facts.downstream_local.map(|it| it.port())),
            }
        }
    }
}

/// What a value may depend on besides its message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) facts: &'a Facts<'a>,
    pub(super) route_name: &'a str,
}

/// A head that operators read.
pub(super) trait Message {
    /// The first line of a header; pseudo headers too.
    fn first(&self, name: &str) -> Option<&[u8]>;
    fn protocol(&self) -> &'static str;
    fn response_code(&self) -> Option<u16>;
}

/// A request as a [`Message`].
pub(super) struct Request<'a, R>(pub(super) &'a R);

impl<R: RequestView> Message for Request<'_, R> {
    fn first(&self, name: &str) -> Option<&[u8]> {
        match name {
            ":path" => Some(self.0.target().as_bytes()),
            ":method" => Some(self.0.method().as_bytes()),
            ":scheme" => Some(self.0.scheme().as_bytes()),
            ":authority" | "host" => Some(self.0.authority().as_bytes()),
            _ => self.0.header(name),
        }
    }

    fn protocol(&self) -> &'static str {
        match self.0.version() {
            HttpVersion::Http1 => "HTTP/1.1",
            HttpVersion::Http2 => "HTTP/2",
        }
    }

    fn response_code(&self) -> Option<u16> {
        None
    }
}

/// A response as a [`Message`]; a local reply has no head yet.
pub(super) struct Response<'a, R>(pub(super) Option<&'a R>);

impl<R: ResponseView> Message for Response<'_, R> {
    fn first(&self, name: &str) -> Option<&[u8]> {
        self.0?.header(name)
    }

    fn protocol(&self) -> &'static str {
        ""
    }

    fn response_code(&self) -> Option<u16> {
        self.0.map(ResponseView::status)
    }
}

impl HeaderOperator {
    fn write(&self, message: &impl Message, edits: &Edits, out: &mut Vec<u8>) {
        let value = |name: &str| -> Option<&[u8]> {
            let received = if edits.drops(name.as_bytes()) { None } else { message.first(name) };
            received.or_else(|| edits.lines().find(|(line, _)| *line == name).map(|(_, value)| value))
        };
        let value = value(&self.name).or_else(|| self.otherwise.as_deref().and_then(value));
        if let Some(value) = value {
            out.extend_from_slice(value.get(..self.max_length.unwrap_or(usize::MAX)).unwrap_or(value));
        }
    }
}

fn parse_operator(operator: &str, direction: Direction) -> Result<Part, FormatError> {
    let unsupported = || FormatError::Unsupported(operator.to_owned());
    let (name, arguments) = match operator.split_once('(') {
        None => (operator, None),
        Some((name, rest)) => {
            let (inner, after) = rest.rsplit_once(')').ok_or_else(unsupported)?;
            (name, Some((inner, after)))
        }
    };
    let header = || -> Result<HeaderOperator, FormatError> {
        let (inner, after) = arguments.ok_or_else(unsupported)?;
        let max_length = match after.strip_prefix(':') {
            None if after.is_empty() => None,
            None => return Err(unsupported()),
            Some(length) => Some(length.parse().map_err(|_| unsupported())?),
        };
        let (name, otherwise) = match inner.split_once('?') {
            Some((name, otherwise)) => (name, Some(otherwise.to_ascii_lowercase().into())),
            None => (inner, None),
        };
        if name.is_empty() {
            return Err(unsupported());
        }
        Ok(HeaderOperator { name: name.to_ascii_lowercase().into(), otherwise, max_length })
    };
    let part = match (name, direction) {
        ("REQ", Direction::Request) => return header().map(Part::Request),
        ("RESP", Direction::Response) => return header().map(Part::Response),
        ("RESPONSE_CODE", Direction::Response) => Part::ResponseCode,
        ("PROTOCOL", Direction::Request) => Part::Protocol,
        ("START_TIME", _) => Part::StartTime,
        ("ROUTE_NAME", _) => Part::RouteName,
        ("HOSTNAME", _) => Part::Hostname,
        ("DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS", _) => Part::RemoteAddress,
        ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", _) => {
            Part::RemoteIp
        }
        ("DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT", _) => Part::RemotePort,
        ("DOWNSTREAM_LOCAL_ADDRESS", _) => Part::LocalAddress,
        ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", _) => Part::LocalIp,
        ("DOWNSTREAM_LOCAL_PORT", _) => Part::LocalPort,
        _ => return Err(unsupported()),
    };
    if arguments.is_some() { Err(unsupported()) } else { Ok(part) }
}

fn maybe(out: &mut Vec<u8>, value: Option<impl std::fmt::Display>) {
    if let Some(value) = value {
        text(out, value);
    }
}

fn text(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    use std::io::Write as _;
    // A Vec takes all that is written.
    let _infallible = write!(out, "{value}");
}

/// Envoy's default for START_TIME: `2026-01-31T12:00:00.000Z`.
fn write_time(since_epoch: Duration, out: &mut Vec<u8>) {
    let seconds = since_epoch.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Proleptic Gregorian calendar in 400-year eras that begin on 1 March, so the leap day is an era's last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    text(
        out,
        format_args!(
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
            since_epoch.subsec_millis()
        ),
    );
}

#[cfg(test)]
mod tests;
