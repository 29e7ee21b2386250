//! AVX, AVX2, FMA and F16C, and the VEX forms of AES and PCLMULQDQ.

use iced_x86::{CpuidFeature as F, EncodingKind, Mnemonic as M, Register};

use super::super::{NONE, avx, flag};
use super::{Choice, Lowering, next, register_number, register_size};
use crate::native;
use crate::ops::Handler;

/// VEX-encoded instructions on vector registers.
pub(super) fn lower(l: &mut Lowering<'_>) -> Choice {
    if l.code().encoding() != EncodingKind::VEX {
        return None;
    }
    let known = [F::AVX, F::AVX2, F::FMA, F::F16C, F::AES, F::PCLMULQDQ, F::VAES, F::VPCLMULQDQ];
    if !l.code().cpuid_features().iter().all(|feature| known.contains(feature)) {
        return None;
    }
    moves(l).or_else(|| masked(l)).or_else(|| computes(l))
}

fn is_wide(l: &Lowering<'_>) -> bool {
    (0..l.i.op_count()).any(|n| l.is_register(n) && l.i.op_register(n).is_ymm())
}

fn moves(l: &mut Lowering<'_>) -> Choice {
    let store = l.is_memory(0);
    let run: Handler = match l.mnemonic() {
        M::Vmovups | M::Vmovupd | M::Vmovdqu | M::Vlddqu => match (store, is_wide(l)) {
            (true, true) => avx::store::<true, false>,
            (true, false) => avx::store::<false, false>,
            (false, true) => avx::load::<true, false>,
            (false, false) => avx::load::<false, false>,
        },
        M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq => {
            match (store, is_wide(l)) {
                (true, true) => avx::store::<true, true>,
                (true, false) => avx::store::<false, true>,
                (false, true) => avx::load::<true, true>,
                (false, false) => avx::load::<false, true>,
            }
        }
        M::Vmovss | M::Vmovsd if l.op.has(flag::MEM) => {
            l.op.extra = l.memory_bytes();
            if store { avx::store_scalar } else { avx::load_scalar }
        }
        M::Vmovd | M::Vmovq => quads(l),
        M::Vzeroupper => avx::zero::<false>,
        M::Vzeroall => avx::zero::<true>,
        M::Vldmxcsr => avx::load_mxcsr,
        M::Vstmxcsr => avx::store_mxcsr,
        M::Vmaskmovdqu => {
            super::vector::masked(l);
            avx::masked_store_bytes
        }
        _ => return None,
    };
    next(run)
}

/// VMOVD and VMOVQ.
fn quads(l: &mut Lowering<'_>) -> Handler {
    let general = |n: u32| l.is_register(n) && l.i.op_register(n).is_gpr();
    let to_xmm = l.is_register(0) && !general(0);
    if general(0) {
        return avx::to_general;
    }
    if general(1) {
        return avx::from_general;
    }
    if !l.op.has(flag::MEM) {
        return avx::move_quad;
    }
    l.op.extra = l.memory_bytes();
    if to_xmm { avx::load_scalar } else { avx::store_scalar }
}

/// Masked moves and gathers.
fn masked(l: &mut Lowering<'_>) -> Choice {
    let size = match l.mnemonic() {
        M::Vmaskmovps | M::Vpmaskmovd => 4,
        M::Vmaskmovpd | M::Vpmaskmovq => 8,
        M::Vgatherdps | M::Vgatherqps | M::Vpgatherdd | M::Vpgatherqd => return gathers(l, 4),
        M::Vgatherdpd | M::Vgatherqpd | M::Vpgatherdq | M::Vpgatherqq => return gathers(l, 8),
        _ => return None,
    };
    l.op.size = size;
    l.op.aux = if is_wide(l) { 32 } else { 16 };
    next(if l.is_memory(0) { avx::masked_store } else { avx::masked_load })
}

fn gathers(l: &mut Lowering<'_>, size: u8) -> Choice {
    let index_size = match l.mnemonic() {
        M::Vgatherdps | M::Vpgatherdd | M::Vgatherdpd | M::Vpgatherdq => 4,
        _ => 8,
    };
    let index = l.i.memory_index();
    let vectors: [u8; 2] = [index, l.i.op_register(0)].map(|register| if register.is_ymm() { 32 } else { 16 });
    let count = (vectors[0] / index_size).min(vectors[1] / size);
    l.op.src = register_number(index);
    l.op.index = NONE;
    l.op.size = size;
    l.op.aux = u16::from(count) << 8 | u16::from(index_size);
    // The index says nothing about the address size.
    l.op.flags &= !(flag::ADDR16 | flag::ADDR32);
    let base = l.i.memory_base();
    let bytes = if base == Register::None { l.i.memory_displ_size() as u8 } else { register_size(base) };
    if bytes == 4 {
        l.op.flags |= flag::ADDR32;
    }
    next(avx::gather)
}

fn computes(l: &mut Lowering<'_>) -> Choice {
    l.op.semantics = Some(native::stub(l.i)?);
    if l.i.op_count() > 3 && l.is_register(3) {
        l.op.aux = u16::from(register_number(l.i.op_register(3)));
    }
    next(avx::native)
}
