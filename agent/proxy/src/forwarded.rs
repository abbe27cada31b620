//! `x-forwarded-for`: who is the client, by the word of the proxies in front of us.

use std::net::IpAddr;

/// The header.
pub(crate) const FORWARDED_FOR: &str = "x-forwarded-for";

/// The client by the word of `trusted` proxies in front: each appends whom it was called by, so of what the last one sent it
/// is the address so far from the right. `None`: nobody is trusted, or there is no address (Envoy: the peer then).
pub(crate) fn client<'a>(lines: impl Iterator<Item = &'a [u8]>, trusted: u32) -> Option<IpAddr> {
    let back = usize::try_from(trusted).ok()?.checked_sub(1)?;
    let lines: Vec<&[u8]> = lines.collect();
    let mut addresses = lines.iter().rev().flat_map(|line| line.rsplit(|&byte| byte == b','));
    std::str::from_utf8(addresses.nth(back)?).ok()?.trim().parse().ok()
}

/// The list with `peer` at its end.
pub(crate) fn appended<'a>(lines: impl Iterator<Item = &'a [u8]>, peer: &str) -> String {
    let mut list = String::new();
    for line in lines {
        list.push_str(&String::from_utf8_lossy(line));
        list.push(',');
    }
    list.push_str(peer);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_as_far_from_the_right_as_proxies_are_trusted() {
        let lines: &[&str] = &["192.0.2.9", "203.0.113.1 ,2001:db8::1, 203.0.113.2"];
        for (lines, trusted, want) in [
            (lines, 0, None),
            (lines, 1, Some("203.0.113.2")),
            (lines, 2, Some("2001:db8::1")),
            (lines, 3, Some("203.0.113.1")),
            (lines, 4, Some("192.0.2.9")),
            (lines, 5, None),
            (&[], 1, None),
            (&["unknown"], 1, None),
            (&["203.0.113.1, "], 1, None),
            (&["203.0.113.1:80"], 1, None),
        ] {
            let found = client(lines.iter().map(|line| line.as_bytes()), trusted);
            assert_eq!(found.map(|address| address.to_string()).as_deref(), want, "{lines:?} {trusted}");
        }
    }

    #[test]
    fn the_peer_is_appended_to_what_there_is() {
        for (lines, want) in [(&[][..], "203.0.113.7"), (&["a, b", "c"], "a, b,c,203.0.113.7")] {
            assert_eq!(appended(lines.iter().map(|line| line.as_bytes()), "203.0.113.7"), want);
        }
    }
}
