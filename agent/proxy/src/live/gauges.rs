//! What the limits of `connectionPool` and the retry budget are counted with, by all workers together.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use undermesh_core::policy::RetryBudget;
use undermesh_core::retry_budget::Window;

/// What the limits of a cluster are counted with.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub connections: AtomicU32,
    pub pending: AtomicU32,
    pub requests: AtomicU32,
    pub retries: AtomicU32,
    /// Requests that wait before a retry: they count among `requests` and are at no endpoint.
    pub backing_off: AtomicU32,
    /// Mirrored requests.
    pub copies: AtomicU32,
    /// Requests of `retryBudget.budgetInterval`, if a budget asks for it.
    window: Mutex<Option<Arc<Window>>>,
}

impl Gauges {
    /// Counts requests over the budget's interval, if it has one.
    pub(crate) fn window(&self, budget: &RetryBudget, now: Instant) -> Option<Arc<Window>> {
        let mut window = self.window.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !window.as_ref().is_some_and(|window| window.is_of(budget.budget_interval)) {
            *window = Window::new(budget.budget_interval, now).map(Arc::new);
        }
        window.clone()
    }
}

/// One unit of a gauge, given back on drop.
pub(crate) struct Permit {
    gauges: Arc<Gauges>,
    gauge: fn(&Gauges) -> &AtomicU32,
}

impl Drop for Permit {
    fn drop(&mut self) {
        (self.gauge)(&self.gauges).fetch_sub(1, Ordering::Relaxed);
    }
}

/// `None` when `gauge` has met `limit`.
pub(crate) fn permit(gauges: &Arc<Gauges>, gauge: fn(&Gauges) -> &AtomicU32, limit: u32) -> Option<Permit> {
    if gauge(gauges).fetch_add(1, Ordering::Relaxed) >= limit {
        gauge(gauges).fetch_sub(1, Ordering::Relaxed);
        return None;
    }
    Some(Permit { gauges: gauges.clone(), gauge })
}
