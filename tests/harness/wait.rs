//! Waiting for another process to get somewhere, with a deadline and a reason.

use std::time::{Duration, Instant};

use anyhow::bail;

/// Calls `poll` until it gives a value, at most `limit` long. An error of `poll` ends the wait at once: use it for what
/// waiting cannot cure, such as a process that has ended.
pub fn wait_until<T>(
    limit: Duration,
    what: &str,
    mut poll: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = poll()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("waited {limit:?} in vain for {what}");
        }
        // Other processes give no event to wait on; 5 ms is far below anything measured with this.
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_value_when_it_comes() {
        let mut calls = 0;
        let got = wait_until(Duration::from_secs(5), "third call", || {
            calls += 1;
            Ok((calls == 3).then_some(calls))
        });
        assert_eq!(got.expect("third call gives a value"), 3);
    }

    #[test]
    fn names_what_never_came() {
        let got = wait_until::<()>(Duration::ZERO, "godot", || Ok(None));
        assert!(got.expect_err("nothing comes").to_string().contains("godot"));
    }

    #[test]
    fn an_error_ends_the_wait_before_the_deadline() {
        let began = Instant::now();
        let got = wait_until::<()>(Duration::from_secs(60), "x", || bail!("it died"));
        assert_eq!(got.expect_err("poll failed").to_string(), "it died");
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
