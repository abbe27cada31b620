//! What can go wrong between the agent and the kernel, each with what to do about it.
//!
//! A message has its cause in it; what the system said is all there is of it, so it is no `source`, which would be printed
//! a second time. An error of aya's has a cause of its own and is one.

use std::io;
use std::path::PathBuf;

/// An error of aya's, of which it has several kinds for one purpose.
pub type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// Why the programs cannot be loaded, attached or kept in step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No cgroup2 file system is mounted.
    #[error(
        "no cgroup2 file system is mounted, and connections can only be redirected by cgroup: mount one \
         (`mount -t cgroup2 none /sys/fs/cgroup/unified`), boot with systemd.unified_cgroup_hierarchy=1, or mount the \
         host's /sys/fs/cgroup into the agent's container"
    )]
    NoCgroup2,
    /// The kernel has no type information of its own.
    #[error(
        "the kernel has no BTF ({0} is missing): it must be built with CONFIG_DEBUG_INFO_BTF=y, as the kernels of all current distributions are"
    )]
    NoBtf(PathBuf),
    /// The kernel lacks helpers that the programs call.
    #[error(
        "kernel {found} is too old: 5.15 is the oldest with what the programs use, 6.1 the oldest that is tested"
    )]
    KernelTooOld {
        /// `uname -r`.
        found: String,
    },
    /// The process may not do what it must.
    #[error(
        "the agent lacks CAP_SYS_ADMIN: run it as root, or in Kubernetes with securityContext.capabilities.add: [SYS_ADMIN, SYS_PTRACE]"
    )]
    MissingCapability,
    /// The attach point cannot be opened.
    #[error("cannot open the cgroup {path}: {cause}")]
    CgroupUnreadable {
        /// As asked for or found.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The attach point is on another file system.
    #[error("{path} is no directory of a cgroup2 file system: give a path below {mount}")]
    NotCgroup2 {
        /// As asked for.
        path: PathBuf,
        /// Where cgroup2 is mounted.
        mount: PathBuf,
    },
    /// The programs would be attached exactly where the agent itself is.
    #[error(
        "{path} is the agent's own cgroup: what is attached there redirects the agent's own connections back to it. \
         Attach at the pods' cgroup (--cgroup), start the agent in a cgroup of its own below (as systemd and Kubernetes do), \
         or, in a container, mount the host's /sys/fs/cgroup: the container's own shows nothing but itself"
    )]
    OwnCgroup {
        /// The attach point.
        path: PathBuf,
    },
    /// The object named in the environment cannot be read.
    #[error("cannot read the BPF object {path}, named by {variable}: {cause}")]
    ObjectUnreadable {
        /// The path.
        path: PathBuf,
        /// The environment variable.
        variable: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// The object does not load at all.
    #[error("the kernel does not take the BPF object: {0}")]
    ObjectRejected(#[source] Box<aya::EbpfError>),
    /// The object is not one of this agent.
    #[error(
        "the BPF object has no {what} {name}: it was built from another version; rebuild it with `cargo xtask bpf`"
    )]
    NotInObject {
        /// `program` or `map`.
        what: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A struct has another size in the object.
    #[error(
        "the BPF object and the agent disagree on map {map}: {what} of {object} bytes there, {agent} here; rebuild the object with `cargo xtask bpf`"
    )]
    LayoutMismatch {
        /// The map.
        map: &'static str,
        /// `key` or `value`.
        what: &'static str,
        /// Bytes.
        object: u32,
        /// Bytes.
        agent: u32,
    },
    /// The verifier refused a program, or the kernel does not know its type.
    #[error("the kernel refuses the program {program}: {source}")]
    ProgramRejected {
        /// Its name.
        program: &'static str,
        /// With the verifier's log.
        source: Box<aya::programs::ProgramError>,
    },
    /// A loaded program could not be attached.
    #[error("cannot attach {program} to the cgroup {cgroup}: {source}")]
    AttachFailed {
        /// Its name.
        program: &'static str,
        /// The attach point.
        cgroup: PathBuf,
        /// What the kernel said.
        source: BoxedError,
    },
    /// A program or its link could not be examined.
    #[error("cannot examine the program {program}: {source}")]
    ProgramUnreadable {
        /// Its name.
        program: &'static str,
        /// What the kernel said.
        source: BoxedError,
    },
    /// What the snapshot needs does not fit.
    #[error(
        "{wanted} entries do not fit the BPF map {map}, which holds {limit}: raise {setting} and restart the agent; until then the earlier entries stay in force"
    )]
    MapFull {
        /// The map.
        map: &'static str,
        /// The setting that gives its size.
        setting: &'static str,
        /// Entries needed.
        wanted: usize,
        /// Entries possible.
        limit: u32,
    },
    /// A map could not be read or written.
    #[error("cannot {operation} the BPF map {map}: {cause}")]
    MapAccess {
        /// The map.
        map: &'static str,
        /// `read`, `write`, ...
        operation: &'static str,
        /// What the kernel said.
        cause: io::Error,
    },
    /// Something about the agent's own process could not be found out.
    #[error("cannot find out {what}: {cause}")]
    Environment {
        /// The fact.
        what: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// The agent's own network namespace cannot be examined.
    #[error(transparent)]
    Netns(#[from] crate::netns::NetnsError),
}
