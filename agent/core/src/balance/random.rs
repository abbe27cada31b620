//! Random draws: RANDOM, and what the other balancers draw with.

use rand_core::RngCore;

use super::{Live, NoEndpoint, Run};

/// Any endpoint, by weight.
pub(super) fn pick(run: &Run<'_, impl Live>, rng: &mut impl RngCore) -> Result<usize, NoEndpoint> {
    if run.is_even() { fair(run, rng) } else { by_weight(run, rng, |index| run.weight(index)) }
}

/// An available endpoint, all with the same chance: a few blind tries (most pools are healthy), then a count.
pub(super) fn fair(run: &Run<'_, impl Live>, rng: &mut impl RngCore) -> Result<usize, NoEndpoint> {
    for _ in 0..3 {
        let index = below(rng, run.len());
        if run.is_available(index) {
            return Ok(index);
        }
    }
    run.nth_available(rng.next_u32() as usize)
}

/// An available endpoint with a chance by `weight`.
pub(super) fn by_weight(
    run: &Run<'_, impl Live>,
    rng: &mut impl RngCore,
    weight: impl Fn(usize) -> u64,
) -> Result<usize, NoEndpoint> {
    let total = run.available().fold(0u64, |sum, index| sum.saturating_add(weight(index)));
    let place = scaled(rng.next_u64(), total);
    at(run, place, weight)
}

/// The endpoint in whose part of a line of all weights `place` lies.
pub(super) fn at(
    run: &Run<'_, impl Live>,
    mut place: u64,
    weight: impl Fn(usize) -> u64,
) -> Result<usize, NoEndpoint> {
    for index in run.available() {
        let weight = weight(index);
        if place < weight {
            return Ok(index);
        }
        place -= weight;
    }
    Err(NoEndpoint::AllUnavailable)
}

/// A fraction of 2^64, of `total`.
pub(super) fn scaled(fraction: u64, total: u64) -> u64 {
    ((u128::from(fraction) * u128::from(total)) >> 64) as u64
}

/// A number below `count`; the bias for counts far below 2^32 is of no account.
fn below(rng: &mut impl RngCore, count: usize) -> usize {
    ((u64::from(rng.next_u32()) * count as u64) >> 32) as usize
}
