//! The scripted upstream: what it does is named by the path of the request.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use crate::support::contains;

/// An upstream and the heads it has seen, raw.
pub struct Scripted {
    pub address: SocketAddr,
    pub heads: Rc<RefCell<Vec<String>>>,
}

impl Scripted {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads: Rc<RefCell<Vec<String>>> = Rc::default();
        let for_task = Rc::clone(&heads);
        spawn_local(async move {
            loop {
                let (io, _) = listener.accept().await.unwrap();
                let heads = Rc::clone(&for_task);
                spawn_local(async move {
                    // A connection that fails is the proxy's doing, and its test looks at the proxy.
                    let _ = serve(io, heads).await;
                });
            }
        });
        Self { address, heads }
    }

    pub fn last_head(&self) -> String {
        self.heads.borrow().last().cloned().unwrap_or_default()
    }

    pub fn count(&self) -> usize {
        self.heads.borrow().len()
    }
}

async fn read_more(io: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    if io.read_buf(buffer).await? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

async fn read_head(io: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<String> {
    loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = buffer.split_off(at + 4);
            let head = std::mem::replace(buffer, rest);
            return Ok(String::from_utf8_lossy(&head).into_owned());
        }
        read_more(io, buffer).await?;
    }
}

/// The value of a header in a raw head.
pub fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (line_name, value) = line.split_once(':')?;
        line_name.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

async fn serve(mut io: TcpStream, heads: Rc<RefCell<Vec<String>>>) -> std::io::Result<()> {
    io.set_nodelay(true)?;
    let (mut buffer, mut count) = (Vec::new(), 0);
    loop {
        let head = read_head(&mut io, &mut buffer).await?;
        count += 1;
        heads.borrow_mut().push(head.clone());
        let target = head.split(' ').nth(1).unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default().to_owned();
        if path == "/early" {
            io.write_all(b"HTTP/1.1 413 Too Big\r\nContent-Length: 3\r\n\r\nbig").await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
            return Ok(());
        }
        if path == "/websocket" && header(&head, "upgrade").is_some() {
            io.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi!",
            )
            .await?;
            return echo(io, buffer).await;
        }
        if header(&head, "expect").is_some() {
            io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = read_body(&mut io, &mut buffer, &head).await?;
        let answer: &[u8] = match path.as_str() {
            "/close" => {
                io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
                return Ok(());
            }
            // A connection that is used again is closed instead of answered.
            "/stale" if count > 1 => return Ok(()),
            "/stale" => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "/hangup" => return Ok(()),
            "/half-head" => {
                io.write_all(b"HTTP/1.1 200 OK\r\nContent-").await?;
                return Ok(());
            }
            "/never" => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                return Ok(());
            }
            "/stall" => {
                io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await?;
                tokio::time::sleep(Duration::from_secs(60)).await;
                return Ok(());
            }
            "/chunked" => {
                let parts: [&[u8]; 4] = [
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n5;a=b\r\nhel",
                    b"lo\r\n0",
                    b"\r\nx-sum: 9\r\n\r",
                    b"\n",
                ];
                for part in parts {
                    io.write_all(part).await?;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                continue;
            }
            "/both" => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "/two-lengths" => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            "/bad-chunk" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
            "/unasked-101" => b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            "/no-length" => {
                io.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil close").await?;
                return Ok(());
            }
            "/no-length-reset" => {
                io.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil").await?;
                tokio::time::sleep(Duration::from_millis(30)).await;
                io.set_zero_linger()?;
                return Ok(());
            }
            "/204" => b"HTTP/1.1 204 No Content\r\n\r\n",
            "/304" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 999\r\n\r\n",
            "/503" => b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy",
            "/truncated" => {
                io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await?;
                return Ok(());
            }
            "/surplus" => {
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
            }
            "/hop" => {
                b"HTTP/1.1 200 OK\r\nConnection: keep-alive, x-secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\n\
                  Content-Length: 2\r\n\r\nok"
            }
            "/103" => {
                b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            }
            "/103-hangup" => {
                io.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await?;
                return Ok(());
            }
            "/big" => {
                io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n").await?;
                io.write_all(&vec![b'y'; 3_000_000]).await?;
                continue;
            }
            "/old" => {
                io.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
                continue;
            }
            _ if head.starts_with("HEAD") => b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
            _ => {
                let start = String::from_utf8_lossy(&body[..body.len().min(40)]).replace("\r\n", "|");
                let text = format!("{path} {} {start}", body.len());
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                io.write_all(answer.as_bytes()).await?;
                continue;
            }
        };
        io.write_all(answer).await?;
    }
}

async fn read_body(io: &mut TcpStream, buffer: &mut Vec<u8>, head: &str) -> std::io::Result<Vec<u8>> {
    if header(head, "transfer-encoding").is_some() {
        // As it came: the tests look at the bytes. Only good for one request in flight.
        while !(buffer.ends_with(b"\r\n\r\n") && contains(buffer, "0\r\n")) {
            read_more(io, buffer).await?;
        }
        return Ok(std::mem::take(buffer));
    }
    let length = header(head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    while buffer.len() < length {
        read_more(io, buffer).await?;
    }
    let rest = buffer.split_off(length);
    Ok(std::mem::replace(buffer, rest))
}

async fn echo(mut io: TcpStream, early: Vec<u8>) -> std::io::Result<()> {
    io.write_all(&early).await?;
    let mut buffer = [0; 4096];
    loop {
        match io.read(&mut buffer).await? {
            0 => {
                // A last word after the client's end: half-closes are passed on.
                io.write_all(b"bye").await?;
                return Ok(());
            }
            count => io.write_all(&buffer[..count]).await?,
        }
    }
}
