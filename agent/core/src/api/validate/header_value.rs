//! Whether a header value is a format string as Istio's admission reads it (`validateHeaderValue`, after Envoy's header parser):
//! text, `%%`, `%NAME%`, `%NAME(text)%` and `%NAME(["a", "b"])%`.
//!
//! Only the form is looked at. A name that nobody knows is let in, and `compile` refuses the one route that uses it.

/// Where the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Text,
    Name,
    /// Behind `(`.
    Arguments,
    /// Before the quote of an item.
    Item,
    /// In an item, or in an argument without quotes.
    Inside,
    /// Behind an item.
    AfterItem,
    /// Behind `]`.
    AfterList,
    /// Behind `)`.
    End,
}

/// What is wrong with the form of a value; `None`: nothing.
pub(super) fn error(value: &str) -> Option<&'static str> {
    let mut at = At::Text;
    let mut bytes = value.bytes().peekable();
    while let Some(byte) = bytes.next() {
        let is_space = byte == b' ';
        at = match (at, byte) {
            (At::Text, b'%') => match bytes.peek() {
                None => return Some("Un-escaped %"),
                Some(b'%') => {
                    bytes.next();
                    At::Text
                }
                Some(_) => At::Name,
            },
            (At::Name | At::End, b'%') => At::Text,
            (At::Name, b'(') => At::Arguments,
            (At::Arguments, b'[') => At::Item,
            (At::Arguments, _) if !is_space => At::Inside,
            (At::Item, b'"') => At::Inside,
            (At::Item, _) if !is_space => return Some("Expecting '\"'"),
            (At::Inside, b'\\') => {
                if bytes.next().is_none() {
                    return Some("Un-terminated backslash in JSON string");
                }
                At::Inside
            }
            (At::Inside | At::AfterList, b')') => At::End,
            (At::Inside, b'"') => At::AfterItem,
            (At::AfterItem, b',') => At::Item,
            (At::AfterItem, b']') => At::AfterList,
            (At::AfterItem, _) if !is_space => return Some("Expecting ',', ']', or whitespace"),
            (At::AfterList, _) if !is_space => return Some("Expecting ')' or whitespace"),
            (At::End, _) if !is_space => return Some("Expecting '%' or whitespace"),
            (at, _) => at,
        };
    }
    (at != At::Text).then_some("Un-terminated variable expression")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for value in [
            "",
            "plain",
            "100%%",
            "%HOSTNAME%",
            "a %REQ(x-id?y)% b",
            "%A([\"b\", \"c\"])%",
            "%A( [ \"b\" ] ) %",
            "%REQ(a\\)b)%",
            "%REQ(a%b)%",
        ] {
            assert_eq!(error(value), None, "{value}");
        }
        for value in [
            "5%",
            "%a",
            "abc%123",
            "%START_TIME%%",
            "%A(b",
            "%A(b)",
            "%A(b)x%",
            // Envoy would take it; Istio's admission does not.
            "%REQ(x-id):8%",
            "%A([b])%",
            "%A([\"b\";])%",
            "%A([\"b\"]x)%",
            "%A(\\",
        ] {
            assert!(error(value).is_some(), "{value}");
        }
    }
}
