//! Cases once more, in other forms that must not make a difference: with clients that speak HTTP/2 (everything above a codec
//! is written once; upstreams keep their version), and with addresses of IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

/// The case with every IPv4 address, network and source replaced by one of IPv6; `None` where there is nothing to replace.
pub(crate) fn over_ipv6(case: &Value) -> Option<Value> {
    let mut variant = translated(case);
    variant["name"] = case["name"].clone();
    let is_other = variant != *case;
    variant["name"] = format!("{} over IPv6", text(&case["name"])).into();
    is_other.then_some(variant)
}

fn translated(value: &Value) -> Value {
    match value {
        Value::String(it) => text_over_ipv6(it).unwrap_or_else(|| it.clone()).into(),
        Value::Array(items) => items.iter().map(translated).collect(),
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| {
                // What a client writes into Host stays as it is.
                let value = if key == "authority" { value.clone() } else { translated(value) };
                (text_over_ipv6(key).unwrap_or_else(|| key.clone()), value)
            };
            Value::Object(fields.iter().map(field).collect())
        }
        other => other.clone(),
    }
}

/// An address, `address/bits` or `address:port`.
fn text_over_ipv6(text: &str) -> Option<String> {
    let end = text.find(['/', ':']).unwrap_or(text.len());
    let (address, rest) = text.split_at(end);
    let address = address.parse::<Ipv4Addr>().ok().filter(|it| !it.is_loopback())?;
    let address = as_ipv6(address.into());
    Some(match rest.split_at_checked(1) {
        Some(("/", bits)) => format!("{address}/{}", bits.parse::<u8>().ok()? + 96),
        Some((_, port)) => format!("[{address}]:{port}"),
        None => address.to_string(),
    })
}

/// Beside all others: fd00::a.b.c.d.
pub(crate) fn as_ipv6(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(it) => Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(u32::from(it))).into(),
        IpAddr::V6(_) => address,
    }
}
