//! Header operations of a rule or a destination, and the order in which they act.
//!
//! In Envoy each level (destination, route) first removes, then sets and adds. Istio gives a single destination's operations to
//! the route itself, after the rule's own; those of several destinations stay a level of their own, which acts first
//! (istio-semantics section 2.5).

use super::format::{Context, FormatString, Message};
use super::table::Route;
use crate::edits::Edits;

/// Operations for both directions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Before forwarding.
    pub request: HeaderOps,
    /// Before answering.
    pub response: HeaderOps,
}

/// Operations for one direction. Names are lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderOps {
    /// Left out.
    pub remove: Vec<Box<str>>,
    /// Overwritten.
    pub set: Vec<(Box<str>, FormatString)>,
    /// Appended as a line.
    pub add: Vec<(Box<str>, FormatString)>,
    /// The Host to send: `:authority` or `host` in `set` (else `add`) of a request.
    pub authority: Option<Box<str>>,
}

impl HeaderOps {
    /// Whether nothing is done.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty() && self.authority.is_none()
    }

    fn apply_removals(&self, edits: &mut Edits) {
        for name in &self.remove {
            edits.remove(name);
        }
    }

    fn apply_values(&self, message: &impl Message, context: &Context<'_>, edits: &mut Edits) {
        for (name, value) in &self.set {
            with_value(value, message, context, edits, |edits, value| edits.set(name, value));
        }
        for (name, value) in &self.add {
            with_value(value, message, context, edits, |edits, value| edits.add(name, value));
        }
    }
}

fn with_value(
    value: &FormatString,
    message: &impl Message,
    context: &Context<'_>,
    edits: &mut Edits,
    apply: impl FnOnce(&mut Edits, &[u8]),
) {
    if let Some(literal) = value.as_literal() {
        if !literal.is_empty() {
            apply(edits, literal.as_bytes());
        }
        return;
    }
    let mut scratch = edits.take_scratch();
    value.write(message, edits, context, &mut scratch);
    if !scratch.is_empty() {
        apply(edits, &scratch);
    }
    edits.give_scratch(scratch);
}

/// Applies the operations of a route and the destination chosen (if any), in Istio's order.
pub(super) fn apply(
    route: &Route,
    destination: Option<u16>,
    direction: impl Fn(&HeaderEdits) -> &HeaderOps,
    message: &impl Message,
    context: &Context<'_>,
    edits: &mut Edits,
) {
    let rule = direction(&route.headers);
    let leg = destination
        .and_then(|index| route.destinations.get(usize::from(index)))
        .map(|it| direction(&it.headers));
    match leg {
        Some(leg) if route.destinations.len() > 1 => {
            leg.apply_removals(edits);
            leg.apply_values(message, context, edits);
            rule.apply_removals(edits);
            rule.apply_values(message, context, edits);
        }
        leg => {
            rule.apply_removals(edits);
            leg.into_iter().for_each(|leg| leg.apply_removals(edits));
            rule.apply_values(message, context, edits);
            leg.into_iter().for_each(|leg| leg.apply_values(message, context, edits));
        }
    }
}
