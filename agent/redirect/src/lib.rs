//! `undermesh-redirect`: the kernel half of the agent.
//!
//! ```text
//!  pod: connect(service) ──▶ kernel programs (ebpf/) ──▶ 127.0.0.1:listener in the pod's own network namespace
//!                               │ maps                        │ accept
//!  core::Snapshot ─▶ plan ─▶ sync                          Origins::take ─▶ where it was meant to go, and whose it is
//! ```
//!
//! What the agent does with it:
//!
//! ```no_run
//! # use undermesh_redirect::{Redirect, Settings, plan, netns::Netns};
//! # async fn agent() -> Result<(), Box<dyn std::error::Error>> {
//! # let (captures, workloads, generation) = (Vec::new(), Vec::new(), 1);
//! let mut redirect = Redirect::load(&Settings::default())?; // attached, and touching nothing yet
//! let pod = Netns::open("/run/netns/pod")?;
//! let listener = pod.listen("127.0.0.1:15001".parse()?, 4096)?; // on a blocking thread
//! let desired = plan::plan(captures, &workloads, &redirect.node(), generation);
//! redirect.apply(&desired)?; // from here on the pod's connections arrive at the listener
//! let (stream, peer) = listener.accept()?;
//! let origin = redirect.origins().take(pod.cookie(), peer); // None: refuse it
//! # Ok(()) }
//! ```
//!
//! Dropping [`Redirect`], or the death of the process, detaches the programs: pods then connect as if there were no mesh.
//! Nothing is pinned yet; what has to survive together is in one place ([`Redirect`]) so that it can be, as one set under
//! a path that carries [`undermesh_common::LAYOUT_VERSION`].
#![allow(unsafe_code, reason = "system calls that no safe crate offers: bpf(2) on maps, SO_NETNS_COOKIE")]

mod attach;
mod cgroup;
mod error;
pub mod events;
pub mod inspect;
pub mod kubepods;
mod map;
pub mod netns;
mod object;
pub mod origin;
pub mod plan;
mod preflight;
#[cfg(feature = "log")]
pub mod program_log;
mod redirect;
mod sync;
mod sys;

pub use cgroup::{AgentCgroup, CgroupId};
pub use error::{BoxedError, Error};
pub use object::{EMBEDDED, Limits, OBJECT_VARIABLE};
pub use redirect::{Redirect, Settings};
pub use sync::Applied;
pub use undermesh_common::Counter;
