//! What is set before and compared after a snippet.

/// Registers, and the fault that ended the snippet.
#[derive(Clone, Copy)]
pub struct State {
    pub gpr: [u64; 16],
    pub rip: u64,
    /// CF, PF, AF, ZF, SF, OF, DF.
    pub rflags: u64,
    /// The FXSAVE image (64-bit form).
    pub fx: [u8; 512],
    /// The upper halves of the YMM registers.
    pub upper: [u128; 16],
    pub vector: u8,
    pub error: u32,
    pub address: u64,
}

impl Default for State {
    fn default() -> Self {
        Self { gpr: [0; 16], rip: 0, rflags: 0, fx: [0; 512], upper: [0; 16], vector: 0, error: 0, address: 0 }
    }
}

impl State {
    /// Fills in components that XSAVE did not write because they are in their initial state.
    pub fn initial(&mut self, x87: bool, sse: bool) {
        if x87 {
            self.fx[..24].fill(0);
            self.fx[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
            self.fx[32..160].fill(0);
        }
        if sse {
            self.fx[160..416].fill(0);
        }
    }

    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes([self.fx[24], self.fx[25], self.fx[26], self.fx[27]])
    }

    pub fn xmm(&self, n: usize) -> u128 {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.fx[160 + 16 * n..176 + 16 * n]);
        u128::from_le_bytes(bytes)
    }

    pub fn st(&self, n: usize) -> u128 {
        let mut bytes = [0; 16];
        bytes[..10].copy_from_slice(&self.fx[32 + 16 * n..42 + 16 * n]);
        u128::from_le_bytes(bytes)
    }

    pub fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.fx[at], self.fx[at + 1]])
    }

    /// One line for each difference.
    pub fn differences(&self, other: &Self, flag_mask: u64, status_mask: u16) -> Vec<String> {
        let mut found = Vec::new();
        let mut note = |name: String, a: u128, b: u128| {
            if a != b {
                found.push(format!("{name}: host {a:#x} interpreter {b:#x}"));
            }
        };
        for (n, (a, b)) in self.gpr.iter().zip(other.gpr).enumerate() {
            note(format!("r{n}"), u128::from(*a), u128::from(b));
        }
        note("rip".into(), u128::from(self.rip), u128::from(other.rip));
        note("rflags".into(), u128::from(self.rflags & flag_mask), u128::from(other.rflags & flag_mask));
        note("vector".into(), u128::from(self.vector), u128::from(other.vector));
        if self.vector == 14 && other.vector == 14 {
            // P differs where the process has kernel pages and the guest has nothing; the kind of access does not.
            note("error".into(), u128::from(self.error & 0x12), u128::from(other.error & 0x12));
            note("cr2".into(), u128::from(self.address), u128::from(other.address));
        }
        for n in 0..16 {
            note(format!("xmm{n}"), self.xmm(n), other.xmm(n));
            note(format!("upper half of ymm{n}"), self.upper[n], other.upper[n]);
        }
        for n in 0..8 {
            note(format!("st{n}"), self.st(n), other.st(n));
        }
        // Of an unmasked overflow or underflow, crate fpu documents that PE is the one of the masked response.
        let precision = if self.vector == 19 { 0x20 } else { 0 };
        note("mxcsr".into(), u128::from(self.mxcsr() | precision), u128::from(other.mxcsr() | precision));
        note("fcw".into(), u128::from(self.word(0)), u128::from(other.word(0)));
        note("fsw".into(), u128::from(self.word(2) & status_mask), u128::from(other.word(2) & status_mask));
        note("ftw".into(), u128::from(self.word(4)), u128::from(other.word(4)));
        found
    }
}
