//! One harness for all devices of a machine: it accesses whatever they have mapped, lets time pass, and checks the laws
//! of [`device::testing`]. Tests give it random bytes, the fuzzer its own.

use device::ResetKind;
use device::testing::{Script, access, reset_twice_is_once, save_and_restore_agree};

use crate::qtest::QtestAccess;

/// What a byte of the script stands for, of 256.
const PORTS: u64 = 150;
const MEMORY: u64 = 230;
const TIME: u64 = 246;
const LAW: u64 = 253;

/// Plays a script on a machine whose clock is manual and whose vCPUs do not run. Returns which laws were broken.
pub fn play(machine: &QtestAccess, bytes: &[u8]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut script = Script::new(bytes);
    while !script.is_over() {
        match script.number(1) {
            0..PORTS => access(&machine.ports, &mut script),
            PORTS..MEMORY => access(&machine.memory, &mut script),
            MEMORY..TIME => machine.clock.step(script.number(2) << (script.number(1) & 3)),
            TIME..LAW => {
                let index = script.number(1) as usize % machine.devices.len().max(1);
                if let Some((name, device)) = machine.devices.get(index) {
                    broken.extend(save_and_restore_agree(name, &**device).err());
                }
            }
            _ => {
                let index = script.number(1) as usize % machine.devices.len().max(1);
                if let Some((_, device)) = machine.devices.get(index) {
                    device.reset(ResetKind::Warm);
                }
            }
        }
    }
    broken
}

/// Checks the laws for each device, as it is now, and leaves all of them reset. Returns which
/// are broken.
pub fn check(machine: &QtestAccess) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, device) in &machine.devices {
        broken.extend(save_and_restore_agree(name, &**device).err());
        for kind in [ResetKind::Warm, ResetKind::Cold] {
            broken.extend(reset_twice_is_once(name, &**device, kind).err());
        }
    }
    broken
}
