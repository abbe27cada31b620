//! The access log: one line for every request and opaque connection, in Istio's text or JSON format, with the id of the
//! rule that decided and the generation of the snapshot it came from.
//!
//! Workers format into a buffer of their own and hand whole buffers to one writer thread through a bounded queue; a
//! blocked terminal or disk therefore never delays a request. Lines that find the queue full are counted, never silent.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::date::date_time;
use crate::flags::ResponseFlags;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// No access log.
    Off,
    /// Istio's default text format (`accessLogEncoding: TEXT`).
    #[default]
    Text,
    /// Istio's JSON format, same keys.
    Json,
}

/// Buffers waiting for the writer; one is about 32 KiB.
const QUEUED_BUFFERS: usize = 256;
const FLUSH_BYTES: usize = 32 * 1024;

/// The sending side, shared by all workers.
#[derive(Clone)]
pub struct Sink {
    queue: Option<SyncSender<Vec<u8>>>,
    dropped_lines: Arc<AtomicU64>,
}

impl Sink {
    /// A sink that forgets everything.
    pub fn none() -> Self {
        Self { queue: None, dropped_lines: Arc::default() }
    }

    /// Starts the writer thread. It ends when the last clone of the sink is gone; join the handle to see the last line
    /// written. A failing `output` drops lines (counted) and is tried again with the next buffer.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(
        output: impl Write + Send + 'static,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (queue, receiver) = sync_channel(QUEUED_BUFFERS);
        let dropped_lines = Arc::new(AtomicU64::new(0));
        let dropped = dropped_lines.clone();
        let writer = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(output, &receiver, &dropped))?;
        Ok((Self { queue: Some(queue), dropped_lines }, writer))
    }

    /// Lines that were lost because the output was slower than the traffic, or failed.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped_lines.load(Ordering::Relaxed)
    }

    fn send(&self, buffer: Vec<u8>) {
        let Some(queue) = &self.queue else { return };
        if let Err(TrySendError::Full(buffer) | TrySendError::Disconnected(buffer)) = queue.try_send(buffer) {
            self.dropped_lines.fetch_add(count_lines(&buffer), Ordering::Relaxed);
        }
    }
}

fn write_all(mut output: impl Write, receiver: &Receiver<Vec<u8>>, dropped_lines: &AtomicU64) {
    while let Ok(buffer) = receiver.recv() {
        if output.write_all(&buffer).and_then(|()| output.flush()).is_err() {
            dropped_lines.fetch_add(count_lines(&buffer), Ordering::Relaxed);
        }
    }
}

fn count_lines(buffer: &[u8]) -> u64 {
    buffer.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// What the access log keeps of a request's head, taken when it is routed, since the head is gone later. Fields over
/// 1 KiB are cut.
#[derive(Debug, Default)]
pub(crate) struct Note {
    text: Vec<u8>,
    ends: [u32; 6],
}

/// The fields of a [`Note`], in order.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field {
    Method,
    Path,
    ForwardedFor,
    UserAgent,
    RequestId,
    Authority,
}

const MAX_FIELD: usize = 1024;

impl Note {
    /// The note of what is no request.
    pub(crate) fn none() -> Self {
        let mut note = Self::default();
        note.take([b"-", b"-", b"", b"", b"", b""]);
        note
    }

    /// Takes the fields in the order of [`Field`].
    pub(crate) fn take(&mut self, fields: [&[u8]; 6]) {
        self.text.clear();
        for (field, end) in fields.into_iter().zip(&mut self.ends) {
            self.text.extend_from_slice(&field[..field.len().min(MAX_FIELD)]);
            *end = self.text.len() as u32;
        }
    }

    pub(crate) fn field(&self, field: Field) -> &[u8] {
        let index = field as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        self.text.get(start..self.ends[index] as usize).unwrap_or_default()
    }
}

/// Everything a line says.
pub(crate) struct Entry<'a> {
    /// When the request's head was complete.
    pub started: Instant,
    pub note: &'a Note,
    /// `HTTP/1.1`, `HTTP/2`, or `-` for an opaque connection.
    pub protocol: &'static str,
    pub status: u16,
    /// Of a gRPC call, if it is known; JSON only, since Istio's text format has no place for it.
    pub grpc_status: Option<u32>,
    pub flags: ResponseFlags,
    /// `via_upstream`, `route_not_found`, ...: Envoy's RESPONSE_CODE_DETAILS.
    pub details: &'static str,
    pub received: u64,
    pub sent: u64,
    pub duration: Duration,
    /// Time until the upstream's response head.
    pub upstream_time: Option<Duration>,
    pub upstream_host: Option<SocketAddr>,
    /// `outbound|9080|v2|reviews.default.svc.cluster.local`
    pub upstream_cluster: &'a str,
    pub upstream_local: Option<SocketAddr>,
    /// What the client dialled.
    pub downstream_local: SocketAddr,
    pub downstream_remote: SocketAddr,
    pub sni: &'a str,
    pub route_name: &'a str,
    /// The rule's id, `-` without one.
    pub rule: &'a str,
    pub generation: u64,
    /// `namespace/pod` of the client.
    pub source: &'a str,
}

/// A worker's side of the log.
pub(crate) struct AccessLog {
    format: Format,
    sink: Sink,
    buffer: RefCell<Vec<u8>>,
    clock: Clock,
}

impl AccessLog {
    pub(crate) fn new(format: Format, sink: Sink) -> Self {
        Self { format, sink, buffer: RefCell::default(), clock: Clock::new() }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.format != Format::Off
    }

    /// Appends a line; nothing is written before [`AccessLog::flush`] or a full buffer.
    pub(crate) fn append(&self, entry: &Entry<'_>) {
        let mut buffer = self.buffer.borrow_mut();
        match self.format {
            Format::Off => return,
            Format::Text => text(&mut buffer, entry, &self.clock),
            Format::Json => json(&mut buffer, entry, &self.clock),
        }
        if buffer.len() >= FLUSH_BYTES {
            self.sink.send(std::mem::replace(&mut buffer, Vec::with_capacity(FLUSH_BYTES + 4096)));
        }
    }

    /// Hands what there is to the writer. Called by the worker a few times a second and at its end.
    pub(crate) fn flush(&self) {
        let mut buffer = self.buffer.borrow_mut();
        if !buffer.is_empty() {
            self.sink.send(std::mem::take(&mut buffer));
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Wall time from a monotonic clock read once per request; the date part is formatted once a second.
struct Clock {
    start: Instant,
    start_unix: Duration,
    second: Cell<u64>,
    /// `2026-11-23T12:00:00`
    text: Cell<[u8; 19]>,
}

impl Clock {
    fn new() -> Self {
        let start_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), start_unix, second: Cell::new(u64::MAX), text: Cell::new([b'0'; 19]) }
    }

    /// Appends RFC 3339 with milliseconds, UTC.
    fn write(&self, out: &mut Vec<u8>, at: Instant) {
        let unix = self.start_unix + at.saturating_duration_since(self.start);
        if self.second.replace(unix.as_secs()) != unix.as_secs() {
            self.text.set(date_time(unix.as_secs()));
        }
        out.extend_from_slice(&self.text.get());
        let millis = unix.subsec_millis();
        out.push(b'.');
        out.extend([millis / 100, millis / 10 % 10, millis % 10].map(|digit| b'0' + digit as u8));
        out.push(b'Z');
    }
}

/// Decimal digits, without the formatting machinery: a line has eight numbers.
pub(crate) fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A client chose these bytes: nothing that could end the quotes or the line passes.
fn quoted(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'"');
    if value.is_empty() {
        out.push(b'-');
    }
    if value.iter().all(|&byte| (b' '..0x7f).contains(&byte) && byte != b'"' && byte != b'\\') {
        out.extend_from_slice(value);
    } else {
        for &byte in value {
            match byte {
                b'"' | b'\\' => out.extend([b'\\', byte]),
                b' '..0x7f => out.push(byte),
                _ => {
                    const HEX: &[u8; 16] = b"0123456789abcdef";
                    out.extend([b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
                }
            }
        }
    }
    out.push(b'"');
}

fn address(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    match address {
        Some(SocketAddr::V4(v4)) => {
            for (index, octet) in v4.ip().octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                number(out, u64::from(octet));
            }
            out.push(b':');
            number(out, u64::from(v4.port()));
        }
        // Writing to a Vec cannot fail.
        Some(v6) => drop(write!(out, "{v6}")),
        None => out.push(b'-'),
    }
}

fn word(out: &mut Vec<u8>, value: &str) {
    out.extend_from_slice(if value.is_empty() { b"-" } else { value.as_bytes() });
    out.push(b' ');
}

/// Istio's default text format, field by field, then ours: `rule`, `generation`, `source`.
fn text(out: &mut Vec<u8>, entry: &Entry<'_>, clock: &Clock) {
    out.push(b'[');
    clock.write(out, entry.started);
    out.extend_from_slice(b"] \"");
    let start = out.len();
    out.extend_from_slice(entry.note.field(Field::Method));
    out.push(b' ');
    out.extend_from_slice(entry.note.field(Field::Path));
    // Codecs let only visible characters into methods and targets; a quote in a target is the one to mask.
    for byte in &mut out[start..] {
        if *byte == b'"' || *byte < b' ' {
            *byte = b'_';
        }
    }
    out.push(b' ');
    out.extend_from_slice(entry.protocol.as_bytes());
    out.extend_from_slice(b"\" ");
    number(out, u64::from(entry.status));
    out.push(b' ');
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{} ", entry.flags);
    word(out, entry.details);
    out.extend_from_slice(b"- \"-\" ");
    for value in [entry.received, entry.sent, entry.duration.as_millis() as u64] {
        number(out, value);
        out.push(b' ');
    }
    match entry.upstream_time {
        Some(time) => number(out, time.as_millis() as u64),
        None => out.push(b'-'),
    }
    for field in [Field::ForwardedFor, Field::UserAgent, Field::RequestId, Field::Authority] {
        out.push(b' ');
        quoted(out, entry.note.field(field));
    }
    out.extend_from_slice(b" \"");
    address(out, entry.upstream_host);
    out.extend_from_slice(b"\" ");
    word(out, entry.upstream_cluster);
    for peer in [entry.upstream_local, Some(entry.downstream_local), Some(entry.downstream_remote)] {
        address(out, peer);
        out.push(b' ');
    }
    word(out, entry.sni);
    word(out, entry.route_name);
    out.extend_from_slice(b"rule=");
    word(out, entry.rule);
    out.extend_from_slice(b"generation=");
    number(out, entry.generation);
    out.extend_from_slice(b" source=");
    out.extend_from_slice(entry.source.as_bytes());
    out.push(b'\n');
}

/// Istio's JSON format: same keys, numbers as numbers, `null` for what there is not.
fn json(out: &mut Vec<u8>, entry: &Entry<'_>, clock: &Clock) {
    out.extend_from_slice(b"{\"start_time\":\"");
    clock.write(out, entry.started);
    out.push(b'"');
    let texts: [(&str, &[u8]); 14] = [
        ("method", entry.note.field(Field::Method)),
        ("path", entry.note.field(Field::Path)),
        ("protocol", entry.protocol.as_bytes()),
        ("response_code_details", entry.details.as_bytes()),
        ("x_forwarded_for", entry.note.field(Field::ForwardedFor)),
        ("user_agent", entry.note.field(Field::UserAgent)),
        ("request_id", entry.note.field(Field::RequestId)),
        ("authority", entry.note.field(Field::Authority)),
        ("upstream_cluster", entry.upstream_cluster.as_bytes()),
        ("requested_server_name", entry.sni.as_bytes()),
        ("route_name", entry.route_name.as_bytes()),
        ("rule", entry.rule.as_bytes()),
        ("source", entry.source.as_bytes()),
        ("connection_termination_details", b""),
    ];
    for (key, value) in texts {
        let value = if value == b"-" { b"" } else { value };
        // Writing to a Vec cannot fail.
        let _ = write!(out, ",\"{key}\":");
        if value.is_empty() {
            out.extend_from_slice(b"null");
        } else {
            json_string(out, value);
        }
    }
    let _ = write!(
        out,
        ",\"response_code\":{},\"response_flags\":\"{}\",\"bytes_received\":{},\"bytes_sent\":{},\"duration\":{}",
        entry.status,
        entry.flags,
        entry.received,
        entry.sent,
        entry.duration.as_millis()
    );
    match entry.upstream_time {
        Some(time) => drop(write!(out, ",\"upstream_service_time\":{}", time.as_millis())),
        None => out.extend_from_slice(b",\"upstream_service_time\":null"),
    }
    for (key, peer) in [
        ("upstream_host", entry.upstream_host),
        ("upstream_local_address", entry.upstream_local),
        ("downstream_local_address", Some(entry.downstream_local)),
        ("downstream_remote_address", Some(entry.downstream_remote)),
    ] {
        match peer {
            Some(peer) => drop(write!(out, ",\"{key}\":\"{peer}\"")),
            None => drop(write!(out, ",\"{key}\":null")),
        }
    }
    if let Some(status) = entry.grpc_status {
        let _ = write!(out, ",\"grpc_status\":{status}");
    }
    let _ = writeln!(out, ",\"generation\":{}}}", entry.generation);
}

fn json_string(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'"');
    for character in String::from_utf8_lossy(value).chars() {
        match character {
            '"' | '\\' => out.extend([b'\\', character as u8]),
            control if (control as u32) < 0x20 => drop(write!(out, "\\u{:04x}", control as u32)),
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn entry<'a>(note: &'a Note, clock: &Clock) -> Entry<'a> {
        Entry {
            started: clock.start,
            note,
            protocol: "HTTP/1.1",
            status: 200,
            grpc_status: None,
            flags: ResponseFlags::NONE,
            details: "via_upstream",
            received: 0,
            sent: 178,
            duration: Duration::from_millis(3),
            upstream_time: Some(Duration::from_millis(2)),
            upstream_host: Some(([10, 1, 2, 3], 9080).into()),
            upstream_cluster: "outbound|9080|v2|reviews.default.svc.cluster.local",
            upstream_local: None,
            downstream_local: ([10, 96, 0, 12], 9080).into(),
            downstream_remote: ([10, 1, 2, 9], 40_000).into(),
            sni: "",
            route_name: "",
            rule: "VirtualService/default/reviews#0",
            generation: 7,
            source: "default/productpage-v1",
        }
    }

    fn note(path: &[u8], agent: &[u8]) -> Note {
        let mut note = Note::default();
        note.take([b"GET", path, b"", agent, b"id-1", b"reviews:9080"]);
        note
    }

    fn fixed_clock() -> Clock {
        let mut clock = Clock::new();
        clock.start_unix = Duration::from_millis(1_795_435_200_042);
        clock
    }

    #[test]
    fn a_text_line_has_istios_fields_in_istios_order() {
        let clock = fixed_clock();
        let note = note(b"/reviews/0", b"curl/8");
        let mut out = Vec::new();
        text(&mut out, &entry(&note, &clock), &clock);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "[2026-11-23T12:00:00.042Z] \"GET /reviews/0 HTTP/1.1\" 200 - via_upstream - \"-\" 0 178 3 2 \"-\" \"curl/8\" \
             \"id-1\" \"reviews:9080\" \"10.1.2.3:9080\" outbound|9080|v2|reviews.default.svc.cluster.local - \
             10.96.0.12:9080 10.1.2.9:40000 - - rule=VirtualService/default/reviews#0 generation=7 \
             source=default/productpage-v1\n"
        );
    }

    #[test]
    fn a_client_cannot_forge_a_line_or_a_field() {
        let clock = fixed_clock();
        let note = note(b"/a\"b", b"x\" 200 \n\xff");
        let mut out = Vec::new();
        text(&mut out, &entry(&note, &clock), &clock);
        let line = String::from_utf8(out).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.contains("\"GET /a_b HTTP/1.1\"") && line.contains(r#""x\" 200 \x0a\xff""#), "{line}");
        let mut out = Vec::new();
        json(&mut out, &entry(&note, &clock), &clock);
        let line = String::from_utf8(out).unwrap();
        assert!(
            line.contains(r#""user_agent":"x\" 200 \u000a"#) && line.contains(r#""x_forwarded_for":null"#),
            "{line}"
        );
    }

    #[test]
    fn a_grpc_status_is_said_of_grpc_calls_alone() {
        let clock = fixed_clock();
        let note = note(b"/shop.Catalog/List", b"grpc");
        for (grpc_status, want) in [(Some(14), true), (None, false)] {
            let mut out = Vec::new();
            json(&mut out, &Entry { grpc_status, ..entry(&note, &clock) }, &clock);
            let line = String::from_utf8(out).unwrap();
            assert_eq!(line.contains(",\"grpc_status\":14,"), want, "{line}");
        }
    }

    #[test]
    fn dates_are_right_around_leap_days_and_year_ends() {
        for (unix, want) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (4_107_542_399, "2100-02-28T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
            (1_798_761_599, "2026-12-31T23:59:59"),
        ] {
            assert_eq!(std::str::from_utf8(&date_time(unix)).unwrap(), want);
        }
    }

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_written_by_the_time_the_writer_is_joined() {
        let output = Output::default();
        let (sink, writer) = Sink::start(output.clone()).unwrap();
        let log = AccessLog::new(Format::Text, sink.clone());
        let note = note(b"/", b"");
        for _ in 0..1000 {
            log.append(&entry(&note, &log.clock));
        }
        drop((log, sink));
        writer.join().unwrap();
        assert_eq!(count_lines(&output.0.lock().unwrap()), 1000);
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let (sink, writer) = Sink::start(Broken).unwrap();
        let log = AccessLog::new(Format::Text, sink.clone());
        let note = note(b"/", b"");
        log.append(&entry(&note, &log.clock));
        let dropped = sink.dropped_lines.clone();
        drop((log, sink));
        writer.join().unwrap();
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }
}
