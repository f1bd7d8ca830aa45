//! MD5 of several bodies side by side.
//!
//! MD5 is one chain of additions, in which each waits for the one before; a processor that does one body at a time mostly waits. So
//! as many bodies as there are lanes go through it together, a number of each in every register, in about a third of the time. The
//! loop over the lanes has no loop inside, so that the compiler makes vectors of it.
//!
//! Source: RFC 1321.

/// Bodies side by side.
pub(super) const LANES: usize = 8;

const BLOCK_BYTES: usize = 64;
/// What the last block ends with: how many bits there were.
const LENGTH_BYTES: usize = 8;

/// The same number of each body.
type Lanes = [u32; LANES];

const START: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// By how many bits each round turns, in its steps of four.
const TURNS: [[u32; 4]; 4] = [
    [7, 12, 17, 22],
    [5, 9, 14, 20],
    [4, 11, 16, 23],
    [6, 10, 15, 21],
];

/// The sines of the numbers from 1 on, as whole numbers.
const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

/// How many blocks a body makes.
pub(super) fn blocks(body: &[u8]) -> usize {
    (body.len() + 1 + LENGTH_BYTES).div_ceil(BLOCK_BYTES)
}

/// The digests of as many bodies as there are lanes. It takes as long as the longest of them.
pub(super) fn digests(bodies: [&[u8]; LANES]) -> [[u8; 16]; LANES] {
    let ends = bodies.map(End::of);
    let mut state = START.map(|word| [word; LANES]);
    for number in 0..ends.iter().map(|end| end.blocks).max().unwrap_or(0) {
        let mut words = [[0; LANES]; 16];
        for (lane, (body, end)) in bodies.iter().zip(&ends).enumerate() {
            let (block, _) = end.block(body, number).as_chunks::<4>();
            for (word, bytes) in words.iter_mut().zip(block) {
                word[lane] = u32::from_le_bytes(*bytes);
            }
        }
        let before = state;
        compress(&mut state, &words);
        for (lane, _) in ends
            .iter()
            .enumerate()
            .filter(|(_, end)| number >= end.blocks)
        {
            // It has ended and stays as it is.
            for (word, before) in state.iter_mut().zip(&before) {
                word[lane] = before[lane];
            }
        }
    }
    std::array::from_fn(|lane| {
        let mut digest = [0; 16];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(&state) {
            bytes.copy_from_slice(&word[lane].to_le_bytes());
        }
        digest
    })
}

/// The end of a body, filled up to whole blocks.
struct End {
    bytes: [u8; 2 * BLOCK_BYTES],
    /// How many blocks come before it.
    from: usize,
    /// How many there are with it.
    blocks: usize,
}

impl End {
    fn of(body: &[u8]) -> Self {
        let (from, blocks) = (body.len() / BLOCK_BYTES, blocks(body));
        let rest = &body[from * BLOCK_BYTES..];
        let mut bytes = [0; 2 * BLOCK_BYTES];
        bytes[..rest.len()].copy_from_slice(rest);
        bytes[rest.len()] = 0x80;
        let end = (blocks - from) * BLOCK_BYTES;
        let bits = (body.len() as u64).wrapping_mul(8);
        bytes[end - LENGTH_BYTES..end].copy_from_slice(&bits.to_le_bytes());
        Self {
            bytes,
            from,
            blocks,
        }
    }

    /// A block of the body that it is the end of; any bytes behind its last one.
    fn block<'a>(&'a self, body: &'a [u8], number: usize) -> &'a [u8] {
        let (bytes, at) = match number.checked_sub(self.from) {
            None => (body, number),
            Some(number) => (&self.bytes[..], number.min(1)),
        };
        &bytes[at * BLOCK_BYTES..(at + 1) * BLOCK_BYTES]
    }
}

fn compress(state: &mut [Lanes; 4], words: &[Lanes; 16]) {
    let [first, second, third, fourth] = state;
    let state = first.iter_mut().zip(second).zip(third).zip(fourth);
    for (lane, (((first, second), third), fourth)) in state.enumerate() {
        let word = |at: usize| words[at % 16][lane];
        let (mut a, mut b, mut c, mut d) = (*first, *second, *third, *fourth);
        // Written out: a loop in the loop over the lanes would keep that one from becoming vectors.
        macro_rules! four {
            ($at:expr, $turn:expr, $word:expr, $mix:expr) => {
                a = step(a, b, $mix(b, c, d), word($word($at)), SINES[$at], $turn[0]);
                d = step(
                    d,
                    a,
                    $mix(a, b, c),
                    word($word($at + 1)),
                    SINES[$at + 1],
                    $turn[1],
                );
                c = step(
                    c,
                    d,
                    $mix(d, a, b),
                    word($word($at + 2)),
                    SINES[$at + 2],
                    $turn[2],
                );
                b = step(
                    b,
                    c,
                    $mix(c, d, a),
                    word($word($at + 3)),
                    SINES[$at + 3],
                    $turn[3],
                );
            };
        }
        macro_rules! round {
            ($number:literal, $word:expr, $mix:expr) => {
                four!(16 * $number, TURNS[$number], $word, $mix);
                four!(16 * $number + 4, TURNS[$number], $word, $mix);
                four!(16 * $number + 8, TURNS[$number], $word, $mix);
                four!(16 * $number + 12, TURNS[$number], $word, $mix);
            };
        }
        round!(0, |at: usize| at, |b: u32, c: u32, d: u32| d
            ^ (b & (c ^ d)));
        round!(1, |at: usize| 5 * at + 1, |b: u32, c: u32, d: u32| c
            ^ (d & (b ^ c)));
        round!(2, |at: usize| 3 * at + 5, |b: u32, c: u32, d: u32| b
            ^ c
            ^ d);
        round!(3, |at: usize| 7 * at, |b: u32, c: u32, d: u32| c ^ (b | !d));
        *first = first.wrapping_add(a);
        *second = second.wrapping_add(b);
        *third = third.wrapping_add(c);
        *fourth = fourth.wrapping_add(d);
    }
}

/// One of the sixty-four steps, in one lane.
fn step(a: u32, b: u32, mixed: u32, word: u32, sine: u32, turn: u32) -> u32 {
    let sum = a.wrapping_add(mixed).wrapping_add(word).wrapping_add(sine);
    b.wrapping_add(sum.rotate_left(turn))
}

#[cfg(test)]
mod tests {
    use md5::{Digest as _, Md5};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_lane_has_the_digest_that_its_body_has_alone(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), LANES),
        ) {
            let lanes = std::array::from_fn(|lane| bodies[lane].as_slice());
            let alone: [[u8; 16]; LANES] = lanes.map(|body| Md5::digest(body).into());
            prop_assert_eq!(digests(lanes), alone);
        }
    }

    #[test]
    fn where_a_body_ends_in_its_block_makes_no_difference() {
        let bytes = [7; 200];
        for from in (0..192).step_by(LANES) {
            let lanes = std::array::from_fn(|lane| &bytes[..from + lane]);
            let alone: [[u8; 16]; LANES] = lanes.map(|body| Md5::digest(body).into());
            assert_eq!(digests(lanes), alone);
        }
    }
}
