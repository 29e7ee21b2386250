//! Lock-step: each run of translated code is repeated by the interpreter from the same state, and both must agree.
//!
//! Translated code counts the instructions that it begins and comes back at its first poll after a number of them that
//! varies from piece to piece; so loops, links and flags across blocks take part. The interpreter then executes the
//! same number. Instructions whose result is not the CPU's alone (ports, time, random numbers, MSRs, control registers)
//! are not translated in this mode, and a piece that reaches a device's memory counts with the translated result.

use std::fmt::Write;

use iced_x86::{Decoder, DecoderOptions};

use super::{Found, Inner, Jump, Translator, jump_slot};
use crate::fault::{Fault, vector};
use crate::jit::Outcome;
use crate::lockstep::{State, ending};
use crate::ops::flag;
use crate::state::Cpu;

/// Host code that a report shows at most.
const SHOWN: usize = 16 << 10;

impl Cpu {
    /// Runs a region, and the same instructions on the interpreter.
    #[cold]
    #[inline(never)]
    pub(super) fn run_lockstep(&mut self, cache: &mut Inner, region: u32) -> Outcome {
        let Translator::On(jit) = &mut cache.jit else { return Outcome::Next };
        let Some(limit) = self.lockstep.as_mut().map(|lockstep| lockstep.begin()) else { return Outcome::Next };
        let before = State::of(self);
        jit.begin_piece(limit);
        let outcome = jit.run(self, region);
        #[cfg(test)]
        if let Some(spoil) = self.lockstep.as_ref().and_then(|lockstep| lockstep.spoil) {
            spoil(self);
        }
        let begun = jit.begun();
        let code = jit.code_of(region);
        let after = State::of(self);
        let fault = match &outcome {
            Outcome::Fault(fault) => Some(*fault),
            _ => None,
        };
        match self.lockstep.as_mut().and_then(|lockstep| lockstep.turn()) {
            None => {
                self.end_piece(|stats| stats.devices += 1);
                return outcome;
            }
            Some(true) => self.tlb.flush_all(),
            Some(false) => {}
        }
        before.restore(self);
        let second = self.follow(cache, begun, &after, fault);
        let mut differences = String::new();
        let same_fault = fault == second
            && (fault.is_none_or(|fault| fault.vector() != vector::PF) || after.fault_address() == self.fault_address);
        let state = State::of(self);
        if !same_fault {
            let (first, second) = (ending(fault, &after), ending(second, &state));
            let _infallible = writeln!(differences, "  end: translated {first}, interpreted {second}");
        }
        if !after.is_of(self) {
            differences.push_str(&after.differences(&state));
        }
        if let Some(lockstep) = &mut self.lockstep {
            differences.push_str(&lockstep.compare());
        }
        if !differences.is_empty() {
            let report = self.report(&before, &after, &state, begun, &differences, code);
            if let Some(lockstep) = &mut self.lockstep {
                lockstep.report = Some(report);
            }
            self.end_piece(|_| {});
            return Outcome::Differs;
        }
        let (modified, asked) = after.requests();
        self.code_modified |= modified;
        self.exit_request |= asked;
        self.end_piece(|stats| {
            stats.compared += 1;
            stats.instructions += begun;
        });
        outcome
    }

    fn end_piece(&mut self, count: impl FnOnce(&mut crate::lockstep::LockstepStats)) {
        let Some(lockstep) = &mut self.lockstep else { return };
        count(&mut lockstep.stats);
        for (linear, class) in lockstep.end() {
            self.tlb.drop_data(linear, class);
        }
    }

    /// The interpreter executes as many instructions as translated code has begun, of which the last may not be done.
    fn follow(&mut self, cache: &mut Inner, begun: u64, after: &State, fault: Option<Fault>) -> Option<Fault> {
        let most = begun.saturating_sub(1);
        if let Err(fault) = self.interpret(cache, most, after) {
            return Some(fault);
        }
        if begun == 0 || (fault.is_none() && self.rip == after.rip && after.is_of(self)) {
            return None;
        }
        self.interpret(cache, 1, after).err()
    }

    /// Executes instructions. `after` is the state that is to be reached.
    fn interpret(&mut self, cache: &mut Inner, count: u64, after: &State) -> Result<(), Fault> {
        let (mut left, mut modified) = (count, false);
        while left != 0 {
            let linear = self.rip & self.address_mask;
            let index = match self.next_block(cache, linear)? {
                Found::Block(index) => index,
                Found::Single(op, flow) => {
                    self.exec_single(&op, flow)?;
                    left -= 1;
                    continue;
                }
            };
            let Some(block) = cache.blocks.get(index as usize) else { continue };
            let (first, ops) = (block.first as usize, usize::from(block.ops));
            let base = self.rip;
            for (n, op) in cache.ops.get(first..first + ops).unwrap_or_default().iter().enumerate() {
                let at = base.wrapping_add(u64::from(op.offset));
                self.rip = at;
                if op.len == 0 || left == 0 {
                    break;
                }
                if let Some(lockstep) = &mut self.lockstep {
                    lockstep.note(at, op.len);
                }
                self.code_modified = false;
                let result = (op.run)(self, op);
                modified |= std::mem::replace(&mut self.code_modified, false);
                if let Err(fault) = result {
                    self.code_modified = modified;
                    return Err(fault);
                }
                let is_last = n + 1 == ops;
                if is_last && self.rip == at && op.has(flag::REP | flag::REPNE) {
                    // A repeated string instruction that is not done: it goes on until the other tier's end.
                    if left == 1 && after.rip == at && after.gpr == self.gpr {
                        left = 0;
                    }
                    break;
                }
                left -= 1;
                if !is_last {
                    self.rip = at.wrapping_add(u64::from(op.len));
                    if modified {
                        break;
                    }
                }
            }
        }
        self.code_modified = modified;
        Ok(())
    }

    /// The block at an address: from the table of the interpreter's loop, where it is there.
    fn next_block(&mut self, cache: &mut Inner, linear: u64) -> Result<Found, Fault> {
        let jump = cache.jumps[jump_slot(linear)];
        if jump.linear == linear
            && jump.epoch == self.tlb.epoch(linear)
            && jump.mode == self.mode_key
            && cache.blocks.get(jump.block as usize).is_some_and(|block| cache.is_valid(block))
        {
            return Ok(Found::Block(jump.block));
        }
        let found = self.find_block(cache, linear)?;
        if let Found::Block(block) = found {
            let epoch = self.tlb.epoch(linear);
            cache.jumps[jump_slot(linear)] = Jump { linear, epoch, mode: self.mode_key, block };
        }
        Ok(found)
    }

    fn report(
        &mut self,
        before: &State,
        translated: &State,
        interpreted: &State,
        begun: u64,
        differences: &str,
        code: Option<(u64, Vec<u8>)>,
    ) -> String {
        let mut text = format!(
            "lock-step: translated and interpreted code differ after {begun} instructions from {:#x}\n{differences}",
            before.rip
        );
        let states = [("before", before), ("translated", translated), ("interpreted", interpreted)];
        for (name, state) in states {
            let _infallible = write!(text, "{name}:\n{}", state.summary());
        }
        text.push_str("guest instructions:\n");
        let trace = self.lockstep.as_mut().map(|lockstep| std::mem::take(&mut lockstep.trace)).unwrap_or_default();
        for (rip, len) in trace {
            let bytes = self.code_bytes(rip, usize::from(len));
            let code = Decoder::with_ip(64, &bytes, rip, DecoderOptions::NONE).decode().code();
            let _infallible = writeln!(text, "  {rip:016x}  {:<32}{code:?}", hex(&bytes));
        }
        if let Some((address, bytes)) = code {
            let _infallible = writeln!(text, "host code of the first region, at {address:#x}:");
            for line in bytes.get(..SHOWN).unwrap_or(&bytes).chunks(64) {
                let _infallible = writeln!(text, "  {}", hex(line));
            }
        }
        if let Some(lockstep) = &self.lockstep {
            let _infallible = writeln!(text, "until then: {:?}", lockstep.stats);
        }
        text
    }

    /// The bytes of an instruction that was just executed, as far as they can be read.
    fn code_bytes(&mut self, linear: u64, len: usize) -> Vec<u8> {
        (0..len as u64)
            .map_while(|n| {
                let at = linear.wrapping_add(n);
                let page = self.fetch_page(at).ok()?;
                let mut byte = [0];
                self.read_code(page, at & 0xfff, &mut byte);
                Some(byte[0])
            })
            .collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use accel::{Vcpu, VcpuExit};

    use super::*;
    use crate::TranslatorConfig;

    /// inc rax; mov [0x6000], rax; add rcx, [0x6000]; dec rdx; jnz to the start; hlt.
    const LOOP: &[u8] = &[
        0x48, 0xff, 0xc0, 0x48, 0x89, 0x04, 0x25, 0x00, 0x60, 0x00, 0x00, 0x48, 0x03, 0x0c, 0x25, 0x00, 0x60, 0x00,
        0x00, 0x48, 0xff, 0xca, 0x75, 0xe8, 0xf4,
    ];

    fn run(spoil: Option<fn(&mut Cpu)>) -> (VcpuExit, crate::SoftCpu) {
        let translator = TranslatorConfig { lockstep: true, hot_after: 0, ..TranslatorConfig::default() };
        let (mut cpu, _ram) = crate::fuzz::machine(&crate::fuzz::model(), LOOP, 3, translator).expect("machine");
        if let Some(lockstep) = &mut cpu.cpu().lockstep {
            lockstep.spoil = spoil;
        }
        (cpu.run(), cpu)
    }

    fn report(spoil: fn(&mut Cpu)) -> String {
        match run(Some(spoil)).0 {
            VcpuExit::InternalError(report) => report,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn loop_on_both_tiers_agrees() {
        let (exit, mut cpu) = run(None);
        assert_eq!(exit, VcpuExit::Halted);
        let cpu = cpu.cpu();
        assert_eq!((cpu.gpr[0], cpu.gpr[2]), (0x2000, 0));
        let stats = cpu.lockstep_stats().expect("lock-step");
        assert_eq!(stats.instructions, 0x1000 * 5);
        assert!(stats.compared > 50 && stats.devices == 0, "{stats:?}");
    }

    #[test]
    fn wrong_register_is_reported_with_both_values() {
        let text = report(|cpu| cpu.gpr[1] ^= 1 << 40);
        assert!(text.contains("gpr[1]: translated 100000"), "{text}");
        assert!(text.contains("4889042500600000"), "{text}");
    }

    #[test]
    fn wrong_flag_is_reported() {
        let text = report(|cpu| {
            let flags = cpu.rflags();
            cpu.set_rflags(flags ^ 0x10);
        });
        assert!(text.contains("arithmetic flags: translated"), "{text}");
    }

    #[test]
    fn wrong_store_is_reported() {
        let text = report(|cpu| {
            cpu.write_u8(0x6123, 0x77).expect("a page of RAM");
        });
        assert!(text.contains("memory at 0x6120"), "{text}");
    }

    #[test]
    fn missing_store_is_reported() {
        let text = report(|cpu| {
            cpu.write_u64(0x6000, 0).expect("a page of RAM");
        });
        assert!(text.contains("memory at 0x6000"), "{text}");
    }

    #[test]
    fn end_elsewhere_is_reported() {
        let text = report(|cpu| cpu.rip += 3);
        assert!(text.contains("rip: translated"), "{text}");
    }
}
