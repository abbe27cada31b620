use super::*;

#[test]
fn virtual_services() {
    let vs = "VirtualService";
    let only = |route: Value| json!({"hosts": ["a"], "http": [route]});
    admitted(vec![
        // A root may answer itself what its delegate does not; conditions of both are merged when compiled.
        (vs, only(json!({"delegate": {"name": "x"}, "directResponse": {"status": 200}}))),
        (vs, only(json!({"delegate": {"name": "x"}, "match": [{"uri": {"regex": "a"}}]}))),
        (
            vs,
            json!({"hosts": ["a"], "gateways": ["g"], "http": [{"match": [{"gateways": ["mesh"], "headers":
                {"@request.auth.claims.a": {"exact": "b"}}}], "route": [{"destination": {"host": "b"}}]}]}),
        ),
    ]);
    refused(vec![
        (
            vs,
            rule(json!({"route": [{"destination": {"host": "10.0.0.1"}}]})),
            "spec.http[0].route[0].destination.host",
            "cannot be all-numeric",
        ),
        (
            vs,
            rule(json!({"mirror": {"host": "*"}})),
            "spec.http[0].mirror.host",
            "invalid destination host *",
        ),
        (
            vs,
            only(json!({"delegate": {"name": "x"}, "redirect": {"uri": "/"}})),
            "spec.http[0]",
            "must not specify redirect",
        ),
    ]);
    warned(vec![(vs, only(json!({"delegate": {}})), "spec.http[0].delegate", "delegate without name")]);
}

#[test]
fn what_is_provably_covered_is_pointed_out() {
    let rules = |a: Value, b: Value| {
        let route = json!([{"destination": {"host": "b"}}]);
        json!({"hosts": ["a.example"], "gateways": ["g", "h"], "http":
            [{"match": [a], "route": route}, {"match": [b], "route": route}]})
    };
    for (earlier, later, is_covered) in [
        (json!({"headers": {"x": {}}}), json!({"headers": {"x": {"exact": "a"}}}), true),
        (json!({"headers": {"x": {"prefix": "a"}}}), json!({"headers": {"x": {"exact": "ab"}}}), true),
        (json!({"headers": {"x": {"exact": "ab"}}}), json!({"headers": {"x": {"prefix": "a"}}}), false),
        (json!({"headers": {"x": {"prefix": "a"}}}), json!({"headers": {"x": {"regex": "ab"}}}), false),
        (json!({"headers": {"x": {}}}), json!({"headers": {"y": {"exact": "a"}}}), false),
        (json!({"queryParams": {"x": {}}}), json!({"queryParams": {"x": {"regex": "a"}}}), true),
        (json!({"withoutHeaders": {"x": {}}}), json!({"withoutHeaders": {"x": {"exact": "a"}}}), false),
        (json!({"uri": {"regex": ".*"}}), json!({"uri": {"prefix": "/a"}}), true),
        (json!({"uri": {"regex": "/a.*"}}), json!({"uri": {"prefix": "/ab"}}), false),
        (json!({"method": {"prefix": "P"}}), json!({"method": {"exact": "POST"}}), true),
        (json!({"uri": {"prefix": "/"}}), json!({"gateways": ["g"]}), true),
        (json!({"uri": {"prefix": "/"}}), json!({"gateways": ["mesh"]}), false),
        (json!({"sourceNamespace": "a"}), json!({"sourceNamespace": "a", "gateways": ["g"]}), false),
    ] {
        let said = said("VirtualService", rules(earlier.clone(), later.clone()));
        let unreachable = said.iter().any(|(_, field, _)| field == "spec.http[1]");
        assert_eq!(unreachable, is_covered, "{earlier} before {later}: {said:?}");
    }
}

#[test]
fn destination_rules() {
    let dr = "DestinationRule";
    let tp = "spec.trafficPolicy";
    let locality = |setting: Value| {
        policy(json!({"loadBalancer": {"localityLbSetting": setting}, "outlierDetection": {}}))
    };
    let zone = |setting: Value| {
        policy(json!({"loadBalancer": {"zoneAwareLbSetting": setting}, "outlierDetection": {}}))
    };
    let to = json!({"b": 100});
    admitted(vec![
        (dr, locality(json!({"distribute": [{"from": "a/b/c/d", "to": to}], "failoverPriority": ["x"]}))),
        (
            dr,
            locality(
                json!({"distribute": [{"from": "a/b", "to": to}, {"from": "a/*", "to": to}, {"from": "*", "to": to}]}),
            ),
        ),
        (dr, locality(json!({"failover": [{"from": "a", "to": "b"}], "failoverPriority": ["version"]}))),
        (dr, policy(json!({"loadBalancer": {"warmup": {"duration": "1s", "aggression": 0.5}}}))),
        (
            dr,
            policy(
                json!({"loadBalancer": {"consistentHash": {"useSourceIp": true, "maglev": {"tableSize": 1}}}}),
            ),
        ),
    ]);
    refused(vec![
        (dr, json!({"host": "10.0.0.1"}), "spec.host", "cannot be all-numeric"),
        (dr, json!({"host": "a", "exportTo": ["~"]}), "spec.exportTo", "exportTo ~ (none) is not allowed"),
        (
            dr,
            policy(json!({"connectionPool": {"http": {"idleTimeout": "0s"}}})),
            &format!("{tp}.connectionPool.http.idleTimeout"),
            "greater than 1ms",
        ),
        (
            dr,
            locality(
                json!({"failover": [{"from": "a", "to": "b"}], "distribute": [{"from": "a", "to": to}]}),
            ),
            &format!("{tp}.loadBalancer.localityLbSetting"),
            "can not simultaneously specify 'distribute' and 'failover'",
        ),
        (
            dr,
            locality(
                json!({"failover": [{"from": "a", "to": "b"}], "failoverPriority": ["topology.kubernetes.io/zone"]}),
            ),
            &format!("{tp}.loadBalancer.localityLbSetting"),
            "topology label 'topology.kubernetes.io/zone'",
        ),
        (
            dr,
            locality(json!({"distribute": [{"from": "*", "to": to}, {"from": "a", "to": to}]})),
            &format!("{tp}.loadBalancer.localityLbSetting.distribute[1].from"),
            "overlap with previous",
        ),
        (
            dr,
            locality(json!({"distribute": [{"from": "a/*/b", "to": to}]})),
            &format!("{tp}.loadBalancer.localityLbSetting.distribute[0].from"),
            "must be in the end",
        ),
        (
            dr,
            locality(json!({"distribute": [{"from": "a//b", "to": to}]})),
            &format!("{tp}.loadBalancer.localityLbSetting.distribute[0].from"),
            "must not contain empty",
        ),
        (
            dr,
            zone(json!({"failoverPriority": ["topology.kubernetes.io/region"]})),
            &format!("{tp}.loadBalancer.zoneAwareLbSetting.failoverPriority[0]"),
            "must not use topology label",
        ),
        (
            dr,
            zone(json!({"failover": [{"from": "a", "to": "a"}]})),
            &format!("{tp}.loadBalancer.zoneAwareLbSetting.failover[0]"),
            "zone aware lb failover settings must specify different regions",
        ),
        (
            dr,
            policy(json!({"loadBalancer": {"warmup": {"duration": "1s", "aggression": 0.0}}})),
            &format!("{tp}.loadBalancer.warmup.aggression"),
            "greater than 0",
        ),
        (
            dr,
            policy(json!({"loadBalancer": {"consistentHash": {"httpCookie": {"name": "a", "attributes":
                [{"name": "b"}, {"name": "b"}]}}}})),
            &format!("{tp}.loadBalancer.consistentHash.httpCookie.attributes"),
            "duplicate cookie attribute name: b",
        ),
        (
            dr,
            policy(json!({"portLevelSettings": [{"tls": {"mode": "DISABLE"}}]})),
            &format!("{tp}.portLevelSettings[0]"),
            "must have valid port",
        ),
        (
            dr,
            policy(json!({"retryBudget": {"percent": 101}})),
            &format!("{tp}.retryBudget.percent"),
            "0..100",
        ),
    ]);
    warned(vec![(
        dr,
        policy(json!({"portLevelSettings": [{"port": {"number": 0}, "tls": {"mode": "DISABLE"}}]})),
        &format!("{tp}.portLevelSettings[0].port.number"),
        "1..65535",
    )]);
}

#[test]
fn gateways() {
    let gw = "Gateway";
    let tls = "spec.servers[0].tls";
    admitted(vec![
        // Half a pair is no second kind of certificate.
        (gw, server(json!({"tls": {"serverCertificate": "/a"}}))),
        (gw, server(json!({"tls": {"mode": "MUTUAL", "caCrl": "/a"}}))),
        (gw, server(json!({"tls": {"cipherSuites": ["ECDHE-RSA-AES128-GCM-SHA256", "-ALL"]}}))),
    ]);
    refused(vec![
        (
            gw,
            server(json!({"hosts": ["*a.b"]})),
            "spec.servers[0].hosts[0]",
            "partial wildcard \"*a.b\" not allowed",
        ),
        (
            gw,
            server(json!({"tls": {"serverCertificate": "/a", "privateKey": "/b"}})),
            tls,
            "only one of credential_name",
        ),
        (
            gw,
            server(json!({"tls": {"mode": "MUTUAL", "credentialName": null, "caCertCredentialName": "c",
                "serverCertificate": "/a", "privateKey": "/b"}})),
            tls,
            "MUTUAL TLS requires a client CA bundle",
        ),
        (
            gw,
            server(
                json!({"tls": {"credentialName": null, "tlsCertificates": [{"serverCertificate": "/a"}]}}),
            ),
            &format!("{tls}.tlsCertificates[0]"),
            "SIMPLE TLS requires a private key",
        ),
        (
            gw,
            server(
                json!({"tls": {"credentialName": null, "serverCertificate": "/a", "privateKey": "/b", "caCrl": "/c"}}),
            ),
            &format!("{tls}.caCrl"),
            "CRL is not supported with SIMPLE TLS",
        ),
        (
            gw,
            server(json!({"port": {"targetPort": 8443}})),
            "spec.servers[0].port.targetPort",
            "targetPort has no impact on Gateways",
        ),
    ]);
    warned(vec![
        (
            gw,
            server(json!({"tls": {"cipherSuites": ["NULL"]}})),
            &format!("{tls}.cipherSuites[0]"),
            "ignoring invalid cipher suites: [NULL]",
        ),
        (
            gw,
            server(json!({"tls": {"cipherSuites": ["AES128-SHA", "AES128-SHA"]}})),
            &format!("{tls}.cipherSuites[1]"),
            "ignoring duplicate cipher suites",
        ),
        (
            gw,
            server(json!({"tls": {"minProtocolVersion": "TLSV1_0"}})),
            &format!("{tls}.minProtocolVersion"),
            "require setting compatible ciphers",
        ),
    ]);
    let named = json!({"apiVersion": "networking.istio.io/v1", "kind": gw, "metadata": {"name": "a.b"},
        "spec": server(json!({}))});
    let object = parse(named, ObjectOrigin::default()).object.expect("parses");
    let said = validate(&object);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(
        (said[0].field.as_str(), said[0].message.as_str()),
        ("metadata.name", "invalid gateway name: \"a.b\"")
    );
}

#[test]
fn service_entries() {
    let se = "ServiceEntry";
    let dynamic = |more: Value| entry(merged(json!({"hosts": ["*.a.b"], "resolution": "DYNAMIC_DNS"}), more));
    let tcp = json!([{"number": 80, "name": "tcp", "protocol": "TCP"}]);
    admitted(vec![
        (se, entry(json!({"hosts": ["a.b", "c.d"]}))),
        (
            se,
            entry(
                json!({"hosts": ["a.b", "c.d"], "resolution": "NONE", "ports": tcp, "addresses": ["10.0.0.0/8"]}),
            ),
        ),
        (se, entry(json!({"ports": tcp}))),
        (se, dynamic(json!({}))),
    ]);
    refused(vec![
        (
            se,
            entry(json!({"hosts": ["a.b", "c.d"], "ports": tcp})),
            "spec.ports",
            "multiple hosts provided with non-HTTP, non-TLS ports",
        ),
        (se, dynamic(json!({"hosts": ["a.b"]})), "spec.hosts[0]", "host must be wildcarded"),
        (se, dynamic(json!({"addresses": ["1.2.3.4"]})), "spec.addresses", "addresses cannot be set"),
        (
            se,
            dynamic(json!({"endpoints": [{"address": "1.2.3.4"}]})),
            "spec.endpoints",
            "endpoints cannot be set",
        ),
        (se, dynamic(json!({"ports": tcp})), "spec.ports[0].protocol", "only HTTP, TLS, GRPC, and HTTP2"),
        (
            se,
            entry(json!({"resolution": "DNS", "endpoints": [{"address": "unix:///a"}]})),
            "spec.endpoints[0].address",
            "is not a valid FQDN or an IP address",
        ),
        (
            se,
            entry(json!({"resolution": "DNS", "endpoints": [{"network": "n"}]})),
            "spec.endpoints[0].address",
            "is not a valid FQDN or an IP address",
        ),
    ]);
    warned(vec![
        (
            se,
            entry(json!({"resolution": "NONE", "ports": tcp})),
            "spec.ports[0]",
            "addresses are required for ports",
        ),
        (se, entry(json!({"hosts": ["*a.b"]})), "spec.hosts[0]", "partial wildcard \"*a.b\" not allowed"),
        (
            se,
            entry(json!({"hosts": ["a.b", "c.d"], "resolution": "DNS", "addresses": ["1.2.3.4"],
                "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}]})),
            "spec.hosts",
            "more than one host specified simultaneously with address and tcp port",
        ),
        (
            se,
            entry(json!({"workloadSelector": {"labels": {}}})),
            "spec.workloadSelector.labels",
            "workload selector specified without labels",
        ),
    ]);
}

#[test]
fn sidecars() {
    let sc = "Sidecar";
    let egress =
        |port: Value, more: Value| json!({"egress": [merged(json!({"port": port, "hosts": ["./*"]}), more)]});
    let ingress = |more: Value| json!({"ingress": [merged(json!({"port": {"number": 443, "name": "https", "protocol": "HTTPS"}}), more)]});
    let socket = json!({"number": 0, "protocol": "HTTP"});
    let at = "spec.egress[0]";
    admitted(vec![
        (sc, egress(socket.clone(), json!({"bind": "unix:///a"}))),
        (sc, json!({"egress": [{"hosts": ["*/a.b", "~ns/*"]}]})),
        (sc, ingress(json!({"tls": {"mode": "SIMPLE", "serverCertificate": "/a", "privateKey": "/b"}}))),
    ]);
    refused(vec![
        (
            sc,
            egress(socket.clone(), json!({})),
            &format!("{at}.bind"),
            "must have a unix domain socket bind address",
        ),
        (
            sc,
            egress(json!({"number": 80, "protocol": "HTTP"}), json!({"bind": "unix:///a"})),
            &format!("{at}.bind"),
            "is not a valid IP",
        ),
        (
            sc,
            egress(socket.clone(), json!({"bind": "unix:///a", "captureMode": "IPTABLES"})),
            &format!("{at}.captureMode"),
            "must be DEFAULT/NONE",
        ),
        (
            sc,
            json!({"egress": [{"port": socket, "bind": "unix:///a", "hosts": ["./*"]}, {"port": socket, "bind": "unix:///a", "hosts": ["./*"]}]}),
            "spec.egress[1].bind",
            "unix domain socket values for listeners must be unique",
        ),
        (sc, json!({"egress": [{"hosts": ["./*a.b"]}]}), &format!("{at}.hosts[0]"), "partial wildcard"),
        (
            sc,
            json!({"egress": [{"hosts": ["~A_b/*"]}]}),
            &format!("{at}.hosts[0]"),
            "invalid namespace value \"~A_b\" in sidecar",
        ),
        (sc, ingress(json!({"bind": "unix:///a"})), "spec.ingress[0].bind", "is not a valid IP"),
        (
            sc,
            ingress(json!({"tls": {"mode": "ISTIO_MUTUAL"}})),
            "spec.ingress[0].tls.mode",
            "cannot set mode to ISTIO_MUTUAL in sidecar ingress tls",
        ),
        (
            sc,
            ingress(
                json!({"port": {"protocol": "HTTP"}, "tls": {"mode": "SIMPLE", "serverCertificate": "/a", "privateKey": "/b"}}),
            ),
            "spec.ingress[0].tls",
            "non HTTPS/TLS ports",
        ),
        (
            sc,
            json!({"outboundTrafficPolicy": {"egressProxy": {"host": "a", "port": {"number": 80}}}}),
            "spec.outboundTrafficPolicy.egressProxy",
            "only with ALLOW_ANY",
        ),
        (
            sc,
            json!({"outboundTrafficPolicy": {"mode": "ALLOW_ANY", "egressProxy": {"host": "*.a", "port": {"number": 80}}}}),
            "spec.outboundTrafficPolicy.egressProxy.host",
            "label \"*\" invalid",
        ),
    ]);
    warned(vec![
        (
            sc,
            json!({"egress": [{"hosts": ["a/b.c", "a/*"]}]}),
            &format!("{at}.hosts[1]"),
            "duplicated egress host: a/*",
        ),
        (
            sc,
            json!({"egress": [{"hosts": ["./b.c", "shop/b.c"]}]}),
            &format!("{at}.hosts[1]"),
            "duplicated egress host",
        ),
        (
            sc,
            json!({"egress": [{"hosts": ["*/*", "a/b.c"]}]}),
            &format!("{at}.hosts"),
            "select all resources",
        ),
        (
            sc,
            json!({"ingress": [{"port": {"number": 80, "name": "a", "protocol": "TCP"}, "connectionPool": {"http": {"maxRetries": 1}}}]}),
            "spec.ingress[0].connectionPool.http",
            "only TCP settings will apply",
        ),
    ]);
}
