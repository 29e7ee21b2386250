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
    assert_eq!(monitors, [("c", true), ("compat_monitor1", false)]);
    assert_eq!(vm.machine.devices.len(), 2);
    assert!(!vm.autostart);
    assert!(error("-device isa-serial,chardev=zz").contains("Property 'isa-serial.chardev' can't find value 'zz'"));
    assert!(error("-device isa-debug-exit,zz=1").contains("Property 'isa-debug-exit.zz' not found"));
}

#[test]
fn global_sets_a_default_that_the_device_may_override() {
    use ::machine::config::DeviceKind;
    let iobase = |line: &str| match run(line).vm.machine.devices[0].kind {
        DeviceKind::IsaDebugExit { iobase, .. } => iobase,
        ref other => panic!("{other:?}"),
    };
    assert_eq!(iobase("-device isa-debug-exit"), 0x501);
    assert_eq!(iobase("-global isa-debug-exit.iobase=0xf4 -device isa-debug-exit"), 0xf4);
    assert_eq!(iobase("-global isa-debug-exit.iobase=0xf4 -device isa-debug-exit,iobase=0x600"), 0x600);
    assert!(error("-global foo").contains("Invalid parameter 'foo'") || error("-global foo").contains("missing"));
}

#[test]
fn help_and_version_print() {
    for line in ["-h", "--version", "-machine help", "-cpu ?", "-device help", "-device pvpanic,help", "-d help"] {
        assert!(matches!(parse(&words(line)), Ok(Request::Print(text)) if !text.is_empty()), "{line}");
    }
}
