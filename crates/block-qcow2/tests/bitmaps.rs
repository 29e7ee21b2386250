//! Persistent bitmaps: loaded, recorded, stored, and what other programs see of them.

mod common;

use std::sync::atomic::Ordering;

use block::{NewBitmap, OpenFlags, Preallocation};
use common::*;

fn options(persistent: bool, disabled: bool) -> NewBitmap {
    NewBitmap { granularity: Some(65536), persistent, disabled }
}

fn names(open: &Open) -> Vec<String> {
    open.child.node().bitmaps().list().iter().filter_map(|bitmap| bitmap.name()).collect()
}

#[test]
fn persistent_bitmaps_come_back_with_what_was_written() {
    for cluster in ["512", "65536", "2M"] {
        let disk = create_disk(32 << 20, &format!("cluster_size={cluster}"));
        let open = open_with(memory_options(&disk.id), false, OpenFlags::default()).expect("opens");
        let node = open.child.node();
        node.add_bitmap("on", options(true, false)).expect("added");
        node.add_bitmap("off", options(true, true)).expect("added");
        node.add_bitmap("gone", options(false, false)).expect("added");
        let error = node.add_bitmap("on", options(true, false)).expect_err("known");
        assert_eq!(error.to_string(), "Bitmap already exists: on");
        write(&open.child, 1 << 20, &[1; 100]).expect("writes");
        zero(&open.child, 2 << 20, 65536, true).expect("zeroes");
        aio::block_on(open.child.discard(4 << 20, 2 << 20)).expect("discards");
        drop(node);
        open.close().expect("closes");
        assert_eq!((check(&disk.id).corruptions, check(&disk.id).leaks), (0, 0), "{cluster}");

        let open = open_with(memory_options(&disk.id), true, OpenFlags::default()).expect("opens");
        assert_eq!(names(&open).len(), 2);
        let on = open.child.node().bitmaps().named("on").expect("stored");
        assert!(on.is_read_only() && on.is_enabled() && on.is_persistent());
        assert_eq!(on.dirty_bytes(), (2 << 20) + 2 * 65536);
        assert_eq!(on.next_dirty(0, u64::MAX, u64::MAX), Some((1 << 20, 65536)));
        assert_eq!(on.clear().expect_err("read-only").to_string(), "Bitmap 'on' is readonly and cannot be modified");
        let off = open.child.node().bitmaps().named("off").expect("stored");
        assert!(!off.is_enabled() && off.dirty_bytes() == 0);
        open.close().expect("closes");

        let open = open_with(memory_options(&disk.id), false, OpenFlags::default()).expect("opens");
        let details = format!("{:?}", open.driver().details().specific);
        assert_eq!(details.matches("in-use").count(), 2, "{details}");
        let node = open.child.node();
        aio::block_on(node.remove_bitmap("on")).expect("removed");
        aio::block_on(open.child.truncate(48 << 20, true, Preallocation::Off)).expect("bitmaps follow");
        node.bitmaps().named("off").expect("there").enable().expect("usable");
        write(&open.child, 47 << 20, &[1; 100]).expect("writes");
        drop(node);
        open.close().expect("closes");
        assert_eq!((check(&disk.id).corruptions, check(&disk.id).leaks), (0, 0), "{cluster}");
        let open = open_with(memory_options(&disk.id), false, OpenFlags::default()).expect("opens");
        assert_eq!(names(&open), ["off"]);
        let off = open.child.node().bitmaps().named("off").expect("stored");
        assert_eq!((off.dirty_bytes(), off.is_enabled()), (65536, true));
        aio::block_on(open.child.node().remove_bitmap("off")).expect("removed");
        open.close().expect("closes");
        assert_eq!(check(&disk.id).leaks, 0, "{cluster}");
        assert_eq!(disk.disk.data.lock().expect("data")[95] & 1, 0, "no bitmaps, no flag");
    }
}

#[test]
fn bitmaps_of_a_crashed_user_are_inconsistent_and_can_only_be_removed() {
    let disk = create_disk(16 << 20, "cluster_size=4096");
    let open = open_with(memory_options(&disk.id), false, OpenFlags::default()).expect("opens");
    open.child.node().add_bitmap("b", options(true, false)).expect("added");
    open.close().expect("closes");
    let open = open_with(memory_options(&disk.id), false, OpenFlags::default()).expect("opens");
    let crashed = new_disk(disk.disk.data.lock().expect("data").clone());
    open.close().expect("closes");

    let open = open_with(memory_options(&crashed.id), false, OpenFlags::default()).expect("opens");
    let bitmap = open.child.node().bitmaps().named("b").expect("there");
    assert!(bitmap.is_inconsistent() && !bitmap.is_recording());
    assert_eq!(bitmap.enable().expect_err("bad").to_string(), "Bitmap 'b' is inconsistent and cannot be used");
    let resized = aio::block_on(open.child.truncate(20 << 20, true, Preallocation::Off));
    assert_eq!(resized.expect_err("bad").to_string(), "Bitmap 'b' is inconsistent and cannot be used");
    open.close().expect("closes");
    let open = open_with(memory_options(&crashed.id), false, OpenFlags::default()).expect("opens");
    assert!(open.child.node().bitmaps().named("b").expect("still there").is_inconsistent());
    aio::block_on(open.child.node().remove_bitmap("b")).expect("removed");
    assert_eq!(names(&open), [""; 0]);
    open.close().expect("closes");
    assert_eq!((check(&crashed.id).corruptions, check(&crashed.id).leaks), (0, 0));
}

#[test]
fn bitmaps_that_can_not_be_stored_are_refused() {
    let disk = create_disk(16 << 20, "compat=0.10");
    let open = open_with(memory_options(&disk.id), false, OpenFlags::default()).expect("opens");
    let error = open.child.node().add_bitmap("b", options(true, false)).expect_err("version 2");
    let text = error.to_string();
    assert!(text.starts_with("Can't make bitmap 'b' persistent in '#block"), "{text}");
    assert!(text.ends_with(": Cannot store dirty bitmaps in qcow2 v2 files"), "{text}");
    let coarse = NewBitmap { granularity: Some(1 << 32), persistent: true, disabled: false };
    open.close().expect("closes");
    let disk = create_disk(16 << 20, "");
    let open = open_with(memory_options(&disk.id), false, OpenFlags::default()).expect("opens");
    let text = open.child.node().add_bitmap("b", coarse).expect_err("too coarse").to_string();
    assert!(text.ends_with("Granularity exceeds maximum (2147483648 bytes)"), "{text}");
    open.close().expect("closes");
}

/// Whatever operation fails while bitmaps are stored: afterwards the image is consistent (leaks are fine), and the bitmap
/// is either complete or inconsistent.
#[test]
fn failures_while_storing_leave_a_sound_image() {
    for fail_in in 0..40 {
        let disk = create_disk(4 << 20, "cluster_size=512");
        let open = open_with(memory_options(&disk.id), false, OpenFlags::default()).expect("opens");
        open.child.node().add_bitmap("b", options(true, false)).expect("added");
        open.close().expect("closes");
        let open = open_with(memory_options(&disk.id), false, OpenFlags::default()).expect("opens");
        write(&open.child, 1 << 20, &[1; 512]).expect("writes");
        disk.disk.keep_failing.store(fail_in % 2 == 0, Ordering::Relaxed);
        disk.disk.fail_in.store(fail_in, Ordering::Relaxed);
        let closed = open.close();
        disk.disk.fail_in.store(-1, Ordering::Relaxed);
        assert_eq!(check(&disk.id).corruptions, 0, "{fail_in}");
        let open = open_with(memory_options(&disk.id), true, OpenFlags::default()).expect("opens");
        let bitmap = open.child.node().bitmaps().named("b").expect("there");
        assert!(bitmap.is_inconsistent() || bitmap.dirty_bytes() == 65536, "{fail_in}");
        assert!(closed.is_err() || !bitmap.is_inconsistent(), "{fail_in}");
        open.close().expect("closes");
    }
}

#[test]
fn the_peer_reads_our_bitmaps_and_we_read_its() {
    if !has_tool("qemu-img") || !has_tool("qemu-io") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("b.qcow2").to_str().expect("a path").to_owned();
    let other = dir.path().join("o.qcow2").to_str().expect("a path").to_owned();
    create_file(&path, 64 << 20, "").expect("creates");
    must("qemu-img", &["bitmap", "--add", "-g", "32k", &path, "theirs"]);
    must("qemu-io", &["-c", "write 3M 100k", &path]);
    let open = open_file(&path, false).expect("opens");
    let theirs = open.child.node().bitmaps().named("theirs").expect("stored");
    assert_eq!((theirs.granularity(), theirs.dirty_bytes()), (32768, 4 * 32768));
    open.child.node().add_bitmap("ours", options(true, false)).expect("added");
    write(&open.child, 9 << 20, &[1; 70_000]).expect("writes");
    open.close().expect("closes");
    must("qemu-img", &["check", &path]);
    // The peer merges ours into one of its own; we read that again.
    must("qemu-img", &["create", "-f", "qcow2", &other, "64M"]);
    must("qemu-img", &["bitmap", "--add", "--disable", "-g", "64k", &other, "m"]);
    must("qemu-img", &["bitmap", "--merge", "ours", "-b", &path, "-F", "qcow2", &other, "m"]);
    let open = open_file(&other, true).expect("opens");
    let merged = open.child.node().bitmaps().named("m").expect("stored");
    assert_eq!(merged.next_dirty(0, u64::MAX, u64::MAX), Some((9 << 20, 2 * 65536)));
    assert_eq!(merged.dirty_bytes(), 2 * 65536);
    open.close().expect("closes");
    let info = must("qemu-img", &["info", &path]);
    assert!(info.contains("ours") && info.contains("theirs") && !info.contains("in-use"), "{info}");
}
