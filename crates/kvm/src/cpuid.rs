//! CPUID: what the host offers to CPU models, and a model's leaves as the kernel takes them.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use kvm_ioctls::Cap;
use x86::cpuid::{CpuidTable, Feature, FeatureSet, FeatureWord, Register, Source, Vendor};
use x86::model::{Accelerator, Host, Identity, KVM_DEFAULTS};

use crate::error::{HostError, KvmError};
use crate::irqchip::IrqchipMode;
use crate::system::Kvm;

/// Features that the kernel provides whatever the host's processor has, and does not list.
const ALWAYS: &[Feature] =
    &[Feature::Hypervisor, Feature::Mtrr, Feature::Pat, Feature::Mce, Feature::Mca, Feature::Arat, Feature::Topoext];

/// The defaults of named models without the kernel's local APIC: what only it can do is left out without a warning.
const DEFAULTS_WITHOUT_APIC: &[(&str, bool)] = &[
    ("kvmclock", true),
    ("kvm-nopiodelay", true),
    ("kvm-asyncpf", true),
    ("kvm-steal-time", true),
    ("kvm-pv-eoi", false),
    ("kvmclock-stable-bit", true),
    ("x2apic", false),
    ("acpi", false),
    ("monitor", false),
    ("svm", false),
];

impl Kvm {
    /// What CPU models may have on this host. Features outside of it are dropped by the model with a warning, or
    /// refused.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn model_host(&self, mode: IrqchipMode) -> Result<Host, KvmError> {
        let leaves = Leaves(self.supported_cpuid()?);
        let mut supported = FeatureSet::default();
        for &word in FeatureWord::ALL {
            let bits = match word.source() {
                Source::Cpuid { leaf, subleaf, register } => u64::from(leaves.get(leaf, subleaf, register)),
                Source::Msr(index) => self.feature_msr(index).unwrap_or(0),
            };
            supported.set_word(word, bits);
        }
        ALWAYS.iter().for_each(|feature| supported.insert(*feature));
        let has_apic = mode.has_kernel_apic();
        supported.assign(Feature::TscDeadline, has_apic && self.has(Cap::TscDeadlineTimer));
        if !has_apic {
            // Ours is not asked for its MSRs.
            supported.remove(Feature::X2apic);
            supported.remove(Feature::KvmPvUnhalt);
            supported.remove(Feature::KvmPvEoi);
        }
        if self.feature_msr(x86::msr::ARCH_CAPABILITIES).is_none() {
            supported.remove(Feature::ArchCapabilities);
        }
        Ok(Host {
            accelerator: Accelerator::Kvm,
            supported,
            defaults: if has_apic { KVM_DEFAULTS } else { DEFAULTS_WITHOUT_APIC },
            identity: leaves.identity(),
            physical_bits: match leaves.get(0x8000_0008, None, Register::Eax) & 0xff {
                0 => 36,
                bits => bits,
            },
        })
    }
}

/// The leaves that the kernel supports.
struct Leaves(Vec<kvm_cpuid_entry2>);

impl Leaves {
    fn get(&self, leaf: u32, subleaf: Option<u32>, register: Register) -> u32 {
        let wanted = |entry: &&kvm_cpuid_entry2| {
            entry.function == leaf
                && (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0 || entry.index == subleaf.unwrap_or(0))
        };
        self.0.iter().find(wanted).map_or(0, |entry| match register {
            Register::Eax => entry.eax,
            Register::Ebx => entry.ebx,
            Register::Ecx => entry.ecx,
            Register::Edx => entry.edx,
        })
    }

    fn text(&self, leaf: u32, registers: &[Register]) -> impl Iterator<Item = u8> {
        let words: Vec<u32> = registers.iter().map(|register| self.get(leaf, None, *register)).collect();
        words.into_iter().flat_map(u32::to_le_bytes)
    }

    /// Who the host's processor is (SDM vol. 2, CPUID, leaves 0, 1 and 8000_0002H–8000_0004H).
    fn identity(&self) -> Identity {
        use Register::{Eax, Ebx, Ecx, Edx};
        let mut vendor = [0; 12];
        vendor.iter_mut().zip(self.text(0, &[Ebx, Edx, Ecx])).for_each(|(to, from)| *to = from);
        let version = self.get(1, None, Eax);
        let family = version >> 8 & 0xf;
        let name: Vec<u8> =
            (0x8000_0002..=0x8000_0004).flat_map(|leaf| self.text(leaf, &[Eax, Ebx, Ecx, Edx])).collect();
        let name = String::from_utf8_lossy(&name);
        Identity {
            vendor: Vendor::from_signature(vendor),
            family: if family == 0xf { family + (version >> 20 & 0xff) } else { family },
            model: (version >> 4 & 0xf) | (version >> 12 & 0xf0),
            stepping: version & 0xf,
            model_id: name.trim_end_matches('\0').to_owned(),
            level: self.get(0, None, Eax),
            extended_level: self.get(0x8000_0000, None, Eax),
        }
    }
}

/// A model's leaves as the kernel takes them. What depends on the running state is the kernel's to fill in.
pub(crate) fn entries(table: &CpuidTable) -> Result<CpuId, KvmError> {
    let entries: Vec<_> = table
        .entries()
        .iter()
        .map(|entry| kvm_cpuid_entry2 {
            function: entry.leaf,
            index: entry.subleaf.unwrap_or(0),
            flags: if entry.subleaf.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
            eax: entry.result.eax,
            ebx: entry.result.ebx,
            ecx: entry.result.ecx,
            edx: entry.result.edx,
            ..kvm_cpuid_entry2::default()
        })
        .collect();
    CpuId::from_entries(&entries)
        .map_err(|_| KvmError::Request { request: "KVM_SET_CPUID2", error: HostError(libc::E2BIG) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, eax: u32, text: [&[u8; 4]; 3]) -> kvm_cpuid_entry2 {
        let [ebx, ecx, edx] = text.map(|text| u32::from_le_bytes(*text));
        kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..kvm_cpuid_entry2::default() }
    }

    #[test]
    fn defaults_without_the_kernel_s_apic_differ_in_what_it_does() {
        let differing: Vec<_> = KVM_DEFAULTS.iter().filter(|entry| !DEFAULTS_WITHOUT_APIC.contains(entry)).collect();
        assert_eq!(differing, [&("kvm-pv-eoi", true), &("x2apic", true)]);
        assert_eq!(KVM_DEFAULTS.len(), DEFAULTS_WITHOUT_APIC.len());
    }

    #[test]
    fn identity_is_read_from_the_leaves() {
        let zero = b"\0\0\0\0";
        let leaves = Leaves(vec![
            leaf(0, 0x1c, [b"Auth", b"cAMD", b"enti"]),
            leaf(1, 0x00a1_0f11, [zero; 3]),
            leaf(0x8000_0000, 0x8000_0021, [zero; 3]),
            leaf(0x8000_0002, u32::from_le_bytes(*b"AMD "), [b"EPYC", b" 9R1", b"4\0\0\0"]),
        ]);
        let identity = leaves.identity();
        assert_eq!(identity.vendor, Vendor::Amd);
        assert_eq!((identity.family, identity.model, identity.stepping), (0x19, 0x11, 1));
        assert_eq!(identity.model_id, "AMD EPYC 9R14");
        assert_eq!((identity.level, identity.extended_level), (0x1c, 0x8000_0021));
    }
}
