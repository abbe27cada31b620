//! Hosts: names as rules and requests write them, wildcards, address ranges.
//!
//! Rules: istio-semantics section 1 (short names, wildcards) and Istio's `pkg/config/host`.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

pub(crate) use index::{HostIndex, domains};

mod index;

/// A set of hosts: one, all below a domain, or all. The most specific comes first in order: exact hosts, then longer suffixes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostKey {
    /// One host, lower case, without port.
    Exact(Box<str>),
    /// All hosts below a domain: `*.example.com` is `.example.com`, lower case.
    Suffix(Box<str>),
    /// Every host: `*`.
    Any,
}

impl HostKey {
    /// From a host as rules write it. A `*` anywhere but as the whole first label is taken literally, and so matches nothing;
    /// validation refuses it.
    pub fn parse(host: &str) -> Self {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        match host.strip_prefix('*') {
            Some("") => Self::Any,
            Some(suffix) if suffix.starts_with('.') => Self::Suffix(suffix.into()),
            _ => Self::Exact(host.into()),
        }
    }

    /// Whether `name` (without port) is one of these hosts. Case does not matter.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(host) => host.eq_ignore_ascii_case(name),
            Self::Suffix(suffix) => name
                .len()
                .checked_sub(suffix.len())
                .filter(|&at| at > 0)
                .and_then(|at| name.as_bytes().get(at..))
                .is_some_and(|end| end.eq_ignore_ascii_case(suffix.as_bytes())),
            Self::Any => true,
        }
    }

    /// Whether all hosts of `other` are hosts of this one.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Any) => false,
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Exact(_), Self::Suffix(_)) => false,
            (Self::Suffix(_), Self::Exact(name)) => self.matches(name),
            (Self::Suffix(a), Self::Suffix(b)) => b.ends_with(&**a),
        }
    }

    /// The hosts both have, which is the smaller of the two, or none.
    pub fn intersection<'a>(&'a self, other: &'a Self) -> Option<&'a Self> {
        if self.covers(other) {
            Some(other)
        } else if other.covers(self) {
            Some(self)
        } else {
            None
        }
    }

    /// Whether it stands for more than one host.
    pub fn is_wildcard(&self) -> bool {
        !matches!(self, Self::Exact(_))
    }

    fn rank(&self) -> (u8, usize) {
        match self {
            Self::Exact(_) => (0, 0),
            Self::Suffix(suffix) => (1, usize::MAX - suffix.len()),
            Self::Any => (2, 0),
        }
    }
}

impl PartialOrd for HostKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HostKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank()).then_with(|| match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Suffix(a), Self::Suffix(b)) => a.cmp(b),
            _ => Ordering::Equal,
        })
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// Completes a short name: without a dot, not `*` and not an address, it is a service of `namespace`. Any other is literal
/// (Istio: `ResolveShortnameToFQDN`).
pub fn complete(host: &str, namespace: &str, cluster_domain: &str) -> String {
    if host.is_empty() || host.contains(['.', '*']) || host.parse::<IpAddr>().is_ok() {
        host.to_owned()
    } else {
        format!("{host}.{namespace}.svc.{cluster_domain}")
    }
}

/// The host of an authority (`reviews:9080`, `[::1]:80`), without its port. IPv6 addresses lose their brackets only if the
/// port is gone with them, so that `[::1]` and `[::1]:80` are the same host.
pub fn without_port(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map_or(authority, |(address, _)| address);
    }
    match authority.rsplit_once(':') {
        // More than one colon is an address without brackets.
        Some((host, port)) if !host.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// A range of addresses. A single address is a range of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

/// Neither an address nor a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address or a CIDR range, write it like 10.0.0.1 or 10.0.0.0/8")]
pub struct ParseCidrError;

impl Cidr {
    /// Whether the address is in the range. An IPv4 address is never in an IPv6 range.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(range), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits);
                shift >= 32 || range.to_bits() >> shift == address.to_bits() >> shift
            }
            (IpAddr::V6(range), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                shift >= 128 || range.to_bits() >> shift == address.to_bits() >> shift
            }
            _ => false,
        }
    }

    /// The address, if the range holds only one.
    pub fn single(&self) -> Option<IpAddr> {
        let whole = if self.address.is_ipv4() { 32 } else { 128 };
        (self.bits == whole).then_some(self.address)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| ParseCidrError)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ParseCidrError)?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(whole);
        if bits > whole { Err(ParseCidrError) } else { Ok(Self { address, bits }) }
    }
}

#[cfg(test)]
mod tests;
