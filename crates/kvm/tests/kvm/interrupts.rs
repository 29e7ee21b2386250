//! Interrupts in the three modes.

use std::sync::Mutex;

use accel::{ApicMsrError, LocalApic};

/// A local APIC that delivers what it was given.
#[derive(Default)]
pub struct TestApic {
    pub vectors: Mutex<Vec<u8>>,
    pub priority: Mutex<u8>,
    pub base: Mutex<u64>,
}

impl LocalApic for TestApic {
    fn acknowledge(&self) -> Option<u8> {
        self.vectors.lock().expect("vectors").pop()
    }
    fn cr8(&self) -> u8 {
        *self.priority.lock().expect("priority")
    }
    fn set_cr8(&self, cr8: u8) {
        *self.priority.lock().expect("priority") = cr8;
    }
    fn base(&self) -> u64 {
        *self.base.lock().expect("base")
    }
    fn set_base(&self, value: u64) -> Result<(), ApicMsrError> {
        *self.base.lock().expect("base") = value;
        Ok(())
    }
    fn read_msr(&self, _: u32) -> Result<u64, ApicMsrError> {
        Err(ApicMsrError)
    }
    fn write_msr(&self, _: u32, _: u64) -> Result<(), ApicMsrError> {
        Err(ApicMsrError)
    }
    fn init(&self) {}
}
