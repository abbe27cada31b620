//! Decimal digits on the stack, for header values that are written for each request.

/// See the module's text.
pub(crate) struct Digits {
    bytes: [u8; 20],
    start: usize,
}

impl Digits {
    pub(crate) fn of(mut value: u64) -> Self {
        let mut digits = Self { bytes: [0; 20], start: 20 };
        loop {
            // 20 digits hold every `u64`.
            digits.start -= 1;
            digits.bytes[digits.start] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                return digits;
            }
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_digits() {
        for value in [0, 7, 10, 1234, u64::MAX] {
            assert_eq!(Digits::of(value).as_bytes(), value.to_string().as_bytes());
        }
    }
}
