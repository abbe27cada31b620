use std::sync::Arc;

use rand_core::RngCore as _;

use super::*;
use crate::balance::tests::Random;
use crate::route::fixture::Head;
use crate::route::{
    Action, Event, Fault, HttpTable, HttpTableBuilder, NoHost, Observer, Rewrite, VirtualHost, decide,
};

/// Watches every step, so that the routes are walked one by one.
struct Walk;

impl Observer for Walk {
    fn event(&mut self, _: Event<'_>) {}
}

fn route(conditions: Vec<Condition>) -> Route {
    Route {
        matches: Arc::new(RouteMatch { conditions }),
        rule: None,
        action: Action::Forward,
        destinations: Arc::from([]),
        total_weight: 0,
        rewrite: Rewrite::default(),
        headers: Arc::default(),
        timeout: None,
        retries: Arc::default(),
        fault: Fault::default(),
        mirrors: Arc::from([]),
        cors: None,
    }
}

fn table(routes: Vec<Route>) -> HttpTable {
    let mut table = HttpTableBuilder::new(80, NoHost::NotFound);
    let host = VirtualHost { name: "h".into(), routes, https_redirect: false };
    table.push(host, [crate::host::HostKey::Any]);
    table.build()
}

fn condition(subject: Subject, test: StringCondition) -> Condition {
    Condition { subject, test, negated: false }
}

fn prefix(text: &str) -> Condition {
    condition(Subject::Path, StringCondition::Prefix(text.into()))
}

fn exact(text: &str) -> Condition {
    condition(Subject::Path, StringCondition::Exact(text.into()))
}

/// What decides with and without the index.
fn both(table: &HttpTable, head: &Head) -> [Option<u16>; 2] {
    let by_index = decide(table, head, &mut Random(1), &mut ());
    let by_walk = decide(table, head, &mut Random(1), &mut Walk);
    [by_index, by_walk].map(|decision| decision.route.map(|index| index.route))
}

/// Of few words, so that texts meet: prefixes of one another, equal but for case, empty.
fn text(random: &mut Random) -> String {
    const WORDS: [&str; 12] = ["/", "a", "A", "/a", "/A", "b", "/ab", "/a/b", "c", "%", "\u{e9}", "//"];
    (0..random.next_u32() % 5).map(|_| WORDS[random.next_u32() as usize % WORDS.len()]).collect()
}

fn random_conditions(random: &mut Random) -> Vec<Condition> {
    let mut conditions = Vec::new();
    let path = text(random);
    let text: Box<str> = path.into();
    match random.next_u32() % 10 {
        0..=2 => conditions.push(condition(Subject::Path, StringCondition::Exact(text))),
        3..=5 => conditions.push(condition(Subject::Path, StringCondition::Prefix(text))),
        6 => conditions.push(condition(Subject::Path, StringCondition::ExactIgnoreCase(text))),
        7 => conditions.push(condition(Subject::Path, StringCondition::PrefixIgnoreCase(text))),
        8 => {
            let test = StringCondition::regex("/[aA](/.*)?").expect("an expression");
            conditions.push(condition(Subject::Path, test));
        }
        _ => {}
    }
    match random.next_u32() % 8 {
        0 => conditions.push(condition(Subject::Method, StringCondition::Exact("PUT".into()))),
        1 => conditions.push(condition(Subject::Header("x".into()), StringCondition::Prefix("1".into()))),
        2 => conditions.push(Condition {
            negated: true,
            ..condition(Subject::Header("x".into()), StringCondition::Exact("2".into()))
        }),
        3 => conditions.push(condition(Subject::Query("q".into()), StringCondition::Present)),
        4 => conditions.push(condition(Subject::Broken("x".into()), StringCondition::Present)),
        5 => conditions.push(condition(Subject::Target, StringCondition::Prefix("/a".into()))),
        _ => {}
    }
    conditions
}

#[test]
fn the_index_finds_the_route_that_a_walk_finds() {
    let mut random = Random(0x00c0_ffee);
    let mut matched = 0;
    for _ in 0..400 {
        let count = random.next_u32() % 60;
        let table = table((0..count).map(|_| route(random_conditions(&mut random))).collect());
        for _ in 0..50 {
            let query = if random.next_u32().is_multiple_of(3) { "?q=/a" } else { "" };
            let mut head = Head::get(&format!("{}{query}", text(&mut random)));
            if random.next_u32().is_multiple_of(2) {
                head = head.with("x", &[["1", "2", ""][random.next_u32() as usize % 3]]);
            }
            let [by_index, by_walk] = both(&table, &head);
            assert_eq!(by_index, by_walk, "{head:?} {:?}", table.hosts());
            matched += usize::from(by_walk.is_some());
        }
    }
    assert!(matched > 5_000, "{matched}");
}

#[test]
fn only_routes_that_can_match_are_candidates() {
    let mut routes: Vec<_> = (0..10_000).map(|at| route(vec![exact(&format!("/item/{at}"))])).collect();
    routes.insert(5_000, route(vec![prefix("/item/99")]));
    routes.push(route(vec![condition(Subject::Method, StringCondition::Exact("PUT".into()))]));
    let index = PathIndex::new(&routes).expect("an index");
    let candidates = |path| index.candidates(path).expect("few lists").collect::<Vec<_>>();
    assert_eq!(candidates("/item/7"), [7, 10_001]);
    assert_eq!(candidates("/ITEM/7"), [7, 10_001]);
    assert_eq!(candidates("/item/9950"), [5_000, 9_951, 10_001]);
    assert_eq!(candidates("/other"), [10_001]);
}

#[test]
fn short_lists_have_no_index() {
    let routes: Vec<_> = (0..MIN_ROUTES - 1).map(|_| route(vec![exact("/a")])).collect();
    assert!(PathIndex::new(&routes).is_none());
    let routes: Vec<_> = (0..100).map(|_| route(Vec::new())).collect();
    assert!(PathIndex::new(&routes).is_none());
}

#[test]
fn nested_prefixes_beyond_measure_are_walked() {
    let texts = (1..=40).map(|length| "/".repeat(length));
    let routes: Vec<_> = texts.map(|text| route(vec![prefix(&text)])).collect();
    assert!(PathIndex::new(&routes).is_some_and(|index| index.candidates("//////////////////").is_none()));
    let table = table(routes);
    assert_eq!(both(&table, &Head::get("//////////////////")), [Some(0); 2]);
}

#[test]
fn texts_and_paths_longer_than_the_copy_are_matched_too() {
    let long = format!("/{}", "x".repeat(MAX_TEXT));
    let at_limit = &long[..MAX_TEXT];
    let mut routes: Vec<_> = (0..20).map(|at| route(vec![exact(&format!("/{at}"))])).collect();
    routes.push(route(vec![exact(at_limit)]));
    routes.push(route(vec![exact(&long)]));
    routes.push(route(vec![prefix(at_limit)]));
    let table = table(routes);
    for (path, want) in [
        (at_limit, Some(20)),
        (&long, Some(21)),
        (&format!("{long}/y"), Some(22)),
        (&long[..MAX_TEXT - 1], None),
    ] {
        assert_eq!(both(&table, &Head::get(path)), [want; 2], "{}", path.len());
    }
}
