//! The log lines of the programs themselves, for debugging them: an object built with `cargo xtask bpf --log`, loaded by
//! way of [`OBJECT_VARIABLE`](crate::OBJECT_VARIABLE) into an agent built with the feature `log`.

use std::io;

use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Forwards what aya-log hands over to `tracing`, at debug level whatever the program said: it is for debugging only.
struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::debug!(target: "undermesh_bpf", "{}", record.args());
    }

    fn flush(&self) {}
}

/// The lines, waiting to be forwarded.
pub struct ProgramLog {
    logger: AsyncFd<EbpfLogger<ToTracing>>,
}

impl ProgramLog {
    /// `None` if the object was built without log lines, or the log was taken before. Needs a tokio runtime around it.
    pub(crate) fn open(object: &mut aya::Ebpf) -> io::Result<Option<Self>> {
        match EbpfLogger::init_with_logger(object, ToTracing) {
            Err(aya_log::Error::MapNotFound) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
            Ok(logger) => {
                // SAFETY: the logger owns its map's descriptor, which stays the same and open for as long as it lives.
                let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }?;
                Ok(Some(Self { logger }))
            }
        }
    }

    /// Forwards lines until the runtime's I/O fails.
    pub async fn run(mut self) -> io::Error {
        loop {
            match self.logger.readable_mut().await {
                Ok(mut ready) => {
                    ready.get_inner_mut().flush();
                    ready.clear_ready();
                }
                Err(error) => return error,
            }
        }
    }
}
