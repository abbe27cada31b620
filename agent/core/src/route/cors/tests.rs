use super::super::decide;
use super::*;
use crate::balance::tests::Random;
use crate::compile::fixture::{REGISTRY, compiled, virtual_service};
use crate::diagnostic::Code;
use crate::route::fixture::Head;
use crate::snapshot::Outbound;

fn outbound(rule: &str) -> std::sync::Arc<Outbound> {
    let rules = virtual_service("v", &format!("{{hosts: [catalog], http: [{{{rule}}}]}}"));
    let client = crate::client::Client::mesh("shop", []);
    compiled(&[REGISTRY, &rules]).snapshot.outbound(&client, ([10, 96, 0, 1], 8080).into())
}

const FORWARD: &str = "route: [{destination: {host: catalog}}]";
const POLICY: &str = "corsPolicy: {allowOrigins: [{exact: 'http://ui.example'}, {prefix: 'http://dev-'}, {regex: 'https://[a-z]+[.]example'}], \
    allowMethods: [GET, PUT], allowHeaders: [X-A, X-B], exposeHeaders: [x-total, x-page], maxAge: 2h, allowCredentials: true}";

fn from(origin: &str) -> Head {
    Head::get("/").with("origin", &[origin])
}

fn preflight(origin: &str) -> Head {
    let asked = from(origin).with("access-control-request-method", &["DELETE"]);
    let asked = asked.with("access-control-request-headers", &["x-z"]);
    Head { method: "OPTIONS".into(), ..asked }
}

/// What happens to the request, and the lines its response gets.
fn asked(rule: &str, head: &Head) -> (Outcome, Vec<String>) {
    let outbound = outbound(rule);
    let decision = decide(&outbound.http, head, &mut Random(3), &mut ());
    let mut edits = Edits::default();
    cors_edits(&outbound.http, &decision, head, &mut edits);
    let line = |(name, value): (&str, &[u8])| {
        format!("{}: {}", name.trim_start_matches("access-control-"), String::from_utf8_lossy(value))
    };
    (decision.outcome, edits.lines().map(line).collect())
}

#[test]
fn a_preflight_of_an_allowed_origin_is_answered_with_the_lists_as_configured() {
    let (outcome, lines) = asked(&format!("{POLICY}, {FORWARD}"), &preflight("http://ui.example"));
    assert_eq!(outcome, Outcome::Preflight);
    assert_eq!(
        lines,
        [
            "allow-origin: http://ui.example",
            "expose-headers: x-total,x-page",
            "allow-credentials: true",
            "allow-methods: GET,PUT",
            "allow-headers: X-A,X-B",
            "max-age: 7200",
        ]
    );
}

#[test]
fn what_the_policy_leaves_open_is_not_said() {
    let rule = format!("corsPolicy: {{allowOrigins: [{{exact: a}}]}}, {FORWARD}");
    assert_eq!(asked(&rule, &preflight("a")), (Outcome::Preflight, vec!["allow-origin: a".to_owned()]));
}

#[test]
fn actual_requests_are_forwarded_whatever_their_origin_and_an_allowed_one_is_said() {
    let allowed = |origin: &str| {
        let (outcome, lines) = asked(&format!("{POLICY}, {FORWARD}"), &from(origin));
        assert_eq!(outcome, Outcome::Forward { destination: 0 }, "{origin}");
        assert!(lines.is_empty() || lines.len() == 3, "{lines:?}");
        lines.first().is_some_and(|line| *line == format!("allow-origin: {origin}"))
    };
    for origin in ["http://ui.example", "http://dev-7.local", "https://a.example"] {
        assert!(allowed(origin), "{origin}");
    }
    for origin in ["ftp://ui.example", "http://ui.example.evil", "https://a1.example", "xhttp://dev-", ""] {
        assert!(!allowed(origin), "{origin}");
    }
}

#[test]
fn requests_without_an_origin_or_with_two_are_none_of_it() {
    let rule = format!("{POLICY}, {FORWARD}");
    for head in [Head::get("/"), from("http://ui.example").with("origin", &["http://ui.example"])] {
        assert_eq!(asked(&rule, &head), (Outcome::Forward { destination: 0 }, vec![]));
        let options =
            Head { method: "OPTIONS".into(), ..head }.with("access-control-request-method", &["GET"]);
        assert_eq!(asked(&rule, &options), (Outcome::Forward { destination: 0 }, vec![]));
    }
}

#[test]
fn options_alone_is_no_preflight() {
    let options = Head { method: "OPTIONS".into(), ..from("http://ui.example") };
    let (outcome, lines) = asked(&format!("{POLICY}, {FORWARD}"), &options);
    assert_eq!((outcome, lines.len()), (Outcome::Forward { destination: 0 }, 3));
}

#[test]
fn unmatched_preflights_go_to_the_application_unless_ignored() {
    let rule = |unmatched: &str| {
        format!("corsPolicy: {{allowOrigins: [{{exact: a}}], allowMethods: [GET]{unmatched}}}, {FORWARD}")
    };
    for forward in ["", ", unmatchedPreflights: FORWARD", ", unmatchedPreflights: UNSPECIFIED"] {
        assert_eq!(asked(&rule(forward), &preflight("b")), (Outcome::Forward { destination: 0 }, vec![]));
    }
    let (outcome, lines) = asked(&rule(", unmatchedPreflights: IGNORE"), &preflight("b"));
    assert_eq!(outcome, Outcome::Preflight);
    assert_eq!(lines, ["allow-methods: GET"], "no origin is allowed by it");
    let actual = asked(&rule(", unmatchedPreflights: IGNORE"), &from("b"));
    assert_eq!(actual, (Outcome::Forward { destination: 0 }, vec![]), "only preflights are");
}

#[test]
fn a_star_allows_every_origin_and_says_back_what_was_asked_for() {
    let rule = format!(
        "corsPolicy: {{allowOrigins: [{{exact: '*'}}], allowMethods: ['*'], allowHeaders: ['*']}}, {FORWARD}"
    );
    let (_, lines) = asked(&rule, &preflight("http://any"));
    assert_eq!(lines, ["allow-origin: http://any", "allow-methods: DELETE", "allow-headers: x-z"]);
}

#[test]
fn the_deprecated_list_counts_only_without_the_new_one() {
    let rule = |lists: &str| format!("corsPolicy: {{{lists}}}, {FORWARD}");
    assert_eq!(asked(&rule("allowOrigin: [old]"), &from("old")).1, ["allow-origin: old"]);
    let both = rule("allowOrigin: [old], allowOrigins: [{exact: new}]");
    assert_eq!(asked(&both, &from("new")).1, ["allow-origin: new"]);
    assert!(asked(&both, &from("old")).1.is_empty());
}

#[test]
fn redirects_direct_responses_and_aborts_say_nothing_of_origins() {
    for (action, outcome) in [
        ("redirect: {uri: /z}", Outcome::Redirect),
        ("directResponse: {status: 201}", Outcome::DirectResponse),
    ] {
        let rule = format!("{POLICY}, {action}");
        assert_eq!(asked(&rule, &preflight("http://ui.example")), (outcome, vec![]));
        let object = virtual_service("v", &format!("{{hosts: [catalog], http: [{{{rule}}}]}}"));
        let diagnostics = compiled(&[REGISTRY, &object]).diagnostics;
        assert!(diagnostics.iter().any(|it| it.code == Code::NoEffect), "{diagnostics:?}");
    }
    let aborts =
        format!("{POLICY}, fault: {{abort: {{httpStatus: 500, percentage: {{value: 100}}}}}}, {FORWARD}");
    let outbound = outbound(&aborts);
    let decision = decide(&outbound.http, &preflight("http://ui.example"), &mut Random(3), &mut ());
    assert!(decision.abort.is_some(), "the abort comes first");
}

#[test]
fn an_expression_that_cannot_be_used_allows_nothing_and_is_named() {
    let object = virtual_service(
        "v",
        &format!(
            "{{hosts: [catalog], http: [{{corsPolicy: {{allowOrigins: [{{regex: 'a(?=b)'}}]}}, {FORWARD}}}]}}"
        ),
    );
    let diagnostics = compiled(&[REGISTRY, &object]).diagnostics;
    let found = diagnostics.iter().find(|it| it.code == Code::InvalidRegex).expect("a diagnostic");
    assert_eq!(found.field, "spec.http[0].corsPolicy.allowOrigins[0].regex");
}
