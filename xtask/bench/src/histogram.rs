//! A histogram of durations with a bounded relative error, as HdrHistogram has it: 128 buckets for each power of two, so a
//! value is known to within 1/128 from nanoseconds to minutes, in 40 KiB and without allocation while recording.

use std::time::Duration;

/// log2 of the buckets per power of two.
const PRECISION: u32 = 7;
const SUB: usize = 1 << PRECISION;
/// 2^43 ns is 2.4 hours; longer values count as that.
const LARGEST_EXPONENT: u32 = 43;
const BUCKETS: usize = SUB * (LARGEST_EXPONENT - PRECISION + 1) as usize;

/// Counts of durations.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum_ns: u64,
    largest_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, sum_ns: 0, largest_ns: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(ns)) {
            *count += 1;
        }
        self.total += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.largest_ns = self.largest_ns.max(ns);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        (self.total, self.sum_ns, self.largest_ns) = (0, 0, 0);
    }

    /// How many were recorded.
    pub fn len(&self) -> u64 {
        self.total
    }

    /// Whether none was recorded.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The mean; zero of nothing.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.checked_div(self.total).unwrap_or(0))
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.largest_ns)
    }

    /// The smallest duration that at least the share `quantile` (0 to 1) does not exceed, to within 1/128 above; zero of
    /// nothing.
    pub fn quantile(&self, quantile: f64) -> Duration {
        let wanted = ((self.total as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_nanos(upper_end(index).min(self.largest_ns));
            }
        }
        self.max()
    }
}

/// Values below 128 have a bucket each; above, the leading eight bits choose it.
fn bucket(ns: u64) -> usize {
    let exponent = 63 - (ns | 1).leading_zeros();
    if exponent < PRECISION {
        return ns as usize;
    }
    let shift = exponent - PRECISION;
    let index = (shift as usize + 1) * SUB + ((ns >> shift) as usize - SUB);
    index.min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper_end(index: usize) -> u64 {
    if index < SUB {
        return index as u64;
    }
    let shift = index / SUB - 1;
    (((index % SUB + SUB + 1) as u64) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_within_a_128th_of_its_upper_end() {
        for exponent in 0..43 {
            for offset in [0, 1, 3] {
                let value = (1u64 << exponent) + offset;
                let end = upper_end(bucket(value));
                assert!(end >= value && end - value <= value / 128, "{value} in a bucket up to {end}");
                let before = bucket(value).checked_sub(1).map(upper_end);
                assert!(
                    before.is_none_or(|b| b < value),
                    "{value} is not below its bucket, which begins after {before:?}"
                );
            }
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let mut histogram = Histogram::default();
        let mut values: Vec<u64> = (0..10_000).map(|i: u64| 50 + i * i * 37 % 9_999_991).collect();
        values.iter().for_each(|v| histogram.record(Duration::from_nanos(*v)));
        values.sort_unstable();
        for (quantile, index) in [(0.5, 4_999), (0.9, 8_999), (0.99, 9_899), (0.999, 9_989), (1.0, 9_999)] {
            let (got, want) = (histogram.quantile(quantile).as_nanos() as u64, values[index]);
            assert!(got >= want && got - want <= want / 128 + 1, "{quantile}: {got}, not {want}");
        }
        assert_eq!(histogram.max().as_nanos() as u64, values[9_999]);
        assert_eq!(histogram.mean().as_nanos() as u64, values.iter().sum::<u64>() / 10_000);
    }

    #[test]
    fn nothing_recorded_is_zero_and_the_longest_imaginable_does_not_panic() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile(0.5), histogram.mean()), (Duration::ZERO, Duration::ZERO));
        histogram.record(Duration::MAX);
        assert_eq!(histogram.len(), 1);
        histogram.clear();
        assert!(histogram.is_empty() && histogram.max().is_zero());
    }
}
