//! `lower` knows exactly the legacy-encoded integer vector instructions.

use iced_x86::{Code, CpuidFeature, EncodingKind};

/// The extensions whose integer instructions belong to this crate.
const EXTENSIONS: [CpuidFeature; 10] = [
    CpuidFeature::MMX,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::SSE3,
    CpuidFeature::SSSE3,
    CpuidFeature::SSE4_1,
    CpuidFeature::SSE4_2,
    CpuidFeature::AES,
    CpuidFeature::PCLMULQDQ,
    CpuidFeature::SHA,
];

/// Integer vector instructions begin with P, AES or SHA; MPSADBW is the exception.
fn belongs_here(code: Code) -> bool {
    let name = format!("{:?}", code.mnemonic()).to_lowercase();
    code.op_code().encoding() == EncodingKind::Legacy
        && matches!(code.cpuid_features(), [feature] if EXTENSIONS.contains(feature))
        && !name.starts_with("prefetch")
        && (["p", "aes", "sha"].iter().any(|p| name.starts_with(p)) || name == "mpsadbw")
}

#[test]
fn lower_every_integer_vector_code_is_known_and_no_other() {
    let wrong: Vec<Code> = Code::values().filter(|&code| belongs_here(code) != simd::lower(code).is_some()).collect();
    assert!(wrong.is_empty(), "missing from or alien to lower: {wrong:?}");
}

#[test]
fn coverage_rule_selects_the_expected_number_of_codes() {
    // A decoder that renames or drops instructions must not empty the test above.
    let count = Code::values().filter(|&code| belongs_here(code)).count();
    assert_eq!(count, 238);
}
