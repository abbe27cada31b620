//! Header operations: names in lower case, values parsed, Host told apart.

use std::collections::BTreeMap;

use crate::api::http_route::{HeaderOperations, Headers};
use crate::api::origin::push_key;
use crate::route::{FormatError, FormatString, HeaderEdits, HeaderOps};

/// A value that cannot be used: its field below `headers`, and why.
pub(super) type Broken = (String, FormatError);

pub(super) fn compile(headers: Option<&Headers>, broken: &mut Vec<Broken>) -> HeaderEdits {
    let Some(headers) = headers else { return HeaderEdits::default() };
    HeaderEdits {
        request: operations(headers.request.as_ref(), "request", FormatString::request, broken),
        response: operations(headers.response.as_ref(), "response", FormatString::response, broken),
    }
}

type Parse = fn(&str) -> Result<FormatString, FormatError>;

fn operations(
    written: Option<&HeaderOperations>,
    direction: &str,
    parse: Parse,
    broken: &mut Vec<Broken>,
) -> HeaderOps {
    let Some(written) = written else { return HeaderOps::default() };
    let mut values = |operation: &str, map: &BTreeMap<String, String>| {
        let mut values = Vec::new();
        for (name, value) in map.iter().filter(|(name, _)| !is_special(name)) {
            match parse(value) {
                Ok(value) => values.push((name.to_ascii_lowercase().into(), value)),
                Err(error) => {
                    let mut field = format!("{direction}.{operation}");
                    push_key(&mut field, name);
                    broken.push((field, error));
                }
            }
        }
        values
    };
    let authority = [&written.set, &written.add]
        .into_iter()
        .find_map(|map| map.iter().find(|(name, _)| is_authority(name)))
        .filter(|_| direction == "request");
    HeaderOps {
        set: values("set", &written.set),
        add: values("add", &written.add),
        // Host and pseudo headers cannot be removed; Istio drops such entries.
        remove: written
            .remove
            .iter()
            .filter(|name| !is_special(name))
            .map(|it| it.to_ascii_lowercase().into())
            .collect(),
        authority: authority.map(|(_, value)| value.as_str().into()),
    }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

fn is_special(name: &str) -> bool {
    name.starts_with(':') || is_authority(name)
}
