use super::*;

#[test]
fn wildcards_match_below_their_domain_only() {
    for (pattern, name, want) in [
        ("*.foo.com", "x.foo.com", true),
        ("*.foo.com", "x.y.foo.com", true),
        ("*.foo.com", "X.FOO.com", true),
        ("*.foo.com", "foo.com", false),
        ("*.foo.com", ".foo.com", false),
        ("*.foo.com", "xfoo.com", false),
        ("*", "anything", true),
        ("foo.com", "FOO.com", true),
        ("foo.com.", "foo.com", true),
        ("foo.com", "x.foo.com", false),
        ("x*.foo.com", "xy.foo.com", false),
    ] {
        assert_eq!(HostKey::parse(pattern).matches(name), want, "{pattern} {name}");
    }
}

#[test]
fn specific_hosts_come_first() {
    let mut keys: Vec<_> = ["*", "*.com", "b.a.com", "*.a.com", "*.b.a.com", "a"].map(HostKey::parse).into();
    keys.sort();
    let names: Vec<_> = keys.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["a", "b.a.com", "*.b.a.com", "*.a.com", "*.com", "*"]);
}

#[test]
fn an_intersection_is_the_smaller_side() {
    for (a, b, want) in [
        ("*.example.com", "a.example.com", Some("a.example.com")),
        ("a.example.com", "*.example.com", Some("a.example.com")),
        ("*", "*.example.com", Some("*.example.com")),
        ("*.a.example.com", "*.example.com", Some("*.a.example.com")),
        ("a.example.com", "b.example.com", None),
        ("*.example.com", "example.com", None),
        ("*.example.com", "*.example.org", None),
    ] {
        let (a, b) = (HostKey::parse(a), HostKey::parse(b));
        assert_eq!(a.intersection(&b).map(ToString::to_string).as_deref(), want, "{a} {b}");
    }
}

#[test]
fn only_names_without_a_dot_are_completed() {
    for (host, want) in [
        ("reviews", "reviews.ns.svc.cluster.local"),
        ("reviews.prod", "reviews.prod"),
        ("*", "*"),
        ("*.x", "*.x"),
        ("10.0.0.1", "10.0.0.1"),
        ("::1", "::1"),
        ("", ""),
    ] {
        assert_eq!(complete(host, "ns", "cluster.local"), want);
    }
}

#[test]
fn ports_fall_off_and_addresses_stay() {
    for (authority, want) in [
        ("reviews", "reviews"),
        ("reviews:9080", "reviews"),
        ("reviews:", "reviews"),
        ("reviews:http", "reviews:http"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("[::1", "[::1"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("", ""),
    ] {
        assert_eq!(without_port(authority), want, "{authority}");
    }
}

#[test]
fn ranges_contain_their_addresses_only() {
    for (range, address, want) in [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("0.0.0.0/0", "1.2.3.4", true),
        ("::/0", "::1", true),
        ("::/0", "1.2.3.4", false),
        ("10.0.0.1", "10.0.0.1", true),
        ("10.0.0.1", "10.0.0.2", false),
        ("fd00::/8", "fd12::1", true),
    ] {
        let range: Cidr = range.parse().expect("a range");
        assert_eq!(range.contains(address.parse().expect("an address")), want);
    }
    for bad in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "x", "10.0.0.0/-1"] {
        assert_eq!(bad.parse::<Cidr>(), Err(ParseCidrError), "{bad}");
    }
}
