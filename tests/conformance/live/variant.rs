//! Cases once more, with clients that speak HTTP/2: what is decided, changed and answered must not depend on the client's
//! version, since everything above a codec is written once. Upstreams keep theirs.

use serde_json::Value;

use crate::world::text;

/// The case with HTTP/2 clients; `None` where that means nothing: there are none that speak HTTP/1.1, or what they say has no
/// HTTP/2 form, or it reaches its upstream without a proxy between.
pub(crate) fn over_http2(case: &Value) -> Option<Value> {
    let mut variant = case.clone();
    let mut is_other = false;
    for request in variant["requests"].as_array_mut()?.iter_mut().filter(|it| it["protocol"] == "http1") {
        let is_upgrade = request["headers"].get("upgrade").is_some();
        let is_direct = request["source"]["mesh"] == false || request["connect"]["address"] == "127.0.0.1";
        if is_upgrade || is_direct {
            return None;
        }
        request["protocol"] = "http2".into();
        is_other = true;
    }
    variant["name"] = format!("{} over HTTP/2", text(&case["name"])).into();
    is_other.then_some(variant)
}
