//! AES, carry-less multiplication and SHA.
//!
//! Specification: Intel SDM volume 2, the pages of the instructions; FIPS 197 for the AES tables,
//! which are computed at compile time. The table look-ups take time that depends on the data, as
//! in any table-driven AES: a guest's keys are not protected from observers on the host's caches.

use crate::lanes::{get, set};

/// Multiplication by x in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1 (FIPS 197, 4.2.1).
const fn xtime(a: u8) -> u8 {
    a << 1 ^ (0x1B & (a >> 7).wrapping_neg())
}

/// Multiplication in the same field.
const fn gf_mul(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        product ^= a & (b & 1).wrapping_neg();
        a = xtime(a);
        b >>= 1;
    }
    product
}

/// FIPS 197, 5.1.1: multiplicative inverse, then the affine map.
const fn sbox() -> [u8; 256] {
    let mut table = [0; 256];
    // `p` runs over all non-zero elements as powers of 3, `q` over their inverses (3 * F6h = 1).
    let (mut p, mut q) = (1u8, 1u8);
    let mut n = 0;
    while n < 255 {
        let r = q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4);
        table[p as usize] = q ^ r ^ 0x63;
        p = gf_mul(p, 3);
        q = gf_mul(q, 0xF6);
        n += 1;
    }
    table[0] = 0x63;
    table
}

const fn invert(table: &[u8; 256]) -> [u8; 256] {
    let mut inverse = [0; 256];
    let mut i = 0;
    while i < 256 {
        inverse[table[i] as usize] = i as u8;
        i += 1;
    }
    inverse
}

/// What a byte at row 0 contributes to its column under a mix with the given first column;
/// other rows rotate it.
const fn mix_table(column: [u8; 4]) -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        table[i] = u32::from_le_bytes([
            gf_mul(b, column[0]),
            gf_mul(b, column[1]),
            gf_mul(b, column[2]),
            gf_mul(b, column[3]),
        ]);
        i += 1;
    }
    table
}

/// `mix[substitute[i]]`: substitution and mixing in one look-up.
const fn compose(mix: &[u32; 256], substitute: &[u8; 256]) -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = mix[substitute[i] as usize];
        i += 1;
    }
    table
}

static SBOX: [u8; 256] = sbox();
static INVERSE_SBOX: [u8; 256] = invert(&sbox());
static MIX_SBOX: [u32; 256] = compose(&mix_table([2, 1, 1, 3]), &sbox());
static UNMIX: [u32; 256] = mix_table([14, 9, 13, 11]);
static UNMIX_INVERSE_SBOX: [u32; 256] = compose(&mix_table([14, 9, 13, 11]), &invert(&sbox()));

/// The byte at `row` of `column` after ShiftRows moved row r by `step * r` columns; step is 1 for
/// ShiftRows, 3 for InvShiftRows, 0 for none.
#[inline(always)]
fn shifted(state: &[u8; 16], step: usize, column: usize, row: usize) -> usize {
    usize::from(state[(4 * (column + step * row) + row) % 16])
}

/// Rows shifted and bytes replaced through `table`, each spread over its column.
#[inline(always)]
fn mixed(state: &u128, step: usize, table: &[u32; 256]) -> u128 {
    let state = get::<u128, u8, 16>(state);
    let mut out = 0;
    set(
        &mut out,
        core::array::from_fn::<u32, 4, _>(|column| {
            (0..4).fold(0, |sum, row| sum ^ table[shifted(&state, step, column, row)].rotate_left(8 * row as u32))
        }),
    );
    out
}

/// Rows shifted and bytes replaced through `table`.
#[inline(always)]
fn replaced(state: &u128, step: usize, table: &[u8; 256]) -> u128 {
    let state = get::<u128, u8, 16>(state);
    let mut out = 0;
    set(&mut out, core::array::from_fn::<u8, 16, _>(|i| table[shifted(&state, step, i / 4, i % 4)]));
    out
}

/// AESENC.
pub fn aesenc(d: &mut u128, s: &u128, _imm: u8) {
    *d = mixed(d, 1, &MIX_SBOX) ^ s;
}

/// AESENCLAST.
pub fn aesenclast(d: &mut u128, s: &u128, _imm: u8) {
    *d = replaced(d, 1, &SBOX) ^ s;
}

/// AESDEC.
pub fn aesdec(d: &mut u128, s: &u128, _imm: u8) {
    *d = mixed(d, 3, &UNMIX_INVERSE_SBOX) ^ s;
}

/// AESDECLAST.
pub fn aesdeclast(d: &mut u128, s: &u128, _imm: u8) {
    *d = replaced(d, 3, &INVERSE_SBOX) ^ s;
}

/// AESIMC.
pub fn aesimc(d: &mut u128, s: &u128, _imm: u8) {
    *d = mixed(s, 0, &UNMIX);
}

/// AESKEYGENASSIST.
pub fn aeskeygenassist(d: &mut u128, s: &u128, imm: u8) {
    let [_, x1, _, x3] = get::<u128, u32, 4>(s);
    let sub = |x: u32| u32::from_le_bytes(x.to_le_bytes().map(|b| SBOX[usize::from(b)]));
    let (x1, x3) = (sub(x1), sub(x3));
    let rcon = u32::from(imm);
    set(d, [x1, x1.rotate_right(8) ^ rcon, x3, x3.rotate_right(8) ^ rcon]);
}

/// PCLMULQDQ: imm bit 0 picks the quadword of `dst`, bit 4 that of `src`.
pub fn pclmulqdq(d: &mut u128, s: &u128, imm: u8) {
    let a = get::<u128, u64, 2>(d)[usize::from(imm & 1)];
    let b = get::<u128, u64, 2>(s)[usize::from(imm >> 4 & 1)];
    *d = carryless(a, b);
}

/// The product of two polynomials over GF(2), by integer multiplications whose operands keep one
/// bit in five: at most 13 partial products meet, and their sum fits into the gap.
fn carryless(a: u64, b: u64) -> u128 {
    const EVERY_FIFTH: u64 = 0x1084_2108_4210_8421;
    const WIDE: u128 = 0x2108_4210_8421_0842_1084_2108_4210_8421;
    let part = |x: u64, i: usize| u128::from(x & EVERY_FIFTH << i);
    let a: [u128; 5] = core::array::from_fn(|i| part(a, i));
    let b: [u128; 5] = core::array::from_fn(|i| part(b, i));
    let mut product = 0;
    for k in 0..5 {
        let mut sum = 0;
        for i in 0..5 {
            sum ^= a[i] * b[(k + 5 - i) % 5];
        }
        product |= sum & WIDE << k;
    }
    product
}

/// Words of a register as SHA names them: the most significant first.
#[inline(always)]
fn words(r: &u128) -> [u32; 4] {
    let [w3, w2, w1, w0] = get::<u128, u32, 4>(r);
    [w0, w1, w2, w3]
}

#[inline(always)]
fn set_words(r: &mut u128, [w0, w1, w2, w3]: [u32; 4]) {
    set(r, [w3, w2, w1, w0]);
}

/// SHA1RNDS4.
pub fn sha1rnds4(d: &mut u128, s: &u128, imm: u8) {
    match imm & 3 {
        0 => sha1_rounds(d, s, 0x5A82_7999, |b, c, d| b & c ^ !b & d),
        1 => sha1_rounds(d, s, 0x6ED9_EBA1, |b, c, d| b ^ c ^ d),
        2 => sha1_rounds(d, s, 0x8F1B_BCDC, majority),
        _ => sha1_rounds(d, s, 0xCA62_C1D6, |b, c, d| b ^ c ^ d),
    }
}

#[inline(always)]
fn majority(a: u32, b: u32, c: u32) -> u32 {
    a & b ^ a & c ^ b & c
}

#[inline(always)]
fn sha1_rounds(state: &mut u128, message: &u128, k: u32, f: impl Fn(u32, u32, u32) -> u32) {
    let [mut a, mut b, mut c, mut d] = words(state);
    // The first message word already contains E.
    let mut e = 0u32;
    for w in words(message) {
        let next = f(b, c, d).wrapping_add(a.rotate_left(5)).wrapping_add(w).wrapping_add(e).wrapping_add(k);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    set_words(state, [a, b, c, d]);
}

/// SHA1NEXTE.
pub fn sha1nexte(d: &mut u128, s: &u128, _imm: u8) {
    let e = words(d)[0].rotate_left(30);
    let [w0, w1, w2, w3] = words(s);
    set_words(d, [w0.wrapping_add(e), w1, w2, w3]);
}

/// SHA1MSG1.
pub fn sha1msg1(d: &mut u128, s: &u128, _imm: u8) {
    let ([w0, w1, w2, w3], [w4, w5, ..]) = (words(d), words(s));
    set_words(d, [w2 ^ w0, w3 ^ w1, w4 ^ w2, w5 ^ w3]);
}

/// SHA1MSG2.
pub fn sha1msg2(d: &mut u128, s: &u128, _imm: u8) {
    let ([d0, d1, d2, d3], [_, w13, w14, w15]) = (words(d), words(s));
    let w16 = (d0 ^ w13).rotate_left(1);
    let w17 = (d1 ^ w14).rotate_left(1);
    let w18 = (d2 ^ w15).rotate_left(1);
    set_words(d, [w16, w17, w18, (d3 ^ w16).rotate_left(1)]);
}

/// SHA256RNDS2; the round inputs are the low two words of XMM0.
pub fn sha256rnds2(dst: &mut u128, src: &u128, xmm0: &u128) {
    let ([mut a, mut b, mut e, mut f], [mut c, mut d, mut g, mut h]) = (words(src), words(dst));
    let [.., wk1, wk0] = words(xmm0);
    for wk in [wk0, wk1] {
        let sum1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let sum0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let t1 = (e & f ^ !e & g).wrapping_add(sum1).wrapping_add(wk).wrapping_add(h);
        let t2 = majority(a, b, c).wrapping_add(sum0);
        (h, g, f, e) = (g, f, e, t1.wrapping_add(d));
        (d, c, b, a) = (c, b, a, t1.wrapping_add(t2));
    }
    set_words(dst, [a, b, e, f]);
}

/// SHA256MSG1.
pub fn sha256msg1(d: &mut u128, s: &u128, _imm: u8) {
    let sigma0 = |x: u32| x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3;
    let ([w3, w2, w1, w0], [.., w4]) = (words(d), words(s));
    set_words(
        d,
        [
            w3.wrapping_add(sigma0(w4)),
            w2.wrapping_add(sigma0(w3)),
            w1.wrapping_add(sigma0(w2)),
            w0.wrapping_add(sigma0(w1)),
        ],
    );
}

/// SHA256MSG2.
pub fn sha256msg2(d: &mut u128, s: &u128, _imm: u8) {
    let sigma1 = |x: u32| x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10;
    let ([d3, d2, d1, d0], [w15, w14, ..]) = (words(d), words(s));
    let w16 = d0.wrapping_add(sigma1(w14));
    let w17 = d1.wrapping_add(sigma1(w15));
    let w18 = d2.wrapping_add(sigma1(w16));
    set_words(d, [d3.wrapping_add(sigma1(w17)), w18, w17, w16]);
}
