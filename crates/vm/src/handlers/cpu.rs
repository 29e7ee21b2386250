//! The vCPUs.

use ::machine::CpuSlot;
use ::machine::Machine;
use qapi::Error;
use qapi::cpu::{
    CpuDefinitionInfo, CpuInfo, CpuInfoDetail, CpuInfoFast, CpuInfoFastTarget, CpuInfoX86, CpuInstanceProperties,
    HotpluggableCPU, QueryCpuDefinitions, QueryCpus, QueryCpusFast, QueryHotpluggableCpus, SelectCpu,
};
use qapi::machine::SysEmuTarget;
use x86::model::{CpuModel, Host, MachineVersion};
use x86::regs::{Activity, SegmentRegister};

use super::Table;

/// The commands of this subject.
pub fn register(table: &mut Table) {
    table.register::<QueryCpusFast>(|control, _, _| Ok(cpus_fast(control.machine())));
    table.register::<QueryCpus>(|control, context, _| Ok(cpus(control.machine(), context.default_cpu().unwrap_or(0))));
    table.register::<SelectCpu>(|control, context, arguments| {
        let index = u32::try_from(arguments.index).ok();
        let index = index.filter(|index| control.machine().cpu(*index as usize).is_some());
        context.set_default_cpu(index.ok_or_else(|| Error::expects("index", "a CPU number"))?);
        Ok(())
    });
    table.register::<QueryHotpluggableCpus>(|control, _, _| match control.machine().has_cpu_slots() {
        true => Ok(slots(control.machine())),
        false => Err(Error::generic("The feature 'query-hotpluggable-cpus' is not enabled")),
    });
    table.register_snapshot::<QueryCpuDefinitions>(|snapshot, _, _| {
        Ok(definitions(snapshot.machine_version, &snapshot.accelerator.host()))
    });
}

/// Where a vCPU sits, as clients say it and `device_add` takes it.
pub fn properties(slot: &CpuSlot) -> CpuInstanceProperties {
    CpuInstanceProperties {
        node_id: slot.node.map(i64::from),
        socket_id: Some(i64::from(slot.socket)),
        die_id: slot.die.map(i64::from),
        core_id: Some(i64::from(slot.core)),
        thread_id: Some(i64::from(slot.thread)),
        ..CpuInstanceProperties::default()
    }
}

/// The vCPUs that are present, with their host threads.
fn present(machine: &Machine) -> impl Iterator<Item = (usize, &CpuSlot, i64)> {
    let slots = machine.cpu_slots().iter().enumerate();
    slots.filter_map(|(index, slot)| Some((index, slot, i64::from(machine.vcpus().host_thread_id(index)?))))
}

fn cpus_fast(machine: &Machine) -> Vec<CpuInfoFast> {
    let info = |(index, slot, thread_id): (usize, &CpuSlot, i64)| CpuInfoFast {
        cpu_index: index as i64,
        qom_path: slot.path.clone().unwrap_or_default(),
        thread_id,
        props: Some(properties(slot)),
        target: CpuInfoFastTarget::Other(SysEmuTarget::X86_64),
    };
    present(machine).map(info).collect()
}

/// Program counter and halted state come from the vCPUs' own threads.
fn cpus(machine: &Machine, current: u32) -> Vec<CpuInfo> {
    let info = |(index, slot, thread_id): (usize, &CpuSlot, i64)| {
        let (pc, halted) = machine.vcpus().with(index, |cpu| {
            let registers = cpu.registers();
            let base = registers.segments[SegmentRegister::Cs as usize].base;
            (base.wrapping_add(registers.rip), registers.activity != Activity::Running)
        })?;
        Some(CpuInfo {
            cpu: index as i64,
            current: index == current as usize,
            halted,
            qom_path: slot.path.clone().unwrap_or_default(),
            thread_id,
            props: Some(properties(slot)),
            // QMP has no unsigned 64-bit type here: kernel addresses are negative numbers, as in QEMU.
            arch: CpuInfoDetail::X86(CpuInfoX86 { pc: pc as i64 }),
        })
    };
    present(machine).filter_map(info).collect()
}

/// All possible vCPUs, the last one first.
fn slots(machine: &Machine) -> Vec<HotpluggableCPU> {
    let slot = |slot: &CpuSlot| HotpluggableCPU {
        r#type: machine.cpu_type().to_owned(),
        vcpus_count: 1,
        props: properties(slot),
        qom_path: slot.path.clone(),
    };
    machine.cpu_slots().iter().rev().map(slot).collect()
}

/// All models as a machine type of that version has them, with what the accelerator lacks for them.
fn definitions(version: MachineVersion, host: &Host) -> Vec<CpuDefinitionInfo> {
    CpuModel::list(version)
        .into_iter()
        .map(|entry| {
            let model = CpuModel::parse_for(version, &entry.name, host).ok().map(|(model, _)| model);
            let unavailable = model
                .as_ref()
                .map(|model| model.unavailable().iter().map(|feature| feature.name().to_owned()).collect::<Vec<_>>());
            CpuDefinitionInfo {
                typename: format!("{}-x86_64-cpu", entry.name),
                migration_safe: Some(entry.migration_safe),
                is_static: entry.is_static,
                // A model that needs KVM can't be used at all, which QEMU says with its own name.
                unavailable_features: Some(unavailable.unwrap_or_else(|| vec!["kvm".to_owned()])),
                alias_of: entry.alias_of,
                deprecated: false,
                name: entry.name,
            }
        })
        .collect()
}
