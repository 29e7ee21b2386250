//! The CPUID leaves of models, compared with what a guest reads under QEMU.

use std::collections::BTreeMap;
use x86::cpuid::{CpuidResult, FeatureSet};
use x86::model::{CpuModel, Host, Topology};

/// Leaf and sub-leaf to registers.
type Leaves = BTreeMap<(u32, u32), CpuidResult>;

struct Recording {
    model: String,
    topology: Topology,
    leaves: Leaves,
}

/// Reads the recordings and the set of features that the recorded accelerator has.
fn recordings(text: &str) -> (FeatureSet, Vec<Recording>) {
    let mut supported = FeatureSet::default();
    let mut recordings: Vec<Recording> = vec![];
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "#" => {}
            "!" => supported = FeatureSet::parse(&line[1..]).expect("known features"),
            "=" => {
                let count = |i: usize| words[i].parse().expect("a count");
                let topology = Topology { sockets: count(2), dies: count(3), cores: count(4), threads: count(5) };
                recordings.push(Recording { model: words[1].to_string(), topology, leaves: Leaves::new() });
            }
            // QEMU does not initialise what it answers for leaf 1CH.
            "1c" => {}
            _ => {
                let n: Vec<u32> = words.iter().map(|w| u32::from_str_radix(w, 16).expect("a number")).collect();
                let result = CpuidResult::new(n[2], n[3], n[4], n[5]);
                recordings.last_mut().expect("a model").leaves.insert((n[0], n[1]), result);
            }
        }
    }
    (supported, recordings)
}

#[test]
fn leaves_of_models_equal_what_a_guest_of_qemu_reads() {
    let path = std::env::var("CPUID_RECORDINGS").ok().map(|path| std::fs::read_to_string(path).expect("recordings"));
    let (supported, recordings) = recordings(path.as_deref().unwrap_or(include_str!("data/qemu-7.2-cpuid.txt")));
    assert!(!recordings.is_empty());
    let software = Host::software();
    let mut identity = software.identity.clone();
    // QEMU's `max` reaches as far as its features do.
    identity.extended_level = 0;
    let host = Host { supported, identity, defaults: &[("vme", false)], ..software };
    let mut differences = String::new();
    for Recording { model, topology, leaves } in &recordings {
        let (built, _) = CpuModel::parse(model, &host).expect("a model");
        let table = built.build(*topology, 0);
        let mut compare = |leaf, subleaf, expected: CpuidResult| {
            let found = table.get(leaf, subleaf);
            if found != expected {
                differences +=
                    &format!("{model} {topology:?} {leaf:x}/{subleaf}: {found:x?}, recorded {expected:x?}\n");
            }
        };
        for (&(leaf, subleaf), &expected) in leaves {
            compare(leaf, subleaf, expected);
        }
        for entry in table.entries() {
            let key = (entry.leaf, entry.subleaf.unwrap_or(0));
            if !leaves.contains_key(&key) && key.1 < 5 {
                compare(key.0, key.1, CpuidResult::default());
            }
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}

#[test]
fn apic_ids_and_topology_leaves_follow_the_vcpu() {
    let topology = Topology { sockets: 2, dies: 1, cores: 3, threads: 2 };
    let ids: Vec<u32> = (0..12).map(|index| topology.apic_id(index)).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
    let (model, _) = CpuModel::parse("max", &Host::software()).expect("a model");
    let table = model.build(topology, 11);
    assert_eq!(table.get(1, 0).ebx >> 16, 11 << 8 | 6);
    assert_eq!(table.get(0xb, 0), CpuidResult::new(1, 2, 0x100, 11));
    assert_eq!(table.get(0xb, 1), CpuidResult::new(3, 6, 0x201, 11));
    assert_eq!(table.get(0xb, 2), CpuidResult::new(0, 0, 2, 11));
}
