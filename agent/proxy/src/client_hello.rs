//! The server name in a TLS ClientHello, read without taking the bytes from the socket.

use std::io;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use rustls::server::Acceptor;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A ClientHello with post-quantum shares is about 2 KiB.
const LONGEST: usize = 16 * 1024;
/// A client that says it speaks TLS and then is silent gets no server.
const PATIENCE: Duration = Duration::from_secs(10);

/// The name, if the client speaks TLS and sends one.
pub(crate) async fn server_name(io: &TcpStream) -> Option<String> {
    tokio::time::timeout(PATIENCE, read(io)).await.ok()?.ok()?
}

async fn read(io: &TcpStream) -> io::Result<Option<String>> {
    let mut seen = 0;
    let mut buffer = vec![0u8; LONGEST];
    loop {
        io.readable().await?;
        let peeked = io.try_io(Interest::READABLE, || {
            let (count, _) = recv(io, buffer.as_mut_slice(), RecvFlags::PEEK)?;
            if count == seen && count > 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
        });
        match peeked {
            Ok(0) => return Ok(None),
            Ok(count) => match parse(&buffer[..count]) {
                Parsed::More if count < LONGEST => seen = count,
                Parsed::More => return Ok(None),
                Parsed::Name(name) => return Ok(name),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if io.ready(Interest::READABLE).await?.is_read_closed() {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

enum Parsed {
    More,
    Name(Option<String>),
}

fn parse(mut bytes: &[u8]) -> Parsed {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        // Reading from memory cannot fail; a full acceptor means that there is enough.
        if acceptor.read_tls(&mut bytes).is_err() {
            break;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return Parsed::Name(accepted.client_hello().server_name().map(str::to_owned));
            }
            Ok(None) => {}
            Err(_) => return Parsed::Name(None),
        }
    }
    Parsed::More
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello with the server name `a.example.com`.
    fn client_hello() -> Vec<u8> {
        let name = b"a.example.com";
        let mut sni =
            vec![0, 0, 0, (name.len() + 5) as u8, 0, (name.len() + 3) as u8, 0, 0, name.len() as u8];
        sni.extend(name);
        let versions = [0, 43, 0, 3, 2, 3, 4];
        let schemes = [0, 13, 0, 4, 0, 2, 4, 3];
        let groups = [0, 10, 0, 4, 0, 2, 0, 29];
        let mut key_share = vec![0, 51, 0, 38, 0, 36, 0, 29, 0, 32];
        key_share.extend([7; 32]);
        let extensions = [sni, versions.into(), schemes.into(), groups.into(), key_share].concat();
        let mut body = vec![3, 3];
        body.extend([5; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let mut handshake = vec![1, 0];
        handshake.extend((body.len() as u16).to_be_bytes());
        handshake.extend(body);
        let mut record = vec![0x16, 3, 1];
        record.extend((handshake.len() as u16).to_be_bytes());
        record.extend(handshake);
        record
    }

    #[test]
    fn the_name_is_found_once_the_hello_is_whole() {
        let hello = client_hello();
        for cut in 0..hello.len() {
            assert!(matches!(parse(&hello[..cut]), Parsed::More), "{cut}");
        }
        assert!(matches!(parse(&hello), Parsed::Name(Some(name)) if name == "a.example.com"));
    }

    #[test]
    fn what_is_no_hello_has_no_name() {
        assert!(matches!(parse(b"GET / HTTP/1.1\r\n\r\n"), Parsed::Name(None)));
    }
}
