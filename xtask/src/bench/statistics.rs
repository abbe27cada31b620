//! Medians with their spread, and the shuffle that decides who goes first.

use std::fmt;

/// A median and the smallest and largest of what it is the median of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) count: usize,
}

impl Spread {
    /// Of these values; `None` of none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(Self { median: f64::midpoint(lower, upper), min, max, count: values.len() })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$}", self.median)?;
        if self.count > 1 {
            write!(f, " ({:.digits$}..{:.digits$})", self.min, self.max)?;
        }
        Ok(())
    }
}

/// The middle half of `values`: how far single ones lie from the median when outliers do not count.
pub(crate) fn quartiles(values: &[f64]) -> Option<(f64, f64)> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    Some((*values.get(values.len() / 4)?, *values.get(values.len() * 3 / 4)?))
}

/// xorshift64*: the order must be repeatable by its seed, not unpredictable.
#[derive(Debug)]
pub(crate) struct Shuffle(u64);

impl Shuffle {
    pub(crate) fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed ^ 0x9E37_79B9_7F4A_7C15)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let random = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        random as usize % limit.max(1)
    }

    /// Fisher and Yates.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_median_and_the_ends() {
        let spread = Spread::of([3.0, 1.0, 10.0]).expect("values");
        assert_eq!((spread.median, spread.min, spread.max), (3.0, 1.0, 10.0));
        assert_eq!(Spread::of([1.0, 2.0, 4.0, 8.0]).map(|s| s.median), Some(3.0));
        assert_eq!(format!("{spread:.1} {}", Spread::of([2.0]).expect("one")), "3.0 (1.0..10.0) 2.00");
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN]), None, "what was not measured is not a value");
    }

    #[test]
    fn quartiles_hold_the_middle_half() {
        let values: Vec<f64> = (0..100).rev().map(f64::from).collect();
        assert_eq!(quartiles(&values), Some((25.0, 75.0)));
        assert_eq!(quartiles(&[]), None);
    }

    #[test]
    fn a_shuffle_keeps_all_repeats_by_seed_and_differs_between_seeds() {
        let shuffled = |seed| {
            let mut items: Vec<u32> = (0..20).collect();
            Shuffle::new(seed).shuffle(&mut items);
            items
        };
        assert_eq!(shuffled(7), shuffled(7));
        assert_ne!(shuffled(7), shuffled(8));
        let mut sorted = shuffled(7);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn every_place_is_reached_about_as_often() {
        let mut shuffle = Shuffle::new(1);
        let mut first = [0_u32; 4];
        for _ in 0..4000 {
            let mut items = [0, 1, 2, 3];
            shuffle.shuffle(&mut items);
            first[items[0]] += 1;
        }
        assert!(first.iter().all(|n| (800..1200).contains(n)), "{first:?}");
    }
}
