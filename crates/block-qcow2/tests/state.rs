//! Machine state, looking at snapshots, emptied overlays, and what error injectors and managers are told.

mod common;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use block::image::{Corruption, CorruptionEvents, SnapshotInfo};
use block::{Defaults, NodeConfig, OpenFlags};
use common::*;
use iobuf::IoBuf;

fn state(open: &Open, offset: u64, len: usize) -> Vec<u8> {
    let buf = IoBuf::zeroed(len);
    aio::block_on(open.driver().read_vm_state(offset, buf.clone())).expect("reads state");
    buf.to_vec()
}

#[test]
fn machine_state_is_kept_by_the_snapshot_and_comes_back_with_it() {
    for cluster in ["512", "4096", "65536"] {
        let disk = create_disk(1 << 20, &format!("cluster_size={cluster}"));
        let open = open_with(memory_options(&disk.id), false, OpenFlags::default()).expect("opens");
        write(&open.child, 0, &[1; 65536]).expect("writes");
        let saved: Vec<u8> = (0..300_000usize).map(|at| (at / 7 + 1) as u8).collect();
        for (index, part) in saved.chunks(70_001).enumerate() {
            let at = index as u64 * 70_001;
            aio::block_on(open.driver().write_vm_state(at, IoBuf::copy_of(part))).expect("writes state");
        }
        assert_eq!(state(&open, 0, saved.len()), saved, "{cluster}");
        let info = SnapshotInfo { name: "s".into(), vm_state_size: saved.len() as u64, ..SnapshotInfo::default() };
        aio::block_on(open.driver().snapshot_create(info)).expect("makes a snapshot");
        assert!(state(&open, 0, saved.len()).iter().all(|b| *b == 0), "{cluster}: it is the snapshot's now");
        write(&open.child, 0, &[2; 65536]).expect("writes");
        open.close().expect("closes");
        assert_eq!((check(&disk.id).corruptions, check(&disk.id).leaks), (0, 0), "{cluster}");

        let open = open_with(memory_options(&disk.id), true, OpenFlags::default()).expect("opens");
        aio::block_on(open.driver().snapshot_load("s".into())).expect("loads");
        assert_eq!(state(&open, 0, saved.len()), saved, "{cluster}");
        assert!(read_all(&open.child).expect("reads")[..65536].iter().all(|b| *b == 1));
        open.close().expect("closes");
        let open = open_with(memory_options(&disk.id), false, OpenFlags::default()).expect("opens");
        assert_eq!(
            aio::block_on(open.driver().snapshot_load("s".into())).expect_err("writable").to_string(),
            "Device is not readonly"
        );
        aio::block_on(open.driver().snapshot_apply("1".into())).expect("goes back");
        assert_eq!(state(&open, 0, saved.len()), saved, "{cluster}");
        aio::block_on(open.child.truncate(8 << 20, true, block::Preallocation::Off)).expect("grows");
        let now = read_all(&open.child).expect("reads");
        assert!(now[65536..].iter().all(|b| *b == 0), "{cluster}: no state on the disk");
        aio::block_on(open.driver().snapshot_delete("s".into())).expect("deletes");
        open.close().expect("closes");
        assert_eq!((check(&disk.id).corruptions, check(&disk.id).leaks), (0, 0), "{cluster}");
    }
}

#[test]
fn emptied_overlay_shows_its_backing_and_is_small() {
    for (options, snapshot) in
        [("cluster_size=512", false), ("cluster_size=65536,extended_l2=on", false), ("cluster_size=4096", true)]
    {
        let disk = create_disk(4 << 20, options);
        let open = open_with(memory_options(&disk.id), false, OpenFlags::default()).expect("opens");
        let before = disk.disk.data.lock().expect("data").len();
        write(&open.child, 0, &vec![1; 4 << 20]).expect("writes");
        zero(&open.child, 0, 1 << 20, true).expect("zeroes");
        if snapshot {
            let info = SnapshotInfo { name: "s".into(), ..SnapshotInfo::default() };
            aio::block_on(open.driver().snapshot_create(info)).expect("makes a snapshot");
        }
        aio::block_on(open.driver().make_empty()).expect("empties");
        assert!(read_all(&open.child).expect("reads").iter().all(|b| *b == 0));
        let status = aio::block_on(open.child.block_status(0, 4 << 20, true)).expect("a status");
        assert!(!status.allocated && status.len == 4 << 20);
        write(&open.child, 3 << 20, &[3; 512]).expect("writes");
        open.close().expect("closes");
        let after = disk.disk.data.lock().expect("data").len();
        // With tiny clusters the refcount table has moved behind the data, and stays there.
        let small = options.starts_with("cluster_size=65536");
        assert!(!small || after < before + (1 << 20), "{options}: {before} {after}");
        assert_eq!((check(&disk.id).corruptions, check(&disk.id).leaks), (0, 0), "{options}");
    }
}

#[test]
fn events_precede_the_operations_that_they_name() {
    let disk = create_disk(1 << 30, "cluster_size=512");
    disk.disk.recording.store(true, Ordering::Relaxed);
    let open = open_with(memory_options(&disk.id), false, OpenFlags::default()).expect("opens");
    write(&open.child, 512 * 1000, &vec![1; 1 << 20]).expect("writes");
    write(&open.child, 512 * 1000, &[1; 100]).expect("writes");
    aio::block_on(open.child.flush()).expect("flushes");
    assert!(!disk.disk.events.lock().expect("events").contains(&"l2_load"), "what a new table holds is known");
    open.close().expect("closes");
    let open = open_with(memory_options(&disk.id), false, OpenFlags::default()).expect("opens again");
    let info = SnapshotInfo { name: "s".into(), ..SnapshotInfo::default() };
    aio::block_on(open.driver().snapshot_create(info)).expect("makes a snapshot");
    write(&open.child, 512 * 1000, &[1; 100]).expect("writes");
    aio::block_on(open.driver().write_vm_state(0, IoBuf::zeroed(100))).expect("writes state");
    state(&open, 0, 100);
    aio::block_on(open.driver().make_empty()).expect("empties");
    open.close().expect("closes");
    let seen = disk.disk.events.lock().expect("events").clone();
    for event in [
        "reftable_load",
        "refblock_load",
        "l2_load",
        "l2_update",
        "l1_update",
        "l2_alloc_write",
        "l2_alloc_cow_read",
        "cow_read",
        "read_aio",
        "write_aio",
        "cluster_alloc",
        "cluster_free",
        "refblock_alloc",
        "refblock_alloc_write",
        "refblock_alloc_hookup",
        "refblock_update_part",
        "l1_grow_alloc_table",
        "l1_grow_write_table",
        "l1_grow_activate_table",
        "vmstate_save",
        "vmstate_load",
        "empty_image_prepare",
        "flush_to_os",
        "flush_to_disk",
    ] {
        assert!(seen.contains(&event), "{event} is missing");
    }
}

/// Whatever step of a write and a flush fails: nothing but leaks is left, and everything can be done again.
#[test]
fn a_failure_at_any_event_leaves_a_sound_image() {
    for event in [
        "l1_update",
        "l2_update",
        "l2_alloc_write",
        "write_aio",
        "refblock_alloc_write",
        "refblock_alloc_hookup",
        "refblock_update_part",
        "refblock_alloc",
        "cluster_alloc",
        "refblock_alloc_write_blocks",
        "refblock_alloc_write_table",
        "refblock_alloc_switch_table",
        "flush_to_disk",
    ] {
        let disk = create_disk(64 << 20, "cluster_size=512");
        let open = open_with(memory_options(&disk.id), false, OpenFlags::default()).expect("opens");
        *disk.disk.fail_after.lock().expect("a name") = Some(event);
        // With a larger refcount table, with new refcount blocks, or with the one that there is.
        let len = match event {
            "refblock_alloc_write_blocks" | "refblock_alloc_write_table" | "refblock_alloc_switch_table" => 24 << 20,
            "refblock_update_part" => 16 << 10,
            _ => 1 << 20,
        };
        let data = vec![1; len];
        let first = write(&open.child, 0, &data).and_then(|()| aio::block_on(open.child.flush()));
        assert!(first.is_err(), "{event}");
        disk.disk.fail_in.store(-1, Ordering::Relaxed);
        let crashed = new_disk(disk.disk.data.lock().expect("data").clone());
        assert_eq!(check(&crashed.id).corruptions, 0, "{event}");
        write(&open.child, 0, &data).and_then(|()| aio::block_on(open.child.flush())).expect(event);
        open.close().expect("closes");
        assert_eq!(check(&disk.id).corruptions, 0, "{event}");
        let open = open_with(memory_options(&disk.id), true, OpenFlags::default()).expect("opens");
        assert!(read_all(&open.child).expect("reads")[..data.len()] == data, "{event}");
        open.close().expect("closes");
    }
}

#[test]
fn a_corrupt_image_is_reported_and_not_written_any_more() {
    let disk = create_disk(1 << 20, "");
    let open = open_with(memory_options(&disk.id), false, OpenFlags::default()).expect("opens");
    write(&open.child, 0, &[1; 65536]).expect("writes");
    open.close().expect("closes");
    // The first cluster is where the L1 table is.
    let l1 = disk.disk.data.lock().expect("data")[40..48].to_vec();
    let l1 = u64::from_be_bytes(l1.try_into().expect("eight")) as usize;
    let l2 = disk.disk.data.lock().expect("data")[l1..l1 + 8].to_vec();
    let l2 = (u64::from_be_bytes(l2.try_into().expect("eight")) & 0xff_ffff_ffff) as usize;
    let entry = (l1 as u64 | 1 << 63).to_be_bytes();
    disk.disk.data.lock().expect("data")[l2..l2 + 8].copy_from_slice(&entry);

    let graph = graph();
    let told = Arc::<Mutex<Vec<Corruption>>>::default();
    let sink = Arc::clone(&told);
    let events = CorruptionEvents(Box::new(move |found| sink.lock().expect("a list").push(found)));
    graph.set_object(CorruptionEvents::OBJECT, Arc::new(events));
    let defaults = Defaults::new(NodeConfig::default(), OpenFlags::default());
    let options = memory_options(&disk.id).with("node-name", "drive");
    let node = aio::block_on(graph.open(options, defaults)).expect("opens");
    let child = graph.attach_root(&node, "test", users(), ALL).expect("attaches");
    assert!(write(&child, 0, &[2; 65536]).is_err());
    assert!(write(&child, 65536, &[2; 65536]).is_err(), "no other write is done, either");
    let found = told.lock().expect("a list").clone();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].node, "drive");
    assert_eq!(found[0].message, "Preventing invalid write on metadata (overlaps with active L1 table)");
    assert_eq!((found[0].offset, found[0].size, found[0].fatal), (Some(l1 as u64), Some(65536), true));
    aio::block_on(graph.detach(&child)).expect("closes");
    assert_eq!(disk.disk.data.lock().expect("data")[79] & 2, 2, "the mark is in the image");
}
