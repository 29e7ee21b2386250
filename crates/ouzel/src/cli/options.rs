//! The table of options: what exists, what it takes, what the help says, and what `query-command-line-options` tells.

use qapi::machine::{CommandLineOptionInfo, CommandLineParameterInfo, CommandLineParameterType};

/// An option.
#[derive(Debug, PartialEq, Eq)]
pub struct OptionSpec {
    /// Its name without the hyphen.
    pub name: &'static str,
    /// Another name for it.
    pub alias: Option<&'static str>,
    /// What its argument is called in the help; `None` for options without one.
    pub argument: Option<&'static str>,
    /// What the help says.
    pub help: &'static str,
    /// The group of parameters that it takes.
    pub group: Option<&'static Group>,
}

/// A named group of parameters, as `query-command-line-options` lists it.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: &'static str,
    /// Name, type and help of each parameter.
    pub parameters: &'static [Parameter],
}

/// A parameter of a group.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What values it takes.
    pub kind: CommandLineParameterType,
    /// What it is for.
    pub help: Option<&'static str>,
}

const fn parameter(name: &'static str, kind: CommandLineParameterType, help: Option<&'static str>) -> Parameter {
    Parameter { name, kind, help }
}

const fn text(name: &'static str) -> Parameter {
    parameter(name, CommandLineParameterType::String, None)
}

const fn flag(name: &'static str) -> Parameter {
    parameter(name, CommandLineParameterType::Boolean, None)
}

const fn number(name: &'static str) -> Parameter {
    parameter(name, CommandLineParameterType::Number, None)
}

const fn size(name: &'static str) -> Parameter {
    parameter(name, CommandLineParameterType::Size, None)
}

const MACHINE: Group = Group {
    name: "machine",
    parameters: &[
        text("pflash0"),
        text("pflash1"),
        size("max-fw-size"),
        parameter("smm", CommandLineParameterType::String, Some("System-management mode: on, off, auto")),
        parameter("firmware", CommandLineParameterType::String, Some("Firmware image")),
        parameter("append", CommandLineParameterType::String, Some("Linux kernel command line")),
        parameter("initrd", CommandLineParameterType::String, Some("Linux initial ramdisk file")),
        parameter("kernel", CommandLineParameterType::String, Some("Linux kernel image file")),
        parameter("usb", CommandLineParameterType::Boolean, Some("Set on/off to enable/disable usb")),
        parameter("mem-merge", CommandLineParameterType::Boolean, Some("enable/disable memory merge support")),
        parameter("dump-guest-core", CommandLineParameterType::Boolean, Some("Include guest memory in a core dump")),
        parameter("hpet", CommandLineParameterType::Boolean, Some("High precision event timer")),
        parameter(
            "kernel-irqchip",
            CommandLineParameterType::String,
            Some("KVM's interrupt controllers: on, off, split"),
        ),
        parameter("accel", CommandLineParameterType::String, Some("accelerator list")),
        parameter("memory-backend", CommandLineParameterType::String, Some("Set RAM backend")),
        parameter("hmat", CommandLineParameterType::Boolean, Some("Set on/off to enable/disable ACPI HMAT")),
        parameter(
            "graphics",
            CommandLineParameterType::Boolean,
            Some("Set on/off to enable/disable graphics emulation"),
        ),
        parameter("type", CommandLineParameterType::String, Some("emulated machine")),
    ],
};
const ACCEL: Group = Group { name: "accel", parameters: &[] };
const ICOUNT: Group = Group { name: "icount", parameters: &[flag("sleep"), flag("align"), text("shift")] };
const SMP: Group = Group {
    name: "smp-opts",
    parameters: &[
        number("maxcpus"),
        number("threads"),
        number("cores"),
        number("clusters"),
        number("dies"),
        number("sockets"),
        number("cpus"),
    ],
};
const MEMORY: Group = Group { name: "memory", parameters: &[size("maxmem"), number("slots"), size("size")] };
const NUMA: Group = Group {
    name: "numa",
    parameters: &[text("type"), number("nodeid"), text("cpus"), text("memdev"), number("initiator")],
};
const CHARDEV: Group = Group {
    name: "chardev",
    parameters: &[
        flag("abstract"),
        flag("tight"),
        flag("logappend"),
        text("logfile"),
        flag("append"),
        text("chardev"),
        text("chardevs.0"),
        text("chardevs.1"),
        text("chardevs.2"),
        text("chardevs.3"),
        size("size"),
        flag("signal"),
        flag("mux"),
        number("reconnect"),
        flag("nodelay"),
        flag("delay"),
        flag("server"),
        flag("wait"),
        flag("ipv6"),
        flag("ipv4"),
        number("to"),
        text("fd"),
        text("port"),
        text("host"),
        text("path"),
        text("backend"),
    ],
};
const VNC: Group = Group {
    name: "vnc",
    parameters: &[
        flag("power-control"),
        text("audiodev"),
        flag("non-adaptive"),
        flag("lossy"),
        text("sasl-authz"),
        text("tls-authz"),
        flag("sasl"),
        number("key-delay-ms"),
        flag("lock-key-sync"),
        flag("reverse"),
        text("password-secret"),
        flag("password"),
        flag("ipv6"),
        flag("ipv4"),
        number("to"),
        number("connections"),
        number("head"),
        text("display"),
        text("share"),
        text("tls-creds"),
        text("websocket"),
        text("vnc"),
    ],
};
const SPICE: Group = Group {
    name: "spice",
    parameters: &[
        flag("gl"),
        text("rendernode"),
        flag("seamless-migration"),
        flag("playback-compression"),
        flag("agent-mouse"),
        text("streaming-video"),
        text("zlib-glz-wan-compression"),
        text("jpeg-wan-compression"),
        text("image-compression"),
        number("head"),
        text("display"),
        text("plaintext-channel"),
        text("tls-channel"),
        text("tls-ciphers"),
        text("x509-dh-key-file"),
        text("x509-cacert-file"),
        text("x509-cert-file"),
        text("x509-key-password"),
        text("x509-key-file"),
        text("x509-dir"),
        flag("sasl"),
        flag("disable-agent-file-xfer"),
        flag("disable-copy-paste"),
        flag("disable-ticketing"),
        text("password-secret"),
        text("password"),
        flag("unix"),
        flag("ipv6"),
        flag("ipv4"),
        text("addr"),
        number("tls-port"),
        number("port"),
    ],
};
const MON: Group = Group { name: "mon", parameters: &[flag("pretty"), text("chardev"), text("mode")] };
const NAME: Group = Group {
    name: "name",
    parameters: &[
        parameter("debug-threads", CommandLineParameterType::Boolean, Some("Threads are always named")),
        parameter("process", CommandLineParameterType::String, Some("Sets the name of the process")),
        parameter("guest", CommandLineParameterType::String, Some("Sets the name of the guest")),
    ],
};
const ACTION: Group =
    Group { name: "action", parameters: &[text("panic"), text("reboot"), text("shutdown"), text("watchdog")] };
const RTC: Group = Group { name: "rtc", parameters: &[text("clock"), text("base")] };
const GLOBAL: Group = Group { name: "global", parameters: &[text("value"), text("property"), text("driver")] };
const DEVICE: Group = Group { name: "device", parameters: &[] };
const DRIVE: Group = Group {
    name: "drive",
    parameters: &[
        text("bus"),
        number("unit"),
        number("index"),
        text("media"),
        text("if"),
        text("file"),
        text("format"),
        text("id"),
        text("cache"),
        flag("cache.writeback"),
        flag("cache.direct"),
        flag("cache.no-flush"),
        text("aio"),
        flag("read-only"),
        flag("readonly"),
        text("discard"),
        text("detect-zeroes"),
        text("werror"),
        text("rerror"),
        number("throttling.iops-total"),
        number("throttling.iops-total-max"),
        number("throttling.iops-total-max-length"),
        number("throttling.iops-read"),
        number("throttling.iops-read-max"),
        number("throttling.iops-read-max-length"),
        number("throttling.iops-write"),
        number("throttling.iops-write-max"),
        number("throttling.iops-write-max-length"),
        number("throttling.bps-total"),
        number("throttling.bps-total-max"),
        number("throttling.bps-total-max-length"),
        number("throttling.bps-read"),
        number("throttling.bps-read-max"),
        number("throttling.bps-read-max-length"),
        number("throttling.bps-write"),
        number("throttling.bps-write-max"),
        number("throttling.bps-write-max-length"),
        number("throttling.iops-size"),
        text("throttling.group"),
        flag("stats-account-invalid"),
        flag("stats-account-failed"),
    ],
};
const BLOCKDEV: Group = Group { name: "blockdev", parameters: &[] };
const OBJECT: Group = Group { name: "object", parameters: &[] };
const BOOT: Group = Group {
    name: "boot-opts",
    parameters: &[
        flag("strict"),
        number("reboot-timeout"),
        number("splash-time"),
        text("splash"),
        flag("menu"),
        text("once"),
        text("order"),
    ],
};
const SMBIOS: Group = Group { name: "smbios", parameters: &[] };
const FW_CFG: Group = Group { name: "fw_cfg", parameters: &[text("string"), text("file"), text("name")] };
const TRACE: Group = Group { name: "trace", parameters: &[text("file"), text("events"), text("enable")] };

const fn option(name: &'static str, argument: Option<&'static str>, help: &'static str) -> OptionSpec {
    OptionSpec { name, alias: None, argument, help, group: None }
}

const fn grouped(name: &'static str, argument: &'static str, help: &'static str, group: &'static Group) -> OptionSpec {
    OptionSpec { name, alias: None, argument: Some(argument), help, group: Some(group) }
}

/// All the options, in the order of the help.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec { alias: Some("help"), ..option("h", None, "display this help and exit") },
    option("version", None, "display version information and exit"),
    OptionSpec {
        alias: Some("M"),
        ..grouped("machine", "[type=]name[,prop=value…]", "select the machine (-machine help lists them)", &MACHINE)
    },
    grouped(
        "accel",
        "[accel=]tcg|kvm|qtest[,prop=value…]",
        "select the accelerator; several are tried in turn (-accel help lists them)\n                \
         tcg: thread=single|multi, tb-size=MiB, one-insn-per-tb=on|off, x-translator=on|off, x-lockstep=on|off\n                \
         kvm: kernel-irqchip=on|off|split\n                \
         qtest: no processor runs, and guest time moves only as the qtest client says",
        &ACCEL,
    ),
    option("enable-kvm", None, "run the guest on the host's KVM"),
    option("singlestep", None, "each translation holds one guest instruction"),
    grouped(
        "icount",
        "[shift=N|auto][,align=on|off][,sleep=on|off]",
        "guest time goes by instructions: each takes 2^N ns",
        &ICOUNT,
    ),
    option("cpu", Some("model[,+feature,-feature,prop=value…]"), "select the CPU (-cpu help lists them)"),
    grouped("smp", "[cpus=]n[,maxcpus=][,sockets=][,dies=][,clusters=][,cores=][,threads=]", "number of vCPUs", &SMP),
    grouped(
        "m",
        "[size=]megs[,slots=n,maxmem=size]",
        "guest memory size, with an optional suffix k, M, G or T; addresses are kept for what is plugged up to maxmem",
        &MEMORY,
    ),
    grouped(
        "numa",
        "node[,nodeid=n][,cpus=first[-last]][,memdev=id][,initiator=n] | cpu,node-id=n[,socket-id=][,die-id=][,core-id=]\
         [,thread-id=] | dist,src=n,dst=n,val=distance | hmat-lb,… | hmat-cache,…",
        "make the machine NUMA: nodes, processors, distances",
        &NUMA,
    ),
    option("preconfig", None, "wait for x-exit-preconfig before the machine is built"),
    option("readconfig", Some("file"), "read options from a file with sections"),
    option("bios", Some("file"), "the firmware's ROM (default: bios-256k.bin of the package seabios)"),
    option("L", Some("path"), "look for firmware in this directory, too"),
    option("option-rom", Some("file[,bootindex=n]"), "give the firmware this ROM to run, too"),
    grouped(
        "boot",
        "[order=]drives[,once=drives][,menu=on|off][,strict=on|off][,splash=file][,splash-time=ms][,reboot-timeout=ms]",
        "what firmware boots from: a and b floppies, c disks, d CDs, n network",
        &BOOT,
    ),
    option("no-fd-bootchk", None, "boot floppies without a signature, too"),
    grouped("smbios", "file=file|type=N[,field=value…]", "what SMBIOS tells the guest", &SMBIOS),
    grouped("fw_cfg", "[name=]name,file=file|string=text", "a file for the guest's firmware", &FW_CFG),
    option("debugcon", Some("dev"), "connect Bochs' debug console at port 0xe9 to a character device"),
    option("kernel", Some("file"), "boot this Linux bzImage, PVH ELF or Multiboot image"),
    option("initrd", Some("file"), "the kernel's initial RAM disk or module"),
    option("append", Some("text"), "the kernel's command line"),
    grouped(
        "object",
        "type,id=id[,prop=value…]",
        "create an object: iothread, memory-backend-ram, rng-random, secret, throttle-group …",
        &OBJECT,
    ),
    grouped("blockdev", "driver,node-name=name[,option=value…]", "open a block node", &BLOCKDEV),
    grouped(
        "drive",
        "[file=file][,if=none|virtio|ide|floppy][,id=id][,format=format][,cache=mode][,option=value…]",
        "make a drive (-drive format=help lists the formats)",
        &DRIVE,
    ),
    option("snapshot", None, "let drives write into temporary overlays instead of their images"),
    option("hda", Some("file"), "use the file as the first IDE disk"),
    option("hdb", Some("file"), "use the file as the second IDE disk"),
    option("hdc", Some("file"), "use the file as the third IDE disk"),
    option("hdd", Some("file"), "use the file as the fourth IDE disk"),
    option("cdrom", Some("file"), "use the file as the IDE CD-ROM: the third IDE drive"),
    option("fda", Some("file"), "use the file as floppy disk 0"),
    option("fdb", Some("file"), "use the file as floppy disk 1"),
    option("serial", Some("dev"), "connect a serial port to a character device"),
    option("parallel", Some("dev"), "connect a parallel port to a character device"),
    grouped("chardev", "backend,id=id[,prop=value…]", "create a character device", &CHARDEV),
    grouped("mon", "[chardev=]id,mode=control[,pretty=on]", "put a QMP monitor on a character device", &MON),
    option("qmp", Some("dev"), "put a QMP monitor on a new character device"),
    option("qmp-pretty", Some("dev"), "like -qmp, but replies are spread over lines"),
    option("gdb", Some("dev"), "serve gdb on a character device"),
    option("s", None, "serve gdb on TCP port 1234"),
    option("monitor", Some("dev"), "the human monitor's character device"),
    option(
        "display",
        Some("none|curses[,charset=name]|vnc=…[,full-screen=on][,show-cursor=on]"),
        "select the display; without any there is VNC on this host's port 5900 or behind",
    ),
    grouped(
        "vnc",
        "host:display|unix:path|none[,to=n][,password=on][,websocket=port][,tls-creds=id][,share=policy][,reverse=on]\
         [,lossy=on][,non-adaptive=on][,display=device,head=n][,power-control=on][,key-delay-ms=n][,lock-key-sync=off]\
         [,connections=n][,password-secret=id][,ipv4=on][,ipv6=on][,id=id]",
        "show the screen to VNC clients",
        &VNC,
    ),
    grouped(
        "spice",
        "port=n[,tls-port=n][,addr=address|path][,unix=on][,ipv4=on][,ipv6=on][,disable-ticketing=on]\
         [,password-secret=id][,password=text][,x509-dir=directory][,x509-cert-file=file][,x509-key-file=file]\
         [,x509-cacert-file=file][,tls-channel=name][,plaintext-channel=name][,image-compression=off|auto_lz|lz]\
         [,display=device,head=n]",
        "show the screens to SPICE clients",
        &SPICE,
    ),
    option(
        "web",
        Some("[address:]port[,token=…|auth=off][,host=name]"),
        "a console for browsers; on this host alone and with a token that is told at the start, unless told otherwise",
    ),
    option("k", Some("layout"), "the guest's keyboard: en-us, en-gb, de, fr, es, it or sv"),
    option("nographic", None, "no display; the first serial port is on the terminal"),
    option("vga", Some("type"), "select the video card: std (there is one without -nodefaults), virtio or none"),
    option("usb", None, "USB host controllers of the board (as -machine usb=on)"),
    option("usbdevice", Some("name"), "a USB device: tablet, mouse or keyboard (deprecated; use -device)"),
    option("nodefaults", None, "no devices that were not asked for"),
    option("no-user-config", None, "accepted: there are no user configuration files"),
    option("no-reboot", None, "exit instead of rebooting"),
    option("no-shutdown", None, "stop instead of exiting when the guest powers off"),
    grouped("action", "event=action[,…]", "what to do on reboot=, shutdown=, panic= and watchdog=", &ACTION),
    option("watchdog-action", Some("action"), "reset, shutdown, poweroff, inject-nmi, pause, debug or none"),
    option("S", None, "do not start the guest; it waits for 'cont'"),
    grouped("name", "[guest=]text[,process=text]", "set the guest's name", &NAME),
    option("uuid", Some("uuid"), "set the machine's UUID"),
    grouped("rtc", "[base=utc|localtime|date][,clock=host|vm]", "the guest's time of day", &RTC),
    option("qtest", Some("dev"), "put a qtest server on a new character device"),
    option("qtest-log", Some("file"), "where the qtest server logs; 'none' for nowhere, standard error without it"),
    option("pidfile", Some("file"), "write the process id to a file"),
    option("daemonize", None, "run in the background once everything is set up"),
    grouped("device", "driver[,prop=value…]", "add a device (-device help lists them)", &DEVICE),
    grouped("global", "driver.prop=value", "set a property's default for all devices of a driver", &GLOBAL),
    grouped("trace", "[enable=]pattern[,events=file][,file=file]", "trace events (-trace help lists them)", &TRACE),
    option("d", Some("item,…"), "log these items (-d help lists them)"),
    option("D", Some("file"), "write the log to a file"),
];

/// Finds an option by name or alias.
pub fn find(name: &str) -> Option<&'static OptionSpec> {
    OPTIONS.iter().find(|option| option.name == name || option.alias == Some(name))
}

/// What `query-command-line-options` tells: the groups.
pub fn for_query() -> Vec<CommandLineOptionInfo> {
    let groups = OPTIONS.iter().filter_map(|option| option.group);
    groups
        .map(|group| CommandLineOptionInfo {
            option: group.name.to_owned(),
            parameters: group
                .parameters
                .iter()
                .map(|parameter| CommandLineParameterInfo {
                    name: parameter.name.to_owned(),
                    r#type: parameter.kind,
                    help: parameter.help.map(str::to_owned),
                    default: None,
                })
                .collect(),
        })
        .collect()
}
