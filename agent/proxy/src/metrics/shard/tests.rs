use super::*;

fn outcome(status: u16) -> Outcome {
    Outcome { status, flags: ResponseFlags::NONE, grpc_status: None, is_grpc: false }
}

#[test]
fn labels_are_rendered_once_for_each_outcome_of_a_place() {
    let shard = Shard::default();
    let cache = SeriesCache::default();
    let rendered = Cell::new(0);
    for status in [200, 200, 503, 200] {
        shard.request(&cache, outcome(status), Duration::from_millis(2), 0, 10, |_| {
            rendered.set(rendered.get() + 1);
            format!("response_code=\"{status}\"")
        });
    }
    assert_eq!(rendered.get(), 2);
    let mut text = String::new();
    shard.collect().render(&mut text);
    assert!(text.contains("istio_requests_total{response_code=\"200\"} 3\n"), "{text}");
    assert!(text.contains("istio_requests_total{response_code=\"503\"} 1\n"), "{text}");
    assert!(
        text.contains("istio_request_duration_milliseconds_bucket{response_code=\"200\",le=\"5\"} 3\n"),
        "{text}"
    );
    assert!(text.contains("istio_request_duration_milliseconds_sum{response_code=\"200\"} 6\n"), "{text}");
}

#[test]
fn a_server_that_goes_through_every_status_makes_no_more_than_some_series() {
    let shard = Shard::default();
    let (busy, quiet) = (SeriesCache::default(), SeriesCache::default());
    for status in (200..=999).chain(200..=999) {
        shard.request(&busy, outcome(status), Duration::ZERO, 0, 0, |outcome| {
            format!("busy=\"{}\"", outcome.status)
        });
    }
    shard.request(&quiet, outcome(999), Duration::ZERO, 0, 0, |outcome| {
        format!("quiet=\"{}\"", outcome.status)
    });
    let mut text = String::new();
    shard.collect().render(&mut text);
    let series = text.lines().filter(|line| line.starts_with("istio_requests_total{")).count();
    assert_eq!(series, MAX_OUTCOMES + 1 + 1);
    assert!(text.contains("istio_requests_total{busy=\"200\"} 2\n"), "{text}");
    let other = 2 * (800 - MAX_OUTCOMES);
    assert!(text.contains(&format!("istio_requests_total{{busy=\"{}\"}} {other}\n", u16::MAX)), "{text}");
    assert!(text.contains("istio_requests_total{quiet=\"999\"} 1\n"), "elsewhere it has its own");
}

#[test]
fn two_places_with_the_same_labels_share_a_series_and_workers_add_up() {
    let shards = [Shard::default(), Shard::default()];
    let mut sum = Metrics::default();
    for shard in &shards {
        for _ in 0..2 {
            shard.request(&SeriesCache::default(), outcome(200), Duration::ZERO, 0, 0, |_| {
                "a=\"b\"".to_owned()
            });
        }
        shard.count(Counter::Accepted);
        shard.rule(&"VirtualService/default/x#0".into());
        sum.add(shard.collect());
    }
    let mut text = String::new();
    sum.render(&mut text);
    assert!(text.contains("istio_requests_total{a=\"b\"} 4\n"), "{text}");
    assert!(
        text.contains("undermesh_rule_requests_total{rule=\"VirtualService/default/x#0\"} 2\n"),
        "{text}"
    );
    assert_eq!(sum.counter(Counter::Accepted), 2);
    assert_eq!(sum.counter(Counter::Retries), 0);
}

/// All series of a scrape, without their values.
fn series(shard: &Shard) -> Vec<String> {
    let mut text = String::new();
    shard.collect().render(&mut text);
    let mut names: Vec<_> = text
        .lines()
        .filter_map(|line| line.rsplit_once(' ').map(|(name, _)| name.to_owned()))
        .filter(|name| {
            ["istio_requests_total{", "istio_tcp_connections_opened_total{", "undermesh_rule_requests_total{"]
                .iter()
                .any(|it| name.starts_with(it))
        })
        .collect();
    names.sort();
    names
}

#[test]
fn series_that_nobody_adds_to_are_forgotten_after_an_hour_and_others_stay() {
    let shard = Shard::default();
    let (gone, there) = (SeriesCache::default(), SeriesCache::default());
    let request = |cache: &SeriesCache, name: &'static str| {
        shard.request(cache, outcome(200), Duration::ZERO, 0, 0, |_| format!("a=\"{name}\""));
    };
    request(&gone, "gone");
    request(&there, "there");
    shard.rule(&"old".into());
    shard.tcp_opened(&"a=\"open\"".into());
    shard.tcp_opened(&"a=\"done\"".into());
    shard.tcp_closed(&"a=\"done\"".into(), 1, 1);
    drop(gone);
    let start = Instant::now();
    shard.sweep(start);
    shard.rule(&"used".into());
    shard.sweep(start + KEEP / 2);
    assert_eq!(series(&shard).len(), 6);
    shard.rule(&"used".into());
    shard.sweep(start + KEEP);
    assert_eq!(
        series(&shard),
        [
            "istio_requests_total{a=\"there\"}",
            "istio_tcp_connections_opened_total{a=\"open\"}",
            "undermesh_rule_requests_total{rule=\"used\"}"
        ]
    );
    // What comes again begins at nothing.
    request(&SeriesCache::default(), "gone");
    let mut text = String::new();
    shard.collect().render(&mut text);
    assert!(text.contains("istio_requests_total{a=\"gone\"} 1\n"), "{text}");
}

#[test]
fn a_series_that_a_place_still_has_is_added_to_whatever_its_age() {
    let shard = Shard::default();
    let place = SeriesCache::default();
    let request = || shard.request(&place, outcome(200), Duration::ZERO, 0, 0, |_| "a=\"b\"".into());
    request();
    let start = Instant::now();
    for hours in 0..3 {
        shard.sweep(start + KEEP * hours);
    }
    request();
    let mut text = String::new();
    shard.collect().render(&mut text);
    assert!(text.contains("istio_requests_total{a=\"b\"} 2\n"), "{text}");
}
