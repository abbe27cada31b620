//! Compares one message: what an upstream saw of a request, or what a client got as a response.

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde_json::Value;

use crate::case::{ResponseExpect, SetCookie, UpstreamExpect, lines};
use crate::client::{Outcome, joined};
use crate::upstream::Seen;

/// The reason why something does not hold.
pub(crate) type Checked = Result<(), String>;

/// What an upstream saw.
pub(crate) fn upstream(seen: &Seen, want: &UpstreamExpect) -> Checked {
    let pairs = [
        ("path", &seen.path, &want.path),
        ("authority", &seen.authority, &want.authority),
        ("method", &seen.method, &want.method),
        ("protocol", &seen.protocol, &want.protocol),
    ];
    for (name, have, want) in pairs {
        if let Some(want) = want {
            same(&format!("the upstream's {name}"), have, want)?;
        }
    }
    headers(
        "the upstream's header",
        &seen.headers,
        &want.headers,
        &want.headers_present,
        &want.headers_absent,
    )?;
    for (name, part) in &want.header_contains {
        let value = joined(&seen.headers, name);
        if !value.as_ref().is_some_and(|it| it.contains(part)) {
            return Err(format!("the upstream's header {name} is {value:?}, want {part:?} in it"));
        }
    }
    if let Some(want) = want.local_port {
        same("the upstream's port", seen.local.port(), want)?;
    }
    let tls = seen.facts.tls.as_ref();
    if let Some(want) = want.tls {
        same("TLS at the upstream", tls.is_some(), want)?;
    }
    if let Some(want) = &want.sni {
        same("SNI at the upstream", tls.and_then(|it| it.sni.as_ref()), Some(want))?;
    }
    if let Some(want) = &want.alpn {
        same("ALPN at the upstream", tls.and_then(|it| it.alpn.as_ref()), Some(want))?;
    }
    if let Some(want) = want.proxy_protocol {
        same("version of the PROXY protocol", seen.facts.proxy_protocol, Some(want))?;
    }
    Ok(())
}

/// What a client got.
pub(crate) fn response(outcome: &Outcome, want: &ResponseExpect) -> Checked {
    let have = &outcome.headers;
    headers("response header", have, &want.headers, &want.headers_present, &want.headers_absent)?;
    if let Some(want) = &want.body {
        same("body", &outcome.body, want)?;
    }
    want.set_cookie.as_ref().map_or(Ok(()), |want| set_cookie(outcome, want))
}

fn set_cookie(outcome: &Outcome, want: &SetCookie) -> Checked {
    let cookies: Vec<_> =
        outcome.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, it)| it).collect();
    let named = cookies.iter().find(|it| it.split('=').next() == Some(&want.name));
    let cookie = named.ok_or_else(|| format!("cookies are {cookies:?}, want {}", want.name))?;
    let attributes: Vec<(String, &str)> = cookie
        .split(';')
        .skip(1)
        .map(|it| it.trim().split_once('=').unwrap_or((it.trim(), "")))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    let attribute = |name: &str| attributes.iter().find(|(it, _)| it == name).map(|(_, value)| *value);
    if let Some(want) = &want.max_age {
        let want = want.as_ref().map(|it| it.as_str().map_or_else(|| it.to_string(), str::to_owned));
        same("max-age", attribute("max-age").map(str::to_owned), want)?;
    }
    if let Some(want) = &want.path {
        same("path of the cookie", attribute("path"), Some(want.as_str()))?;
    }
    for want in &want.attributes {
        let name = want.split('=').next().unwrap_or_default().to_ascii_lowercase();
        if attribute(&name).is_none() {
            return Err(format!("the cookie is {cookie}, want {want}"));
        }
    }
    Ok(())
}

fn headers(
    what: &str,
    have: &[(String, String)],
    want: &BTreeMap<String, Value>,
    present: &[String],
    absent: &[String],
) -> Checked {
    let split = |text: &str| -> Vec<String> { text.split(',').map(|it| it.trim().to_owned()).collect() };
    for (name, want) in want {
        let value = joined(have, name);
        same(&format!("{what} {name}"), value.as_deref().map(split), Some(split(&lines(want).join(","))))?;
    }
    for name in present {
        if joined(have, name).is_none() {
            return Err(format!("{what} {name} is absent, want it present"));
        }
    }
    for name in absent {
        same(&format!("{what} {name}"), joined(have, name), None)?;
    }
    Ok(())
}

/// Whether `what` is as wanted.
#[expect(clippy::needless_pass_by_value, reason = "calls read better with values")]
pub(crate) fn same<T: PartialEq + Debug>(what: &str, have: T, want: T) -> Checked {
    if have == want { Ok(()) } else { Err(format!("{what} is {have:?}, want {want:?}")) }
}
