//! The vCPU items of `-d`: guest code as it is decoded, blocks as they are entered, interrupts, registers at a reset.

use std::fmt::Write as _;
use std::sync::Arc;

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Instruction};
use machine::vcpu::VcpuThreads;
use machine::{EventKind, Following, Interruption, TraceFactory, TraceSink};

use crate::log::{self, LogItem};
use crate::snapshot::Snapshot;

/// Names of [`TraceSink::entered`]'s registers.
const NAMES: [&str; 16] =
    ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];

/// Tells how vCPUs are followed: by what is logged at the time, and instruction by instruction if `snapshot` says so.
pub fn factory(snapshot: &Arc<Snapshot>) -> Arc<TraceFactory> {
    let snapshot = Arc::clone(snapshot);
    Arc::new(move |cpu| {
        let (code, blocks) = (log::is_on(LogItem::InAsm), log::is_on(LogItem::Exec));
        let (interrupts, registers) = (log::is_on(LogItem::Interrupts), log::is_on(LogItem::Cpu));
        let sink = CpuLog { cpu, code, blocks, interrupts, registers, count: 0 };
        let is_wanted = code || blocks || interrupts || registers;
        Following {
            sink: is_wanted.then(|| Box::new(sink) as Box<dyn TraceSink>),
            one_instruction: snapshot.is_singlestep(),
        }
    })
}

/// Has all vCPUs followed as it is wanted now.
pub fn follow_again(vcpus: &VcpuThreads) {
    for index in 0..vcpus.count() {
        // A hypervisor's vCPUs can't be followed.
        vcpus.with(index, |cpu| cpu.follow_again());
    }
}

/// Writes down what one vCPU does.
struct CpuLog {
    cpu: usize,
    code: bool,
    blocks: bool,
    interrupts: bool,
    registers: bool,
    /// Interrupts so far.
    count: u64,
}

impl TraceSink for CpuLog {
    fn follows_blocks(&self) -> bool {
        self.blocks || self.registers
    }

    fn translated(&mut self, linear: u64, bytes: &[u8], bits: u8) {
        if !self.code {
            return;
        }
        let mut text = format!("----------------\nIN: (CPU {})\n", self.cpu);
        let mut formatter = GasFormatter::new();
        let mut decoder = Decoder::with_ip(u32::from(bits), bytes, linear, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            // Writing to a String can't fail.
            let _ = write!(text, "{:#010x}:  ", instruction.ip());
            formatter.format(&instruction, &mut text);
            text.push('\n');
        }
        log::write(format_args!("{text}\n"));
    }

    fn entered(&mut self, linear: u64, gpr: &[u64; 16]) {
        if self.blocks {
            log::write(format_args!("Trace {}: {linear:016x}\n", self.cpu));
        }
        if self.registers {
            log::write(format_args!("{}", general(gpr)));
        }
    }

    fn interrupt(&mut self, interrupt: &Interruption) {
        if !self.interrupts {
            return;
        }
        let Interruption { kind, vector, error, cpl, cs, rip, rsp, address } = *interrupt;
        let mut text = format!("{:6}: v={vector:02x}", self.count);
        self.count += 1;
        let is_software = matches!(kind, EventKind::SoftwareInterrupt | EventKind::SoftwareException);
        let _ = write!(
            text,
            " e={:04x} i={} cpl={cpl} IP={cs:04x}:{rip:016x} SP={rsp:016x}",
            error.unwrap_or(0),
            u8::from(is_software)
        );
        if let Some(address) = address {
            let _ = write!(text, " CR2={address:016x}");
        }
        log::write(format_args!("CPU {}: {text}\n", self.cpu));
    }
}

/// Four registers a line.
fn general(gpr: &[u64; 16]) -> String {
    let mut text = String::new();
    for (index, (name, value)) in NAMES.iter().zip(gpr).enumerate() {
        let end = if index % 4 == 3 { '\n' } else { ' ' };
        let _ = write!(text, "{name:<3}={value:016x}{end}");
    }
    text
}

/// Writes down the registers of all vCPUs, which stand still.
pub fn registers(vcpus: &VcpuThreads) {
    for index in 0..vcpus.count() {
        if let Some(registers) = vcpus.with(index, |cpu| cpu.registers()) {
            let (rip, rflags) = (registers.rip, registers.rflags);
            let control = format!(
                "CR0={:08x} CR2={:016x} CR3={:016x} CR4={:08x} EFER={:016x}",
                registers.cr0, registers.cr2, registers.cr3, registers.cr4, registers.efer
            );
            let general = general(&registers.gpr);
            log::write(format_args!("CPU Reset (CPU {index})\n{general}RIP={rip:016x} RFL={rflags:08x}\n{control}\n"));
        }
    }
}
