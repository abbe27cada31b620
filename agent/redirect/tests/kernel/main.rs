//! The programs in a real kernel: pods made of network namespaces and cgroups, children that dial, listeners as the proxy
//! has them.
//!
//! Needs root, cgroup2 and BTF. Where that is missing it says so and, with `CI=true`, fails. Everything happens below one
//! cgroup and in namespaces of its own; all of it is gone afterwards, also after a panic.
//!
//! A harness of its own, since the cases need processes of their own (a cgroup holds processes, not threads) and threads
//! that may be left in another namespace: this binary starts itself again as "pod" or "agent", see `child.rs`.
#![allow(unsafe_code, reason = "ioctl and sendto with MSG_FASTOPEN")]
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a harness of its own: clippy does not see that these are tests"
)]

mod cases;
mod child;
mod world;

use std::process::ExitCode;

use rustix::thread::UnshareFlags;

fn main() -> ExitCode {
    if let Some(role) = std::env::var_os(child::ROLE) {
        return child::run(role.to_string_lossy().as_ref());
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        cases::ALL.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if let Err(why) = world::possible() {
        eprintln!("kernel tests cannot run here: {why}");
        let ci = std::env::var("CI").is_ok_and(|value| value == "true");
        return if ci { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let wanted: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let mut failed = Vec::new();
    let mut ran = 0;
    for &(name, case) in cases::ALL {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        ran += 1;
        let result = std::thread::spawn(move || {
            // The "node": a namespace that only this thread and its children have.
            // SAFETY: leaves descriptors and the file system as they are.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("unshare");
            world::loopback_up();
            case();
        })
        .join();
        println!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        if result.is_err() {
            failed.push(name);
        }
    }
    println!("\n{ran} kernel cases, {} failed {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
