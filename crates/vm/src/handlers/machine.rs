//! What the machine is.

use ::machine::config::{ChipsetKind, MACHINE_TYPES};
use qapi::Error;
use qapi::control::QueryVersion;
use qapi::machine::{
    GuidInfo, KvmInfo, MachineInfo, NameInfo, QueryCommandLineOptions, QueryKvm, QueryMachines, QueryName, QueryTarget,
    QueryUuid, QueryVmGenerationId, RtcResetReinjection, SysEmuTarget, TargetInfo, UuidInfo,
};

use super::Table;
use crate::snapshot::Snapshot;

/// The commands of this subject.
pub fn register(table: &mut Table) {
    table.register_snapshot::<QueryVersion>(|_, _, _| Ok(Snapshot::version()));
    table.register_snapshot::<QueryName>(|snapshot, _, _| Ok(NameInfo { name: snapshot.name.clone() }));
    table.register_snapshot::<QueryUuid>(|snapshot, _, _| Ok(UuidInfo { uuid: uuid_text(&snapshot.uuid) }));
    // The program can use KVM; whether it does is another thing.
    table.register_snapshot::<QueryKvm>(|snapshot, _, _| {
        Ok(KvmInfo { enabled: snapshot.accelerator.name() == "kvm", present: true })
    });
    table.register_snapshot::<QueryTarget>(|_, _, _| Ok(TargetInfo { arch: SysEmuTarget::X86_64 }));
    table.register_snapshot::<QueryMachines>(|_, _, _| Ok(machines()));
    table.register::<QueryVmGenerationId>(|control, _, _| {
        let guid = control.machine().generation().ok_or_else(|| Error::generic("VM Generation ID device not found"))?;
        Ok(GuidInfo { guid: uuid_text(&guid) })
    });
    table.register::<RtcResetReinjection>(|control, _, _| {
        control.machine().forget_clock_ticks();
        Ok(())
    });
    table.register_snapshot::<QueryCommandLineOptions>(|snapshot, _, arguments| {
        let wanted = |name: &str| arguments.option.as_deref().is_none_or(|option| option == name);
        let found: Vec<_> = snapshot.options.iter().filter(|option| wanted(&option.option)).cloned().collect();
        match arguments.option {
            Some(option) if found.is_empty() => Err(qapi::Error::generic(format!("invalid option name: {option}"))),
            _ => Ok(found),
        }
    });
}

fn machines() -> Vec<MachineInfo> {
    let machine = |machine: &::machine::config::MachineType| MachineInfo {
        name: machine.name.to_owned(),
        alias: machine.alias.map(str::to_owned),
        is_default: machine.is_default.then_some(true),
        cpu_max: i64::from(machine.max_cpus()),
        hotpluggable_cpus: machine.chipset.has_pci() || machine.chipset == ChipsetKind::Isa,
        numa_mem_supported: false,
        deprecated: machine.deprecated,
        default_cpu_type: (machine.chipset != ChipsetKind::Empty)
            .then(|| format!("{}-x86_64-cpu", machine.default_cpu())),
        default_ram_id: Some(machine.ram_id().to_owned()),
    };
    MACHINE_TYPES.iter().map(machine).collect()
}

/// `8-4-4-4-12` hexadecimal digits.
fn uuid_text(uuid: &[u8; 16]) -> String {
    let digits: Vec<String> = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    [&digits[..4], &digits[4..6], &digits[6..8], &digits[8..10], &digits[10..]].map(<[String]>::concat).join("-")
}
