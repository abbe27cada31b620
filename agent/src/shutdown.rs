//! The end of the process: SIGTERM and SIGINT ask for a drain; a second signal ends it at once.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for the first SIGTERM or SIGINT. A second one ends the process with status 130 wherever it is.
///
/// # Errors
/// The handlers could not be installed.
pub async fn requested() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let first = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(130);
    });
    Ok(first)
}
