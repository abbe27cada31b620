//! What becomes of a request: from its head to a decision, and from a decision to the heads that go on.
//!
//! ```text
//!   HttpTable (one client, one dialled address)          RequestView
//!        │  host ─▶ virtual host ─▶ first route that matches ─▶ weight, fault draws
//!        ▼
//!   Decision ─▶ request_edits · response_edits · cors_edits · redirect · direct_response · mirrors
//! ```
//!
//! Tables are built by `Snapshot::outbound` and `Snapshot::gateway`; nothing here knows resources, clients or addresses.
//! Deciding allocates nothing but for oddities (several lines of a header that Envoy joins). Rules: istio-semantics section 2.

mod cors;
mod decide;
mod edits;
#[cfg(test)]
pub(crate) mod fixture;
mod format;
mod headers;
mod index;
mod matching;
mod observer;
pub(crate) mod re2;
mod redirect;
mod retry;
mod rewrite;
mod table;
mod tcp;

pub use cors::{CorsPolicy, CrossOrigin, cors_edits};
pub use decide::{Decision, Outcome, decide, mirrors};
pub use edits::{direct_response, redirect, request_edits, response_edits};
pub use format::{Facts, FormatError, FormatString};
pub use headers::{HeaderEdits, HeaderOps};
pub(crate) use matching::query_value;
pub use matching::{Condition, RouteMatch, StringCondition, Subject};
pub use observer::{Event, HostChoice, Observer};
pub use re2::RegexError;
pub use redirect::{PathRedirect, Redirect};
pub use retry::{BackOff, GrpcStatus, RetryCondition, RetryOn, RetryPolicy, TryOutcome};
pub use rewrite::{PathRewrite, RegexRewrite, Rewrite};
pub use table::{
    Abort, Action, DirectResponse, Fault, FaultAbort, FaultDelay, HttpTable, HttpTableBuilder, Mirror,
    NoHost, Percent, Route, RouteIndex, RuleRef, VirtualHost, WeightedDestination,
};
pub use tcp::{TcpAction, TcpDecision, TcpRoute, TcpTable, decide_tcp};
