use undermesh_core::client::Client;

use super::*;
use crate::inlet::OwnNamespace;
use crate::names::NoResolver;

fn client() -> Rc<LocalCaller> {
    let client = Client::mesh("default", [("app".to_owned(), "web".to_owned())]);
    let workload = Arc::new(Workload::new("web-1", "default", &client.labels, "default", "n1"));
    let caller = Caller { id: "default/web-1".into(), workload, client, sockets: Arc::new(OwnNamespace) };
    LocalCaller::new(Arc::new(caller), Arc::default(), Names::new(Arc::new(NoResolver)), Rc::default())
}

fn address(number: u16) -> Target {
    Target::Address(([203, 0, 113, 7], number).into())
}

/// As many sweeps as tables are kept without a connection.
fn sweep_long(client: &LocalCaller) {
    for _ in 0..SWEEPS_UNUSED {
        client.sweep(Instant::now(), 0);
    }
}

#[test]
fn tables_are_kept_for_addresses_in_use_and_not_for_all_that_were_ever_dialled() {
    let (client, snapshot) = (client(), Snapshot::default());
    let held = client.outlet(address(1), &snapshot);
    for number in 2..500 {
        let outlet = client.outlet(address(number), &snapshot);
        client.bind(&outlet, outlet.passthrough());
    }
    sweep_long(&client);
    assert_eq!(client.outlets.borrow().len(), 499, "the next connection may come soon");
    client.outlet(address(2), &snapshot);
    client.sweep(Instant::now(), 0);
    assert_eq!(client.outlets.borrow().len(), 2);
    client.sweep(Instant::now(), 0);
    assert!(client.neighbours.borrow().len() <= 1, "nor are clusters");
    drop(held);
    sweep_long(&client);
    client.sweep(Instant::now(), 0);
    assert!(client.outlets.borrow().is_empty());
}

#[test]
fn turns_do_not_all_begin_with_the_same_endpoint() {
    let key = ClusterKey { host: "a".into(), port: 80, subset: "".into() };
    let starts: Vec<_> = (0..4).map(|_| client().neighbour(&key).cursor.get()).collect();
    assert!(starts.iter().any(|start| *start != starts[0]), "{starts:?}");
}
