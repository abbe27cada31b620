//! The tools of `cargo xtask bench`: a load generator, a backend with a canned answer, and the floor of a proxy.
//!
//! Own tools because the usual ones mislead or get in the way: most closed-loop tools leave out the requests that a stalled
//! server kept them from sending (coordinated omission), and most take more CPU per request than the proxy they measure.
//! These are one thread each on plain epoll; two system calls per request and no allocation.
//!
//! ```text
//! closed   N connections, the next request when the answer is there   → CPU per request, most requests per second
//! open     requests at a fixed rate, latency from the *planned* time   → latency
//! churn    a connection per request                                    → cost of a connection
//! idle     N connections after one request each, then silence          → memory per connection
//! connect  connect() alone, in two cgroups by turns                    → cost of the kernel programs
//! ```

pub mod connect;
pub mod fleet;
pub mod histogram;
pub mod idle;
pub mod load;
pub mod poll;
pub mod reply;
pub mod request;
pub mod serve;

/// Raises the soft limit of open files to the hard one, and makes timers fire when they are due rather than up to 50 µs
/// later. Neither is fatal when refused: the run says so itself by failing or by its latencies.
pub fn prepare_process() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused only where the hard limit is below the soft one, which the kernel does not allow.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

/// CPU time of this process so far in nanoseconds, all threads; 0 where the kernel does not say.
pub fn own_cpu_ns() -> u64 {
    // /proc/self/schedstat is that of the first thread, and these tools have one.
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}
