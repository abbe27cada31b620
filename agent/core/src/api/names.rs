//! What Kubernetes and DNS allow as names.

/// RFC 1123 label: lower-case letters, digits and `-`, at most 63, no `-` at the ends.
pub fn is_dns_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    is_label(text, plain)
}

/// As [`is_dns_label`], in any case: Istio's test for host names.
pub fn is_host_label(text: &str) -> bool {
    is_label(text, |byte| byte.is_ascii_alphanumeric())
}

fn is_label(text: &str, plain: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(|&byte| plain(byte))
        && bytes.last().is_some_and(|&byte| plain(byte))
        && bytes.iter().all(|&byte| plain(byte) || byte == b'-')
}

/// RFC 1123 subdomain, the form of most Kubernetes names: labels joined by dots, at most 253.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// A Kubernetes label value: empty, or letters, digits, `-`, `_`, `.`, at most 63, alphanumeric at the ends.
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_label_part(text)
}

/// A Kubernetes label key: `[prefix/]name`.
pub fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_label_part(name),
        None => is_label_part(text),
    }
}

fn is_label_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, label, subdomain, value, key) in [
            ("a", true, true, true, true),
            ("a-1", true, true, true, true),
            ("a.b", false, true, true, true),
            ("A", false, false, true, true),
            ("a_b", false, false, true, true),
            ("-a", false, false, false, false),
            ("a-", false, false, false, false),
            ("", false, false, true, false),
            ("a..b", false, false, true, true),
            ("x.io/a", false, false, false, true),
            ("x.io/", false, false, false, false),
            ("X/a", false, false, false, false),
        ] {
            assert_eq!(is_dns_label(text), label, "label {text}");
            assert_eq!(is_dns_subdomain(text), subdomain, "subdomain {text}");
            assert_eq!(is_label_value(text), value, "value {text}");
            assert_eq!(is_label_key(text), key, "key {text}");
        }
        assert!(is_dns_label(&"a".repeat(63)) && !is_dns_label(&"a".repeat(64)));
    }
}
