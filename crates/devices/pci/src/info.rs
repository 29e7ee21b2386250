//! What `query-pci` shows of functions.

use crate::bus::{Address, PciBus};
use crate::config::{BarKind, ConfigSpace};
use crate::root_port::bridge_reg;

/// What a base address register shows in `query-pci`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarInfo {
    /// The register's number; 6 is the expansion ROM.
    pub index: usize,
    /// What it decodes.
    pub kind: BarKind,
    /// Where, while it is enabled.
    pub address: Option<u64>,
    /// How many bytes.
    pub size: u64,
}

/// What `query-pci` shows of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionInfo {
    /// The bus number.
    pub bus: u8,
    /// The user's id.
    pub id: Option<String>,
    /// The place on the bus.
    pub address: Address,
    /// Base class and subclass.
    pub class: u16,
    /// Vendor.
    pub vendor: u16,
    /// Device number.
    pub device: u16,
    /// Vendor of the subsystem.
    pub subsystem_vendor: u16,
    /// Number of the subsystem.
    pub subsystem: u16,
    /// The interrupt line that firmware noted.
    pub irq: u8,
    /// The interrupt pin: 0 none, 1 INTA.
    pub irq_pin: u8,
    /// The declared base address registers.
    pub bars: Vec<BarInfo>,
    /// What there is behind a bridge.
    pub bridge: Option<BridgeInfo>,
}

/// What `query-pci` shows of a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeInfo {
    /// The numbers of the bus that it is on, the one behind it, and the last one behind that.
    pub buses: (u8, u8, u8),
    /// Base and limit of its windows: ports, memory, prefetchable memory.
    pub windows: [(u64, u64); 3],
    /// The functions behind it.
    pub functions: Vec<FunctionInfo>,
}

impl BridgeInfo {
    pub(crate) fn new(config: &ConfigSpace, bus: &PciBus) -> Self {
        let upper = |offset: u8| u64::from(config.u32(offset));
        let (io, memory, prefetchable) =
            (config.u16(bridge_reg::IO), config.u32(bridge_reg::MEMORY), config.u32(bridge_reg::PREFETCHABLE));
        let memory_base = |value: u32| u64::from(value & 0xfff0) << 16;
        let memory_limit = |value: u32| u64::from(value >> 16 & 0xfff0) << 16 | 0xf_ffff;
        let (high, io_high) = (bridge_reg::PREFETCHABLE_UPPER, upper(bridge_reg::IO_UPPER));
        let secondary = config.u8(bridge_reg::SECONDARY);
        Self {
            buses: (config.u8(bridge_reg::PRIMARY), secondary, config.u8(bridge_reg::SUBORDINATE)),
            windows: [
                (
                    u64::from(io & 0xf0) << 8 | (io_high & 0xffff) << 16,
                    u64::from(io >> 8 & 0xf0) << 8 | 0xfff | io_high >> 16 << 16,
                ),
                (memory_base(memory), memory_limit(memory)),
                (memory_base(prefetchable) | upper(high) << 32, memory_limit(prefetchable) | upper(high + 4) << 32),
            ],
            // Without a number nobody reaches them.
            functions: if secondary == 0 { Vec::new() } else { bus.functions_of(secondary) },
        }
    }
}
