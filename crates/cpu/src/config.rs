//! How the translator works, as the command line says it.

/// The settings of the translator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslatorConfig {
    /// Hot code is translated; otherwise the interpreter runs alone.
    pub enabled: bool,
    /// Bytes of code memory for each vCPU; 0 for the translator's own choice.
    pub code_bytes: usize,
    /// Each translation holds one guest instruction.
    pub one_insn_per_tb: bool,
    /// Each translation runs on both tiers, which must agree.
    pub lockstep: bool,
    /// How often a block is interpreted before it is translated.
    pub hot_after: u16,
}

impl Default for TranslatorConfig {
    fn default() -> Self {
        Self { enabled: true, code_bytes: 0, one_insn_per_tb: false, lockstep: false, hot_after: 16 }
    }
}
