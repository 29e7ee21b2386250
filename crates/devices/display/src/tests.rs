//! What a driver sees and what the screen shows.

use std::sync::Arc;

use clock::Clock;
use device::{AccessSize, Device, IoDevice, Lifecycle, ResetKind};
use display::Surface;
use memory::{AddressSpace, GuestAddress, SpaceKind};

use crate::card::{CardOptions, LEGACY_PORTS, Legacy, VgaCard, region};
use crate::edid::{self, EdidOptions};

/// A card on a board with nothing else.
struct Bench {
    memory: Arc<AddressSpace>,
    ports: AddressSpace,
    card: device::DeviceCell<VgaCard>,
    clock: Clock,
}

impl Bench {
    fn new() -> Self {
        let memory = Arc::new(AddressSpace::new(SpaceKind::Memory));
        let ports = AddressSpace::new(SpaceKind::Ports);
        let clock = Clock::manual();
        let legacy = Legacy::Board { memory: Arc::clone(&memory), rom: None };
        let built = VgaCard::build(&CardOptions { vgamem_mb: 1, ..CardOptions::default() }, &clock, legacy);
        let card = built.expect("memory").card;
        for (region, first, count) in LEGACY_PORTS {
            ports.map(GuestAddress(first), count, 0, card.region(region)).expect("mapped");
        }
        memory.map(GuestAddress(0xa_0000), 0x2_0000, 1, card.region(region::WINDOW)).expect("mapped");
        Self { memory, ports, card, clock }
    }

    fn out(&self, port: u64, value: u8) {
        self.ports.store(GuestAddress(port), AccessSize::Byte, u64::from(value));
    }

    fn input(&self, port: u64) -> u64 {
        self.ports.load(GuestAddress(port), AccessSize::Byte)
    }

    /// An index and its data, as one write of two bytes.
    fn set(&self, port: u64, index: u8, value: u8) {
        self.ports.store(GuestAddress(port), AccessSize::Word, u64::from(index) | u64::from(value) << 8);
    }

    fn vbe(&self, index: u16, value: u16) {
        self.ports.store(GuestAddress(0x1ce), AccessSize::Word, u64::from(index));
        self.ports.store(GuestAddress(0x1cf), AccessSize::Word, u64::from(value));
    }

    fn read_vbe(&self, index: u16) -> u64 {
        self.ports.store(GuestAddress(0x1ce), AccessSize::Word, u64::from(index));
        self.ports.load(GuestAddress(0x1cf), AccessSize::Word)
    }

    fn attribute(&self, index: u8, value: u8) {
        self.input(0x3da);
        self.out(0x3c0, index);
        self.out(0x3c0, value);
    }

    fn poke(&self, at: u64, value: u8) {
        self.memory.store(GuestAddress(at), AccessSize::Byte, u64::from(value));
    }

    fn peek(&self, at: u64) -> u64 {
        self.memory.load(GuestAddress(at), AccessSize::Byte)
    }

    fn picture(&self) -> Surface {
        let mut picture = Surface::new(1, 1);
        VgaCard::screen(&self.card).render(&mut picture);
        picture
    }

    /// Sequencer, CRT controller and graphics controller; the palette is a ramp, and the screen is on.
    fn mode(&self, sequencer: [u8; 5], crtc: &[(u8, u8)], graphics: [u8; 9]) {
        self.out(0x3c2, 0x67);
        for (index, value) in (0..).zip(sequencer) {
            self.set(0x3c4, index, value);
        }
        for (index, value) in crtc {
            self.set(0x3d4, *index, *value);
        }
        for (index, value) in (0..).zip(graphics) {
            self.set(0x3ce, index, value);
        }
        self.out(0x3c8, 0);
        for index in 0..=255_u8 {
            for value in [index & 0x3f, index >> 2, 0] {
                self.out(0x3c9, value);
            }
        }
        for index in 0..16 {
            self.attribute(index, index);
        }
        self.attribute(0x12, 0x0f);
        self.input(0x3da);
        self.out(0x3c0, 0x20);
    }

    /// 80 × 25 characters of 9 × 16 dots.
    fn text_mode(&self) {
        let crtc = [
            (1, 79),
            (7, 0x1f),
            (9, 0x4f),
            (0x0a, 0x0d),
            (0x0b, 0x0e),
            (0x12, 0x8f),
            (0x13, 0x28),
            (0x17, 0xa3),
            (0x18, 0xff),
        ];
        self.mode([3, 0, 3, 0, 2], &crtc, [0, 0, 0, 0, 0, 0x10, 0x0e, 0, 0xff]);
    }
}

/// Colour `index` of the ramp.
fn ramp(index: u32) -> u32 {
    let wide = |value: u32| value << 2 | (value & 1) << 1 | value & 1;
    wide(index & 0x3f) << 16 | wide(index >> 2) << 8
}

#[test]
fn text_shows_glyphs_attributes_and_the_cursor() {
    let bench = Bench::new();
    bench.text_mode();
    // A glyph: write plane 2 alone.
    bench.set(0x3c4, 2, 4);
    bench.set(0x3c4, 4, 6);
    bench.set(0x3ce, 5, 0);
    bench.set(0x3ce, 6, 0x04);
    bench.poke(0xa_0000 + 32 * 0x41 + 2, 0x81);
    bench.poke(0xa_0000 + 32 * 0xc4 + 2, 0xff);
    bench.set(0x3c4, 2, 3);
    bench.set(0x3c4, 4, 2);
    bench.set(0x3ce, 5, 0x10);
    bench.set(0x3ce, 6, 0x0e);
    for (at, value) in [(0, 0x41), (1, 0x1e), (2, 0xc4), (3, 0x07)] {
        bench.poke(0xb_8000 + at, value);
    }
    assert_eq!((bench.peek(0xb_8000), bench.peek(0xb_8001)), (0x41, 0x1e));
    bench.attribute(0x10, 0x04);
    bench.input(0x3da);
    bench.out(0x3c0, 0x20);
    let picture = bench.picture();
    assert_eq!((picture.width(), picture.height()), (720, 400));
    let (fore, back, grey) = (ramp(0x0e), ramp(1), ramp(7));
    assert_eq!(picture.row(2)[..10], [fore, back, back, back, back, back, back, fore, back, grey]);
    assert_eq!(picture.row(2)[17], grey, "lines join");
    assert_eq!(picture.row(13)[..9], [fore; 9], "the cursor");
    assert_eq!(picture.row(15)[..9], [back; 9]);
    bench.clock.step(16_000_000_000 / 70);
    assert_eq!(bench.picture().row(13)[..9], [back; 9], "the cursor blinks");
    bench.set(0x3d4, 0x0a, 0x20);
    bench.clock.step(16_000_000_000 / 70);
    assert_eq!(bench.picture().row(13)[..9], [back; 9], "the cursor is off");
}

#[test]
fn text_as_characters_is_split_where_the_picture_is() {
    let bench = Bench::new();
    bench.text_mode();
    for (at, value) in [(0, b'A'), (1, 0x1e), (160, b'B'), (161, 0x07)] {
        bench.poke(0xb_8000 + at, value);
    }
    // The second line comes first, and from the second on the screen begins anew.
    for (index, value) in [(0x0d, 80), (7, 0x0f), (9, 0x0f), (0x18, 16), (0x0f, 1)] {
        bench.set(0x3d4, index, value);
    }
    let screen = VgaCard::screen(&bench.card).text().expect("characters");
    assert_eq!((screen.columns, screen.rows, screen.cells.len()), (80, 25, 2000));
    assert_eq!((screen.cells[0], screen.cells[80], screen.cells[160]), ((b'B', 7), (b'A', 0x1e), (b'B', 7)));
    assert_eq!(screen.cursor, Some((1, 1)));
}

#[test]
fn planar_mode_draws_with_all_write_modes_and_latches() {
    let bench = Bench::new();
    let crtc = [(1, 79), (7, 0x3e), (9, 0x40), (0x12, 0xdf), (0x13, 0x28), (0x17, 0xe3), (0x18, 0xff)];
    bench.mode([3, 1, 0x0f, 0, 6], &crtc, [0, 0, 0, 0, 0, 0, 5, 0x0f, 0xff]);
    // Mode 0 with set/reset: colour 9 through bit mask 0xf0.
    bench.set(0x3ce, 0, 9);
    bench.set(0x3ce, 1, 0x0f);
    bench.set(0x3ce, 8, 0xf0);
    bench.peek(0xa_0000);
    bench.poke(0xa_0000, 0);
    // Mode 2: colour 5 in the rest; the latches keep the first half.
    bench.set(0x3ce, 1, 0);
    bench.set(0x3ce, 5, 2);
    bench.set(0x3ce, 8, 0x0f);
    bench.peek(0xa_0000);
    bench.poke(0xa_0000, 5);
    // Mode 1 copies.
    bench.set(0x3ce, 5, 1);
    bench.peek(0xa_0000);
    bench.poke(0xa_0001, 0);
    // Mode 3: colour 3 where the rotated data says.
    bench.set(0x3ce, 5, 3);
    bench.set(0x3ce, 8, 0xff);
    bench.set(0x3ce, 0, 3);
    bench.set(0x3ce, 3, 1);
    bench.peek(0xa_0001);
    bench.poke(0xa_0001, 1);
    // XOR.
    bench.set(0x3ce, 5, 0);
    bench.set(0x3ce, 3, 0x18);
    bench.peek(0xa_0001);
    bench.poke(0xa_0002, 0xff);
    let picture = bench.picture();
    assert_eq!((picture.width(), picture.height()), (640, 480));
    let colours = |indices: [u32; 8]| indices.map(ramp);
    assert_eq!(picture.row(0)[..8], colours([9, 9, 9, 9, 5, 5, 5, 5]));
    assert_eq!(picture.row(0)[8..16], colours([3, 9, 9, 9, 5, 5, 5, 5]));
    assert_eq!(picture.row(0)[16..24], colours([12, 6, 6, 6, 10, 10, 10, 10]));
    // Read mode 1: where is colour 5?
    bench.set(0x3ce, 2, 5);
    bench.set(0x3ce, 5, 8);
    assert_eq!(bench.peek(0xa_0000), 0x0f);
    bench.set(0x3ce, 5, 0);
    bench.set(0x3ce, 4, 3);
    assert_eq!(bench.peek(0xa_0000), 0xf0);
}

#[test]
fn chain_4_is_plain_memory_and_shows_256_colours() {
    let bench = Bench::new();
    let crtc = [(1, 79), (7, 0x1f), (9, 0x41), (0x12, 0x8f), (0x13, 0x28), (0x14, 0x40), (0x17, 0xa3), (0x18, 0xff)];
    bench.mode([3, 1, 0x0f, 0, 0x0e], &crtc, [0, 0, 0, 0, 0, 0x40, 5, 0x0f, 0xff]);
    let view = bench.memory.view();
    let range = view.find(0xa_0000).expect("mapped");
    assert!(matches!(range.backing, memory::Backing::Ram { .. }) && range.last == 0xa_ffff, "{range:?}");
    bench.poke(0xa_0000, 77);
    bench.poke(0xa_0000 + 320 + 319, 200);
    let picture = bench.picture();
    assert_eq!((picture.width(), picture.height()), (640, 400));
    assert_eq!(picture.row(0)[..3], [ramp(77), ramp(77), 0]);
    assert_eq!(picture.row(1), picture.row(0));
    assert_eq!(picture.row(2)[637..], [0, ramp(200), ramp(200)]);
    bench.set(0x3c4, 2, 0x01);
    assert!(matches!(bench.memory.view().find(0xa_0000).expect("mapped").backing, memory::Backing::Io(_)));
    bench.poke(0xa_0001, 1);
    assert_eq!(bench.peek(0xa_0001), 0, "plane 1 is off");
}

#[test]
fn vbe_modes_have_all_depths_offsets_and_banks() {
    let bench = Bench::new();
    bench.text_mode();
    assert_eq!((bench.read_vbe(0), bench.read_vbe(10)), (0xb0c5, 16));
    for (depth, bytes, pixel) in [
        (8, vec![0x21], ramp(0x21)),
        (15, vec![0x1f, 0x7c], 0xf8_00f8),
        (16, vec![0x1f, 0xf8], 0xff_00ff),
        (24, vec![1, 2, 3], 0x03_0201),
        (32, vec![1, 2, 3, 9], 0x03_0201),
    ] {
        bench.vbe(4, 0);
        for (index, value) in [(1, 320), (2, 200), (3, depth), (4, 0x41)] {
            bench.vbe(index, value);
        }
        bench.vbe(6, 400);
        bench.vbe(8, 8);
        bench.vbe(9, 1);
        let line = 400 * bytes.len();
        for (at, byte) in bytes.iter().enumerate() {
            bench.poke(0xa_0000 + (line + 8 * bytes.len() + at) as u64, *byte);
        }
        let picture = bench.picture();
        assert_eq!((picture.width(), picture.height()), (320, 200), "{depth}");
        assert_eq!(picture.row(0)[..2], [pixel, 0], "{depth}");
    }
    bench.vbe(5, 2);
    bench.poke(0xa_0000, 0x5a);
    assert_eq!(bench.card.lock().read(region::WINDOW, 0, AccessSize::Byte), 0x5a);
    bench.vbe(5, 0);
    assert_ne!(bench.peek(0xa_0000), 0x5a);
    bench.vbe(4, 0x43);
    assert_eq!((bench.read_vbe(1), bench.read_vbe(2), bench.read_vbe(3)), (16000, 12000, 32));
    for (index, value) in [(4, 0), (3, 7), (1, 0xffff), (2, 0xffff), (4, 0xc1)] {
        bench.vbe(index, value);
    }
    assert_eq!((bench.read_vbe(3), bench.read_vbe(1), bench.read_vbe(2)), (8, 16000, 65), "what fits");
}

#[test]
fn ports_of_the_other_half_are_silent_and_status_follows_the_clock() {
    let bench = Bench::new();
    assert_eq!(bench.input(0x3d4), 0xff);
    bench.out(0x3c2, 0x01);
    assert_eq!((bench.input(0x3b4), bench.input(0x3d4)), (0xff, 0));
    assert_eq!(bench.input(0x3da) & 9, 0);
    bench.clock.step(420 * 31_778);
    assert_eq!(bench.input(0x3da) & 9, 9);
    bench.set(0x3d4, 0x11, 0x80);
    bench.set(0x3d4, 7, 0xff);
    bench.set(0x3d4, 1, 0xff);
    bench.out(0x3d4, 7);
    assert_eq!(bench.input(0x3d5), 0x10, "locked but for one bit");
}

#[test]
fn registers_in_memory_are_the_ports() {
    let bench = Bench::new();
    let mut card = bench.card.lock();
    card.write(region::VBE_MMIO, 2, AccessSize::Word, 800);
    assert_eq!(card.read(region::VBE_MMIO, 2, AccessSize::Word), 800);
    assert_eq!(card.read(region::VBE_MMIO, 0x14, AccessSize::Word), 16);
    card.write(region::VGA_MMIO, 2, AccessSize::Byte, 0x67);
    assert_eq!(card.read(region::VGA_MMIO, 0x0c, AccessSize::Byte), 0x67);
    assert_eq!(card.read(region::QEMU, 0, AccessSize::Dword), 8);
    assert_eq!(card.read(region::QEMU, 4, AccessSize::Dword), 0x1e1e_1e1e);
    card.write(region::QEMU, 4, AccessSize::Dword, 0xbebe_bebe);
    assert_eq!(card.read(region::QEMU, 4, AccessSize::Dword), 0xbebe_bebe);
    assert_eq!(card.read(region::EDID, 1, AccessSize::Byte), 0xff);
}

#[test]
fn reset_takes_the_direct_window_away() {
    let bench = Bench::new();
    bench.out(0x3c2, 1);
    bench.set(0x3c4, 2, 0x0f);
    bench.set(0x3c4, 4, 0x0e);
    assert!(matches!(bench.memory.view().find(0xa_0000).expect("mapped").backing, memory::Backing::Ram { .. }));
    Lifecycle::reset(&bench.card, ResetKind::Warm);
    assert!(matches!(bench.memory.view().find(0xa_0000).expect("mapped").backing, memory::Backing::Io(_)));
}

#[test]
fn state_survives_hostile_bytes_and_still_draws() {
    let bench = Bench::new();
    bench.text_mode();
    for seed in 0..4 {
        {
            let mut card = bench.card.lock();
            let device::DeviceState::State(state) = card.state() else { panic!("there is state") };
            // The harness of the crate wants a sized type.
            let mut bytes = state::Writer::new();
            state.save(&mut bytes);
            let mut bytes = bytes.into_bytes();
            for (index, byte) in bytes.iter_mut().enumerate().skip(256) {
                *byte = (index as u8).wrapping_mul(31).wrapping_add(seed * 77) | 0x20;
            }
            let _refused = state.load(&mut state::Reader::new(&bytes), 1);
            card.restored();
        }
        let picture = bench.picture();
        assert!(picture.width() > 0);
        for at in (0..0x2_0000).step_by(997) {
            bench.poke(0xa_0000 + at, at as u8);
            bench.peek(0xa_0000 + at);
        }
    }
}

#[test]
fn description_of_the_monitor_has_sums_of_zero() {
    for options in [EdidOptions::default(), EdidOptions { xres: 5000, yres: 3000, ..EdidOptions::default() }] {
        let bytes = edid::generate(&options);
        for block in bytes.chunks(128) {
            assert_eq!(block.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0, "{options:?}");
        }
    }
    // 1280 × 800 at 75 Hz, as Linux decodes it.
    let bytes = edid::generate(&EdidOptions::default());
    assert_eq!(&bytes[56..62], &[0x00, 0xc0, 0x51, 0x20, 0x1c, 0x30]);
}
