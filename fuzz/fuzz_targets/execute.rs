//! Arbitrary code with arbitrary registers on the interpreter, in real, protected and long mode. The first byte chooses
//! the mode, the next 128 the general registers, the rest is code.

#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use ouzel_fuzz::Bench;

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench::new());
}

fuzz_target!(|input: &[u8]| {
    let Some((head, code)) = input.split_at_checked(129) else { return };
    BENCH.with_borrow_mut(|bench| bench.run(head[0], &head[1..], code));
});
