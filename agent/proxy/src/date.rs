//! Dates as text: RFC 3339 for the access log, RFC 9110 (IMF-fixdate) for the `date` header.

use std::cell::Cell;

/// The `date` header's value, made once a second.
pub(crate) struct HttpDate {
    second: Cell<u64>,
    text: Cell<[u8; 29]>,
}

impl Default for HttpDate {
    fn default() -> Self {
        Self { second: Cell::new(0), text: Cell::new(http_date(0)) }
    }
}

impl HttpDate {
    /// At `unix` seconds since the epoch.
    pub(crate) fn at(&self, unix: u64) -> [u8; 29] {
        if self.second.replace(unix) != unix {
            self.text.set(http_date(unix));
        }
        self.text.get()
    }
}

/// `2026-11-23T12:00:00` of a Unix time.
pub(crate) fn date_time(unix: u64) -> [u8; 19] {
    let (year, month, day) = civil(unix / 86_400);
    let second = unix % 86_400;
    let mut text = *b"0000-00-00T00:00:00";
    put(&mut text, 0, 4, year);
    put(&mut text, 5, 2, month);
    put(&mut text, 8, 2, day);
    put_time(&mut text, 11, second);
    text
}

/// `Mon, 23 Nov 2026 12:00:00 GMT` of a Unix time.
fn http_date(unix: u64) -> [u8; 29] {
    let days = unix / 86_400;
    let (year, month, day) = civil(days);
    let mut text = *b"Thu, 00 Jan 0000 00:00:00 GMT";
    // The epoch was a Thursday.
    copy(&mut text, 0, b"ThuFriSatSunMonTueWed", days % 7);
    copy(&mut text, 8, b"JanFebMarAprMayJunJulAugSepOctNovDec", month - 1);
    put(&mut text, 5, 2, day);
    put(&mut text, 12, 4, year);
    put_time(&mut text, 17, unix % 86_400);
    text
}

/// Year, month and day, after Howard Hinnant's `civil_from_days`.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

fn put_time(text: &mut [u8], at: usize, second: u64) {
    put(text, at, 2, second / 3600);
    put(text, at + 3, 2, second / 60 % 60);
    put(text, at + 6, 2, second % 60);
}

fn put(text: &mut [u8], at: usize, width: usize, mut value: u64) {
    for digit in text.iter_mut().skip(at).take(width).rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Puts the name at `index` of a list of names of three letters.
fn copy(text: &mut [u8], at: usize, names: &[u8], index: u64) {
    let name = names.chunks(3).nth(index as usize).unwrap_or_default();
    for (to, from) in text.iter_mut().skip(at).zip(name) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_all_kinds_have_their_dates() {
        for (unix, rfc3339, http) in [
            (0, "1970-01-01T00:00:00", "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "1994-11-06T08:49:37", "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "2000-02-29T00:00:00", "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_735_689_599, "2024-12-31T23:59:59", "Tue, 31 Dec 2024 23:59:59 GMT"),
            (4_107_542_400, "2100-03-01T00:00:00", "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(String::from_utf8_lossy(&date_time(unix)), rfc3339);
            assert_eq!(String::from_utf8_lossy(&http_date(unix)), http);
            assert_eq!(HttpDate::default().at(unix), http_date(unix));
        }
    }
}
