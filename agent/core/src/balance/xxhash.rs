//! xxHash64, the hash behind Envoy's consistent hashing ([specification](https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md)).
//!
//! The same hash as Envoy's, so that a key meets the endpoint that a sidecar would pick for it, and both can serve one
//! application while it moves over.

const PRIME_1: u64 = 0x9e37_79b1_85eb_ca87;
const PRIME_2: u64 = 0xc2b2_ae3d_27d4_eb4f;
const PRIME_3: u64 = 0x1656_67b1_9e37_79f9;
const PRIME_4: u64 = 0x85eb_ca77_c2b2_ae63;
const PRIME_5: u64 = 0x27d4_eb2f_1656_67c5;

/// The hash of `bytes`.
pub(crate) fn hash(bytes: &[u8], seed: u64) -> u64 {
    let (stripes, rest) = bytes.as_chunks::<32>();
    let mut sum = if stripes.is_empty() {
        seed.wrapping_add(PRIME_5)
    } else {
        let mut lanes = [
            seed.wrapping_add(PRIME_1).wrapping_add(PRIME_2),
            seed.wrapping_add(PRIME_2),
            seed,
            seed.wrapping_sub(PRIME_1),
        ];
        for stripe in stripes {
            let (words, _) = stripe.as_chunks::<8>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane = round(*lane, u64::from_le_bytes(*word));
            }
        }
        let [a, b, c, d] = lanes;
        let sum = a
            .rotate_left(1)
            .wrapping_add(b.rotate_left(7))
            .wrapping_add(c.rotate_left(12))
            .wrapping_add(d.rotate_left(18));
        lanes
            .iter()
            .fold(sum, |sum, &lane| (sum ^ round(0, lane)).wrapping_mul(PRIME_1).wrapping_add(PRIME_4))
    };
    sum = sum.wrapping_add(bytes.len() as u64);
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        sum ^= round(0, u64::from_le_bytes(*word));
        sum = sum.rotate_left(27).wrapping_mul(PRIME_1).wrapping_add(PRIME_4);
    }
    let (halves, rest) = rest.as_chunks::<4>();
    for half in halves {
        sum ^= u64::from(u32::from_le_bytes(*half)).wrapping_mul(PRIME_1);
        sum = sum.rotate_left(23).wrapping_mul(PRIME_2).wrapping_add(PRIME_3);
    }
    for &byte in rest {
        sum ^= u64::from(byte).wrapping_mul(PRIME_5);
        sum = sum.rotate_left(11).wrapping_mul(PRIME_1);
    }
    sum = (sum ^ (sum >> 33)).wrapping_mul(PRIME_2);
    sum = (sum ^ (sum >> 29)).wrapping_mul(PRIME_3);
    sum ^ (sum >> 32)
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(PRIME_2)).rotate_left(31).wrapping_mul(PRIME_1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // From the reference implementation.
        for (text, seed, want) in [
            ("", 0, 0xef46_db37_51d8_e999_u64),
            ("a", 0, 0xd24e_c4f1_a98c_6e5b),
            ("abc", 0, 0x44bc_2cf5_ad77_0999),
            ("", 1, 0xd5af_ba13_36a3_be4b),
            ("Nobody inspects the spammish repetition", 0, 0xfbce_a83c_8a37_8bf1),
            ("Call me Ishmael. Some years ago--never mind how long precisely-", 0, 0x02a2_e854_70d6_fd96),
        ] {
            assert_eq!(hash(text.as_bytes(), seed), want, "{text:?} with seed {seed}");
        }
    }
}
