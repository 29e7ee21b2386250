//! Machine types of older versions: what they keep as it was.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Session, Setup, qemu};

/// What a machine says of its processor: who it is, and the features that it has or that it could not get.
fn processor(session: &mut Session) -> (Vec<Value>, BTreeMap<String, u64>) {
    let path = session.query("query-cpus-fast")[0]["qom-path"].clone();
    let mut get = |property: &str| session.run("qom-get", json!({"path": path, "property": property}));
    let identity = ["family", "model", "stepping", "model-id", "level", "xlevel", "xlevel2", "tcg-cpuid", "l3-cache"];
    let identity = identity.map(&mut get).to_vec();
    let mut words = BTreeMap::<_, u64>::new();
    for word in ["feature-words", "filtered-features"].map(&mut get).iter().flat_map(Value::as_array).flatten() {
        let place = ["cpuid-input-eax", "cpuid-input-ecx", "cpuid-register"].map(|member| word[member].to_string());
        // The components of XSAVE are a feature to QEMU, and follow from the features here.
        if place[..2] != ["13", "0"] {
            *words.entry(place.join(" ")).or_default() |= word["features"].as_u64().unwrap_or_default();
        }
    }
    words.retain(|_, features| *features != 0);
    (identity, words)
}

#[test]
#[ignore = "peer: qemu-system-x86_64"]
fn peer_qemu_older_machine_types_have_the_same_processors() {
    let mut problems = Vec::new();
    for (machine, model) in [
        ("pc-q35-7.2", "phenom,svm=on,xsaveopt=on"),
        ("pc-q35-6.0", "qemu64,svm=on"),
        ("pc-i440fx-3.1", "Cascadelake-Server"),
        ("pc-q35-2.12", "EPYC,svm=on"),
        ("pc-i440fx-2.8", "Haswell"),
        ("pc-i440fx-2.7", "Opteron_G3,svm=on,arat=on,xstore=on"),
        ("pc-q35-2.4", "SandyBridge,svm=on,npt=on"),
        ("pc-i440fx-2.3", "Penryn,erms=on"),
        ("pc-i440fx-2.2", "Broadwell"),
        ("pc-i440fx-2.0", "core2duo"),
        ("pc-i440fx-1.6", "qemu32"),
        ("pc-i440fx-1.4", "Nehalem"),
    ] {
        // What the software CPU leaves out unless it is asked for.
        let cpu = format!("{model},monitor=on,acpi=on");
        let arguments = ["-S", "-machine", machine, "-cpu", &cpu, "-accel", "tcg"];
        let of = |setup: Setup| processor(&mut setup.args(arguments).start().connect(0));
        let (ours, theirs) = (of(Setup::new()), of(Setup::of(qemu())));
        if ours != theirs {
            problems.push(format!("{model} of {machine}: got {ours:x?}, wanted {theirs:x?}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Devices that older machine types give something else than the newest.
const DEVICES: [&str; 16] = [
    "virtio-scsi-pci,id=scsi",
    "virtio-blk-pci,drive=n",
    "virtio-serial-pci",
    "virtio-mouse-pci",
    "virtio-rng-pci",
    "VGA",
    "secondary-vga",
    "bochs-display",
    "virtio-gpu-pci",
    "qemu-xhci,id=usb",
    "nec-usb-xhci",
    "usb-tablet,bus=usb.0",
    "usb-kbd,bus=usb.0",
    "usb-mouse,bus=usb.0",
    "pvpanic",
    "scsi-cd,bus=scsi.0",
];

/// What they have that is not the same in each version.
const CHANGING: &str = "x-speed x-width disable-acs disable-legacy disable-modern discard write-zeroes num-queues num_queues \
    page-per-vq queue-size virtqueue_size report-discard-granularity seg-max-adjust seg_max_adjust vectors x-disable-pcie \
    x-pcie-deverr-init x-pcie-flr-init x-pcie-lnkctl-init x-pcie-pm-init any_layout emergency-write queue_reset wheel-axis \
    edid qemu-extended-regs serial msos-desc usb_version events";

/// The changing properties of a machine's devices, by type and name.
fn properties(setup: Setup, machine: &str) -> BTreeMap<(String, String), String> {
    let arguments = ["-S", "-machine", machine, "-blockdev", "driver=null-co,node-name=n,size=1048576"];
    let ports = ["-device", "pcie-root-port,chassis=1"].into_iter().filter(|_| machine.contains("q35"));
    let devices = DEVICES.iter().flat_map(|device| ["-device", device]);
    let mut machine = setup.args(arguments).args(ports).args(devices).start();
    let tree = machine.connect(0).run("human-monitor-command", json!({"command-line": "info qtree"}));
    let mut found = BTreeMap::new();
    let mut device = String::new();
    for line in tree.as_str().expect("a text").lines().map(str::trim) {
        if let Some((type_name, _)) = line.strip_prefix("dev: ").and_then(|rest| rest.split_once(',')) {
            type_name.clone_into(&mut device);
        } else if let Some((name, value)) = line.split_once(" = ")
            && CHANGING.split_whitespace().any(|changing| changing == name)
        {
            found.insert((device.clone(), name.to_owned()), value.to_owned());
        }
    }
    found
}

#[test]
#[ignore = "peer: qemu-system-x86_64"]
fn peer_qemu_older_machine_types_have_the_same_devices() {
    let q35 =
        ["7.2", "7.1", "6.0", "5.1", "4.2", "4.0", "3.1", "2.11", "2.8"].map(|version| format!("pc-q35-{version}"));
    let pc = ["2.3", "2.1", "2.0", "1.7", "1.4"].map(|version| format!("pc-i440fx-{version}"));
    let mut problems = Vec::new();
    for machine in q35.iter().chain(&pc) {
        let (ours, theirs) = (properties(Setup::new(), machine), properties(Setup::of(qemu()), machine));
        let both: Vec<_> = ours.iter().filter_map(|(name, value)| Some((name, value, theirs.get(name)?))).collect();
        assert!(both.len() > 80, "{machine}: {}", both.len());
        for ((device, property), value, wanted) in both.into_iter().filter(|(_, value, wanted)| value != wanted) {
            problems.push(format!("{machine}: {device}.{property} is {value}, wanted {wanted}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
