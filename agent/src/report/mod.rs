//! Telling the authors of objects what became of them: a status condition where the kind has a status, otherwise an Event.
//!
//! ```text
//! Published ── diagnostics ──▶ verdicts (pure) ── what differs from what was written ──▶ status · Events
//!                                                          ▲
//!                              Lease: one of the nodes' agents writes, all of them know the same
//! ```
//!
//! Every agent sees the whole mesh, so any one can speak for all. Who holds the Lease `undermesh-diagnostics` does.

mod election;
mod verdict;
mod writer;

pub use writer::{Counts, Settings, Writer};
