//! The picture: what the registers make of video memory.

use std::sync::Arc;

use ::memory::RamBlock;
use display::Surface;
use display::text::{CellWidth, TextScreen, draw_glyph};

use super::VgaState;
use crate::dispi::index;

/// A text screen has at most as many characters.
const CELLS_MAX: u32 = 160 * 100;
/// Nanoseconds that the cursor is on, and then off: 16 frames at 70 Hz.
const CURSOR_PHASE: u64 = 16_000_000_000 / 70;

/// Everything that a picture depends on.
pub struct Frame {
    state: VgaState,
    vram: Arc<RamBlock>,
    now: u64,
}

/// A line of a graphics mode.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Four planes: 16 colours.
    Planar,
    /// Two bits a pixel, in two planes.
    Cga,
    /// A byte a pixel, each twice.
    DoubleBytes,
    /// A byte a pixel.
    Bytes,
    /// Pixels of 15 to 32 bits.
    Direct { depth: u16 },
}

impl Line {
    /// Bytes of `width` pixels.
    fn bytes(self, width: u32) -> usize {
        let width = width as usize;
        match self {
            Self::Planar | Self::Cga => width / 8 * 4,
            Self::DoubleBytes => width / 2,
            Self::Bytes => width,
            Self::Direct { depth: 15 | 16 } => width * 2,
            Self::Direct { depth: 24 } => width * 3,
            Self::Direct { .. } => width * 4,
        }
    }
}

/// Six bits of the DAC as eight: the lowest fills up.
fn six_bits(value: u8) -> u8 {
    let value = value & 0x3f;
    value << 2 | (value & 1) << 1 | value & 1
}

fn rgb(red: u8, green: u8, blue: u8) -> u32 {
    u32::from(red) << 16 | u32::from(green) << 8 | u32::from(blue)
}

impl Frame {
    pub(super) fn new(state: VgaState, vram: Arc<RamBlock>, now: u64) -> Self {
        Self { state, vram, now }
    }

    /// Draws it.
    pub fn render(&self, picture: &mut Surface) {
        // The bit that gives the palette to the attribute controller blanks the screen while it is clear.
        if self.state.ar_index & 0x20 == 0 {
            if self.state.cr[1] != 0 {
                picture.fill(0);
            }
        } else if self.state.gr[6] & 1 == 0 {
            self.text(picture);
        } else {
            self.graphics(picture);
        }
    }

    /// The same as characters; `None` in other modes.
    pub fn text_screen(&self) -> Option<TextScreen> {
        if self.state.ar_index & 0x20 == 0 || self.state.gr[6] & 1 != 0 {
            return None;
        }
        let (columns, rows) = self.text_size()?;
        let (cursor, is_off) = (self.text_cursor(), self.state.cr[0x0a] & 0x20 != 0);
        let mut screen = TextScreen { columns: columns as usize, rows: rows as usize, ..TextScreen::default() };
        for (row, (first, cells)) in self.text_rows(columns, rows).enumerate() {
            screen.cells.extend(cells.chunks_exact(4).map(|cell| (cell[0], cell[1])));
            screen.cells.resize((row + 1) * screen.columns, (0, 0));
            if let Some(column) = cursor.checked_sub(first).filter(|column| *column < columns && !is_off) {
                screen.cursor = Some((column as usize, row));
            }
        }
        Some(screen)
    }

    /// The rows of a text mode: the address of each, in units of four bytes, and its cells of four bytes. What lies behind
    /// the end of video memory is missing.
    fn text_rows(&self, columns: u32, rows: u32) -> impl Iterator<Item = (u32, Vec<u8>)> {
        let (mut line, mut at) = (0, self.start() * 4);
        (0..rows).map(move |_| {
            let first = at / 4;
            let len = (columns as usize * 4).min(self.vram.len().saturating_sub(at as usize));
            let mut cells = vec![0; len];
            self.vram.read(at as usize, &mut cells);
            let next = line + self.cell_height();
            at = at.wrapping_add(self.pitch());
            if line < self.line_compare() && next >= self.line_compare() {
                at = 0;
            }
            line = next;
            (first, cells)
        })
    }

    /// The address of a text mode's cursor, in units of four bytes.
    fn text_cursor(&self) -> u32 {
        u32::from(self.state.cr[0x0e]) << 8 | u32::from(self.state.cr[0x0f])
    }

    /// Lines of a text mode's row.
    fn cell_height(&self) -> u32 {
        u32::from(self.state.cr[9] & 0x1f) + 1
    }

    /// Columns and rows of a text mode, if they make sense.
    fn text_size(&self) -> Option<(u32, u32)> {
        let cr = &self.state.cr;
        let columns = u32::from(cr[1]) + 1;
        // The CGA's 160 × 100 mode counts its rows otherwise.
        let rows = if cr[6] == 100 { 100 } else { self.rows() / self.cell_height() };
        (2..=CELLS_MAX).contains(&(columns * rows)).then_some((columns, rows))
    }

    fn colour(&self, index: usize, is_eight_bit: bool) -> u32 {
        let channel = |offset| {
            let value = self.state.palette.get(index * 3 + offset).copied().unwrap_or(0);
            if is_eight_bit { value } else { six_bits(value) }
        };
        rgb(channel(0), channel(1), channel(2))
    }

    /// The colours of the attribute controller's palette.
    fn palette16(&self) -> [u32; 16] {
        let ar = &self.state.ar;
        std::array::from_fn(|index| {
            let index = if ar[0x10] & 0x80 != 0 {
                (ar[0x14] & 0x0f) << 4 | ar[index] & 0x0f
            } else {
                (ar[0x14] & 0x0c) << 4 | ar[index] & 0x3f
            };
            self.colour(usize::from(index), false)
        })
    }

    fn palette256(&self) -> Vec<u32> {
        (0..256).map(|index| self.colour(index, self.state.dac_8bit)).collect()
    }

    /// Rows that the CRT controller shows.
    fn rows(&self) -> u32 {
        let cr = &self.state.cr;
        let high = u32::from(cr[7] & 0x02) << 7 | u32::from(cr[7] & 0x40) << 3;
        (u32::from(cr[0x12]) | high) + 1
    }

    fn line_compare(&self) -> u32 {
        let cr = &self.state.cr;
        if self.state.is_vbe() {
            return 0xffff;
        }
        u32::from(cr[0x18]) | u32::from(cr[7] & 0x10) << 4 | u32::from(cr[9] & 0x40) << 3
    }

    /// The first address, in units of four bytes.
    fn start(&self) -> u32 {
        if self.state.is_vbe() {
            return self.state.vbe_start;
        }
        u32::from(self.state.cr[0x0d]) | u32::from(self.state.cr[0x0c]) << 8
    }

    /// Bytes from a line to the next.
    fn pitch(&self) -> u32 {
        if self.state.is_vbe() { self.state.vbe_line } else { u32::from(self.state.cr[0x13]) << 3 }
    }

    fn dots(&self) -> CellWidth {
        let mode = self.state.sequencer(1);
        match (mode & 0x08, mode & 0x01) {
            (0, 0) => CellWidth::Nine { joins: false },
            (0, _) => CellWidth::Eight,
            _ => CellWidth::Sixteen,
        }
    }

    /// The glyphs of the two fonts, 32 bytes each, out of plane 2.
    fn fonts(&self) -> [Vec<u8>; 2] {
        let map = u32::from(self.state.sequencer(3));
        let blocks = [(map >> 4 & 1) | (map << 1 & 6), (map >> 5 & 1) | (map >> 1 & 6)];
        blocks.map(|block| {
            let mut planes = vec![0; 4 * 8192];
            self.vram.read(block as usize * 4 * 8192, &mut planes);
            planes.chunks(4).map(|planes| planes.get(2).copied().unwrap_or(0)).collect()
        })
    }

    fn text(&self, picture: &mut Surface) {
        let cell_height = self.cell_height();
        let Some((columns, rows)) = self.text_size() else { return };
        let dots = self.dots();
        picture.resize(columns * dots.pixels(), rows * cell_height);
        let (fonts, palette) = (self.fonts(), self.palette16());
        let cursor = self.text_cursor();
        for (row, (first, cells)) in (0..rows).zip(self.text_rows(columns, rows)) {
            for (column, cell) in (0..columns).zip(cells.chunks_exact(4)) {
                let (character, attribute) = (cell[0], cell[1]);
                let place = (column * dots.pixels(), row * cell_height);
                let colours = self.cell_colours(attribute, &palette);
                let font = &fonts[usize::from(attribute >> 3 & 1)];
                let glyph = font.get(usize::from(character) * 32..).unwrap_or_default();
                let glyph = &glyph[..glyph.len().min(cell_height as usize)];
                let joins = (0xb0..=0xdf).contains(&character) && self.state.ar[0x10] & 0x04 != 0;
                let width = if let CellWidth::Nine { .. } = dots { CellWidth::Nine { joins } } else { dots };
                draw_glyph(picture, place, width, glyph, colours);
                if first + column == cursor {
                    self.draw_cursor(picture, place, dots, cell_height, colours);
                }
            }
        }
    }

    /// Foreground and background. With blinking on, the highest bit is no colour.
    fn cell_colours(&self, attribute: u8, palette: &[u32; 16]) -> (u32, u32) {
        let (fore, back) = (usize::from(attribute & 15), usize::from(attribute >> 4));
        if self.state.ar[0x10] & 0x08 == 0 {
            return (palette[fore], palette[back]);
        }
        let back = palette[back & 7];
        // Characters blink half as fast as the cursor.
        let is_hidden = attribute & 0x80 != 0 && self.now / (2 * CURSOR_PHASE) % 2 == 1;
        (if is_hidden { back } else { palette[fore] }, back)
    }

    fn draw_cursor(
        &self,
        picture: &mut Surface,
        (x, y): (u32, u32),
        dots: CellWidth,
        cell_height: u32,
        colours: (u32, u32),
    ) {
        let (start, end) = (self.state.cr[0x0a], self.state.cr[0x0b]);
        let is_off = start & 0x20 != 0 || self.now / CURSOR_PHASE % 2 == 1;
        let (first, last) = (u32::from(start & 0x1f), u32::from(end & 0x1f).min(cell_height - 1));
        if is_off || last < first {
            return;
        }
        let rows = vec![0xff; (last - first + 1) as usize];
        let width = if let CellWidth::Nine { .. } = dots { CellWidth::Nine { joins: true } } else { dots };
        draw_glyph(picture, (x, y + first), width, &rows, colours);
    }

    /// The kind of line, and whether each pixel is shown twice.
    fn line_kind(&self) -> (Line, bool) {
        let is_half = self.state.sequencer(1) & 0x08 != 0;
        match self.state.gr[5] >> 5 & 3 {
            0 => (Line::Planar, is_half),
            1 => (Line::Cga, is_half),
            _ if !self.state.is_vbe() => (Line::DoubleBytes, false),
            _ => match self.state.vbe[index::BPP] {
                8 => (Line::Bytes, false),
                depth @ (15 | 16 | 24 | 32) => (Line::Direct { depth }, false),
                _ => (Line::DoubleBytes, false),
            },
        }
    }

    fn graphics(&self, picture: &mut Surface) {
        let cr = &self.state.cr;
        let (kind, is_doubled) = self.line_kind();
        let (width, height) = if self.state.is_vbe() {
            (u32::from(self.state.vbe[index::XRES]), u32::from(self.state.vbe[index::YRES]))
        } else {
            ((u32::from(cr[1]) + 1) * 8, self.rows())
        };
        picture.resize(width << u32::from(is_doubled), height);
        let palette = match kind {
            Line::Planar | Line::Cga => self.palette16().to_vec(),
            _ => self.palette256(),
        };
        let double_scan = cr[9] >> 7;
        // The modes of the CGA ignore the height of characters.
        let repeat = if cr[0x17] & 1 != 0 { (self.cell_height() << double_scan) - 1 } else { u32::from(double_scan) };
        let size = kind.bytes(width);
        let shown = u64::from(self.start()) * 4 + u64::from(self.pitch()) * u64::from(height.saturating_sub(1));
        // QEMU widens colours of 16 bits otherwise where lines wrap around.
        let is_shared = shown + size as u64 <= self.vram.len() as u64;
        let (mut bytes, mut pixels) = (vec![0; size], Vec::with_capacity(width as usize));
        let (mut first, mut line, mut run) = (self.start().wrapping_mul(4), 0_u32, repeat);
        let mut drawn = None;
        for y in 0..height {
            let at = self.line_address(first, line);
            if drawn != Some(at) {
                self.fetch(at, &mut bytes);
                pixels.clear();
                self.decode(kind, is_shared, &bytes, &palette, &mut pixels);
                drawn = Some(at);
            }
            let row = picture.row_mut(y);
            if is_doubled {
                for (pair, pixel) in row.chunks_mut(2).zip(&pixels) {
                    pair.fill(*pixel);
                }
            } else {
                let len = row.len().min(pixels.len());
                row[..len].copy_from_slice(&pixels[..len]);
            }
            if run == 0 {
                let mask = u32::from(cr[0x17] & 3 ^ 3);
                if line & mask == mask {
                    first = first.wrapping_add(self.pitch());
                }
                line += 1;
                run = repeat;
            } else {
                run -= 1;
            }
            if y == self.line_compare() {
                first = 0;
            }
        }
    }

    /// The address of a line: in the CGA's modes lines alternate between banks.
    fn line_address(&self, first: u32, line: u32) -> u32 {
        let mode = self.state.cr[0x17];
        let mut at = first;
        if mode & 1 == 0 {
            let shift = 14 + (mode >> 6 & 1);
            at = at & !(1 << shift) | (line & 1) << shift;
        }
        if mode & 2 == 0 {
            at = at & !0x8000 | (line & 2) << 14;
        }
        at
    }

    /// Copies a line; addresses wrap around at the end of video memory.
    fn fetch(&self, at: u32, into: &mut [u8]) {
        let len = self.vram.len();
        let at = at as usize & (len - 1);
        let head = into.len().min(len - at);
        let (head, tail) = into.split_at_mut(head);
        self.vram.read(at, head);
        let tail_len = tail.len().min(len);
        self.vram.read(0, &mut tail[..tail_len]);
    }

    fn decode(&self, kind: Line, is_shared: bool, bytes: &[u8], palette: &[u32], pixels: &mut Vec<u32>) {
        let pick = |index: u8| palette.get(usize::from(index)).copied().unwrap_or(0);
        let planes = self.state.ar[0x12] & 0x0f;
        match kind {
            Line::Planar => {
                for planes_of_8 in bytes.chunks_exact(4) {
                    for bit in (0..8).rev() {
                        let index = (0..4).fold(0, |index, plane| index | (planes_of_8[plane] >> bit & 1) << plane);
                        pixels.push(pick(index & planes));
                    }
                }
            }
            Line::Cga => {
                let masked = |plane: usize, byte: u8| if planes >> plane & 1 != 0 { byte } else { 0 };
                for four in bytes.chunks_exact(4) {
                    for even in [0, 1] {
                        let (low, high) = (masked(even, four[even]), masked(even + 2, four[even + 2]));
                        for shift in [6, 4, 2, 0] {
                            pixels.push(pick(low >> shift & 3 | (high >> shift & 3) << 2));
                        }
                    }
                }
            }
            Line::DoubleBytes => pixels.extend(bytes.iter().flat_map(|byte| [pick(*byte); 2])),
            Line::Bytes => pixels.extend(bytes.iter().map(|byte| pick(*byte))),
            Line::Direct { depth } => self.decode_direct(depth, is_shared, bytes, pixels),
        }
    }

    fn decode_direct(&self, depth: u16, is_shared: bool, bytes: &[u8], pixels: &mut Vec<u32>) {
        let is_big = self.state.is_big_endian;
        match depth {
            15 | 16 => pixels.extend(bytes.chunks_exact(2).map(|pair| {
                let value = if is_big {
                    u16::from_be_bytes([pair[0], pair[1]])
                } else {
                    u16::from_le_bytes([pair[0], pair[1]])
                };
                let top = |value: u16, mask: u8| value as u8 & mask;
                if depth == 15 {
                    return rgb(top(value >> 7, 0xf8), top(value >> 2, 0xf8), top(value << 3, 0xf8));
                }
                let (red, green, blue) = (top(value >> 8, 0xf8), top(value >> 3, 0xfc), top(value << 3, 0xf8));
                if is_shared && !is_big {
                    return rgb(red | red >> 5, green | green >> 6, blue | blue >> 5);
                }
                rgb(red, green, blue)
            })),
            24 => pixels.extend(bytes.chunks_exact(3).map(|three| {
                if is_big { rgb(three[0], three[1], three[2]) } else { rgb(three[2], three[1], three[0]) }
            })),
            _ => pixels.extend(
                bytes
                    .chunks_exact(4)
                    .map(|four| if is_big { rgb(four[1], four[2], four[3]) } else { rgb(four[2], four[1], four[0]) }),
            ),
        }
    }
}
