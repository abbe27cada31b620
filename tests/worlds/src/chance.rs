//! What is made up is drawn from here: numbers that are the same for the same seed on every machine (splitmix64), or those that
//! a fuzzer writes.

use rand_core::RngCore;

/// A sequence of numbers.
#[derive(Debug, Clone)]
pub struct Chance {
    state: u64,
    /// Comes first, byte by byte.
    script: Vec<u8>,
    at: usize,
}

impl Chance {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, script: Vec::new(), at: 0 }
    }

    /// The bytes of a script, each a number; after its end the sequence of seed 0.
    pub fn scripted(script: &[u8]) -> Self {
        Self { script: script.to_vec(), ..Self::new(0) }
    }

    /// Whether a script is at its end.
    pub fn is_at_end(&self) -> bool {
        self.at >= self.script.len()
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next_u64() % end.max(1) as u64) as usize
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of them.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

impl RngCore for Chance {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        if let Some(&byte) = self.script.get(self.at) {
            self.at += 1;
            return byte.into();
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.next_u64() as u8);
    }
}
