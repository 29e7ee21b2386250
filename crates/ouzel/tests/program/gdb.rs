//! The server for gdb: its protocol, spoken by the test, and gdb itself with bare metal and with a Linux kernel.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::support::{BOOT_PATIENCE, Machine, PATIENCE, Setup, guest};

/// Addresses of the guest `smp`.
const GO: u64 = 0x9004;
const SUM: u64 = 0x9040;
const SERVER: [&str; 2] = ["-gdb", "unix:{dir}gdb,server=on,wait=off"];
const RIP: usize = 16;

/// What gdb would be.
struct Client {
    stream: UnixStream,
    acknowledges: bool,
}

impl Client {
    fn connect(machine: &mut Machine) -> Self {
        let path = machine.path("gdb");
        let stream = machine.wait_for("the socket for gdb", PATIENCE, |_| UnixStream::connect(&path).ok());
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        Self { stream, acknowledges: true }
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).expect("an answer");
        byte[0]
    }

    fn send(&mut self, body: &str) {
        let sum = body.bytes().fold(0_u8, u8::wrapping_add);
        write!(self.stream, "${body}#{sum:02x}").expect("the server reads");
        if self.acknowledges {
            assert_eq!(self.byte(), b'+', "{body}");
        }
    }

    /// The body of the next packet.
    fn packet(&mut self) -> String {
        assert_eq!(self.byte(), b'$');
        let mut body = Vec::new();
        loop {
            match self.byte() {
                b'#' => break,
                byte => body.push(byte),
            }
        }
        let digits = [self.byte(), self.byte()];
        let sum = body.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(digits, *format!("{sum:02x}").as_bytes());
        if self.acknowledges {
            self.stream.write_all(b"+").expect("the server reads");
        }
        String::from_utf8(body).expect("text")
    }

    fn ask(&mut self, body: &str) -> String {
        self.send(body);
        self.packet()
    }

    fn register(&mut self, number: usize) -> u64 {
        let text = self.ask(&format!("p{number:x}"));
        let bytes: Vec<u8> =
            (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("digits")).collect();
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn rip_of(&mut self, thread: usize) -> u64 {
        assert_eq!(self.ask(&format!("Hg{thread}")), "OK");
        self.register(RIP)
    }
}

fn boot(name: &str, arguments: &[&str]) -> Machine {
    Setup::new().serial().args(["-m", "64", "-kernel", &guest(&format!("{name}.elf"))]).args(arguments).start()
}

/// Where the guest begins, by its ELF header.
fn entry(name: &str) -> u64 {
    let file = std::fs::read(guest(&format!("{name}.elf"))).expect("the guest");
    u64::from(u32::from_le_bytes(file[24..28].try_into().expect("four bytes")))
}

#[test]
fn gdb_stops_steps_and_watches_several_processors() {
    let mut machine = boot("smp", &["-S", "-smp", "3", SERVER[0], SERVER[1]]);
    let mut session = machine.connect(0);
    let mut client = Client::connect(&mut machine);
    assert!(client.ask("qSupported:multiprocess+;xmlRegisters=i386").contains("qXfer:features:read+"));
    assert_eq!(client.ask("QStartNoAckMode"), "OK");
    client.acknowledges = false;
    assert_eq!(client.ask("?"), "T05thread:01;");
    assert_eq!(client.ask("qfThreadInfo"), "m01,02,03");
    assert_eq!(client.ask("qqemu.sstepbits"), "ENABLE=1,NOIRQ=2,NOTIMER=4");
    assert_eq!(client.ask("vMustReplyEmpty"), "");
    let entry = entry("smp");
    assert_eq!(client.ask(&format!("Z0,{entry:x},1")), "OK");
    assert_eq!(client.ask("vCont;c"), "T05thread:01;");
    assert_eq!(session.status(), "debug");
    assert_eq!(client.register(RIP), entry);
    // CLI has one byte, MOV to ESP five.
    assert_eq!(client.ask("vCont;s:1"), "T05thread:01;");
    assert_eq!(client.register(RIP), entry + 1);
    assert_eq!(client.ask("s"), "T05thread:01;");
    assert_eq!(client.register(RIP), entry + 6);
    assert_eq!(session.status(), "debug");
    // The first store clears it, the second lets the others go: all of them are at work then.
    assert_eq!(client.ask(&format!("Z2,{GO:x},4")), "OK");
    assert_eq!(client.ask("c"), format!("T05thread:01;watch:{GO:x};"));
    assert_eq!(client.ask("c"), format!("T05thread:01;watch:{GO:x};"));
    assert_eq!(client.ask(&format!("m{GO:x},4")), "01000000");
    assert_eq!(client.ask(&format!("z2,{GO:x},4")), "OK");
    // One moves, the others stand.
    let before = [1, 2, 3].map(|thread| client.rip_of(thread));
    assert_eq!(client.ask("vCont;s:2"), "T05thread:02;");
    let after = [1, 2, 3].map(|thread| client.rip_of(thread));
    assert_eq!((after[0], after[2]), (before[0], before[2]));
    assert_ne!(after[1], before[1]);
    assert_eq!(client.ask(&format!("Z4,{SUM:x},4")), "OK");
    let stop = client.ask("vCont;c");
    assert!(stop.ends_with(&format!(";awatch:{SUM:x};")), "{stop}");
    assert_eq!(client.ask(&format!("z4,{SUM:x},4")), "OK");
    // No further stops: it ends, and says so.
    assert_eq!(client.ask("vCont;c"), "W00");
    assert!(machine.serial().contains("cpus=00000003 the sum is whole"), "{}", machine.serial());
}

#[test]
fn gdb_interrupts_changes_memory_and_lets_go() {
    let mut machine = boot("hello", &SERVER);
    let mut session = machine.connect(0);
    machine.wait_serial("Hello", PATIENCE);
    let mut client = Client::connect(&mut machine);
    // A client that comes stops the machine.
    assert_eq!(client.ask("?"), "T05thread:01;");
    assert_eq!(session.status(), "paused");
    client.send("c");
    machine.wait_for("the machine to run", PATIENCE, |_| (session.status() == "running").then_some(()));
    client.stream.write_all(&[3]).expect("the server reads");
    assert_eq!(client.packet(), "T02thread:01;");
    assert_eq!(session.status(), "paused");
    assert_eq!(client.ask("m200000,8"), "4f30757a656c2121");
    assert_eq!(client.ask("M200000,2:aabb"), "OK");
    assert_eq!(client.ask("Qqemu.PhyMemMode:1"), "OK");
    assert_eq!(client.ask("qqemu.PhyMemMode"), "1");
    assert_eq!(client.ask("m200000,4"), "aabb757a");
    let before = client.register(0);
    assert_eq!(client.ask("P0=7856341200000000"), "OK");
    assert_eq!((client.register(0), before != 0x1234_5678), (0x1234_5678, true));
    assert_eq!(client.ask("P0=12"), "E22");
    assert_eq!(client.ask("m0,ffffffff"), "E22");
    // The human monitor's answer comes as output.
    assert_eq!(client.ask("qRcmd,696e666f20737461747573"), format!("O{}", hex("VM status: paused\n")));
    assert_eq!(client.packet(), "OK");
    assert_eq!(client.ask("D"), "OK");
    machine.wait_for("the machine to run", PATIENCE, |_| (session.status() == "running").then_some(()));
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn gdb_client_that_sends_garbage_and_goes_leaves_no_breakpoints() {
    let mut machine = boot("hello", &SERVER);
    let mut session = machine.connect(0);
    machine.wait_serial("Hello", PATIENCE);
    let mut random = 1_u64;
    for round in 0..20 {
        let mut client = Client::connect(&mut machine);
        assert_eq!(client.ask("Z0,100000,1"), "OK");
        let garbage: Vec<u8> = (0..2000)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Nothing that kills or lets it go.
                match (random >> 33) as u8 {
                    b'k' | b'D' | b'c' | b's' | b'v' => b'$',
                    byte => byte,
                }
            })
            .collect();
        client.stream.write_all(&garbage).expect("the server reads");
        assert!(round > 0 || session.status() == "paused");
    }
    let mut client = Client::connect(&mut machine);
    assert_eq!(client.ask("?"), "T05thread:01;");
    client.send("c");
    machine.wait_for("the machine to run", PATIENCE, |_| (session.status() == "running").then_some(()));
}

#[test]
fn gdb_client_that_does_not_read_is_not_read_from_either() {
    const MOST: usize = 64 << 20;
    let mut machine = boot("hello", &SERVER);
    let mut session = machine.connect(0);
    let mut client = Client::connect(&mut machine);
    let again = [b'-'; 4096];
    // The last packet is asked for again and again.
    client.send("?");
    client.acknowledges = false;
    assert_eq!(client.packet(), "T05thread:01;");
    client.stream.set_write_timeout(Some(Duration::from_secs(1))).expect("a time limit");
    let mut sent = 0;
    while sent < MOST
        && let Ok(len) = client.stream.write(&again)
    {
        sent += len;
    }
    assert!(sent < MOST, "the server has taken it all");
    assert_eq!(session.status(), "paused");
    // When it reads, it gets the packet as often as it has asked, and the server goes on.
    let packet = b"$T05thread:01;#07";
    let mut packets = vec![0; packet.len() * sent];
    client.stream.read_exact(&mut packets).expect("all of them");
    assert!(packets.chunks(packet.len()).all(|other| other == packet));
    client.stream.write_all(b"+").expect("the server reads");
    client.acknowledges = true;
    assert_eq!(client.ask("?"), "T05thread:01;");
}

#[test]
fn gdb_server_is_started_moved_and_ended_by_the_human_monitor() {
    let mut machine = boot("hello", &[]);
    let mut session = machine.connect(0);
    let mut command = |line: &str| {
        let answer = session.run("human-monitor-command", json!({ "command-line": line }));
        answer.as_str().expect("a text").to_owned()
    };
    let device = format!("unix:{},server=on,wait=off", machine.file("gdb"));
    let waiting = |device: &str| format!("Waiting for gdb connection on device '{device}'\r\n");
    assert_eq!(command(&format!("gdbserver {device}")), waiting(&device));
    let mut client = Client::connect(&mut machine);
    assert_eq!(client.ask("?"), "T05thread:01;");
    drop(client);
    assert_eq!(command("gdbserver tcp:127.0.0.1:0"), waiting("tcp:127.0.0.1:0"));
    assert!(UnixStream::connect(machine.path("gdb")).is_err());
    assert_eq!(command("gdbserver none"), "Disabled gdbserver\r\n");
    assert!(command("gdbserver nothing").ends_with("Could not open gdbserver on device 'nothing'\r\n"));
    assert_eq!(command(&format!("gdbserver {device}")), waiting(&device));
}

#[test]
fn gdb_server_without_a_processor_that_can_be_debugged_is_refused() {
    for (arguments, text) in [
        (["-machine", "none"], "gdbstub: meaningless to attach gdb to a machine without any CPU."),
        (["-accel", "qtest"], "gdbstub: current accelerator doesn't support guest debugging"),
    ] {
        let mut machine = Setup::new().args(arguments).args(SERVER).start();
        assert!(!machine.wait_exit(PATIENCE).success());
        assert!(machine.stderr().contains(text), "{}", machine.stderr());
    }
}

/// What gdb prints while it runs a script. It is ended when it takes too long.
fn gdb(script: &str, machine: &mut Machine) -> String {
    let path = machine.path("script");
    std::fs::write(&path, script).expect("the script");
    let mut child = Command::new("gdb")
        .args(["-nx", "-batch", "-x"])
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("gdb");
    let (mut out, mut errors) = (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = out.read_to_string(&mut text);
        text
    });
    let also = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = errors.read_to_string(&mut text);
        text
    });
    let started = std::time::Instant::now();
    while child.try_wait().expect("its state").is_none() {
        if started.elapsed() > BOOT_PATIENCE {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    read.join().expect("its output") + "\n--- errors\n" + &also.join().expect("its errors")
}

fn assert_has(text: &str, lines: &[&str]) {
    let mut rest = text;
    for line in lines {
        let at = rest.find(line).unwrap_or_else(|| panic!("no {line:?} (in this order) in\n{text}"));
        rest = &rest[at + line.len()..];
    }
}

#[test]
#[ignore = "peer: gdb"]
fn peer_gdb_breaks_steps_and_watches_on_bare_metal() {
    let mut machine = boot("smp", &["-S", "-smp", "2", SERVER[0], SERVER[1]]);
    let script = format!(
        "set pagination off\nset confirm off\nfile {}\nset architecture i386:x86-64\ntarget remote {}\ninfo threads\nbreak *add_rounds\ncontinue\n\
         printf \"AT %lx %d\\n\", $rip - (long)&add_rounds, $cs\nstepi\nprintf \"ECX %d\\n\", $ecx\n\
         watch *(int*){SUM}\ncontinue\nthread 1\nprint $cr0\nprint $st0\nprint $xmm0\ninfo threads\nmonitor info status\n\
         delete\ncontinue\n",
        guest("smp.elf"),
        machine.file("gdb"),
    );
    let text = gdb(&script, &mut machine);
    assert_has(
        &text,
        &[
            "Thread 1 (CPU#0 [running])",
            "Thread 2 (CPU#1 [halted ])",
            "Breakpoint 1, ",
            "AT 0 8\n",
            "ECX 100000\n",
            "Hardware watchpoint 2",
            "Old value = ",
            "New value = ",
            "[ ET PE ]",
            "v4_float",
            "CPU#1 [running]",
            "[Inferior 1 (Remote target) exited normally]",
            "VM status: paused (debug)",
        ],
    );
    assert!(machine.serial().contains("the sum is whole"), "{}", machine.serial());
}

/// The addresses of the guest kernel's symbols, by its own table.
fn symbols(machine: &mut Machine, names: &[&str]) -> BTreeMap<String, u64> {
    let path = machine.file("console");
    let mut console = machine.connect_unix(&path);
    while !console.line_within(BOOT_PATIENCE).expect("the console").starts_with("GUEST-SHELL") {}
    console.send(format!("grep -E ' ({})$' /proc/kallsyms; echo SYMBOLS-END\n", names.join("|")));
    let mut found = BTreeMap::new();
    loop {
        let line = console.line();
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("SYMBOLS-END"), ..) => return found,
            (Some(address), Some(kind), Some(name)) if kind.len() == 1 => {
                // The echo of the command has words, too.
                if let Ok(address) = u64::from_str_radix(address, 16) {
                    found.insert(name.to_owned(), address);
                }
            }
            _ => {}
        }
    }
}

/// A file for gdb with nothing but the names of these addresses.
fn symbol_file(machine: &Machine, symbols: &BTreeMap<String, u64>) -> String {
    let (source, file) = (machine.file("symbols.s"), machine.file("symbols.elf"));
    let mut ordered: Vec<_> = symbols.iter().map(|(name, address)| (*address, name)).collect();
    ordered.sort_unstable();
    let base = 0xffff_ffff_8100_0000_u64;
    let mut text = String::from(".section .text,\"ax\",@nobits\n");
    for (address, name) in ordered {
        text += &format!(".org {:#x}\n.type {name}, @function\n.globl {name}\n{name}:\n", address - base);
    }
    std::fs::write(&source, text + ".skip 4096\n").expect("the source");
    let run = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).status();
        assert!(done.is_ok_and(|status| status.success()), "{program} {arguments:?}");
    };
    let object = machine.file("symbols.o");
    run("as", &["-o", &object, &source]);
    run("ld", &["-e", "0", &format!("-Ttext={base:#x}"), "-o", &file, &object]);
    file
}

#[test]
#[ignore = "peer: Debian's kernel and busybox, gdb, binutils"]
fn peer_linux_kernel_is_debugged_by_gdb_from_its_first_line() {
    let mut machine = Setup::new()
        .args(["-m", "256", "-smp", "2", "-kernel", &guest("vmlinuz"), "-initrd", &guest("initrd.cpio")])
        .args(["-append", "console=ttyS0 quiet nokaslr", "-serial", "unix:{dir}console,server=on,wait=on"])
        .args(SERVER)
        .start();
    let names = ["start_kernel", "secondary_startup_64_no_verify", "early_boot_irqs_disabled", "setup_arch"];
    let symbols = symbols(&mut machine, &names);
    assert_eq!(symbols.len(), names.len(), "{symbols:x?}");
    let file = symbol_file(&machine, &symbols);
    let script = format!(
        "set pagination off\nset confirm off\nfile {file}\ntarget remote {}\nmonitor system_reset\n\
         hbreak *start_kernel\ncontinue\nprintf \"AT %lx\\n\", $rip\nbacktrace 2\nx/8ga $rsp\nx/3i $pc\nstepi 3\n\
         printf \"ALONG %d\\n\", $rip - (long)&start_kernel\n\
         watch *(char*)&early_boot_irqs_disabled\ncontinue\nprint $cr0\nprint $cr3 != 0\ninfo threads\n\
         delete\nbreak *setup_arch\ncontinue\nbacktrace 2\ndelete\ndetach\n",
        machine.file("gdb"),
    );
    let text = gdb(&script, &mut machine);
    let at = format!("AT {:x}\n", symbols["start_kernel"]);
    assert_has(
        &text,
        &[
            "Hardware assisted breakpoint 1 at",
            "Breakpoint 1, ",
            &at,
            "#0 ",
            "in start_kernel ()",
            "#1 ",
            "in secondary_startup_64_no_verify ()",
            "<secondary_startup_64_no_verify+",
            "ALONG ",
            "Hardware watchpoint 2: *(char*)&early_boot_irqs_disabled",
            "Old value = 0",
            "New value = 1",
            " PG ",
            "$2 = 1",
            "CPU#0 [running]",
            "CPU#1 [halted ]",
            "in setup_arch ()",
            "#1 ",
            "in start_kernel ()",
        ],
    );
    // Let go, it boots as always.
    let path = machine.file("console");
    let mut console = machine.connect_unix(&path);
    while !console.line_within(BOOT_PATIENCE).expect("the console").starts_with("GUEST-SHELL") {}
}
