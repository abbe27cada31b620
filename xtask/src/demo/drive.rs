//! The story that the demo tells, in its order.

use crate::demo::checks;
use crate::demo::report::{Finding, Report, progress};
use crate::demo::stage::Stage;

type Check = fn(&Stage) -> anyhow::Result<Finding>;

/// Title for people, and what finds it out.
const STORY: [(&str, Check); 10] = [
    ("The configuration as it is read", checks::configuration),
    ("The page through the gateway", checks::page),
    ("What the gateway's rules do not name", checks::not_routed),
    ("200 readers of the reviews", checks::split),
    ("Jason's requests", checks::jason),
    ("Jason signs in", checks::sign_in),
    ("The delay that service1 sees", checks::delay),
    ("The same service with and without the mesh", checks::with_and_without),
    ("Why did that request go there", checks::explain),
    ("A live change of weights", checks::live_change),
];

/// Runs it all.
pub(crate) fn all(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    for (title, check) in STORY {
        progress(title);
        report.add(title, check(stage));
    }
    Ok(())
}
