use std::sync::Mutex;

use device::testing::{reset_twice_is_once, save_and_restore_agree};

use super::*;
use crate::pci::{PciOptions, VirtioPci};
use crate::testing::DriverQueue;
use crate::testing::function::{DATA, Function, HEADER};

/// What the host side saw, and how much it still takes.
#[derive(Default)]
struct Host {
    written: Vec<u8>,
    room: usize,
    opened: Vec<bool>,
    resumed: usize,
}

struct Backend(Arc<Mutex<Host>>);

impl PortBackend for Backend {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut host = self.0.lock().expect("host");
        let len = bytes.len().min(host.room);
        host.room -= len;
        host.written.extend(&bytes[..len]);
        len
    }

    fn resume_input(&mut self) {
        self.0.lock().expect("host").resumed += 1;
    }

    fn guest_opened(&mut self, is_open: bool) {
        self.0.lock().expect("host").opened.push(is_open);
    }
}

struct Bench {
    function: Function<Serial>,
    queues: Vec<DriverQueue>,
    host: Arc<Mutex<Host>>,
    port: Arc<PortAccess>,
}

impl Bench {
    /// A device with a named port 1, or with a console as port 0.
    fn new(is_console: bool) -> Self {
        let host = Arc::new(Mutex::new(Host { room: 1 << 20, ..Host::default() }));
        let mut serial = Serial::new(SerialOptions { max_ports: 2, ..SerialOptions::default() });
        let config = PortConfig {
            number: None,
            name: (!is_console).then(|| "org.test".to_owned()),
            is_console,
            is_open: true,
            backend: Some(Box::new(Backend(Arc::clone(&host)))),
        };
        let number = serial.add_port(config, &[]).expect("a port");
        assert_eq!(number, u32::from(!is_console));
        let function = Function::of(&PciOptions::default(), Arc::default(), |_| serial);
        let queues = function.begin_with(feature::MULTIPORT | feature::EMERG_WRITE, 16, 6);
        let port = PortAccess::new(&VirtioPci::access(&function.cell), number);
        let mut bench = Self { function, queues, host, port };
        for index in 0..8 {
            bench.offer(CONTROL_IN, HEADER + 0x100 + 0x40 * index, 0x40, true);
        }
        bench
    }

    fn offer(&mut self, queue: usize, at: u64, len: u32, writable: bool) {
        self.queues[queue].offer(&self.function.guest, &[(at, len, writable)], false).expect("room");
        self.function.kick(queue as u64);
    }

    fn control(&mut self, number: u32, event: u16, value: u16) -> Vec<Vec<u8>> {
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        self.function.guest.write(HEADER, &bytes);
        self.offer(CONTROL_OUT, HEADER, 8, false);
        assert_eq!(self.queues[CONTROL_OUT].collect(&self.function.guest).len(), 1);
        self.messages()
    }

    fn messages(&mut self) -> Vec<Vec<u8>> {
        let used = self.queues[CONTROL_IN].collect(&self.function.guest);
        let message =
            |(id, len): (u16, u32)| self.function.guest.read(HEADER + 0x100 + 0x40 * u64::from(id), len as usize);
        used.into_iter().map(message).collect()
    }

    fn written(&self) -> Vec<u8> {
        std::mem::take(&mut self.host.lock().expect("host").written)
    }
}

#[test]
fn port_is_announced_with_its_name_and_opened() {
    let mut bench = Bench::new(false);
    assert_eq!(bench.control(0, message::DEVICE_READY, 1), [[1, 0, 0, 0, 1, 0, 1, 0]]);
    let told = bench.control(1, message::PORT_READY, 1);
    assert_eq!(told, [b"\x01\0\0\0\x07\0\x01\0org.test\0".to_vec(), vec![1, 0, 0, 0, 6, 0, 1, 0]]);
    assert_eq!(bench.port.receive(b"early"), 0, "the guest has not opened it");
    assert!(bench.control(1, message::PORT_OPEN, 1).is_empty());
    bench.port.host_opened(false);
    bench.port.host_opened(true);
    bench.port.host_opened(true);
    assert_eq!(bench.messages(), [[1, 0, 0, 0, 6, 0, 0, 0], [1, 0, 0, 0, 6, 0, 1, 0]]);
    assert!(bench.control(1, message::PORT_OPEN, 0).is_empty());
    let host = bench.host.lock().expect("host");
    assert_eq!(host.opened, [true, false]);
    assert!(host.resumed >= 1);
    drop(host);
    assert!(bench.control(99, message::PORT_READY, 1).is_empty());
    assert!(bench.control(1, 77, 1).is_empty());
}

#[test]
fn input_takes_as_much_as_there_is_room() {
    let mut bench = Bench::new(false);
    bench.control(1, message::PORT_OPEN, 1);
    bench.offer(4, DATA, 4, true);
    bench.offer(4, DATA + 0x100, 4, true);
    assert_eq!(bench.port.receive(b"0123456789"), 8);
    let used: Vec<u32> = bench.queues[4].collect(&bench.function.guest).into_iter().map(|(_, len)| len).collect();
    assert_eq!((used, bench.function.guest.read(DATA + 0x100, 4)), (vec![4, 4], b"4567".to_vec()));
    bench.offer(4, DATA, 4, true);
    assert!(bench.host.lock().expect("host").resumed > 1);
    assert_eq!(bench.port.receive(b"89"), 2);
}

#[test]
fn output_waits_for_a_host_that_is_slow() {
    let mut bench = Bench::new(false);
    bench.host.lock().expect("host").room = 5;
    bench.function.guest.write(DATA, b"0123456789");
    bench.offer(5, DATA, 10, false);
    bench.offer(5, DATA, 2, false);
    assert_eq!((bench.written(), bench.queues[5].collect(&bench.function.guest).len()), (b"01234".to_vec(), 0));
    save_and_restore_agree("virtio-serial", &bench.function.cell).expect("saved");
    bench.host.lock().expect("host").room = 100;
    bench.port.writable();
    assert_eq!((bench.written(), bench.queues[5].collect(&bench.function.guest).len()), (b"5678901".to_vec(), 2));
    // A host that hangs up takes everything.
    bench.host.lock().expect("host").room = 0;
    bench.offer(5, DATA, 10, false);
    bench.port.host_opened(false);
    assert_eq!(bench.queues[5].collect(&bench.function.guest).len(), 1);
    bench.offer(5, DATA, 10, false);
    assert_eq!((bench.written(), bench.queues[5].collect(&bench.function.guest).len()), (vec![], 1));
}

#[test]
fn console_never_stops_the_guest() {
    let mut bench = Bench::new(true);
    let told = bench.control(0, message::PORT_READY, 1);
    assert_eq!(told, [[0, 0, 0, 0, 4, 0, 1, 0], [0, 0, 0, 0, 6, 0, 1, 0]]);
    bench.host.lock().expect("host").room = 3;
    bench.function.guest.write(DATA, b"01234");
    bench.offer(1, DATA, 5, false);
    assert_eq!((bench.written(), bench.queues[1].collect(&bench.function.guest).len()), (b"012".to_vec(), 1));
    bench.host.lock().expect("host").room = 3;
    bench.function.write(0x2008, 4, u64::from(b'!'));
    assert_eq!(bench.written(), b"!");
    assert_eq!(bench.function.read(0x2004, 4), 2);
}

#[test]
fn reset_closes_ports_and_chains_of_odd_shapes_are_given_back() {
    let mut bench = Bench::new(false);
    bench.control(1, message::PORT_OPEN, 1);
    bench.host.lock().expect("host").room = 0;
    bench.offer(5, DATA, 10, false);
    bench.offer(1, DATA, 10, false);
    bench.offer(CONTROL_OUT, HEADER, 7, false);
    bench.offer(5, DATA, 10, true);
    bench.function.write(20, 1, 0);
    assert_eq!(bench.function.status(), 0, "nothing is left");
    assert_eq!(bench.host.lock().expect("host").opened, [true, false]);
    for kind in [device::ResetKind::Warm, device::ResetKind::Cold] {
        reset_twice_is_once("virtio-serial", &bench.function.cell, kind).expect("reset");
    }
}

#[test]
fn ports_get_numbers_and_refusals_in_qemus_words() {
    let mut serial = Serial::new(SerialOptions { max_ports: 3, ..SerialOptions::default() });
    let port = |number, name: Option<&str>, is_console| PortConfig {
        number,
        name: name.map(str::to_owned),
        is_console,
        is_open: false,
        backend: None,
    };
    let names = ["there".to_owned()];
    let mut add = |config| serial.add_port(config, &names).map_err(|error| error.to_string());
    assert_eq!(add(port(None, Some("a"), false)), Ok(1));
    assert_eq!(add(port(None, None, true)), Ok(0));
    let refused = |text: &str| Err(text.to_owned());
    assert_eq!(add(port(Some(1), None, false)), refused("virtio-serial-bus: A port already exists at id 1"));
    for name in ["a", "there"] {
        let text = format!("virtio-serial-bus: A port already exists by name {name}");
        assert_eq!(add(port(None, Some(name), false)), Err(text));
    }
    let text = "virtio-serial-bus: Out-of-range port id specified, max. allowed: 2";
    assert_eq!(add(port(Some(3), None, false)), refused(text));
    assert_eq!(add(port(None, None, true)), Ok(2));
    let text = "virtio-serial-bus: Maximum port limit for this device reached";
    assert_eq!(add(port(None, None, false)), refused(text));
    let check = |max_ports| SerialOptions { max_ports, ..SerialOptions::default() }.check().err();
    assert_eq!((check(0), check(512), check(511)), (Some(SerialError::NoPorts), Some(SerialError::Ports), None));
}
