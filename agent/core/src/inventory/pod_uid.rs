//! The uid of a pod: what its cgroup is named by on the node.

use std::fmt;
use std::str::FromStr;

/// 128 bits. The API server makes UUIDs; the kubelet names static pods, which it reads from files, by an MD5 sum.
///
/// Parsed from any of the ways in which it is written: with `-` in objects and below the cgroupfs driver, with `_` below the
/// systemd driver (where `-` means a parent). A static pod's is bare digits wherever it is written, and never the same as one of
/// the API server's: an object that names a static pod as its original cannot take the place of another pod by that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid {
    bits: [u8; 16],
    is_static: bool,
}

impl PodUid {
    /// Whether the kubelet gave it, and not the API server.
    pub fn is_static(self) -> bool {
        self.is_static
    }
}

/// It is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a pod's uid")]
pub struct NotAUid;

impl FromStr for PodUid {
    type Err = NotAUid;

    fn from_str(text: &str) -> Result<Self, NotAUid> {
        let mut digits = 0;
        let mut bits = 0u128;
        for byte in text.bytes().filter(|byte| !matches!(byte, b'-' | b'_')) {
            let digit = char::from(byte).to_digit(16).ok_or(NotAUid)?;
            bits = bits << 4 | u128::from(digit);
            digits += 1;
        }
        if digits != 32 {
            return Err(NotAUid);
        }
        Ok(Self { bits: bits.to_be_bytes(), is_static: text.len() == 32 })
    }
}

/// As in objects, with `-` if it is the API server's.
impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.bits.iter().enumerate() {
            if !self.is_static && matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_the_same_however_it_is_written() {
        let uid: PodUid = "0f6d5b2e-93a1-4c1e-8d55-0123456789ab".parse().unwrap();
        for text in ["0f6d5b2e_93a1_4c1e_8d55_0123456789ab", &uid.to_string()] {
            assert_eq!(text.parse(), Ok(uid), "{text}");
        }
        assert!(!uid.is_static());
    }

    #[test]
    fn a_static_pods_uid_is_never_that_of_another_pod() {
        let bare = "0f6d5b2e93a14c1e8d550123456789ab";
        let uid: PodUid = bare.parse().unwrap();
        assert!(uid.is_static());
        assert_eq!(uid.to_string(), bare);
        assert_ne!("0f6d5b2e-93a1-4c1e-8d55-0123456789ab".parse(), Ok(uid));
    }

    #[test]
    fn other_texts_are_no_uid() {
        for text in
            ["", "0f6d5b2e", "0f6d5b2e-93a1-4c1e-8d55-0123456789abc", "zf6d5b2e93a14c1e8d550123456789ab"]
        {
            assert_eq!(text.parse::<PodUid>(), Err(NotAUid), "{text}");
        }
    }
}
