//! Direct work on guest RAM through host addresses: read-modify-write, host atomics for LOCK, and copies for string
//! instructions. The only module of the instructions with `unsafe`.
//!
//! Each function asks the memory unit for the host address itself and uses it before anything else can touch the TLB,
//! so that the pointer's page is alive and has the rights that were asked for. `false` or `None`: the bytes are not in
//! one page of plain RAM, and nothing was done.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::Size;
use crate::fault::Exec;
use crate::flags::LazyFlags;
use crate::mmu::Word;
use crate::state::Cpu;

/// Reads, computes and writes, without LOCK.
#[inline(always)]
pub(super) fn modify<S: Size>(
    cpu: &mut Cpu,
    linear: u64,
    f: impl FnOnce(&mut LazyFlags, u64) -> u64,
) -> Exec<Option<()>> {
    let Some(at) = cpu.translate_write(linear, S::BYTES)? else { return Ok(None) };
    // SAFETY: `at` points to `S::BYTES` bytes of a live RAM page that may be read and written.
    unsafe {
        match S::BITS {
            8 => {
                let new = f(&mut cpu.flags, u64::from(u8::load_host(at)));
                u8::store_host(at, new as u8);
            }
            16 => {
                let new = f(&mut cpu.flags, u64::from(u16::load_host(at)));
                u16::store_host(at, new as u16);
            }
            32 => {
                let new = f(&mut cpu.flags, u64::from(u32::load_host(at)));
                u32::store_host(at, new as u32);
            }
            _ => {
                let new = f(&mut cpu.flags, u64::load_host(at));
                u64::store_host(at, new);
            }
        }
    }
    cpu.note_store(linear, S::BYTES);
    Ok(Some(()))
}

macro_rules! atomic_loop {
    ($at:expr, $atomic:ty, $int:ty, $f:expr) => {{
        let cell = &*$at.cast::<$atomic>();
        let mut old = cell.load(Ordering::SeqCst);
        loop {
            let new = $f(u64::from(old)) as $int;
            match cell.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break u64::from(old),
                Err(now) => old = now,
            }
        }
    }};
}

/// The same for a value that is not aligned, for which Rust has no atomics. Like translated code, by the host's locked
/// instruction, which the two must share: a lock of our own would not stop the other's instruction.
macro_rules! misaligned_loop {
    ($at:expr, $int:ty, $instruction:literal, $accumulator:tt, $f:expr) => {{
        let mut old = <$int>::load_host($at);
        loop {
            let mut found = old;
            std::arch::asm!(
                $instruction,
                at = in(reg) $at,
                new = in(reg) $f(u64::from(old)) as $int,
                inout($accumulator) found,
                options(nostack),
            );
            if found == old {
                break u64::from(old);
            }
            old = found;
        }
    }};
}

/// Atomically replaces a value that lies in one page by `f` of it; `f` may be called several times. The old value.
#[inline]
pub(super) fn atomic<S: Size>(cpu: &mut Cpu, linear: u64, f: impl Fn(u64) -> u64) -> Exec<Option<u64>> {
    let Some(at) = cpu.translate_write(linear, S::BYTES)? else { return Ok(None) };
    let aligned = linear & (S::BYTES - 1) == 0;
    // SAFETY: `at` points to `S::BYTES` bytes of a live RAM page that may be read and written, aligned where `linear` is,
    // because pages are; guest RAM is only accessed through atomics and single host instructions.
    let old = unsafe {
        match S::BITS {
            8 => atomic_loop!(at, AtomicU8, u8, f),
            16 if aligned => atomic_loop!(at, AtomicU16, u16, f),
            32 if aligned => atomic_loop!(at, AtomicU32, u32, f),
            64 if aligned => atomic_loop!(at, AtomicU64, u64, f),
            16 => misaligned_loop!(at, u16, "lock cmpxchg word ptr [{at}], {new:x}", "ax", f),
            32 => misaligned_loop!(at, u32, "lock cmpxchg dword ptr [{at}], {new:e}", "eax", f),
            _ => misaligned_loop!(at, u64, "lock cmpxchg qword ptr [{at}], {new}", "rax", f),
        }
    };
    cpu.note_store(linear, S::BYTES);
    Ok(Some(old))
}

/// LOCK CMPXCHG16B on an aligned value: the value found, and whether it was replaced.
pub(super) fn compare_exchange_16(cpu: &mut Cpu, linear: u64, expected: u128, new: u128) -> Exec<Option<(u128, bool)>> {
    if linear & 15 != 0 || !std::arch::is_x86_feature_detected!("cmpxchg16b") {
        return Ok(None);
    }
    let Some(at) = cpu.translate_write(linear, 16)? else { return Ok(None) };
    let (mut low, mut high) = (expected as u64, (expected >> 64) as u64);
    let swapped: u8;
    // SAFETY: `at` points to 16 aligned bytes of a live RAM page that may be read and written, and the host has the
    // instruction. RBX, which the compiler reserves, is exchanged before and after; the operands have registers of their
    // own, since the compiler may give RBX to one that has not.
    unsafe {
        std::arch::asm!(
            "xchg r8, rbx",
            "lock cmpxchg16b xmmword ptr [rdi]",
            "sete r9b",
            "mov rbx, r8",
            in("rdi") at,
            inout("r8") new as u64 => _,
            out("r9b") swapped,
            in("rcx") (new >> 64) as u64,
            inout("rax") low,
            inout("rdx") high,
            options(nostack),
        );
    }
    cpu.note_store(linear, 16);
    Ok(Some((u128::from(high) << 64 | u128::from(low), swapped != 0)))
}

/// Stores `count` items, aligned or not.
///
/// # Safety
/// `to` points to as many items of memory that may be written.
unsafe fn fill_with<T: Copy>(to: *mut T, value: T, count: usize) {
    for index in 0..count {
        // SAFETY: the caller vouches for `count` items.
        unsafe { to.add(index).write_unaligned(value) };
    }
}

/// Copies `count` items upwards, one after the other, aligned or not.
///
/// # Safety
/// Both point to as many items of memory with the rights that are needed.
unsafe fn copy_items<T: Copy>(from: *const u8, to: *mut u8, count: usize) {
    for index in 0..count {
        // SAFETY: the caller vouches for `count` items.
        unsafe {
            let item = from.cast::<T>().add(index).read_unaligned();
            to.cast::<T>().add(index).write_unaligned(item);
        }
    }
}

/// Bytes that are copied at once at most.
const SPAN: u64 = 1 << 18;

/// How many bytes lie behind one another in the host's memory, too, when `len` bytes at `linear`, which are at `host`, end
/// with their page: all of some following pages that the TLB has, `most` at most.
fn span<const WRITE: bool>(cpu: &Cpu, linear: u64, host: *const u8, len: u64, most: u64) -> u64 {
    let (mut span, most) = (len, most.min(SPAN));
    while linear.wrapping_add(span) & 0xfff == 0 && span + 0x1000 <= most {
        let next = cpu.host_hit::<WRITE>(linear.wrapping_add(span), 0x1000);
        if next.map(<*mut u8>::cast_const) != Some(host.wrapping_add(span as usize)) {
            break;
        }
        span += 0x1000;
    }
    span
}

/// Notes stores to pages that [`span`] has found.
fn note_span(cpu: &mut Cpu, linear: u64, len: u64) {
    let mut done = 0;
    while done < len {
        let at = linear.wrapping_add(done);
        let part = (0x1000 - (at & 0xfff)).min(len - done);
        cpu.note_store(at, part);
        done += part;
    }
}

/// Stores items of `size` bytes: `count`, which lie in one page, or more up to `most`. How many; 0: not possible here.
pub(super) fn fill(cpu: &mut Cpu, linear: u64, size: u8, value: u64, count: u64, most: u64) -> Exec<u64> {
    let len = count * u64::from(size);
    let Some(to) = cpu.translate_write(linear, len)? else { return Ok(0) };
    let len = span::<true>(cpu, linear, to, len, most.saturating_mul(u64::from(size)));
    let count = len / u64::from(size);
    // SAFETY: `to` points to `len` bytes of live RAM pages that may be written; plain stores of whole items there are
    // what the guest's own stores are. Other threads see the bytes in any order, as with fast string operations.
    unsafe {
        let bytes = value.to_le_bytes();
        let uniform = bytes.iter().take(usize::from(size)).all(|byte| *byte == bytes[0]);
        if uniform {
            std::ptr::write_bytes(to, bytes[0], len as usize);
        } else {
            match size {
                2 => fill_with(to.cast(), value as u16, count as usize),
                4 => fill_with(to.cast(), value as u32, count as usize),
                _ => fill_with(to.cast(), value, count as usize),
            }
        }
    }
    note_span(cpu, linear, len);
    Ok(count)
}

/// Copies items of `size` bytes upwards, item by item where source and destination overlap: `count`, which lie in one
/// page, or more up to `most`. How many; 0: not possible here.
pub(super) fn copy_forward(cpu: &mut Cpu, from: u64, to: u64, size: u8, count: u64, most: u64) -> Exec<u64> {
    let len = count * u64::from(size);
    // The destination may be another view of the source's page, so both are compared as host addresses. Translating
    // the destination can't drop the source's block: blocks go only when the memory map changes.
    let Some(source) = cpu.translate_read(from, len)? else { return Ok(0) };
    let Some(target) = cpu.translate_write(to, len)? else { return Ok(0) };
    let most = most.saturating_mul(u64::from(size));
    let len = span::<true>(cpu, to, target, len, span::<false>(cpu, from, source, len, most));
    let count = len / u64::from(size);
    let distance = (target as usize).wrapping_sub(source as usize);
    // SAFETY: both point to `len` bytes of live RAM pages with the rights that are needed.
    unsafe {
        if distance >= len as usize {
            std::ptr::copy(source, target, len as usize);
        } else {
            // The target begins inside of the source: each item must see the ones before it.
            match size {
                1 => copy_items::<u8>(source, target, count as usize),
                2 => copy_items::<u16>(source, target, count as usize),
                4 => copy_items::<u32>(source, target, count as usize),
                _ => copy_items::<u64>(source, target, count as usize),
            }
        }
    }
    note_span(cpu, to, len);
    Ok(count)
}
