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
