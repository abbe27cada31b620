//! What processes and the machine have used, from /proc.

use std::fs;
use std::path::Path;

/// The process and all below it.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        for task in entries(&format!("/proc/{pid}/task")) {
            let children =
                fs::read_to_string(format!("/proc/{pid}/task/{task}/children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
        }
    }
    found
}

/// CPU time in nanoseconds of all threads of these processes; what has ended counts as 0.
pub(crate) fn cpu_ns(pids: &[u32]) -> u64 {
    let of = |pid: u32, task: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{task}/schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0)
    };
    pids.iter().flat_map(|pid| entries(&format!("/proc/{pid}/task")).into_iter().map(|t| of(*pid, t))).sum()
}

/// Ticks (10 ms) that these processes have spent in user space and in the kernel. Sampled by the timer, so only their
/// proportion over a second or more means anything.
pub(crate) fn ticks(pids: &[u32]) -> [u64; 2] {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may contain anything; what follows it begins with the third field.
        let (_, fields) = text.rsplit_once(") ")?;
        let mut fields = fields.split(' ').skip(11);
        Some([fields.next()?.parse::<u64>().ok()?, fields.next()?.parse().ok()?])
    };
    pids.iter().filter_map(of).fold([0, 0], |[user, system], [u, s]| [user + u, system + s])
}

/// Resident memory of these processes in KiB.
pub(crate) fn resident_kib(pids: &[u32]) -> u64 {
    // smaps_rollup walks the page tables; the counters in `status` lag behind by up to some hundred KiB per thread.
    let of = |pid: &u32| field(Path::new(&format!("/proc/{pid}/smaps_rollup")), "Rss:");
    pids.iter().filter_map(of).sum()
}

fn field(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|l| l.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// What the CPUs have done since boot, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Machine {
    /// Running anything, all CPUs together.
    pub(crate) busy: f64,
    /// Wanted by us, used by other guests of the host.
    pub(crate) stolen: f64,
}

pub(crate) fn machine() -> Machine {
    parse_stat(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// <https://docs.kernel.org/filesystems/proc.html#miscellaneous-kernel-statistics-in-proc-stat>; USER_HZ is 100 on every
/// architecture we run on.
fn parse_stat(text: &str) -> Machine {
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|t| t.parse().ok()).collect();
    let at = |index: usize| ticks.get(index).copied().unwrap_or(0.0) / 100.0;
    // user, nice, system, irq, softirq; not idle (3) and iowait (4).
    Machine { busy: at(0) + at(1) + at(2) + at(5) + at(6), stolen: at(7) }
}

/// The kernel's thread that takes over network receive work on a CPU when it becomes too much; its time belongs to whoever
/// caused it and appears nowhere else.
pub(crate) fn softirq_thread(cpu: usize) -> Option<u32> {
    let name = format!("ksoftirqd/{cpu}\n");
    entries("/proc")
        .into_iter()
        .find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c == name))
}

/// The numbers among the names in a folder.
fn entries(folder: &str) -> Vec<u32> {
    let Ok(list) = fs::read_dir(folder) else { return Vec::new() };
    list.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_all_but_waiting_and_stolen_time_is_apart() {
        let stat = "cpu  100 200 300 4000 5000 600 700 800 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(parse_stat(stat), Machine { busy: 19.0, stolen: 8.0 });
        assert_eq!(parse_stat(""), Machine::default());
    }

    #[test]
    fn our_own_process_has_used_cpu_and_memory_and_one_that_is_not_has_not() {
        let own = tree(std::process::id());
        assert_eq!(own.first(), Some(&std::process::id()));
        assert!(cpu_ns(&own) > 0 && resident_kib(&own) > 100);
        let spun = std::time::Instant::now();
        while ticks(&own)[0] == 0 {
            assert!(spun.elapsed().as_secs() < 20, "work in user space is seen as such");
        }
        // Beyond the largest pid there can be.
        assert_eq!((cpu_ns(&[1 << 23]), resident_kib(&[1 << 23]), ticks(&[1 << 23])), (0, 0, [0, 0]));
    }
}
