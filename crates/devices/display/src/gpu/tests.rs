use std::sync::Mutex;

use ::memory::{AddressSpace, Backing, DmaView, GuestAddress, RamBlock, SpaceKind};
use device::testing::{reset_twice_is_once, save_and_restore_agree};
use device::{AccessSize, DeviceCell, IoDevice, IrqInput, IrqSink, ResetKind};
use devices_pci::{MsiMessage, MsiSink};
use devices_virtio::pci::{PciOptions, Placement, REGION_MODERN, Wiring};
use display::{Console, Origin, Surface};

use super::protocol::{answer, command};
use super::*;

const RINGS: [u64; 2] = [0x1000, 0x3000];
const COMMAND: u64 = 0x8000;
const ANSWER: u64 = 0xa000;
const PICTURE: u64 = 0x1_0000;
const ENTRIES: u64 = 16;

#[derive(Default)]
struct Line(Mutex<bool>);

impl IrqSink for Line {
    fn set_level(&self, _pin: u32, level: bool) {
        *self.0.lock().expect("line") = level;
    }

    fn restore_level(&self, pin: u32, level: bool) {
        self.set_level(pin, level);
    }
}

impl MsiSink for Line {
    fn deliver(&self, _message: MsiMessage) {}
}

struct Bench {
    card: DeviceCell<VirtioPci<Gpu>>,
    ram: Arc<RamBlock>,
    line: Arc<Line>,
    next: [u16; 2],
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

impl Bench {
    fn new(options: GpuOptions) -> Self {
        let ram = Arc::new(RamBlock::new("ram", 0x10_0000).expect("RAM"));
        let space = AddressSpace::new(SpaceKind::Memory);
        let backing = Backing::Ram { block: Arc::clone(&ram), offset: 0, read_only: false };
        space.map(GuestAddress(0), 0x10_0000, 0, backing).expect("mapped");
        let line = Arc::new(Line::default());
        let wiring = Wiring {
            dma: DmaView::new(Arc::new(space)),
            line: IrqInput::new(Arc::clone(&line) as Arc<dyn IrqSink>, 0).line(),
            messages: Arc::clone(&line) as Arc<dyn MsiSink>,
        };
        let pci = PciOptions { legacy: false, ..PciOptions::default() };
        let card = VirtioPci::new(&pci, wiring, |_| Gpu::new(options, false));
        card.lock().write_config(4, AccessSize::Word, 7);
        let mut bench = Self { card, ram, line, next: [0; 2] };
        bench.start();
        bench
    }

    fn set(&self, offset: u64, size: AccessSize, value: u64) {
        self.card.lock().write(REGION_MODERN, offset, size, value);
    }

    fn config(&self, index: u64) -> u64 {
        self.card.lock().read(REGION_MODERN, 0x2000 + 4 * index, AccessSize::Dword)
    }

    fn start(&mut self) {
        self.next = [0; 2];
        self.set(20, AccessSize::Byte, 0);
        self.set(20, AccessSize::Byte, 3);
        self.set(8, AccessSize::Dword, 1);
        self.set(12, AccessSize::Dword, 1);
        self.set(20, AccessSize::Byte, 11);
        for (queue, rings) in RINGS.into_iter().enumerate() {
            self.ram.write(rings as usize, &[0; 0x2000]);
            self.set(22, AccessSize::Word, queue as u64);
            self.set(24, AccessSize::Word, ENTRIES);
            for (offset, at) in [(32, rings), (40, rings + 0x400), (48, rings + 0x800)] {
                self.set(offset, AccessSize::Dword, at);
            }
            self.set(28, AccessSize::Word, 1);
        }
        self.set(20, AccessSize::Byte, 15);
    }

    /// Sends a command and returns the bytes of the answer.
    fn send(&mut self, queue: usize, request: &[u8]) -> Vec<u8> {
        self.ram.write(COMMAND as usize, request);
        let rings = RINGS[queue] as usize;
        let descriptor = |address: u64, len: u32, flags: u16, next: u16| {
            let word = u128::from(address) | u128::from(len) << 64 | u128::from(flags) << 96 | u128::from(next) << 112;
            word.to_le_bytes()
        };
        self.ram.write(rings, &descriptor(COMMAND, request.len() as u32, 1, 1));
        self.ram.write(rings + 16, &descriptor(ANSWER, 0x800, 2, 0));
        let index = self.next[queue];
        self.next[queue] += 1;
        assert!(self.ram.store_u16(rings + 0x404 + 2 * usize::from(index % ENTRIES as u16), 0));
        assert!(self.ram.store_u16(rings + 0x402, index + 1));
        self.set(0x3000 + 4 * queue as u64, AccessSize::Word, queue as u64);
        assert_eq!(self.ram.load_u16(rings + 0x802), Some(index + 1), "the command is done");
        let at = rings + 0x804 + 8 * usize::from(index % ENTRIES as u16);
        let mut bytes = vec![0; self.ram.load_u32(at + 4).expect("a length") as usize];
        self.ram.read(ANSWER as usize, &mut bytes);
        bytes
    }

    fn command(&mut self, kind: u32, arguments: &[u32]) -> Vec<u8> {
        self.send(0, &[words(&[kind, 0, 0, 0, 0, 0]), words(arguments)].concat())
    }

    fn kind(&mut self, kind: u32, arguments: &[u32]) -> u32 {
        let answer = self.command(kind, arguments);
        u32::from_le_bytes(answer[..4].try_into().expect("a header"))
    }

    fn ok(&mut self, kind: u32, arguments: &[u32]) {
        assert_eq!(self.kind(kind, arguments), answer::OK_NODATA, "{kind:#x} {arguments:?}");
    }

    /// Resource 1 of 32 × 20 pixels with memory in two pieces, shown on a head.
    fn show(&mut self, head: u32) {
        self.ok(command::RESOURCE_CREATE_2D, &[1, 2, 32, 20]);
        let second = PICTURE as u32 + 0x2_0000;
        let entries = [1, 2, PICTURE as u32, 0, 128, 0, second, 0, 32 * 19 * 4, 0];
        self.ok(command::RESOURCE_ATTACH_BACKING, &entries);
        self.ok(command::SET_SCANOUT, &[0, 0, 32, 20, head, 1]);
    }

    fn picture(&self, head: usize) -> Surface {
        let mut picture = Surface::new(640, 480);
        screens(&VirtioPci::access(&self.card), None)[head].render(&mut picture);
        picture
    }
}

fn two_heads() -> Bench {
    Bench::new(GpuOptions { max_outputs: 2, ..GpuOptions::default() })
}

#[test]
fn display_information_and_monitor_are_the_users() {
    let mut bench = Bench::new(GpuOptions { max_outputs: 2, xres: 1024, yres: 600, ..GpuOptions::default() });
    assert_eq!((bench.config(0), bench.config(2), bench.config(3)), (0, 2, 0));
    let information = bench.command(command::GET_DISPLAY_INFO, &[]);
    assert_eq!(information.len(), 24 + 16 * 24);
    assert_eq!(information[..4], answer::OK_DISPLAY_INFO.to_le_bytes());
    assert_eq!(information[24..72], words(&[0, 0, 1024, 600, 1, 0, 0, 0, 0, 0, 0, 0]));
    let monitor = bench.command(command::GET_EDID, &[0, 0]);
    assert_eq!((monitor.len(), &monitor[24..32]), (24 + 8 + 1024, &words(&[1024, 0])[..]));
    let expected = edid_of(1024, 600);
    assert_eq!(monitor[32..32 + expected.len()], expected);
    assert_eq!(bench.kind(command::GET_EDID, &[2, 0]), 0x1205);
}

fn edid_of(xres: u32, yres: u32) -> [u8; crate::edid::EDID_SIZE] {
    crate::edid::generate(&EdidOptions { xres, yres, ..EdidOptions::default() })
}

#[test]
fn transferred_pixels_appear_on_the_head_that_shows_them() {
    let mut bench = two_heads();
    assert_eq!(bench.picture(1).width(), 640);
    bench.show(1);
    assert!(bench.ram.store_u32(PICTURE as usize + 4, 0xff12_3456));
    // Row 2, column 3: in the second piece.
    assert!(bench.ram.store_u32(PICTURE as usize + 0x2_0000 + 128 + 12, 0x00ab_cdef));
    bench.ok(command::TRANSFER_TO_HOST_2D, &[0, 0, 32, 20, 0, 0, 1, 0]);
    bench.ok(command::RESOURCE_FLUSH, &[0, 0, 32, 20, 1, 0]);
    let picture = bench.picture(1);
    assert_eq!((picture.width(), picture.height()), (32, 20));
    assert_eq!((picture.row(0)[1], picture.row(2)[3], picture.row(1)[0]), (0x12_3456, 0xab_cdef, 0));
    // A rectangle at an offset touches nothing else.
    bench.ram.write(PICTURE as usize, &[0x11; 128]);
    bench.ok(command::TRANSFER_TO_HOST_2D, &[5, 0, 2, 1, 20, 0, 1, 0]);
    assert_eq!(bench.picture(1).row(0)[4..8], [0, 0x11_1111, 0x11_1111, 0]);
    // Memory that is not attached any more can't be copied, but the picture stays.
    bench.ok(command::RESOURCE_DETACH_BACKING, &[1, 0]);
    assert_eq!(bench.kind(command::TRANSFER_TO_HOST_2D, &[0, 0, 1, 1, 0, 0, 1, 0]), 0x1200);
    assert_eq!(bench.picture(1).row(0)[5], 0x11_1111);
    // The other head shows nothing, and neither does this one without its resource.
    assert_eq!(bench.picture(0).row(0)[5], 0);
    bench.ok(command::RESOURCE_UNREF, &[1, 0]);
    assert_eq!((bench.picture(1).row(0)[5], bench.kind(command::RESOURCE_UNREF, &[1, 0])), (0, 0x1203));
}

#[test]
fn formats_name_their_bytes_in_order() {
    let argb = |number| Format::numbered(number).map(|format| format.argb([1, 2, 3, 4]));
    assert_eq!((argb(1), argb(2)), (Some(0x0403_0201), Some(0xff03_0201)));
    assert_eq!((argb(3), argb(4)), (Some(0x0102_0304), Some(0xff02_0304)));
    assert_eq!((argb(67), argb(134)), (Some(0x0401_0203), Some(0xff01_0203)));
    assert_eq!((argb(121), argb(68)), (Some(0x0104_0302), Some(0xff04_0302)));
    assert_eq!(argb(5), None);
}

use super::protocol::Format;

#[test]
fn commands_that_cannot_be_are_refused() {
    let mut bench = Bench::new(GpuOptions { max_hostmem: 20_000, ..GpuOptions::default() });
    bench.show(0);
    for (kind, arguments, expected) in [
        (command::RESOURCE_CREATE_2D, &[0, 1, 8, 8][..], 0x1203),
        (command::RESOURCE_CREATE_2D, &[1, 1, 8, 8], 0x1203),
        (command::RESOURCE_CREATE_2D, &[2, 9, 8, 8], 0x1205),
        (command::RESOURCE_CREATE_2D, &[2, 1, 64, 70], 0x1201),
        (command::RESOURCE_CREATE_2D, &[2, 1, u32::MAX, u32::MAX], 0x1201),
        (command::SET_SCANOUT, &[0, 0, 16, 16, 1, 1], 0x1202),
        (command::SET_SCANOUT, &[0, 0, 16, 16, 0, 7], 0x1203),
        (command::SET_SCANOUT, &[0, 0, 15, 16, 0, 1], 0x1205),
        (command::SET_SCANOUT, &[17, 0, 16, 16, 0, 1], 0x1205),
        (command::RESOURCE_FLUSH, &[0, 0, 33, 1, 1, 0], 0x1205),
        (command::RESOURCE_FLUSH, &[0, u32::MAX, 1, 2, 1, 0], 0x1205),
        (command::TRANSFER_TO_HOST_2D, &[0, 1, 32, 20, 0, 0, 1, 0], 0x1205),
        (command::RESOURCE_ATTACH_BACKING, &[1, 1, 0, 0, 16, 0], 0x1200),
        (command::RESOURCE_ATTACH_BACKING, &[7, 0], 0x1203),
        (command::RESOURCE_CREATE_2D, &[3], 0x1200),
        (0x108, &[], 0x1200),
        (0x10c, &[], 0x1200),
    ] {
        assert_eq!(bench.kind(kind, arguments), expected, "{kind:#x} {arguments:?}");
    }
    bench.ok(command::RESOURCE_CREATE_2D, &[2, 1, 8, 8]);
    // Lists that are too long, too short, or not in RAM.
    for list in [&[2, 16385][..], &[2, 1, 0, 0], &[2, 1, 0, 0x100, 16, 0]] {
        assert_eq!(bench.kind(command::RESOURCE_ATTACH_BACKING, list), 0x1200);
    }
    assert_eq!(bench.kind(command::SET_SCANOUT, &[0, 0, 16, 16, 0, 2]), 0x1200, "no memory");
    // A transfer beyond the end of the memory copies what there is.
    bench.ok(command::RESOURCE_ATTACH_BACKING, &[2, 1, PICTURE as u32, 0, 6, 0]);
    bench.ok(command::TRANSFER_TO_HOST_2D, &[0, 0, 8, 8, 0, 0, 2, 0]);
    bench.ok(command::TRANSFER_TO_HOST_2D, &[0, 0, 8, 8, u32::MAX, u32::MAX, 2, 0]);
}

#[test]
fn fences_come_back_with_the_answer() {
    let mut bench = two_heads();
    let header = words(&[command::RESOURCE_UNREF, 1, 0x1234, 0x5678, 9, 0]);
    let answer = bench.send(0, &[header, words(&[5, 0])].concat());
    assert_eq!(answer, words(&[0x1203, 1, 0x1234, 0x5678, 9, 0]));
    assert!(*bench.line.0.lock().expect("line"));
    assert_eq!(bench.send(0, &[0; 10]), Vec::<u8>::new(), "no command");
}

#[test]
fn cursor_is_defined_moved_and_hidden() {
    let mut bench = two_heads();
    let heads = screens(&VirtioPci::access(&bench.card), None);
    assert_eq!(heads[1].cursor(), None);
    bench.ok(command::RESOURCE_CREATE_2D, &[4, 1, 64, 64]);
    bench.ok(command::RESOURCE_ATTACH_BACKING, &[4, 1, PICTURE as u32, 0, 64 * 64 * 4, 0]);
    assert!(bench.ram.store_u32(PICTURE as usize, 0x8011_2233));
    bench.ok(command::TRANSFER_TO_HOST_2D, &[0, 0, 64, 64, 0, 0, 4, 0]);
    let mut cursor = |kind: u32, arguments: &[u32]| {
        let command = [words(&[kind, 0, 0, 0, 0, 0]), words(arguments)].concat();
        assert_eq!(bench.send(1, &command), Vec::<u8>::new());
    };
    cursor(command::UPDATE_CURSOR, &[1, 10, 20, 0, 4, 3, 5, 0]);
    let shown = heads[1].cursor().expect("a cursor");
    assert_eq!((shown.position, shown.is_visible, shown.shape.hot_spot), ((10, 20), true, (3, 5)));
    assert_eq!((shown.shape.width, shown.shape.pixels[0]), (64, 0x8011_2233));
    cursor(command::MOVE_CURSOR, &[1, 11, u32::MAX, 0, 4, 0, 0, 0]);
    assert_eq!(heads[1].cursor().expect("a cursor").position, (11, -1));
    cursor(command::UPDATE_CURSOR, &[1, 11, 21, 0, 0, 0, 0, 0]);
    assert!(!heads[1].cursor().expect("a cursor").is_visible);
    cursor(command::UPDATE_CURSOR, &[2, 11, 21, 0, 4, 0, 0, 0]);
    assert_eq!(heads[0].cursor(), None);
    save_and_restore_agree("virtio-gpu", &bench.card).expect("saved");
}

#[test]
fn wishes_of_the_host_are_events() {
    let mut bench = two_heads();
    let origin = Origin { id: None, path: String::new(), head: 1 };
    let console = Console::new(origin, Arc::clone(&screens(&VirtioPci::access(&bench.card), None)[1]));
    assert!(console.suggest_size(800, 500));
    assert_eq!(bench.config(0), 1);
    assert!(*bench.line.0.lock().expect("line"));
    bench.set(0x2004, AccessSize::Dword, 1);
    assert_eq!(bench.config(0), 0);
    let information = bench.command(command::GET_DISPLAY_INFO, &[]);
    assert_eq!(information[48..72], words(&[0, 0, 800, 500, 1, 0]));
    assert!(console.suggest_size(0, 0));
    let information = bench.command(command::GET_DISPLAY_INFO, &[]);
    assert_eq!(information[48..72], words(&[0; 6]));
}

#[test]
fn saved_pictures_come_back_and_a_reset_takes_them_away() {
    let mut bench = two_heads();
    bench.show(0);
    assert!(bench.ram.store_u32(PICTURE as usize, 0x0077_8899));
    bench.ok(command::TRANSFER_TO_HOST_2D, &[0, 0, 32, 20, 0, 0, 1, 0]);
    save_and_restore_agree("virtio-gpu", &bench.card).expect("saved");
    assert_eq!(bench.picture(0).row(0)[0], 0x77_8899);
    assert!(bench.ram.store_u32(PICTURE as usize, 0x0000_0001));
    bench.ok(command::TRANSFER_TO_HOST_2D, &[0, 0, 32, 20, 0, 0, 1, 0]);
    assert_eq!(bench.picture(0).row(0)[0], 1, "the memory was found again");
    bench.start();
    assert_eq!(bench.picture(0).width(), 640);
    assert_eq!(bench.kind(command::RESOURCE_UNREF, &[1, 0]), 0x1203);
    reset_twice_is_once("virtio-gpu", &bench.card, ResetKind::Warm).expect("reset");
    ::state::testing::assert_hostile_bytes_are_harmless(&mut GpuState::new(2, 1 << 20), 7, 500);
}

#[test]
fn card_with_a_vga_has_its_registers_behind_those_of_the_vga() {
    let bench = two_heads();
    let ram = Arc::clone(&bench.ram);
    let space = AddressSpace::new(SpaceKind::Memory);
    let backing = Backing::Ram { block: ram, offset: 0, read_only: false };
    space.map(GuestAddress(0), 0x10_0000, 0, backing).expect("mapped");
    let wiring = Wiring {
        dma: DmaView::new(Arc::new(space)),
        line: device::IrqLine::unconnected(),
        messages: Arc::new(Line::default()),
    };
    let pci = PciOptions { legacy: false, vectors: 3, placement: Placement::BesideVga, ..PciOptions::default() };
    let card = VirtioPci::new(&pci, wiring, |_| Gpu::new(GpuOptions::default(), true));
    let windows = vga_beside(&card, Vec::new(), 8 << 20);
    let places: Vec<_> = windows.iter().map(|window| (window.index, window.offset, window.len)).collect();
    assert_eq!(
        places,
        [(2, 0x1000, 0x800), (2, 0x1800, 0x800), (2, 0x2000, 0x1000), (2, 0x3000, 0x1000), (4, 0, 0x1000)]
    );
    let card = card.lock();
    let config = card.config();
    assert_eq!((config.u16(10), config.u16(2)), (0x0300, 0x1050));
    let kinds: Vec<_> = (0..6).map(|index| config.bar(index).map(|bar| (bar.kind, bar.size))).collect();
    let prefetchable = |kind, size| Some((kind, size));
    assert_eq!(kinds[0], prefetchable(BarKind::Prefetchable32, 8 << 20));
    assert_eq!(kinds[2], prefetchable(BarKind::Prefetchable64, 0x4000));
    assert_eq!(kinds[4], prefetchable(BarKind::Memory32, 0x1000));
}
