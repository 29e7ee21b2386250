//! From iced's instruction codes to [`SseOp`].

use iced_x86::Code;

use super::SseOp::{self, Binary, BinaryXmm0, Compare, FromGpr, Insert, MmxToXmm, ToGpr, XmmToMmx};
use super::{arithmetic as a, convert as c, shuffle as s};

/// The operation of an SSE floating-point instruction in its legacy encoding; `None` for every
/// other code, among them plain data movement.
#[must_use]
pub fn lower_sse(code: Code) -> Option<SseOp> {
    arithmetic(code).or_else(|| compare(code)).or_else(|| convert(code)).or_else(|| shuffle(code))
}

fn arithmetic(code: Code) -> Option<SseOp> {
    Some(Binary(match code {
        Code::Addps_xmm_xmmm128 => a::addps,
        Code::Addss_xmm_xmmm32 => a::addss,
        Code::Addpd_xmm_xmmm128 => a::addpd,
        Code::Addsd_xmm_xmmm64 => a::addsd,
        Code::Subps_xmm_xmmm128 => a::subps,
        Code::Subss_xmm_xmmm32 => a::subss,
        Code::Subpd_xmm_xmmm128 => a::subpd,
        Code::Subsd_xmm_xmmm64 => a::subsd,
        Code::Mulps_xmm_xmmm128 => a::mulps,
        Code::Mulss_xmm_xmmm32 => a::mulss,
        Code::Mulpd_xmm_xmmm128 => a::mulpd,
        Code::Mulsd_xmm_xmmm64 => a::mulsd,
        Code::Divps_xmm_xmmm128 => a::divps,
        Code::Divss_xmm_xmmm32 => a::divss,
        Code::Divpd_xmm_xmmm128 => a::divpd,
        Code::Divsd_xmm_xmmm64 => a::divsd,
        Code::Minps_xmm_xmmm128 => a::minps,
        Code::Minss_xmm_xmmm32 => a::minss,
        Code::Minpd_xmm_xmmm128 => a::minpd,
        Code::Minsd_xmm_xmmm64 => a::minsd,
        Code::Maxps_xmm_xmmm128 => a::maxps,
        Code::Maxss_xmm_xmmm32 => a::maxss,
        Code::Maxpd_xmm_xmmm128 => a::maxpd,
        Code::Maxsd_xmm_xmmm64 => a::maxsd,
        Code::Sqrtps_xmm_xmmm128 => a::sqrtps,
        Code::Sqrtss_xmm_xmmm32 => a::sqrtss,
        Code::Sqrtpd_xmm_xmmm128 => a::sqrtpd,
        Code::Sqrtsd_xmm_xmmm64 => a::sqrtsd,
        Code::Rcpps_xmm_xmmm128 => a::rcpps,
        Code::Rcpss_xmm_xmmm32 => a::rcpss,
        Code::Rsqrtps_xmm_xmmm128 => a::rsqrtps,
        Code::Rsqrtss_xmm_xmmm32 => a::rsqrtss,
        Code::Addsubps_xmm_xmmm128 => a::addsubps,
        Code::Addsubpd_xmm_xmmm128 => a::addsubpd,
        Code::Haddps_xmm_xmmm128 => a::haddps,
        Code::Haddpd_xmm_xmmm128 => a::haddpd,
        Code::Hsubps_xmm_xmmm128 => a::hsubps,
        Code::Hsubpd_xmm_xmmm128 => a::hsubpd,
        Code::Dpps_xmm_xmmm128_imm8 => a::dpps,
        Code::Dppd_xmm_xmmm128_imm8 => a::dppd,
        Code::Roundps_xmm_xmmm128_imm8 => a::roundps,
        Code::Roundss_xmm_xmmm32_imm8 => a::roundss,
        Code::Roundpd_xmm_xmmm128_imm8 => a::roundpd,
        Code::Roundsd_xmm_xmmm64_imm8 => a::roundsd,
        _ => return None,
    }))
}

fn compare(code: Code) -> Option<SseOp> {
    Some(match code {
        Code::Cmpps_xmm_xmmm128_imm8 => Binary(a::cmpps),
        Code::Cmpss_xmm_xmmm32_imm8 => Binary(a::cmpss),
        Code::Cmppd_xmm_xmmm128_imm8 => Binary(a::cmppd),
        Code::Cmpsd_xmm_xmmm64_imm8 => Binary(a::cmpsd),
        Code::Comiss_xmm_xmmm32 => Compare(a::comiss),
        Code::Comisd_xmm_xmmm64 => Compare(a::comisd),
        Code::Ucomiss_xmm_xmmm32 => Compare(a::ucomiss),
        Code::Ucomisd_xmm_xmmm64 => Compare(a::ucomisd),
        _ => return None,
    })
}

fn convert(code: Code) -> Option<SseOp> {
    Some(match code {
        Code::Cvtps2pd_xmm_xmmm64 => Binary(c::cvtps2pd),
        Code::Cvtpd2ps_xmm_xmmm128 => Binary(c::cvtpd2ps),
        Code::Cvtss2sd_xmm_xmmm32 => Binary(c::cvtss2sd),
        Code::Cvtsd2ss_xmm_xmmm64 => Binary(c::cvtsd2ss),
        Code::Cvtdq2ps_xmm_xmmm128 => Binary(c::cvtdq2ps),
        Code::Cvtdq2pd_xmm_xmmm64 => Binary(c::cvtdq2pd),
        Code::Cvtps2dq_xmm_xmmm128 => Binary(c::cvtps2dq),
        Code::Cvttps2dq_xmm_xmmm128 => Binary(c::cvttps2dq),
        Code::Cvtpd2dq_xmm_xmmm128 => Binary(c::cvtpd2dq),
        Code::Cvttpd2dq_xmm_xmmm128 => Binary(c::cvttpd2dq),
        Code::Cvtss2si_r32_xmmm32 => ToGpr(c::cvtss2si_32),
        Code::Cvtss2si_r64_xmmm32 => ToGpr(c::cvtss2si_64),
        Code::Cvtsd2si_r32_xmmm64 => ToGpr(c::cvtsd2si_32),
        Code::Cvtsd2si_r64_xmmm64 => ToGpr(c::cvtsd2si_64),
        Code::Cvttss2si_r32_xmmm32 => ToGpr(c::cvttss2si_32),
        Code::Cvttss2si_r64_xmmm32 => ToGpr(c::cvttss2si_64),
        Code::Cvttsd2si_r32_xmmm64 => ToGpr(c::cvttsd2si_32),
        Code::Cvttsd2si_r64_xmmm64 => ToGpr(c::cvttsd2si_64),
        Code::Cvtsi2ss_xmm_rm32 => FromGpr(c::cvtsi2ss_32),
        Code::Cvtsi2ss_xmm_rm64 => FromGpr(c::cvtsi2ss_64),
        Code::Cvtsi2sd_xmm_rm32 => FromGpr(c::cvtsi2sd_32),
        Code::Cvtsi2sd_xmm_rm64 => FromGpr(c::cvtsi2sd_64),
        Code::Cvtpi2ps_xmm_mmm64 => MmxToXmm { convert: c::cvtpi2ps, memory_enters_mmx: true },
        Code::Cvtpi2pd_xmm_mmm64 => MmxToXmm { convert: c::cvtpi2pd, memory_enters_mmx: false },
        Code::Cvtps2pi_mm_xmmm64 => XmmToMmx(c::cvtps2pi),
        Code::Cvttps2pi_mm_xmmm64 => XmmToMmx(c::cvttps2pi),
        Code::Cvtpd2pi_mm_xmmm128 => XmmToMmx(c::cvtpd2pi),
        Code::Cvttpd2pi_mm_xmmm128 => XmmToMmx(c::cvttpd2pi),
        _ => return None,
    })
}

fn shuffle(code: Code) -> Option<SseOp> {
    Some(match code {
        Code::Andps_xmm_xmmm128 | Code::Andpd_xmm_xmmm128 => Binary(s::and),
        Code::Andnps_xmm_xmmm128 | Code::Andnpd_xmm_xmmm128 => Binary(s::andn),
        Code::Orps_xmm_xmmm128 | Code::Orpd_xmm_xmmm128 => Binary(s::or),
        Code::Xorps_xmm_xmmm128 | Code::Xorpd_xmm_xmmm128 => Binary(s::xor),
        Code::Shufps_xmm_xmmm128_imm8 => Binary(s::shufps),
        Code::Shufpd_xmm_xmmm128_imm8 => Binary(s::shufpd),
        Code::Unpcklps_xmm_xmmm128 => Binary(s::unpcklps),
        Code::Unpckhps_xmm_xmmm128 => Binary(s::unpckhps),
        Code::Unpcklpd_xmm_xmmm128 => Binary(s::unpcklpd),
        Code::Unpckhpd_xmm_xmmm128 => Binary(s::unpckhpd),
        Code::Blendps_xmm_xmmm128_imm8 => Binary(s::blendps),
        Code::Blendpd_xmm_xmmm128_imm8 => Binary(s::blendpd),
        Code::Blendvps_xmm_xmmm128 => BinaryXmm0(s::blendvps),
        Code::Blendvpd_xmm_xmmm128 => BinaryXmm0(s::blendvpd),
        Code::Movddup_xmm_xmmm64 => Binary(s::movddup),
        Code::Movsldup_xmm_xmmm128 => Binary(s::movsldup),
        Code::Movshdup_xmm_xmmm128 => Binary(s::movshdup),
        Code::Movmskps_r32_xmm | Code::Movmskps_r64_xmm => ToGpr(s::movmskps),
        Code::Movmskpd_r32_xmm | Code::Movmskpd_r64_xmm => ToGpr(s::movmskpd),
        Code::Insertps_xmm_xmmm32_imm8 => Insert(s::insertps),
        Code::Extractps_rm32_xmm_imm8 | Code::Extractps_r64m32_xmm_imm8 => ToGpr(s::extractps),
        _ => return None,
    })
}
