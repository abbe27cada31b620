use super::*;
use crate::balance::tests::Random;
use crate::compile::fixture::{REGISTRY, SUBSETS, compiled, virtual_service};
use crate::edits::Edits;
use crate::route::fixture::Head;
use crate::route::{Facts, direct_response, redirect, request_edits, response_edits};
use crate::snapshot::Outbound;
use crate::view::ResponseView;

/// What a mesh client meets at catalog's address under these HTTP rules.
fn outbound(http: &str) -> std::sync::Arc<Outbound> {
    let rules = virtual_service("v", &format!("{{hosts: [catalog], http: {http}}}"));
    let client = crate::client::Client::mesh("shop", []);
    compiled(&[REGISTRY, SUBSETS, &rules]).snapshot.outbound(&client, ([10, 96, 0, 1], 8080).into())
}

fn decided(outbound: &Outbound, head: &Head) -> Decision {
    decide(&outbound.http, head, &mut Random(3), &mut ())
}

struct NoResponse;

impl ResponseView for NoResponse {
    fn status(&self) -> u16 {
        200
    }
    fn header_lines<'a>(&'a self, _: &str) -> impl Iterator<Item = &'a [u8]> {
        std::iter::empty()
    }
}

#[test]
fn the_first_route_that_matches_decides() {
    let outbound = outbound(
        "[{match: [{uri: {prefix: /a}}], directResponse: {status: 201}}, {match: [{uri: {exact: /a/b}}], directResponse: {status: 202}}, {match: [{uri: {exact: /c}}, {method: {exact: PUT}}], directResponse: {status: 203}}]",
    );
    let status =
        |head: &Head| direct_response(&outbound.http, &decided(&outbound, head)).map(|(status, _)| status);
    assert_eq!(status(&Head::get("/a/b")), Some(201));
    assert_eq!(status(&Head::get("/c")), Some(203));
    assert_eq!(status(&Head { method: "PUT".into(), ..Head::get("/z") }), Some(203));
    assert_eq!(decided(&outbound, &Head::get("/z")).outcome, Outcome::NoRoute);
}

#[test]
fn the_entry_that_matched_is_named() {
    let outbound = outbound(
        "[{name: r, match: [{uri: {exact: /a}}, {name: m, uri: {exact: /b}}], route: [{destination: {host: catalog}}]}]",
    );
    let decision = decided(&outbound, &Head::get("/b"));
    let rule = decision.route.and_then(|index| outbound.http.route(index)?.rule.clone()).expect("a rule");
    assert_eq!(rule.to_string(), "VirtualService/shop/v#0");
    assert_eq!(
        (rule.match_index, &*rule.route_name, rule.file.as_deref()),
        (Some(1), "r.m", Some("test.yaml"))
    );
}

#[test]
fn weights_are_shares_of_their_sum() {
    let outbound = outbound(
        "[{route: [{destination: {host: catalog, subset: v1}, weight: 30}, {destination: {host: catalog, subset: v2}}, {destination: {host: pay, port: {number: 80}}, weight: 10}]}]",
    );
    let (mut counts, mut rng) = ([0; 3], Random(5));
    for _ in 0..8000 {
        let Outcome::Forward { destination } =
            decide(&outbound.http, &Head::get("/"), &mut rng, &mut ()).outcome
        else {
            panic!("not forwarded")
        };
        counts[usize::from(destination)] += 1;
    }
    assert!((5850..6150).contains(&counts[0]) && counts[1] == 0, "{counts:?}");
}

#[test]
fn a_single_destination_takes_all_whatever_its_weight() {
    let outbound = outbound("[{route: [{destination: {host: catalog}, weight: 0}]}]");
    assert_eq!(decided(&outbound, &Head::get("/")).outcome, Outcome::Forward { destination: 0 });
}

#[test]
fn faults_are_drawn_one_by_one_and_absent_means_never() {
    let outbound = outbound(
        "[{fault: {delay: {fixedDelay: 2s, percentage: {value: 25}}, abort: {httpStatus: 418, percentage: {value: 50}}}, route: [{destination: {host: catalog}}]}]",
    );
    let (mut delays, mut aborts, mut both, mut rng) = (0, 0, 0, Random(9));
    for _ in 0..8000 {
        let decision = decide(&outbound.http, &Head::get("/"), &mut rng, &mut ());
        assert!(decision.delay.is_none_or(|delay| delay == Duration::from_secs(2)));
        delays += u32::from(decision.delay.is_some());
        aborts += u32::from(decision.abort == Some(Abort::Http(418)));
        both += u32::from(decision.delay.is_some() && decision.abort.is_some());
    }
    assert!((1850..2150).contains(&delays) && (3800..4200).contains(&aborts) && (880..1120).contains(&both));
    let never =
        self::outbound("[{fault: {delay: {fixedDelay: 2s}}, route: [{destination: {host: catalog}}]}]");
    assert_eq!(decided(&never, &Head::get("/")).delay, None);
}

#[test]
fn a_bad_redirect_code_breaks_its_own_route_only() {
    let outbound = outbound(
        "[{match: [{uri: {exact: /bad}}], redirect: {uri: /x, redirectCode: 304}}, {redirect: {uri: /y}}]",
    );
    assert_eq!(decided(&outbound, &Head::get("/bad")).outcome, Outcome::Reject { status: 500 });
    assert_eq!(decided(&outbound, &Head::get("/good")).outcome, Outcome::Redirect);
}

#[test]
fn redirects_write_what_the_rule_replaces() {
    for (rule, authority, want) in [
        ("{uri: /x}", "catalog", "http://catalog/x?q=1"),
        ("{uri: '/x?y=2'}", "catalog", "http://catalog/x?y=2"),
        ("{authority: h.example}", "catalog:8080", "http://h.example/a/b?q=1"),
        ("{scheme: https}", "catalog", "https://catalog/a/b?q=1"),
        ("{scheme: https}", "catalog:8080", "https://catalog:8080/a/b?q=1"),
        ("{scheme: https}", "catalog:80", "https://catalog/a/b?q=1"),
        ("{scheme: https, port: 443}", "catalog", "https://catalog/a/b?q=1"),
        ("{port: 80, uri: /}", "catalog", "http://catalog/?q=1"),
        ("{port: 81, uri: /}", "catalog:8080", "http://catalog:81/?q=1"),
        ("{derivePort: FROM_REQUEST_PORT, scheme: https}", "catalog", "https://catalog:8080/a/b?q=1"),
        ("{port: 81, uri: /}", "[::1]:8080", "http://[::1]:81/?q=1"),
        ("{port: 81, uri: /}", "[::1]", "http://[::1]:81/?q=1"),
    ] {
        let outbound = outbound(&format!("[{{redirect: {rule}}}]"));
        let head = Head::get("/a/b?q=1").to(authority);
        let mut location = Vec::new();
        let code = redirect(&outbound.http, &decided(&outbound, &head), &head, &mut location);
        assert_eq!(
            (code, String::from_utf8_lossy(&location).as_ref()),
            (Some(301), want),
            "{rule} {authority}"
        );
    }
}

/// Authority, target and lines sent on; names left out.
type Sent = (Option<String>, Option<String>, Vec<String>, Vec<String>);

fn sent(http: &str, head: &Head) -> Sent {
    let outbound = outbound(http);
    let mut edits = Edits::default();
    request_edits(&outbound.http, &decided(&outbound, head), head, &Facts::default(), &mut edits);
    let lines =
        edits.lines().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))).collect();
    let dropped = edits.dropped().map(str::to_owned).collect();
    (edits.authority().map(str::to_owned), edits.target().map(str::to_owned), lines, dropped)
}

const ONE: &str = "route: [{destination: {host: catalog}, headers: {request: LEG}}]";
const TWO: &str = "route: [{destination: {host: catalog}, weight: 1, headers: {request: LEG}}, {destination: {host: catalog}, weight: 0}]";

fn rule(route: &str, own: &str, leg: &str) -> String {
    format!("[{{headers: {{request: {own}}}, {}}}]", route.replace("LEG", leg))
}

#[test]
fn header_operations_act_in_istios_order() {
    let head = Head::get("/").with("x-a", &["client"]);
    let lines = |route, own, leg| sent(&rule(route, own, leg), &head).2;
    // One destination: the rule first, so the destination's value stays.
    assert_eq!(lines(ONE, "{set: {x-a: rule}}", "{set: {x-a: leg}}"), ["x-a: leg"]);
    assert_eq!(lines(ONE, "{remove: [x-a]}", "{set: {x-a: leg}}"), ["x-a: leg"]);
    // Several: the destination first, so the rule's stays, and its removal takes the destination's away.
    assert_eq!(lines(TWO, "{set: {x-a: rule}}", "{set: {x-a: leg}}"), ["x-a: rule"]);
    assert_eq!(lines(TWO, "{remove: [x-a]}", "{set: {x-a: leg}}"), Vec::<String>::new());
    assert_eq!(lines(TWO, "{add: {x-b: rule}}", "{add: {x-b: leg}}"), ["x-b: leg", "x-b: rule"]);
    // Within a level: remove, then set and add.
    assert_eq!(lines(ONE, "{set: {x-a: rule}, remove: [x-a]}", "{}"), ["x-a: rule"]);
}

#[test]
fn the_rules_authority_beats_the_destinations_and_rewrite_beats_both() {
    let authority = |http: &str| sent(http, &Head::get("/")).0;
    for route in [ONE, TWO] {
        let both = rule(route, "{set: {':authority': rule.example}}", "{set: {Host: leg.example}}");
        assert_eq!(authority(&both).as_deref(), Some("rule.example"));
        assert_eq!(
            authority(&rule(route, "{}", "{set: {Host: leg.example}}")).as_deref(),
            Some("leg.example")
        );
    }
    let rewrite = "[{rewrite: {authority: new.example}, route: [{destination: {host: catalog}, headers: {request: {set: {Host: leg.example}}}}]}]";
    assert_eq!(authority(rewrite).as_deref(), Some("new.example"));
    let host_stays =
        "[{headers: {request: {remove: [host, ':path']}}, route: [{destination: {host: catalog}}]}]";
    if let Some(object) = crate::compile::fixture::objects(&virtual_service(
        "v",
        &format!("{{hosts: [catalog], http: {host_stays}}}"),
    ))
    .first()
    {
        assert_eq!(object.kind(), "VirtualService");
        assert_eq!(sent(host_stays, &Head::get("/")), (None, None, vec![], vec![]));
    }
}

#[test]
fn a_changed_path_takes_the_original_along() {
    let (_, target, lines, _) = sent(
        "[{match: [{uri: {prefix: /api/}}], rewrite: {uri: /}, route: [{destination: {host: catalog}}]}]",
        &Head::get("/api/x?q"),
    );
    assert_eq!(
        (target.as_deref(), lines),
        (Some("/x?q"), vec!["x-envoy-original-path: /api/x?q".to_owned()])
    );
    let (_, target, lines, _) = sent(
        "[{match: [{uri: {prefix: /api}}], rewrite: {uri: /api}, route: [{destination: {host: catalog}}]}]",
        &Head::get("/api/x"),
    );
    assert_eq!((target, lines), (None, vec![]));
}

#[test]
fn values_see_the_request_and_empty_ones_add_nothing() {
    let http = rule(ONE, "{set: {x-copy: '%REQ(x-a)%', x-none: '%REQ(x-b)%', x-path: '%REQ(:path)%'}}", "{}");
    let (_, _, lines, dropped) = sent(&http, &Head::get("/p").with("x-a", &["1", "2"]));
    assert_eq!(
        (lines, dropped),
        (
            vec!["x-copy: 1".to_owned(), "x-path: /p".to_owned()],
            vec!["x-copy".to_owned(), "x-path".to_owned()]
        )
    );
}

#[test]
fn an_unknown_operator_refuses_its_route_only() {
    let outbound = outbound(
        "[{match: [{uri: {exact: /bad}}], headers: {request: {set: {x: '%NOPE%'}}}, route: [{destination: {host: catalog}}]}, {route: [{destination: {host: catalog}}]}]",
    );
    assert_eq!(decided(&outbound, &Head::get("/bad")).outcome, Outcome::Reject { status: 500 });
    assert!(matches!(decided(&outbound, &Head::get("/")).outcome, Outcome::Forward { .. }));
}

#[test]
fn response_operations_apply_to_our_own_answers_too() {
    let outbound = outbound(
        "[{headers: {response: {set: {x-r: '1'}, remove: [server]}}, directResponse: {status: 201, body: {string: hi}}}]",
    );
    let decision = decided(&outbound, &Head::get("/"));
    assert_eq!(direct_response(&outbound.http, &decision), Some((201, &b"hi"[..])));
    let mut edits = Edits::default();
    response_edits(&outbound.http, &decision, None::<&NoResponse>, &Facts::default(), &mut edits);
    assert_eq!(edits.lines().collect::<Vec<_>>(), [("x-r", &b"1"[..])]);
    assert!(edits.drops(b"server"));
}

#[test]
fn hosts_are_found_exact_then_longest_suffix_then_any() {
    use crate::host::HostKey;
    use crate::route::{HttpTableBuilder, VirtualHost};
    let mut table = HttpTableBuilder::new(80, NoHost::NotFound);
    for host in ["*.com", "*.a.com", "x.a.com", "*"] {
        let virtual_host = VirtualHost { name: host.into(), routes: Vec::new(), https_redirect: false };
        table.push(virtual_host, [HostKey::parse(host)]);
    }
    let table = table.build();
    for (authority, want) in [
        ("x.a.com", "x.a.com"),
        ("X.A.com:8080", "x.a.com"),
        ("x.a.com.", "x.a.com"),
        ("y.a.com", "*.a.com"),
        ("a.com", "*.com"),
        ("com", "*"),
        ("", "*"),
    ] {
        let found = table.find(authority).ok().and_then(|index| table.host(index));
        assert_eq!(found.map(|host| &*host.name), Some(want), "{authority}");
    }
    let empty = HttpTable::empty(80, NoHost::Passthrough);
    assert_eq!(empty.find("x"), Err(NoHost::Passthrough));
    let long = "X".repeat(300);
    assert_eq!(empty.find(&long), Err(NoHost::Passthrough));
}

#[test]
fn each_mirror_is_drawn_by_its_own_share_and_only_for_what_is_forwarded() {
    let forward = "route: [{destination: {host: catalog}}]";
    let drawn = |rule: &str| {
        let outbound = outbound(&format!("[{{{rule}}}]"));
        let mut rng = Random(7);
        let mut counts = [0; 2];
        for _ in 0..1000 {
            let decision = decide(&outbound.http, &Head::get("/"), &mut rng, &mut ());
            for mirror in mirrors(&outbound.http, &decision, &mut rng) {
                counts[usize::from(mirror.cluster.key.port == 80)] += 1;
            }
        }
        counts
    };
    let mirrors = "mirrors: [{destination: {host: catalog}}, {destination: {host: pay, port: {number: 80}}, percentage: {value: 25}}]";
    let [all, quarter] = drawn(&format!("{mirrors}, {forward}"));
    assert_eq!(all, 1000, "without a percentage all are copied");
    assert!((180..320).contains(&quarter), "{quarter} of 1000");
    let aborted =
        format!("{mirrors}, fault: {{abort: {{httpStatus: 500, percentage: {{value: 100}}}}}}, {forward}");
    assert_eq!(drawn(&aborted), [0, 0]);
    assert_eq!(drawn(&format!("{mirrors}, redirect: {{uri: /z}}")), [0, 0]);
    let none =
        format!("mirror: {{host: catalog}}, mirrorPercent: 100, mirrorPercentage: {{value: 0}}, {forward}");
    assert_eq!(drawn(&none), [0, 0]);
}
