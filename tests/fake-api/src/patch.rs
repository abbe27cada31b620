//! Changing a part of an object.

use serde_json::{Map, Value};

/// JSON merge patch (RFC 7386): null removes.
pub(crate) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(&key);
        } else {
            merge(fields.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// Server-side apply of one owner among others, but for lists: conditions are merged by their type, others are replaced.
/// Who owns what is not kept.
pub(crate) fn apply(target: &mut Value, applied: Value) {
    match (target, applied) {
        (Value::Object(fields), Value::Object(applied)) => {
            for (key, value) in applied {
                apply(fields.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(items), Value::Array(applied))
            if applied.iter().all(|item| item.get("type").is_some_and(Value::is_string)) =>
        {
            for item in applied {
                match items.iter_mut().find(|it| it.get("type") == item.get("type")) {
                    Some(there) => apply(there, item),
                    None => items.push(item),
                }
            }
        }
        (target, applied) => *target = applied,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_replaces_removes_and_leaves_the_rest() {
        let mut target = json!({"a": {"b": 1, "c": [1]}, "d": 2});
        merge(&mut target, json!({"a": {"b": null, "c": [2]}, "e": {"f": null, "g": 1}}));
        assert_eq!(target, json!({"a": {"c": [2]}, "d": 2, "e": {"g": 1}}));
    }

    #[test]
    fn applied_conditions_are_merged_by_type_and_other_lists_are_replaced() {
        let mut target = json!({"c": [{"type": "A", "x": 1}, {"type": "B"}], "l": [1]});
        apply(&mut target, json!({"c": [{"type": "A", "y": 2}, {"type": "C"}], "l": [2]}));
        assert_eq!(
            target,
            json!({"c": [{"type": "A", "x": 1, "y": 2}, {"type": "B"}, {"type": "C"}], "l": [2]})
        );
    }
}
