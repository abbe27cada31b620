// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Every outcome that the kernel programs count: the index into the map `COUNTERS`.

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What a kernel program did, and why. Every path through a program counts at least one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Counter {
            $($(#[$doc])* $variant,)*
        }

        impl Counter {
            /// Every counter, in the order of the map.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The number of counters: the size of the map.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in metrics and events.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

counters! {
    /// connect4: sent to the workload's listener.
    Redirected4 = "redirected4",
    /// connect6: sent to the workload's listener.
    Redirected6 = "redirected6",
    /// connect6 with a v4-mapped address: sent to the workload's IPv4 listener.
    RedirectedMapped = "redirected_mapped",
    /// UDP, raw, SCTP, ...: untouched.
    NotTcp = "not_tcp",
    /// No agent has written its config, or one of another layout version: untouched.
    NotConfigured = "not_configured",
    /// The agent's own socket: untouched.
    OwnTraffic = "own_traffic",
    /// In the node's network namespace and in no workload's cgroup: untouched.
    HostProcess = "host_process",
    /// A pod the agent has not heard of: `Config::unknown` decides.
    UnknownPod = "unknown_pod",
    /// A pod that is known and not in the mesh: untouched.
    NotEnrolled = "not_enrolled",
    /// To the pod's own loopback: untouched.
    Loopback = "loopback",
    /// To a port that the workload excludes: untouched.
    ExcludedPort = "excluded_port",
    /// To no address or port of the mesh: untouched.
    NotAService = "not_a_service",
    /// The workload has no listener for the address family: its fail mode decides.
    NoListener = "no_listener",
    /// The agent's heartbeat is stale: the workload's fail mode decides.
    HeartbeatStale = "heartbeat_stale",
    /// The kernel had no memory for the socket's record: the workload's fail mode decides.
    StorageFull = "storage_full",
    /// Of those: went where it was dialled.
    FailOpen = "fail_open",
    /// Of those: refused with EPERM.
    FailClosed = "fail_closed",
    /// sock_ops: the proxy can learn where the connection was meant to go.
    OriginInserted = "origin_inserted",
    /// sock_ops: the map of origins is full; the proxy will refuse the connection.
    OriginFull = "origin_full",
    /// sock_ops: the workload has [`MAX_CONNECTING`](crate::MAX_CONNECTING) connections whose SYN nobody has answered; the
    /// proxy will refuse this one.
    OriginQuota = "origin_quota",
    /// sock_ops: the connection was refused, timed out or aborted before the proxy took its origin.
    OriginDroppedOnClose = "origin_dropped_on_close",
    /// getpeername answered with the dialled address.
    Peername = "peername",
    /// getsockname answered with the pod's address.
    Sockname = "sockname",
    /// The ring buffer was full: an event is missing.
    EventLost = "event_lost",
}

impl Counter {
    /// The counter with this index, as found in an event.
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.get(index as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_a_counter_is_its_place_in_the_list() {
        for (place, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, place);
            assert_eq!(Counter::from_index(place as u32), Some(*counter));
        }
        assert_eq!(Counter::from_index(Counter::COUNT as u32), None);
    }

    #[test]
    fn names_are_distinct_and_fit_a_metric_label() {
        for (place, counter) in Counter::ALL.iter().enumerate() {
            assert!(
                counter.name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            );
            assert!(Counter::ALL[..place].iter().all(|other| other.name() != counter.name()), "{counter:?}");
        }
    }
}
