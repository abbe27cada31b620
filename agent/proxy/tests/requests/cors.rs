//! Cross-origin requests: answered, marked, or left alone.

use serde_json::{Value, json};

use crate::world::{Connection, Reply, Response, Upstream, World, service, virtual_service};

const UI: &str = "http://ui.example";

fn policy() -> Value {
    json!({
        "allowOrigins": [{"exact": UI}], "allowMethods": ["GET", "PUT"], "allowHeaders": ["X-A"],
        "exposeHeaders": ["x-total"], "maxAge": "2h", "allowCredentials": true,
    })
}

/// An application that has an opinion of its own about origins, and rules for some of its paths.
fn world() -> (World, Upstream) {
    let upstream = Upstream::start(|_, _| {
        Reply::Body(200, vec![("access-control-allow-origin", "*".to_owned())], "ok".to_owned())
    });
    let mut objects = service(1, "echo", "http", &[("v1", upstream.address)]);
    objects.extend(service(2, "empty", "http", &[]));
    let to = |host: &str| json!([{"destination": {"host": host, "port": {"number": 80}}}]);
    let at = |path: &str| json!([{"uri": {"exact": path}}]);
    let abort = json!({"abort": {"httpStatus": 500, "percentage": {"value": 100}}});
    let says = json!({"response": {"set": {"access-control-allow-origin": "rule", "x-rule": "1"}}});
    objects.push(virtual_service(
        "echo",
        json!([
            {"match": at("/abort"), "corsPolicy": policy(), "fault": abort, "route": to("echo")},
            {"match": at("/empty"), "corsPolicy": policy(), "route": to("empty")},
            {"match": at("/redirect"), "corsPolicy": policy(), "redirect": {"uri": "/z"}},
            {"match": at("/plain"), "route": to("echo")},
            {"corsPolicy": policy(), "headers": says, "route": to("echo")},
        ]),
    ));
    (World::new(objects), upstream)
}

fn preflight(connection: &mut Connection, path: &str, origin: &str) -> Response {
    connection.send(&format!(
        "OPTIONS {path} HTTP/1.1\r\nhost: echo\r\norigin: {origin}\r\naccess-control-request-method: PUT\r\n\r\n"
    ));
    connection.response().unwrap()
}

/// Its status, and whom it allows.
fn allowed(response: &Response) -> (u16, Option<String>) {
    (response.status, response.header("access-control-allow-origin"))
}

#[test]
fn a_preflight_is_answered_here_and_never_reaches_the_application() {
    let (world, upstream) = world();
    let mut connection = world.connect(1);
    let response = preflight(&mut connection, "/", UI);
    for (name, want) in [
        ("access-control-allow-origin", Some(UI)),
        ("access-control-allow-methods", Some("GET,PUT")),
        ("access-control-allow-headers", Some("X-A")),
        ("access-control-max-age", Some("7200")),
        ("access-control-allow-credentials", Some("true")),
        ("content-length", Some("0")),
        ("x-rule", None),
    ] {
        assert_eq!(response.header(name).as_deref(), want, "{name}");
    }
    assert_eq!((response.status, upstream.count()), (200, 0));
    world.log_line("\"OPTIONS / HTTP/1.1\" 200 - cors_response");
    assert_eq!(connection.get("echo", "/", &[]).status, 200, "the connection goes on");
}

#[test]
fn a_preflight_of_another_origin_or_without_a_policy_is_the_applications() {
    let (world, upstream) = world();
    let mut connection = world.connect(1);
    let any = Some("*".to_owned());
    assert_eq!(allowed(&preflight(&mut connection, "/plain", UI)), (200, any));
    let rule = Some("rule".to_owned());
    assert_eq!(allowed(&preflight(&mut connection, "/", "http://evil.example")), (200, rule));
    assert_eq!(upstream.count(), 2);
}

#[test]
fn the_policy_speaks_over_the_application_and_the_rule_and_only_for_its_origins() {
    let (world, _upstream) = world();
    let mut connection = world.connect(1);
    let response = connection.get("echo", "/", &[("origin", UI)]);
    assert_eq!(allowed(&response), (200, Some(UI.to_owned())));
    assert_eq!(response.header("access-control-expose-headers").as_deref(), Some("x-total"));
    assert_eq!(
        (response.header("x-rule").as_deref(), response.header("access-control-max-age")),
        (Some("1"), None)
    );
    for headers in [&[("origin", "http://evil.example")][..], &[]] {
        let response = connection.get("echo", "/", headers);
        assert_eq!(allowed(&response), (200, Some("rule".to_owned())), "{headers:?}");
        assert_eq!(response.header("access-control-expose-headers"), None);
    }
}

#[test]
fn errors_behind_the_policy_are_readable_and_those_before_it_are_not() {
    let (world, upstream) = world();
    let mut connection = world.connect(1);
    let get =
        |connection: &mut Connection, path: &str| allowed(&connection.get("echo", path, &[("origin", UI)]));
    assert_eq!(get(&mut connection, "/empty"), (503, Some(UI.to_owned())));
    assert_eq!(get(&mut connection, "/abort"), (500, None));
    assert_eq!(allowed(&preflight(&mut connection, "/abort", UI)), (500, None));
    assert_eq!(get(&mut connection, "/redirect"), (301, None));
    assert_eq!(allowed(&preflight(&mut connection, "/redirect", UI)), (301, None));
    assert_eq!(upstream.count(), 0);
}
