//! The client side: one HTTP/2 connection to an endpoint, shared by the requests to it.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};

use super::settings::{ClientSettings, KeepAlive};

/// Why an upstream connection ended.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The socket failed, or one side broke the protocol.
    #[error("upstream connection failed: {0}")]
    Connection(#[from] h2::Error),
    /// No answer to a PING.
    #[error("upstream did not answer a ping within {0:?}")]
    KeepAlive(Duration),
}

/// Speaks HTTP/2 on `io`, by prior knowledge.
///
/// The handle is cloned for each request; `current_max_send_streams` of it is what the upstream allows at once (until its
/// SETTINGS came: [`ClientSettings::initial_max_streams`]). The driver must be polled for anything to move. It ends `Ok`
/// when the upstream ended the connection in order, or when all handles and streams are gone; after that, or once the
/// upstream sent GOAWAY, `ready()` of a handle fails and the pool should forget it.
///
/// # Errors
/// The preface could not be written.
pub async fn connect<IO>(
    io: IO,
    settings: &ClientSettings,
) -> Result<(SendRequest<Bytes>, impl Future<Output = Result<(), DriverError>> + use<IO>), h2::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (handle, mut connection) = h2::client::Builder::new()
        .enable_push(false)
        .max_header_list_size(settings.max_head_bytes)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_send_buffer_size(settings.send_buffer)
        .initial_max_send_streams(settings.initial_max_streams)
        .handshake::<_, Bytes>(io)
        .await?;
    let keep_alive = settings.keep_alive.zip(connection.ping_pong());
    let driver = async move {
        tokio::select! {
            ended = connection => Ok(ended?),
            failed = keep_alive_fails(keep_alive) => Err(failed),
        }
    };
    Ok((handle, driver))
}

/// Sends PINGs until one is not answered in time.
async fn keep_alive_fails(pinger: Option<(KeepAlive, PingPong)>) -> DriverError {
    let Some((keep_alive, mut ping_pong)) = pinger else {
        return pending().await;
    };
    loop {
        sleep(keep_alive.interval).await;
        if let Err(error) = ping_pong.send_ping(Ping::opaque()) {
            return error.into();
        }
        let pong = pin!(poll_fn(|cx| ping_pong.poll_pong(cx)));
        match timeout(keep_alive.timeout, pong).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return DriverError::KeepAlive(keep_alive.timeout),
        }
    }
}
