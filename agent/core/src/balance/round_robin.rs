//! ROUND_ROBIN: in turn, by weight.
//!
//! Without state but the turn: turns walk a circle of as many places as the weights sum up to, in steps that reach every place
//! once per round and spread an endpoint's places out (about the golden ratio of the circle). Envoy's EDF schedule gives the
//! same shares in another order.

use super::random::{at, scaled};
use super::{Live, NoEndpoint, Run};

/// The endpoint whose turn it is.
pub(super) fn pick(run: &Run<'_, impl Live>, turn: u32) -> Result<usize, NoEndpoint> {
    if run.is_even() {
        let index = turn as usize % run.len();
        if run.is_available(index) {
            return Ok(index);
        }
        // The turns of one that is out go round among the rest.
        return run.nth_available(turn as usize / run.len());
    }
    let total = run.available().fold(0u64, |sum, index| sum.saturating_add(run.weight(index)));
    if total == 0 {
        return Err(NoEndpoint::AllUnavailable);
    }
    // Weights that change with time have no rounds.
    let place = if run.is_warming() { scaled(spread(turn), total) } else { place(turn, total) };
    at(run, place, |index| run.weight(index))
}

/// A number of turns spread over 2^64 as evenly as can be, however many there are.
pub(super) fn spread(turn: u32) -> u64 {
    u64::from(turn).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn place(turn: u32, total: u64) -> u64 {
    let mut stride = (total / 1000 * 618 + total % 1000 * 618 / 1000).max(1);
    while gcd(stride, total) != 1 {
        stride += 1;
    }
    (u128::from(turn) * u128::from(stride) % u128::from(total)) as u64
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
