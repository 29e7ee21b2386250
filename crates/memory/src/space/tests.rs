use super::*;

fn ram(len: u64) -> Backing {
    let block = Arc::new(RamBlock::new("test", len).expect("RAM"));
    Backing::Ram { block, offset: 0, read_only: false }
}

/// A region that records its accesses and reads its own offset.
#[derive(Default)]
struct Recorder {
    log: Mutex<Vec<(u64, usize, Option<u64>)>>,
    max: Option<AccessSize>,
}

impl Io for Recorder {
    fn read(&self, offset: u64, size: AccessSize) -> u64 {
        self.log.lock().expect("log").push((offset, size.bytes(), None));
        offset.wrapping_mul(0x0101_0101_0101_0101)
    }
    fn write(&self, offset: u64, size: AccessSize, value: u64) {
        self.log.lock().expect("log").push((offset, size.bytes(), Some(value)));
    }
    fn sizes(&self) -> (AccessSize, AccessSize) {
        (AccessSize::Byte, self.max.unwrap_or(AccessSize::Dword))
    }
}

#[test]
fn overlapping_regions_highest_priority_answers() {
    let space = AddressSpace::new(SpaceKind::Memory);
    space.map(GuestAddress(0), 0x10000, 0, ram(0x10000)).expect("map");
    let io = Arc::new(Recorder::default());
    let window = space.map(GuestAddress(0x4000), 0x1000, 1, Backing::Io(io.clone())).expect("map");
    space.store(GuestAddress(0x3ffe), AccessSize::Dword, 0xaabb_ccdd);
    assert_eq!(*io.log.lock().expect("log"), [(0, 1, Some(0xbb)), (1, 1, Some(0xaa))]);
    space.unmap(window).expect("unmap");
    assert_eq!(space.load(GuestAddress(0x3ffe), AccessSize::Dword), 0xccdd);
    assert_eq!(space.view().ranges().len(), 1);
}

#[test]
fn wide_access_is_split_into_implemented_sizes() {
    let space = AddressSpace::new(SpaceKind::Ports);
    let io = Arc::new(Recorder { max: Some(AccessSize::Byte), ..Recorder::default() });
    space.map(GuestAddress(0x70), 4, 0, Backing::Io(io.clone())).expect("map");
    assert_eq!(space.load(GuestAddress(0x70), AccessSize::Dword), 0x0302_0100);
    space.store(GuestAddress(0x72), AccessSize::Word, 0x1234);
    assert_eq!(io.log.lock().expect("log")[4..], [(2, 1, Some(0x34)), (3, 1, Some(0x12))]);
}

#[test]
fn unmapped_ports_read_ones_and_memory_zeros() {
    assert_eq!(AddressSpace::new(SpaceKind::Ports).load(GuestAddress(0x80), AccessSize::Word), 0xffff);
    assert_eq!(AddressSpace::new(SpaceKind::Memory).load(GuestAddress(0x80), AccessSize::Word), 0);
}

#[test]
fn bulk_access_crosses_holes_and_rom() {
    let space = AddressSpace::new(SpaceKind::Memory);
    space.map(GuestAddress(0x1000), 0x1000, 0, ram(0x1000)).expect("map");
    let Backing::Ram { block, .. } = ram(0x1000) else { unreachable!("ram() gives RAM") };
    let rom = Backing::Ram { block: block.clone(), offset: 0, read_only: true };
    space.map(GuestAddress(0x3000), 0x1000, 0, rom).expect("map");
    space.write(GuestAddress(0x800), &[7; 0x3000]);
    let mut bytes = vec![1; 0x3000];
    space.read(GuestAddress(0x800), &mut bytes);
    assert!(bytes[..0x800].iter().all(|byte| *byte == 0));
    assert!(bytes[0x800..0x1800].iter().all(|byte| *byte == 7));
    assert!(bytes[0x1800..].iter().all(|byte| *byte == 0));
    space.load_image(GuestAddress(0x3ffe), &[1, 2]).expect("ROM");
    assert_eq!(space.load_image(GuestAddress(0x3ffe), &[1, 2, 3]), Err(MemoryError(0x4000)));
    assert_eq!(block.load_u8(0xfff), Some(2));
}

#[test]
fn region_at_the_top_does_not_wrap() {
    let space = AddressSpace::new(SpaceKind::Memory);
    space.map(GuestAddress(u64::MAX - 0xfff), 0x1000, 0, ram(0x1000)).expect("map");
    assert!(space.map(GuestAddress(u64::MAX), 2, 0, ram(0x1000)).is_err());
    assert!(space.map(GuestAddress(0), 0, 0, ram(0x1000)).is_err());
    assert!(space.map(GuestAddress(0), 0x1001, 0, ram(0x1000)).is_err());
    space.store(GuestAddress(u64::MAX), AccessSize::Byte, 9);
    assert_eq!(space.load(GuestAddress(u64::MAX), AccessSize::Byte), 9);
    let mut bytes = [1; 4];
    space.read(GuestAddress(u64::MAX - 1), &mut bytes);
    assert_eq!(bytes, [0, 9, 0, 0]);
}

#[test]
fn update_moves_and_hides_a_region() {
    let space = AddressSpace::new(SpaceKind::Memory);
    let handle = space.map(GuestAddress(0x1000), 0x1000, 0, ram(0x1000)).expect("map");
    let before = space.generation();
    space.store(GuestAddress(0x1004), AccessSize::Byte, 5);
    space.update(handle, GuestAddress(0x8000), true).expect("move");
    assert_eq!(space.load(GuestAddress(0x8004), AccessSize::Byte), 5);
    assert!(space.generation() > before);
    space.update(handle, GuestAddress(0x8000), false).expect("hide");
    assert!(space.view().find(0x8004).is_none());
}

/// Writes down what it is told.
struct Follower(Arc<Mutex<Vec<usize>>>);

impl MapListener for Follower {
    fn changed(&self, view: &Arc<FlatView>) {
        self.0.lock().expect("log").push(view.ranges().len());
    }
}

#[test]
fn listener_sees_the_view_as_it_is_and_each_change() {
    let space = AddressSpace::new(SpaceKind::Memory);
    space.map(GuestAddress(0), 0x1000, 0, ram(0x1000)).expect("map");
    let log = Arc::new(Mutex::new(Vec::new()));
    assert!(space.set_listener(Box::new(Follower(Arc::clone(&log)))));
    let other = space.map(GuestAddress(0x4000), 0x1000, 0, ram(0x1000)).expect("map");
    space.update(other, GuestAddress(0x8000), false).expect("update");
    assert_eq!(*log.lock().expect("log"), [1, 2, 1]);
    assert!(!space.set_listener(Box::new(Follower(log))));
}

/// Writes down what is stored.
struct Log(Mutex<Vec<(u64, u64)>>);

impl Io for Log {
    fn read(&self, _: u64, _: AccessSize) -> u64 {
        0x77
    }
    fn write(&self, offset: u64, _: AccessSize, value: u64) {
        self.0.lock().expect("log").push((offset, value));
    }
}

#[test]
fn stores_to_rom_go_to_its_device() {
    let space = AddressSpace::new(SpaceKind::Memory);
    let block = Arc::new(RamBlock::new("rom", 0x1000).expect("memory"));
    let rom = Backing::Ram { block, offset: 0, read_only: true };
    let handle = space.map(GuestAddress(0x1000), 0x1000, 0, rom).expect("map");
    space.store(GuestAddress(0x1010), AccessSize::Byte, 1);
    let log = Arc::new(Log(Mutex::default()));
    space.set_writes(handle, Arc::clone(&log) as Arc<dyn Io>).expect("set");
    space.store(GuestAddress(0x1020), AccessSize::Byte, 2);
    assert_eq!(*log.0.lock().expect("log"), [(0x20, 2)]);
    assert_eq!(space.load(GuestAddress(0x1020), AccessSize::Byte), 0);
}

#[test]
fn space_over_another_follows_it_except_for_its_own_regions() {
    let base = Arc::new(AddressSpace::new(SpaceKind::Memory));
    let over = AddressSpace::over(&base);
    let first = base.map(GuestAddress(0), 0x2000, 1, ram(0x2000)).expect("map");
    base.store(GuestAddress(0x10), AccessSize::Byte, 3);
    assert_eq!(over.load(GuestAddress(0x10), AccessSize::Byte), 3);
    let own = over.map(GuestAddress(0x1000), 0x1000, 1, ram(0x1000)).expect("map");
    over.store(GuestAddress(0x1010), AccessSize::Byte, 4);
    assert_eq!(base.load(GuestAddress(0x1010), AccessSize::Byte), 0);
    let before = over.generation();
    base.update(first, GuestAddress(0x4000), true).expect("move");
    assert!(over.generation() > before);
    assert_eq!(over.load(GuestAddress(0x4010), AccessSize::Byte), 3);
    over.unmap(own).expect("unmap");
    assert!(over.view().find(0x1010).is_none());
}
