//! Bochs' display interface of the VGA: modes without planes, and what they do to the VGA's own registers.

use super::Vga;
use crate::dispi::{self, enable, index};

/// Zeroes that are written at once.
const PIECE: usize = 64 << 10;

impl Vga {
    /// Selects a register.
    pub fn select_vbe(&mut self, index: u16) {
        self.state.vbe_index = index;
    }

    /// The selected register's number.
    pub fn vbe_index(&self) -> u16 {
        self.state.vbe_index
    }

    /// Reads the selected register.
    pub fn read_vbe(&self) -> u16 {
        let number = usize::from(self.state.vbe_index);
        let tells_limits = self.state.vbe[index::ENABLE] & enable::GET_CAPABILITIES != 0;
        match number {
            index::XRES if tells_limits => dispi::X_MAX,
            index::YRES if tells_limits => dispi::Y_MAX,
            index::BPP if tells_limits => dispi::BPP_MAX,
            index::VIDEO_MEMORY_64K => (self.vram.len() >> 16).min(0xffff) as u16,
            _ => self.state.vbe.get(number).copied().unwrap_or(0),
        }
    }

    /// Writes the selected register.
    pub fn write_vbe(&mut self, value: u16) {
        match usize::from(self.state.vbe_index) {
            index::ID if (dispi::ID_FIRST..=dispi::ID).contains(&value) => self.state.vbe[index::ID] = value,
            number @ (index::XRES
            | index::YRES
            | index::BPP
            | index::VIRT_WIDTH
            | index::X_OFFSET
            | index::Y_OFFSET) => {
                self.state.vbe[number] = value;
                self.fix_vbe();
                self.update_vga_registers();
            }
            index::BANK => {
                let bank = value & self.bank_mask() as u16;
                self.state.vbe[index::BANK] = bank;
                self.state.bank = u32::from(bank) << 16;
                self.update_window();
            }
            index::ENABLE => self.enable_vbe(value),
            _ => {}
        }
    }

    fn enable_vbe(&mut self, value: u16) {
        if value & enable::ENABLED != 0 && !self.state.is_vbe() {
            for number in [index::VIRT_WIDTH, index::X_OFFSET, index::Y_OFFSET] {
                self.state.vbe[number] = 0;
            }
            self.state.vbe[index::ENABLE] |= enable::ENABLED;
            self.fix_vbe();
            self.update_vga_registers();
            if value & enable::NO_CLEAR_MEMORY == 0 {
                self.clear(usize::from(self.state.vbe[index::YRES]) * self.state.vbe_line as usize);
            }
        } else {
            self.state.bank = 0;
        }
        self.state.dac_8bit = value & enable::EIGHT_BIT_DAC != 0;
        self.state.vbe[index::ENABLE] = value;
        self.update_window();
    }

    fn clear(&self, len: usize) {
        let zeroes = [0; PIECE];
        let len = len.min(self.vram.len());
        for at in (0..len).step_by(PIECE) {
            self.vram.write(at, &zeroes[..PIECE.min(len - at)]);
        }
    }

    /// Brings the registers to the nearest mode that exists and fits into memory.
    pub(super) fn fix_vbe(&mut self) {
        if !self.state.is_vbe() {
            return;
        }
        let memory = self.vram.len() as u32;
        let vbe = &mut self.state.vbe;
        let bits = match vbe[index::BPP] {
            depth @ (4 | 8 | 16 | 24 | 32) => u32::from(depth),
            15 => 16,
            _ => {
                vbe[index::BPP] = 8;
                8
            }
        };
        vbe[index::XRES] = (vbe[index::XRES] & !7).clamp(8, dispi::X_MAX);
        vbe[index::VIRT_WIDTH] = (vbe[index::VIRT_WIDTH] & !7).min(dispi::X_MAX).max(vbe[index::XRES]);
        let line = u32::from(vbe[index::VIRT_WIDTH]) * bits / 8;
        let rows_max = (memory / line.max(1)).min(0xffff) as u16;
        vbe[index::YRES] = vbe[index::YRES].clamp(1, dispi::Y_MAX).min(rows_max);
        vbe[index::X_OFFSET] = vbe[index::X_OFFSET].min(dispi::X_MAX);
        vbe[index::Y_OFFSET] = vbe[index::Y_OFFSET].min(dispi::Y_MAX);
        let shown = u32::from(vbe[index::YRES]) * line;
        let columns = u32::from(vbe[index::X_OFFSET]) * bits / 8;
        let mut start = columns + u32::from(vbe[index::Y_OFFSET]).wrapping_mul(line);
        if u64::from(start) + u64::from(shown) > u64::from(memory) {
            vbe[index::Y_OFFSET] = 0;
            start = columns;
            if start + shown > memory {
                vbe[index::X_OFFSET] = 0;
                start = 0;
            }
        }
        vbe[index::VIRT_HEIGHT] = rows_max;
        self.state.vbe_line = line;
        self.state.vbe_start = start / 4;
    }

    /// Sets the VGA's registers as the VBE mode has them.
    pub(super) fn update_vga_registers(&mut self) {
        if !self.state.is_vbe() {
            return;
        }
        let state = &mut self.state;
        let height = state.vbe[index::YRES].wrapping_sub(1);
        // Graphics, and the window is 64 KiB at 0xA0000.
        state.gr[6] = state.gr[6] & !0x0c | 0x05;
        state.cr[0x17] |= 3;
        state.cr[0x13] = (state.vbe_line >> 3) as u8;
        state.cr[1] = (state.vbe[index::XRES] >> 3).wrapping_sub(1) as u8;
        state.cr[0x12] = height as u8;
        let high = (height >> 7) as u8 & 0x02 | (height >> 3) as u8 & 0x40;
        // Line compare is 1023: the screen is not split.
        state.cr[7] = state.cr[7] & !0x42 | high | 0x10;
        state.cr[0x18] = 0xff;
        // Neither double scanning nor repeated lines.
        state.cr[9] = (state.cr[9] | 0x40) & !0x9f;
        let shift = if state.vbe[index::BPP] == 4 {
            state.sr_vbe[1] &= !8;
            0
        } else {
            // Chain 4, all planes.
            state.sr_vbe[4] |= 0x08;
            state.sr_vbe[2] |= 0x0f;
            2
        };
        state.gr[5] = state.gr[5] & !0x60 | shift << 5;
    }
}
