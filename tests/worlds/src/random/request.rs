//! Requests that such a mesh may see.

use serde_json::json;
use undermesh_core::explain::Request;

use super::objects::{NAMES, NAMESPACES, cluster_ip};
use super::rules::{HEADERS, PATHS, VALUES};
use crate::chance::Chance;

/// A request of some pod, or of a client that no pod is known of, to a service, an address of nobody, or a gateway.
///
/// # Panics
/// Never: what is made here is what `explain` takes.
pub fn request(chance: &mut Chance) -> Request {
    // Mostly where most is.
    let namespace = if chance.once_in(3) { *chance.pick(&NAMESPACES) } else { "shop" };
    let name = *chance.pick(&NAMES);
    let own = *chance.pick(&NAMESPACES);
    let query = *chance.pick(&["", "", "?q=yes", "?q=", "?p=1&q=jason"]);
    let path = if chance.once_in(8) { "/%61/../v1//items" } else { chance.pick(&PATHS) };
    let authority = match chance.below(8) {
        0 => "ext.example".to_owned(),
        1 => "made-up.example:80".to_owned(),
        2 => "x.wild.example".to_owned(),
        3 => format!("{name}.{namespace}.svc.cluster.local"),
        4 => format!("{}.{namespace}", chance.pick(&NAMES)),
        _ => name.to_owned(),
    };
    let mut request = json!({
        "id": "r", "method": chance.pick(&["GET", "GET", "POST"]), "authority": authority, "path": format!("{path}{query}"),
        "headers": {}, "protocol": "http1",
    });
    for _ in 0..chance.below(3) {
        request["headers"][chance.pick(&HEADERS)] = json!([chance.pick(&VALUES)]);
    }
    if chance.once_in(10) {
        request["gateway"] = json!({"namespace": own, "labels": {"istio": "in"}, "port": 80});
    } else {
        request["address"] = match chance.below(8) {
            0 => json!("203.0.113.9"),
            1 => json!("240.0.0.1"),
            _ => json!(cluster_ip(namespace, name)),
        };
        request["port"] = json!(chance.pick(&[80, 80, 80, 8080, 9000]));
        request["source"] = match chance.below(2) {
            0 => json!({"pod": format!("{own}/p{}", chance.below(6))}),
            _ => json!({"namespace": own, "labels": {"app": chance.pick(&NAMES)}}),
        };
    }
    serde_json::from_value(request).expect("a request that explain takes")
}
