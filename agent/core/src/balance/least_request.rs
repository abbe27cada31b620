//! LEAST_REQUEST, Istio's default: of two random endpoints the one with fewer requests in flight.

use rand_core::RngCore;

use super::random::{by_weight, fair};
use super::{Live, NoEndpoint, Run};

/// The less busy of two; with unequal weights, the weight is divided by the requests in flight plus one (Envoy,
/// `active_request_bias` 1).
pub(super) fn pick(run: &Run<'_, impl Live>, rng: &mut impl RngCore) -> Result<usize, NoEndpoint> {
    if run.is_even() {
        let first = fair(run, rng)?;
        let second = fair(run, rng)?;
        return Ok(if run.active(second) < run.active(first) { second } else { first });
    }
    const SCALE: u64 = 1 << 12;
    by_weight(run, rng, |index| {
        (run.weight(index).saturating_mul(SCALE) / (u64::from(run.active(index)) + 1)).max(1)
    })
}
