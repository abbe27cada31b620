use super::*;

struct Head(&'static [(&'static str, &'static str)]);

impl Message for Head {
    fn first(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_bytes())
    }
    fn protocol(&self) -> &'static str {
        "HTTP/1.1"
    }
    fn response_code(&self) -> Option<u16> {
        Some(418)
    }
}

fn write(format: &FormatString, head: &Head, edits: &Edits) -> String {
    let facts = Facts {
        downstream_remote: Some(([10, 0, 0, 1], 1234).into()),
        downstream_local: Some(([10, 96, 0, 1], 80).into()),
        start: Some(Duration::from_millis(1_769_860_800_042)),
        hostname: "node-1",
    };
    let mut out = Vec::new();
    format.write(head, edits, &Context { facts: &facts, route_name: "r" }, &mut out);
    String::from_utf8(out).expect("text")
}

#[test]
fn operators_expand_and_double_percent_is_one() {
    let head = Head(&[("x-a", "abcdef"), (":path", "/p?q"), (":authority", "h")]);
    for (text, want) in [
        ("plain", "plain"),
        ("", ""),
        ("100%%", "100%"),
        ("%REQ(X-A)%", "abcdef"),
        ("%REQ(x-a):3%", "abc"),
        ("<%REQ(x-b?x-a)%>", "<abcdef>"),
        ("<%REQ(x-b)%>", "<>"),
        ("%REQ(:path)% %REQ(:authority)%", "/p?q h"),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", "10.0.0.1:1234"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.1"),
        ("%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_PORT%", "10.96.0.1:80 80"),
        ("%PROTOCOL% %HOSTNAME% %ROUTE_NAME%", "HTTP/1.1 node-1 r"),
        ("%START_TIME%", "2026-01-31T12:00:00.042Z"),
    ] {
        let format = FormatString::request(text).expect(text);
        assert_eq!(write(&format, &head, &Edits::default()), want, "{text}");
    }
    assert_eq!(
        write(
            &FormatString::response("%RESPONSE_CODE%%RESP(x-a)%").expect("valid"),
            &head,
            &Edits::default()
        ),
        "418abcdef"
    );
}

#[test]
fn headers_are_seen_as_earlier_operations_left_them() {
    let head = Head(&[("x-a", "client")]);
    let format = FormatString::request("%REQ(x-a)%").expect("valid");
    let mut edits = Edits::default();
    edits.add("x-a", b"added");
    assert_eq!(write(&format, &head, &edits), "client");
    edits.set("x-a", b"set");
    assert_eq!(write(&format, &head, &edits), "set");
    edits.remove("x-a");
    assert_eq!(write(&format, &head, &edits), "");
}

#[test]
fn what_envoy_would_refuse_is_an_error() {
    for text in ["%", "a%b", "%REQ(x", "%REQ(x)", "%%%"] {
        assert_eq!(FormatString::request(text), Err(FormatError::Unbalanced), "{text}");
    }
    for text in [
        "%NOPE%",
        "%REQ%",
        "%REQ()%",
        "%REQ(x):y%",
        "%REQ(x)z%",
        "%PROTOCOL(x)%",
        "%RESP(x)%",
        "%RESPONSE_CODE%",
    ] {
        assert!(matches!(FormatString::request(text), Err(FormatError::Unsupported(_))), "{text}");
    }
    assert!(matches!(FormatString::response("%REQ(x)%"), Err(FormatError::Unsupported(_))));
}
