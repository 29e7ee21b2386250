//! The ports 0x3B0–0x3DF.

use super::{PORTS, Vga};

/// Bits of the sequencer's registers that exist.
const SEQUENCER: [u8; 8] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0x00, 0x00, 0xff];
/// Bits of the graphics controller's registers that exist.
const GRAPHICS: [u8; 16] = [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff, 0, 0, 0, 0, 0, 0, 0];
/// Bits of the attribute controller's registers that exist; the first 16 are the palette.
const ATTRIBUTE: [u8; 5] = [0xef, 0xff, 0x3f, 0x0f, 0x0f];

/// Miscellaneous output: the CRT controller is at 0x3Dx.
const COLOUR: u8 = 0x01;
/// CR11: CR0 to CR7 are locked.
const LOCKED: u8 = 0x80;

/// Nanoseconds of a line, and lines of a frame: 31.5 kHz and 70 Hz.
const LINE: u64 = 31_778;
const LINES: u64 = 449;
const VISIBLE_LINES: u64 = 400;
const RETRACE_FROM: u64 = 412;

impl Vga {
    /// Whether the port belongs to the half (monochrome or colour) that is off.
    fn is_off(&self, port: u16) -> bool {
        let half = if self.state.msr & COLOUR != 0 { 0x3b0 } else { 0x3d0 };
        port & 0xfff0 == half
    }

    /// Input status 1: bit 0 while nothing is shown, bit 3 during the vertical retrace.
    fn status(&self) -> u8 {
        let now = self.clock.now();
        let line = now / LINE % LINES;
        let is_visible = line < VISIBLE_LINES && now % LINE < LINE * 4 / 5;
        u8::from(!is_visible) | u8::from(line >= RETRACE_FROM) << 3
    }

    /// Reads the port at `offset` from 0x3B0.
    pub fn read_port(&mut self, offset: u16) -> u8 {
        let port = PORTS.wrapping_add(offset);
        if self.is_off(port) {
            return 0xff;
        }
        match port {
            0x3c0 if !self.state.ar_is_data => self.state.ar_index,
            0x3c1 => self.state.ar.get(usize::from(self.state.ar_index & 0x1f)).copied().unwrap_or(0),
            0x3c4 => self.state.sr_index,
            0x3c5 => self.state.sr[usize::from(self.state.sr_index & 7)],
            0x3c7 => self.state.dac_state,
            0x3c8 => self.state.dac_write_index,
            0x3c9 => self.read_palette(),
            0x3ca => self.state.fcr,
            0x3cc => self.state.msr,
            0x3ce => self.state.gr_index,
            0x3cf => self.state.gr[usize::from(self.state.gr_index & 15)],
            0x3b4 | 0x3d4 => self.state.cr_index,
            0x3b5 | 0x3d5 => self.state.cr[usize::from(self.state.cr_index)],
            0x3ba | 0x3da => {
                self.state.ar_is_data = false;
                self.status()
            }
            _ => 0,
        }
    }

    /// Writes the port at `offset` from 0x3B0.
    pub fn write_port(&mut self, offset: u16, value: u8) {
        let port = PORTS.wrapping_add(offset);
        if self.is_off(port) {
            return;
        }
        match port {
            0x3c0 => self.write_attribute(value),
            0x3c2 => self.state.msr = value & !0x10,
            0x3c4 => self.state.sr_index = value & 7,
            0x3c5 => {
                let index = usize::from(self.state.sr_index & 7);
                self.state.sr[index] = value & SEQUENCER[index];
                self.update_window();
            }
            0x3c7 => {
                (self.state.dac_read_index, self.state.dac_sub_index, self.state.dac_state) = (value, 0, 3);
            }
            0x3c8 => {
                (self.state.dac_write_index, self.state.dac_sub_index, self.state.dac_state) = (value, 0, 0);
            }
            0x3c9 => self.write_palette(value),
            0x3ce => self.state.gr_index = value & 15,
            0x3cf => {
                let index = usize::from(self.state.gr_index & 15);
                self.state.gr[index] = value & GRAPHICS[index];
                self.update_vga_registers();
                self.update_window();
            }
            0x3b4 | 0x3d4 => self.state.cr_index = value,
            0x3b5 | 0x3d5 => self.write_crtc(value),
            0x3ba | 0x3da => self.state.fcr = value & 0x10,
            _ => {}
        }
    }

    fn write_attribute(&mut self, value: u8) {
        if self.state.ar_is_data {
            let index = usize::from(self.state.ar_index & 0x1f);
            match (self.state.ar.get_mut(index), index.checked_sub(16)) {
                (Some(register), None) => *register = value & 0x3f,
                (Some(register), Some(mode)) => *register = value & ATTRIBUTE[mode],
                (None, _) => {}
            }
        } else {
            self.state.ar_index = value & 0x3f;
        }
        self.state.ar_is_data = !self.state.ar_is_data;
    }

    fn write_crtc(&mut self, value: u8) {
        let index = self.state.cr_index;
        if self.state.cr[0x11] & LOCKED != 0 && index <= 7 {
            // Bit 8 of the line compare is never locked.
            if index == 7 {
                self.state.cr[7] = self.state.cr[7] & !0x10 | value & 0x10;
                self.update_vga_registers();
            }
            return;
        }
        self.state.cr[usize::from(index)] = value;
        self.update_vga_registers();
    }

    fn read_palette(&mut self) -> u8 {
        let state = &mut self.state;
        let index = usize::from(state.dac_read_index) * 3 + usize::from(state.dac_sub_index);
        state.dac_sub_index += 1;
        if state.dac_sub_index >= 3 {
            state.dac_sub_index = 0;
            state.dac_read_index = state.dac_read_index.wrapping_add(1);
        }
        state.palette.get(index).copied().unwrap_or(0)
    }

    fn write_palette(&mut self, value: u8) {
        let state = &mut self.state;
        state.dac_cache[usize::from(state.dac_sub_index.min(2))] = value;
        state.dac_sub_index += 1;
        if state.dac_sub_index >= 3 {
            let at = usize::from(state.dac_write_index) * 3;
            state.palette[at..at + 3].copy_from_slice(&state.dac_cache);
            state.dac_sub_index = 0;
            state.dac_write_index = state.dac_write_index.wrapping_add(1);
        }
    }
}
