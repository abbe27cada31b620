use super::*;
use crate::route::fixture::Head;

fn holds(condition: &Condition, head: &Head) -> bool {
    RouteMatch { conditions: vec![condition.clone()] }.first_unmet(head, |_, _| {}).is_none()
}

fn exact(text: &str) -> StringCondition {
    StringCondition::Exact(text.into())
}

fn regex(text: &str) -> StringCondition {
    StringCondition::regex(text).expect("valid")
}

fn header(name: &str, test: StringCondition) -> Condition {
    Condition { subject: Subject::Header(name.into()), test, negated: false }
}

fn without(name: &str, test: StringCondition) -> Condition {
    Condition { negated: true, ..header(name, test) }
}

#[test]
fn paths_match_without_their_query() {
    let uri = |test| Condition { subject: Subject::Path, test, negated: false };
    for (test, target, want) in [
        (exact("/items"), "/items?page=2", true),
        (exact("/items"), "/items/", false),
        (exact("/items"), "/Items", false),
        (StringCondition::ExactIgnoreCase("/items".into()), "/ITEMS", true),
        (StringCondition::Prefix("/foo".into()), "/foobar", true),
        (StringCondition::Prefix("/foo".into()), "/fo", false),
        (StringCondition::PrefixIgnoreCase("/Foo".into()), "/fOObar", true),
        (regex("/a/[0-9]+"), "/a/12?x", true),
        (regex("/a/[0-9]+"), "/a/12/b", false),
    ] {
        assert_eq!(holds(&uri(test.clone()), &Head::get(target)), want, "{test} {target}");
    }
}

#[test]
fn the_authority_is_compared_raw_and_pseudo_headers_work() {
    let head = Head { authority: "a:80".into(), ..Head::get("/p?q") };
    let of = |subject, text| Condition { subject, test: exact(text), negated: false };
    for (condition, want) in [
        (of(Subject::Authority, "a:80"), true),
        (of(Subject::Authority, "a"), false),
        (of(Subject::Target, "/p?q"), true),
        (of(Subject::Method, "GET"), true),
        (of(Subject::Method, "get"), false),
        (of(Subject::Scheme, "http"), true),
    ] {
        assert_eq!(holds(&condition, &head), want, "{condition}");
    }
}

#[test]
fn several_lines_of_a_header_are_tried_one_by_one() {
    let head = Head::get("/").with("x-role", &["admin", "editor"]);
    assert!(holds(&header("x-role", exact("editor")), &head));
    assert!(!holds(&header("x-role", exact("admin,editor")), &head));
    assert!(!holds(&without("x-role", exact("editor")), &head));
    assert!(holds(&without("x-role", exact("other")), &head));
}

#[test]
fn headers_that_envoy_knows_are_joined() {
    let head =
        Head::get("/").with("x-forwarded-for", &["1.1.1.1", "2.2.2.2"]).with("cookie", &["a=1", "b=2"]);
    assert!(holds(&header("x-forwarded-for", exact("1.1.1.1,2.2.2.2")), &head));
    assert!(!holds(&header("x-forwarded-for", exact("1.1.1.1")), &head));
    assert!(holds(&header("cookie", exact("b=2")), &head));
    let head = Head { version: HttpVersion::Http2, ..head };
    assert!(holds(&header("cookie", exact("a=1; b=2")), &head));
    assert!(!holds(&header("cookie", exact("b=2")), &head));
}

#[test]
fn a_missing_header_never_matches_and_counts_as_empty_when_negated() {
    let head = Head::get("/");
    for test in [StringCondition::Present, exact(""), regex(".*")] {
        assert!(!holds(&header("x", test), &head));
    }
    for (test, want) in [
        (exact("x"), true),
        (exact(""), false),
        (StringCondition::Prefix("x".into()), true),
        (regex(".*"), false),
        (StringCondition::Present, true),
    ] {
        assert_eq!(holds(&without("x", test.clone()), &head), want, "{test}");
    }
    assert!(holds(&header("x", StringCondition::Present), &Head::get("/").with("x", &[""])));
    assert!(!holds(&without("x", StringCondition::Present), &Head::get("/").with("x", &[""])));
}

#[test]
fn query_parameters_are_raw_and_the_first_counts() {
    let query = |test| Condition { subject: Subject::Query("k".into()), test, negated: false };
    for (test, target, want) in [
        (exact("v"), "/?k=v", true),
        (exact("v"), "/?k=w&k=v", false),
        (exact("v"), "/?K=v", false),
        (exact("a b"), "/?k=a%20b", false),
        (exact("a+b"), "/?k=a+b", true),
        (exact(""), "/?k", true),
        (exact(""), "/?k=", true),
        (StringCondition::Present, "/?a=1&k", true),
        (StringCondition::Present, "/k=1", false),
    ] {
        assert_eq!(holds(&query(test.clone()), &Head::get(target)), want, "{test} {target}");
    }
}

#[test]
fn claims_and_broken_conditions_never_hold() {
    let claim = Condition {
        subject: Subject::Claim("@request.auth.claims.sub".into()),
        test: exact("x"),
        negated: false,
    };
    let spoofed = Head::get("/").with("@request.auth.claims.sub", &["x"]);
    assert!(!holds(&claim, &spoofed));
    for negated in [false, true] {
        let broken =
            Condition { subject: Subject::Broken("uri".into()), test: StringCondition::Present, negated };
        assert!(!holds(&broken, &Head::get("/")));
    }
}

#[test]
fn the_unmet_condition_is_told_with_the_value_it_met() {
    let conditions = vec![header("a", exact("1")), header("b", exact("2"))];
    let head = Head::get("/").with("a", &["1"]).with("b", &["3"]);
    let mut told = Vec::new();
    let unmet = RouteMatch { conditions };
    unmet
        .first_unmet(&head, |condition, value| told.push((condition.to_string(), value.map(<[u8]>::to_vec))));
    assert_eq!(told, [("header b exact \"2\"".to_owned(), Some(b"3".to_vec()))]);
}
