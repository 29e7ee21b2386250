//! Devices that come to the running machine and leave it.

use machine::CpuReport;
use qapi::device::{
    ACPIOSTInfo, ACPISlotType, AcpiDeviceOst, CpuAdd, DeviceAdd, DeviceDel, DeviceDeleted, QueryAcpiOspmStatus,
};

use super::Table;

/// The commands and events of this subject.
pub fn register(table: &mut Table) {
    table.register::<DeviceAdd>(|control, _, wanted| {
        let mut properties = wanted.properties;
        properties.insert("driver", wanted.driver);
        for (name, value) in [("bus", wanted.bus), ("id", wanted.id)] {
            if let Some(value) = value {
                properties.insert(name, value);
            }
        }
        control.add_device(&properties)
    });
    table.register::<DeviceDel>(|control, _, wanted| control.request_removal(&wanted.id));
    table.declare_event::<DeviceDeleted>();
    table.register::<CpuAdd>(|control, _, wanted| control.add_cpu(wanted.id));
    table.register::<QueryAcpiOspmStatus>(|control, _, _| {
        let reports = control.machine().cpu_reports().into_iter().enumerate();
        Ok(reports.map(|(index, (id, report))| cpu_report(index, id, report)).collect())
    });
    table.declare_event::<AcpiDeviceOst>();
}

/// What an operating system said of a processor.
pub fn cpu_report(index: usize, device: Option<String>, report: CpuReport) -> ACPIOSTInfo {
    ACPIOSTInfo {
        device,
        slot: index.to_string(),
        slot_type: ACPISlotType::Cpu,
        source: i64::from(report.event),
        status: i64::from(report.status),
    }
}
