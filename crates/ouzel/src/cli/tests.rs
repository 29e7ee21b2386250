use ::machine::config::{DeviceKind, VirtioModel};

use super::*;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn run(line: &str) -> Box<CommandLine> {
    match parse(&words(line)) {
        Ok(Request::Run(command_line)) => command_line,
        other => panic!("{line}: {other:?}"),
    }
}

fn error(line: &str) -> String {
    parse(&words(line)).expect_err(line).to_string()
}

#[test]
fn errors_name_the_option_in_qemus_words() {
    for (line, expected) in [
        ("-foo", "-foo: invalid option"),
        ("-m", "-m: requires an argument"),
        ("-machine nope", "unsupported machine type\nUse -machine help to list supported machines"),
        ("-machine pc,foo=3", "-machine pc,foo=3: Property 'pc-i440fx-7.2-machine.foo' not found"),
        ("-smp 2,foo=3", "Parameter 'smp.foo' is unexpected"),
        ("-cpu nope", "unable to find CPU model 'nope'"),
        ("-uuid zz", "-uuid zz: failed to parse UUID string: wrong format"),
        ("-device zz", "-device zz: 'zz' is not a valid device model name"),
        ("-action zz=1", "-action zz=1: Invalid parameter 'zz'"),
        ("-append x", "-append only allowed with -kernel option"),
        ("-initrd x", "-initrd only allowed with -kernel option"),
        ("-kernel /nope", "could not open kernel file '/nope': No such file or directory"),
        ("-mon chardev=zz,mode=control", "-mon chardev=zz,mode=control: chardev \"zz\" not found"),
        ("-name a,zz=1", "-name a,zz=1: Invalid parameter 'zz'"),
    ] {
        assert_eq!(error(line), expected);
    }
}

#[test]
fn topology_follows_from_what_is_given() {
    for (line, cpus, [sockets, dies, cores, threads]) in [
        ("", 1, [1, 1, 1, 1]),
        ("-smp 4", 4, [1, 1, 4, 1]),
        ("-smp 2,maxcpus=8,sockets=2", 2, [2, 1, 4, 1]),
        ("-smp 8,cores=2,threads=2", 8, [2, 1, 2, 2]),
        ("-smp sockets=2,cores=2", 4, [2, 1, 2, 1]),
        ("-smp 8,sockets=1,cores=4", 8, [1, 1, 4, 2]),
        ("-smp maxcpus=4,threads=2,clusters=1", 4, [1, 1, 2, 2]),
        ("-machine pc-q35-6.1 -smp 8,threads=2", 8, [4, 1, 1, 2]),
        ("-machine pc-q35-6.1 -smp 8,sockets=2", 8, [2, 1, 4, 1]),
        ("-smp 0,cores=2,threads=0", 2, [1, 1, 2, 1]),
    ] {
        let machine = run(line).vm.machine;
        let topology = machine.topology;
        let found = [topology.sockets, topology.dies, topology.cores, topology.threads];
        assert_eq!((machine.cpus, found), (cpus, [sockets, dies, cores, threads]), "{line}");
    }
    assert!(error("-smp cpus=4,cores=3").starts_with("Invalid CPU topology: product of the hierarchy must match"));
    assert!(
        error("-smp 2,maxcpus=1").starts_with("Invalid CPU topology: maxcpus must be equal to or greater than smp")
    );
    assert!(error("-smp 300").starts_with("Invalid SMP CPUs 300."));
    assert!(error("-smp 1,threads=2").contains("sockets (1) * dies (1) * cores (0) * threads (2) != maxcpus (1)"));
    assert_eq!(error("-smp 4,clusters=2"), "clusters not supported by this machine's CPU topology");
    let zero = "Deprecated CPU topology (considered invalid): CPU topology parameters must be greater than zero";
    assert!(run("-smp 2,cores=0").warnings.iter().any(|warning| warning == zero));
    assert!(error("-smp sockets=65536,dies=65536,cores=65536,threads=65536").starts_with("Invalid SMP CPUs"));
    for (machine, name, most) in [("q35", "pc-q35-7.2", 8), ("isapc", "isapc", 1), ("none", "none", 1)] {
        let expected = format!("Invalid SMP CPUs 9. The max CPUs supported by machine '{name}' is {most}");
        assert_eq!(error(&format!("-machine {machine} -smp 9")), expected);
    }
}

#[test]
fn memory_takes_suffixes() {
    for (line, size) in [("", 128), ("-m 64", 64), ("-m 1G", 1024), ("-m size=2048k", 2)] {
        assert_eq!(run(line).vm.machine.ram_size, size << 20, "{line}");
    }
    assert!(error("-m abc").contains("Parameter 'size' expects a non-negative number below 2^64"));
}

#[test]
fn monitors_and_serial_ports_share_named_character_devices() {
    let vm = run(
        "-nodefaults -display none -S -chardev socket,id=c,path=/tmp/x,server=on,wait=off -mon c,mode=control,pretty=on \
         -qmp unix:/tmp/y,server,nowait -serial null -device isa-serial,chardev=d,index=2 -chardev null,id=d",
    )
    .vm;
    let monitors: Vec<_> = vm.monitors.iter().map(|monitor| (monitor.chardev.as_str(), monitor.pretty)).collect();
    assert_eq!(monitors, [("c", true), ("compat_monitor0", false)]);
    assert_eq!(vm.machine.devices.len(), 2);
    assert!(!vm.autostart);
    assert!(error("-device isa-serial,chardev=zz").contains("Property 'isa-serial.chardev' can't find value 'zz'"));
    assert!(error("-device isa-debug-exit,zz=1").contains("Property 'isa-debug-exit.zz' not found"));
}

#[test]
fn monitor_and_ports_are_on_terminals_unless_it_is_said_where_they_are() {
    let cases: [(&str, &[&str]); 16] = [
        ("", &["compat_monitor0=vc", "serial0=vc", "parallel0=vc"]),
        ("-vnc none -qmp null", &["compat_monitor0=null", "serial0=vc", "parallel0=vc"]),
        ("-display none -serial null -monitor none", &["serial0=null", "parallel0=vc"]),
        ("-display curses -parallel none -qmp null", &["compat_monitor0=null", "serial0=vc"]),
        ("-mon c -chardev null,id=c -qmp null", &["c=null", "compat_monitor0=null", "serial0=vc", "parallel0=vc"]),
        ("-device isa-serial,chardev=c -chardev null,id=c", &["c=null", "compat_monitor0=vc", "parallel0=vc"]),
        (
            "-chardev null,id=c -device {\"chardev\":\"c\",\"driver\":\"isa-parallel\"}",
            &["c=null", "compat_monitor0=vc", "serial0=vc"],
        ),
        ("-machine none", &["compat_monitor0=vc"]),
        ("-machine none -serial null", &["serial0=null", "compat_monitor0=vc"]),
        ("-nodefaults", &[]),
        ("-nographic", &["serial0=mon:stdio", "parallel0=null"]),
        ("-nographic -monitor none", &["serial0=stdio", "parallel0=null"]),
        ("-nographic -serial null", &["serial0=null", "compat_monitor0=stdio", "parallel0=null"]),
        ("-nographic -parallel none -mon c -chardev null,id=c", &["c=null", "serial0=stdio"]),
        ("-nographic -machine none", &["compat_monitor0=stdio"]),
        ("-nographic -nodefaults", &[]),
    ];
    for (line, expected) in cases {
        let vm = run(line).vm;
        let described = vm.chardevs.iter().map(|chardev| {
            let mux = if chardev.common.mux { "mon:" } else { "" };
            let kind = match chardev.backend {
                chardev::Backend::Null => "null",
                chardev::Backend::Stdio { .. } => "stdio",
                chardev::Backend::Vc(_) => "vc",
                ref other => panic!("{line}: {other:?}"),
            };
            format!("{}={mux}{kind}", chardev.id)
        });
        assert_eq!(described.collect::<Vec<_>>(), expected, "{line}");
    }
    let vm = run("-vnc none").vm;
    assert!(vm.monitors.len() == 1 && vm.monitors[0].is_human && vm.machine.devices.len() >= 2);
    assert!(run("-M none -serial null").vm.machine.devices.is_empty());
    assert_eq!(error("-nographic -daemonize"), "-nographic cannot be used with -daemonize");
    run("-nographic -daemonize -serial null -parallel null -monitor none");
}

#[test]
fn global_sets_a_default_that_the_device_may_override() {
    use ::machine::config::DeviceKind;
    let iobase = |line: &str| {
        let port = |device: &::machine::config::DeviceConfig| match device.kind {
            DeviceKind::IsaDebugExit { iobase, .. } => Some(iobase),
            _ => None,
        };
        run(line).vm.machine.devices.iter().find_map(port).expect(line)
    };
    assert_eq!(iobase("-device isa-debug-exit"), 0x501);
    assert_eq!(iobase("-global isa-debug-exit.iobase=0xf4 -device isa-debug-exit"), 0xf4);
    assert_eq!(iobase("-global isa-debug-exit.iobase=0xf4 -device isa-debug-exit,iobase=0x600"), 0x600);
    assert!(error("-global foo").contains("Invalid parameter 'foo'"));
    assert!(error("-global foo=1").contains("Invalid parameter 'foo'"));
    let missing = error("-global driver=VGA,property=foo");
    assert!(missing.contains("options 'driver', 'property', and 'value' are required"), "{missing}");
}

#[test]
fn global_reaches_devices_that_other_options_and_boards_make() {
    use ::machine::config::{DeviceKind, FloppyType, HidKind, UsbDeviceKind, VirtioModel};
    let card = |line: &str| match run(line).vm.machine.vga.map(|device| device.kind) {
        Some(DeviceKind::Display(card)) => (card.options.vgamem_mb, card.options.monitor.xres),
        Some(DeviceKind::Virtio(card)) => match card.model {
            VirtioModel::Gpu { options, vga: Some(vga) } => (vga.vgamem_mb, options.xres),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    assert_eq!(card("-global VGA.vgamem_mb=32 -global VGA.xres=800").0, 32);
    assert_eq!(card("-vga std -global driver=VGA,property=xres,value=800").1, 800);
    assert_eq!(card("-vga virtio -global virtio-vga.xres=640 -global VGA.xres=800").1, 640);
    assert_eq!(card("-machine isapc -global isa-vga.vgamem_mb=4").0, 4);
    let board =
        run("-usb -global piix3-usb-uhci.maxframes=7 -global PIIX4_PM.acpi-root-pci-hotplug=off").vm.machine.board;
    assert!(!board.acpi_root_hotplug);
    assert_eq!(board.usb.len(), 1);
    let devices = run("-global usb-tablet.usb_version=1 -usbdevice tablet -global isa-serial.irq=9 -serial null")
        .vm
        .machine
        .devices;
    assert!(devices.iter().any(|device| matches!(device.kind, DeviceKind::IsaSerial { irq: 9, .. })));
    assert!(devices.iter().any(|device| match &device.kind {
        DeviceKind::UsbDevice(config) =>
            config.kind == UsbDeviceKind::Hid { kind: HidKind::Tablet, usb_version: 1, seat: None },
        _ => false,
    }));
    let devices = run("-global isa-fdc.fdtypeA=288 -drive if=floppy,driver=null-co,size=1474560,read-zeroes=on")
        .vm
        .machine
        .devices;
    assert!(devices.iter().any(|device| match &device.kind {
        DeviceKind::Floppy(config) => config.drive_type == Some(FloppyType::D288),
        _ => false,
    }));
    assert_eq!(
        run("-cpu qemu64 -global qemu64-x86_64-cpu.family=9").vm.machine.cpu_model.type_name(),
        "qemu64-x86_64-cpu"
    );
}

#[test]
fn global_of_what_is_not_there_warns_and_of_a_property_that_is_not_there_fails() {
    let warnings = |line: &str| run(line).warnings;
    assert!(warnings("-global virtio-rng-pci.foo=1 -global ICH9-LPC.foo=1").is_empty());
    assert_eq!(warnings("-global foo.bar=1"), ["global foo.bar has invalid class name"]);
    for (line, expected) in [
        ("-global VGA.foo=1", "can't apply global VGA.foo=1: Property 'VGA.foo' not found"),
        ("-global PIIX4_PM.foo=1", "can't apply global PIIX4_PM.foo=1: Property 'PIIX4_PM.foo' not found"),
        ("-global hpet.msi=on", "can't apply global hpet.msi=on: Property 'hpet.msi' not found"),
        (
            "-machine q35 -global ICH9-LPC.noreboot=x",
            "can't apply global ICH9-LPC.noreboot=x: Parameter 'noreboot' expects 'on' or 'off'",
        ),
    ] {
        assert_eq!(error(line), expected);
    }
}

#[test]
fn disc_drives_take_the_properties_of_disks() {
    let device = |line: &str| run(&format!("-nodefaults {line}")).vm.machine.devices[0].kind.clone();
    let ide = "-device ide-cd,write-cache=on,physical_block_size=2048,min_io_size=1024,discard_granularity=0";
    let DeviceKind::IdeDrive(drive) = device(ide) else { panic!("{ide}") };
    assert_eq!((drive.drive.write_cache, drive.drive.physical_block_size), (Some(true), Some(2048)));
    let scsi = "-device scsi-cd,write-cache=off,physical_block_size=2048,logical_block_size=1024,opt_io_size=4096";
    let DeviceKind::ScsiDrive(drive) = device(scsi) else { panic!("{scsi}") };
    assert_eq!((drive.unit.write_cache, drive.unit.logical_block_size), (Some(false), Some(1024)));
    for (line, expected) in [
        ("-device ide-cd,logical_block_size=4096", "logical_block_size must be 512 for ide"),
        ("-device ide-cd,discard_granularity=4096", "discard_granularity must be 512 for ide"),
        ("-device ide-hd,drive=d,min_io_size=100", "min_io_size must be a multiple of logical_block_size"),
        ("-device ide-cd,opt_io_size=700", "opt_io_size must be a multiple of logical_block_size"),
    ] {
        assert_eq!(error(line), format!("{line}: {expected}"));
    }
}

#[test]
fn virtio_input_devices_have_serial_numbers() {
    for name in ["virtio-keyboard-pci", "virtio-mouse-pci", "virtio-tablet-pci"] {
        let kind = run(&format!("-nodefaults -device {name},serial=S")).vm.machine.devices[0].kind.clone();
        let DeviceKind::Virtio(config) = kind else { panic!("{name}") };
        let VirtioModel::Input(options) = &config.model else { panic!("{name}") };
        assert_eq!((options.serial.as_deref(), options.wheel_axis), (Some("S"), name != "virtio-keyboard-pci"));
    }
}

#[test]
fn device_without_properties_says_so() {
    let Ok(Request::Print(text)) = parse(&words("-device vmcoreinfo,help")) else { panic!("no text") };
    assert_eq!(text, "There are no options for vmcoreinfo.\n");
}

#[test]
fn help_and_version_print() {
    for line in ["-h", "--version", "-machine help", "-cpu ?", "-device help", "-device pvpanic,help", "-d help"] {
        assert!(matches!(parse(&words(line)), Ok(Request::Print(text)) if !text.is_empty()), "{line}");
    }
}
