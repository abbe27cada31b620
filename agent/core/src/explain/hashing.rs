//! What consistent hashing makes of a request: its key, and the endpoint that the key leads to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::answer::Key;
use super::request::View;
use super::trace::Trace;
use crate::balance::Hashed;
use crate::cluster::Cluster;
use crate::policy::HashKey;

/// Of a request. A key that is made for it is not known beforehand, nor is a source that nobody told.
pub(super) fn of_request(
    cluster: &Cluster,
    view: &View<'_>,
    source: Option<IpAddr>,
    trace: &mut Trace,
) -> Key {
    let Some(key) = key(cluster) else { return Key::default() };
    let unknown = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let ends = (SocketAddr::new(unknown, 0), SocketAddr::new(unknown, 0));
    let hashed = key.of_request(view, source.unwrap_or(unknown), ends);
    let known = (*key != HashKey::SourceIp || source.is_some())
        && hashed.as_ref().is_some_and(|it| it.set_cookie.is_none());
    told(cluster, key, hashed.as_ref(), known, trace)
}

/// Of a connection that carries no requests.
pub(super) fn of_connection(cluster: &Cluster, source: Option<IpAddr>, trace: &mut Trace) -> Key {
    let Some(key) = key(cluster) else { return Key::default() };
    let hash = key.of_connection(source.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
    let hashed = hash.map(|hash| Hashed { hash, set_cookie: None });
    told(cluster, key, hashed.as_ref(), source.is_some(), trace)
}

fn key(cluster: &Cluster) -> Option<&HashKey> {
    cluster.policy.consistent_hash.as_ref()?.key.as_ref()
}

fn told(cluster: &Cluster, key: &HashKey, hashed: Option<&Hashed>, known: bool, trace: &mut Trace) -> Key {
    let name = &cluster.name;
    let Some(hashed) = hashed else {
        trace.push(format!("{name}: no {key} to hash by, so any endpoint may be chosen"));
        return Key::default();
    };
    let hash = known.then_some(hashed.hash);
    let shares = cluster.spread.shares(&cluster.endpoints, hash);
    let chosen = cluster.endpoints.iter().zip(shares).find(|(_, share)| hash.is_some() && *share == 1.0);
    trace.push(match chosen {
        Some((endpoint, _)) => format!("{name}: hashing by {key} leads to {}", endpoint.id),
        None if hashed.set_cookie.is_some() => {
            format!("{name}: hashing by {key}; the request has none and is given one")
        }
        None => format!("{name}: hashing by {key}"),
    });
    Key { name: Some(key.to_string()), hash }
}
