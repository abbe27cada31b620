//! Cases with something broken in them: compiling and explaining them may say anything, but never panics.

use serde_json::Value;

use crate::world::World;

/// splitmix64, so that a failure comes back.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }
}

const ODD: &[&str] = &[
    "",
    "*",
    "*.",
    ".",
    "a..b",
    "/",
    "//",
    "::1",
    "[::1]:0",
    "10.0.0.0/8",
    "~",
    "mesh",
    "x/y/z",
    "%",
    "\u{e9}",
    "(",
    "0",
];

/// Changes one leaf of the value: another text or number, or gone.
fn mutate(value: &mut Value, random: &mut Random) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let at = random.below(fields.len());
            let Some(key) = fields.keys().nth(at).cloned() else { return };
            if random.below(8) == 0 {
                fields.remove(&key);
            } else if let Some(field) = fields.get_mut(&key) {
                mutate(field, random);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let at = random.below(items.len());
            match random.below(8) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => mutate(&mut items[at], random),
            }
        }
        Value::String(text) => ODD[random.below(ODD.len())].clone_into(text),
        Value::Number(_) => *value = [0, 1, 65_535, 65_536, 4_294_967_295_u32][random.below(5)].into(),
        other => *other = Value::Null,
    }
}

#[test]
fn broken_configuration_never_panics() {
    let mut random = Random(42);
    let mut compiled = 0;
    for case in crate::cases() {
        for _ in 0..8 {
            let mut broken = case.clone();
            for resource in broken["config"].as_array_mut().into_iter().flatten() {
                mutate(&mut resource["spec"], &mut random);
            }
            // What admission refuses does not get as far.
            let Ok(world) = World::new(&broken) else { continue };
            compiled += 1;
            for request in broken["requests"].as_array().into_iter().flatten() {
                if request.get("via").is_none() && request["expect"].get("hops").is_none() {
                    world.explain(request);
                }
            }
        }
    }
    assert!(compiled > 500, "only {compiled} got through admission");
}
