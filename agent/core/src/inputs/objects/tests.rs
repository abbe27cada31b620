use std::collections::BTreeMap;

use rand_core::RngCore as _;

use super::*;
use crate::api::meta::ObjectMeta;
use crate::balance::tests::Random;

type Plain = BTreeMap<Key, Arc<Resource<u32>>>;

fn object(spec: u32) -> Arc<Resource<u32>> {
    Arc::new(Resource { meta: ObjectMeta::default(), spec, origin: Arc::default() })
}

fn key(random: &mut Random) -> Key {
    Key::new(format!("ns{}", random.next_u32() % 4), format!("n{}", random.next_u32() % 300))
}

/// What `changes` has to say, found the long way.
fn changes(before: &Plain, after: &Plain) -> Vec<(Key, Option<u32>, Option<u32>)> {
    let mut keys: Vec<_> = before.keys().chain(after.keys()).cloned().collect();
    keys.sort();
    keys.dedup();
    let differs = |key: &Key| match (before.get(key), after.get(key)) {
        (Some(before), Some(after)) => !Arc::ptr_eq(before, after),
        _ => true,
    };
    let of = |objects: &Plain, key: &Key| objects.get(key).map(|object| object.spec);
    keys.into_iter().filter(differs).map(|key| (key.clone(), of(before, &key), of(after, &key))).collect()
}

#[test]
fn it_is_the_map_it_stands_for_after_any_edits() {
    let mut random = Random(4);
    let (mut objects, mut plain) = (Objects::new(), Plain::new());
    let (mut earlier, mut earlier_plain) = (objects.clone(), plain.clone());
    for round in 0..6_000u32 {
        let key = key(&mut random);
        // Phases of growth and of shrinking.
        if random.next_u32() % 10 < if round / 1_500 % 2 == 0 { 8 } else { 3 } {
            let object = object(round);
            assert_eq!(
                objects.insert(key.clone(), object.clone()).is_some(),
                plain.insert(key, object).is_some()
            );
        } else {
            assert_eq!(objects.remove(&key).is_some(), plain.remove(&key).is_some());
        }
        if round % 50 == 0 {
            assert!(objects.iter().eq(plain.iter()) && objects.len() == plain.len());
            let found = earlier.changes(&objects).into_iter().map(|change| {
                let spec = |it: Option<&Arc<Resource<u32>>>| it.map(|it| it.spec);
                (change.key.clone(), spec(change.before), spec(change.after))
            });
            assert_eq!(found.collect::<Vec<_>>(), changes(&earlier_plain, &plain));
            (earlier, earlier_plain) = (objects.clone(), plain.clone());
            for namespace in ["", "ns0", "ns1", "ns3", "ns9"] {
                let want = plain.iter().filter(|(key, _)| *key.namespace == *namespace);
                assert!(objects.in_namespace(namespace).eq(want));
            }
            for (position, key) in plain.keys().enumerate() {
                assert_eq!(objects.position(key), Some(position));
            }
            assert!(
                objects.chunks.len() <= plain.len() / 12 + 2,
                "{} of {}",
                objects.chunks.len(),
                plain.len()
            );
        }
    }
}

#[test]
fn a_change_copies_one_chunk() {
    let all = (0..10_000).map(|number| (Key::new("ns", format!("{number:05}")), object(number)));
    let before: Objects<u32> = all.collect();
    assert_eq!(before.chunks.len(), 10_000usize.div_ceil(CHUNK));
    let mut after = before.clone();
    assert!(after.is_same(&before));
    after.insert(Key::new("ns", "05000"), object(0));
    assert!(!after.is_same(&before));
    let shared = before.chunks.iter().zip(&*after.chunks).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
    assert_eq!(shared, before.chunks.len() - 1);
    assert_eq!(before.changes(&after).len(), 1);
}
