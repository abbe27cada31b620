// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Addresses and ports in network byte order: the only place where it appears.
//!
//! One form for both families, IPv4 as v4-mapped IPv6, so that there is one service map and one origin map, and a
//! v4-mapped IPv6 socket finds the same entries as an IPv4 one.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address: 16 octets in network order, IPv4 as `::ffff:a.b.c.d`.
///
/// Held as the four words in which the kernel's context hands it over; a word's bytes are in network order, its value as
/// a number is meaningless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C)]
pub struct NetAddr {
    words: [u32; 4],
}
const _: () = assert!(size_of::<NetAddr>() == 16);

const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl NetAddr {
    /// `::`; in a struct it stands for "no address".
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };

    /// From the kernel's words (`user_ip6`, `local_ip6`).
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// The v4-mapped form of one of the kernel's IPv4 words (`user_ip4`, `local_ip4`).
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self { words: [0, 0, MAPPED, word] }
    }

    /// The words, as the kernel's context wants them back.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.words
    }

    /// The last word: all of an IPv4 address.
    #[inline(always)]
    pub const fn v4_word(self) -> u32 {
        self.words[3]
    }

    /// From octets in network order.
    pub const fn from_octets(o: [u8; 16]) -> Self {
        Self {
            words: [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ],
        }
    }

    /// The octets in network order.
    pub const fn octets(self) -> [u8; 16] {
        let [a, b, c, d] = [
            self.words[0].to_ne_bytes(),
            self.words[1].to_ne_bytes(),
            self.words[2].to_ne_bytes(),
            self.words[3].to_ne_bytes(),
        ];
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }

    /// Whether this is IPv4.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// 127.0.0.0/8, `::1`, and the addresses by which Linux means "this host" in a connect: 0.0.0.0 and `::`.
    #[inline(always)]
    pub const fn is_own_host(self) -> bool {
        if self.is_v4() {
            return self.words[3].to_ne_bytes()[0] == 127 || self.words[3] == 0;
        }
        self.words[0] == 0
            && self.words[1] == 0
            && self.words[2] == 0
            && (self.words[3] == 0 || self.words[3] == 1u32.to_be())
    }

    /// Whether no address was set ([`NetAddr::UNSPECIFIED`]).
    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        self.words[0] | self.words[1] | self.words[2] | self.words[3] == 0
    }
}

impl From<IpAddr> for NetAddr {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Ipv4Addr> for NetAddr {
    fn from(address: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Ipv6Addr> for NetAddr {
    fn from(address: Ipv6Addr) -> Self {
        Self::from_octets(address.octets())
    }
}

impl From<NetAddr> for IpAddr {
    /// A v4-mapped address comes back as IPv4.
    fn from(address: NetAddr) -> Self {
        Ipv6Addr::from(address.octets()).to_canonical()
    }
}

/// A port in network order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct NetPort(u16);
const _: () = assert!(size_of::<NetPort>() == 2);

impl NetPort {
    /// Port 0; in a struct it stands for "no port".
    pub const NONE: Self = Self(0);

    /// From host order.
    #[inline(always)]
    pub const fn from_host(port: u16) -> Self {
        Self(port.to_be())
    }

    /// To host order.
    #[inline(always)]
    pub const fn to_host(self) -> u16 {
        u16::from_be(self.0)
    }

    /// From the kernel's `user_port`: the low 16 bits, in network order.
    #[inline(always)]
    pub const fn from_user_port(word: u32) -> Self {
        Self(word as u16)
    }

    /// As the kernel's `user_port` wants it back.
    #[inline(always)]
    pub const fn to_user_port(self) -> u32 {
        self.0 as u32
    }

    /// Whether no port was set ([`NetPort::NONE`]).
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> NetAddr {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn addresses_survive_the_round_trip_and_mapped_means_v4() {
        for (text, back, v4) in [
            ("10.96.0.10", "10.96.0.10", true),
            ("::ffff:10.96.0.10", "10.96.0.10", true),
            ("fd00::10", "fd00::10", false),
            ("::1", "::1", false),
        ] {
            assert_eq!(IpAddr::from(net(text)), back.parse::<IpAddr>().unwrap(), "{text}");
            assert_eq!(net(text).is_v4(), v4, "{text}");
            assert_eq!(NetAddr::from_octets(net(text).octets()), net(text), "{text}");
        }
        assert_eq!(net("10.96.0.10"), net("::ffff:10.96.0.10"));
    }

    #[test]
    fn own_host_is_loopback_and_the_unspecified_addresses_only() {
        for (text, own) in [
            ("127.0.0.1", true),
            ("127.255.0.9", true),
            ("::ffff:127.0.0.1", true),
            ("0.0.0.0", true),
            ("::1", true),
            ("::", true),
            ("128.0.0.1", false),
            ("10.0.0.127", false),
            ("0.0.0.1", false),
            ("::2", false),
            ("::100", false),
            ("fd00::1", false),
            ("::127.0.0.1", false),
        ] {
            assert_eq!(net(text).is_own_host(), own, "{text}");
        }
    }

    #[test]
    fn only_no_address_is_unspecified() {
        assert!(NetAddr::UNSPECIFIED.is_unspecified());
        assert!(!net("0.0.0.0").is_unspecified(), "IPv4's has the mapped prefix");
        assert!(!net("1::").is_unspecified());
    }

    #[test]
    fn ports_are_in_network_order_in_memory() {
        assert_eq!(NetPort::from_host(0x1234).0.to_ne_bytes(), [0x12, 0x34]);
        assert_eq!(NetPort::from_host(9080).to_host(), 9080);
        assert_eq!(
            NetPort::from_user_port(NetPort::from_host(9080).to_user_port()),
            NetPort::from_host(9080)
        );
        assert!(NetPort::NONE.is_none() && !NetPort::from_host(1).is_none());
    }
}
