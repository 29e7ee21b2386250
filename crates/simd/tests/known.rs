//! Published vectors, for hosts that cannot run the instructions themselves.

use iced_x86::Code;
use simd::{VectorOp, lower};

fn xmm(code: Code, mut dst: u128, src: u128, imm: u8) -> u128 {
    let Some(VectorOp::Xmm(f)) = lower(code) else {
        panic!("{code:?} is not an XMM operation");
    };
    f(&mut dst, &src, imm);
    dst
}

/// The eleven round keys of AES-128, expanded as Intel's AES-NI white paper does.
fn aes128_keys(key: u128) -> [u128; 11] {
    let mut keys = [key; 11];
    let rcon = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x1B, 0x36];
    for (round, rcon) in rcon.into_iter().enumerate() {
        let key = keys[round];
        let assist = xmm(Code::Aeskeygenassist_xmm_xmmm128_imm8, 0, key, rcon);
        let word = xmm(Code::Pshufd_xmm_xmmm128_imm8, 0, assist, 0xFF);
        keys[round + 1] = key ^ key << 32 ^ key << 64 ^ key << 96 ^ word;
    }
    keys
}

#[test]
fn aes_fips_197_example_c1_encrypts_and_decrypts() {
    let plain = u128::from_be(0x0011_2233_4455_6677_8899_AABB_CCDD_EEFF);
    let cipher = u128::from_be(0x69C4_E0D8_6A7B_0430_D8CD_B780_70B4_C55A);
    let keys = aes128_keys(u128::from_be(0x0001_0203_0405_0607_0809_0A0B_0C0D_0E0F));

    let mut state = plain ^ keys[0];
    for &key in &keys[1..10] {
        state = xmm(Code::Aesenc_xmm_xmmm128, state, key, 0);
    }
    state = xmm(Code::Aesenclast_xmm_xmmm128, state, keys[10], 0);
    assert_eq!(state, cipher);

    state ^= keys[10];
    for &key in keys[1..10].iter().rev() {
        let key = xmm(Code::Aesimc_xmm_xmmm128, 0, key, 0);
        state = xmm(Code::Aesdec_xmm_xmmm128, state, key, 0);
    }
    state = xmm(Code::Aesdeclast_xmm_xmmm128, state, keys[0], 0);
    assert_eq!(state, plain);
}

#[test]
fn crc32_check_string_gives_the_crc_32c_check_value() {
    let crc = simd::bits::crc32_u64(u32::MAX, u64::from_le_bytes(*b"12345678"));
    assert_eq!(!simd::bits::crc32_u8(crc, b'9'), 0xE306_9283);
}

/// SHA-256 of "abc" (FIPS 180-4 example), with the schedule and rounds as guests use them.
#[test]
fn sha256_of_abc_equals_the_published_digest() {
    let Some(VectorOp::XmmXmm0(rounds)) = lower(Code::Sha256rnds2_xmm_xmmm128) else {
        panic!("SHA256RNDS2 is not lowered");
    };
    let words = |w: [u32; 4]| w.iter().rev().fold(0, |r, &w| r << 32 | u128::from(w));
    let k = round_constants();
    let mut message = [words([0x6162_6380, 0, 0, 0]), 0, 0, words([0, 0, 0, 24])];
    let initial_abef = words([0x9B05_688C, 0x510E_527F, 0xBB67_AE85, 0x6A09_E667]);
    let initial_cdgh = words([0x5BE0_CD19, 0x1F83_D9AB, 0xA54F_F53A, 0x3C6E_F372]);
    let (mut abef, mut cdgh) = (initial_abef, initial_cdgh);
    for group in 0..16 {
        let w = message[group % 4];
        let constants = words([k[4 * group], k[4 * group + 1], k[4 * group + 2], k[4 * group + 3]]);
        let wk = xmm(Code::Paddd_xmm_xmmm128, w, constants, 0);
        for wk in [wk, wk >> 64] {
            rounds(&mut cdgh, &abef, &wk);
            (abef, cdgh) = (cdgh, abef);
        }
        // W[t-16] + s0(W[t-15]), then + W[t-7], then + s1(W[t-2]).
        let [next, m2, m3] = [1, 2, 3].map(|i| message[(group + i) % 4]);
        let sum = xmm(Code::Sha256msg1_xmm_xmmm128, w, next, 0);
        let w7 = xmm(Code::Palignr_xmm_xmmm128_imm8, m3, m2, 4);
        let sum = xmm(Code::Paddd_xmm_xmmm128, sum, w7, 0);
        message[group % 4] = xmm(Code::Sha256msg2_xmm_xmmm128, sum, m3, 0);
    }
    let abef = xmm(Code::Paddd_xmm_xmmm128, abef, initial_abef, 0);
    let cdgh = xmm(Code::Paddd_xmm_xmmm128, cdgh, initial_cdgh, 0);
    assert_eq!(abef, words([0x9617_7A9C, 0xB003_61A3, 0x8F01_CFEA, 0xBA78_16BF]));
    assert_eq!(cdgh, words([0xF200_15AD, 0xB410_FF61, 0x5DAE_2223, 0x4141_40DE]));
}

/// FIPS 180-4, 4.2.2: the first 32 fractional bits of the cube roots of the first 64 primes.
fn round_constants() -> Vec<u32> {
    let primes = (2u128..).filter(|&p| (2..p).all(|q| p % q != 0));
    let cube_root = |x: u128| {
        let bits = (0..36).rev();
        bits.fold(0u128, |r, bit| {
            let next = r | 1 << bit;
            if next * next * next <= x { next } else { r }
        })
    };
    primes.take(64).map(|p| cube_root(p << 96) as u32).collect()
}
