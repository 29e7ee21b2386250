//! Tests of the program `ouzel` from outside: started as a process, driven over its monitors and its serial port.
//!
//! One test binary, so that it is linked once. The environment says what to test with (`cargo xtask test` sets it):
//!
//! | variable | meaning | without it |
//! | --- | --- | --- |
//! | `OUZEL_BIN` | the emulator under test | the one that cargo built for the tests |
//! | `OUZEL_CTL_BIN` | the shell `ouzel-ctl` | beside the emulator |
//! | `OUZEL_GUESTS` | the guests of `cargo xtask guest` | `guest` in the target directory |
//! | `OUZEL_QEMU` | the peer to compare with | `qemu-system-x86_64` |
//! | `OUZEL_PYTHON` | a Python that has `qemu.qmp` | `guest/python/bin/python3` in the target directory |
//!
//! A test that needs another program or Debian's kernel is ignored by default and has `peer_<what>_` at the beginning
//! of its name; `cargo xtask test` runs those whose peer is there and lists the others as skipped.

#![forbid(unsafe_code)]

mod accelerators;
mod bare_metal;
mod bitmaps;
mod boards;
mod character;
mod command_line;
mod commands;
mod ctl;
mod curses;
mod debian;
mod display;
mod express;
mod firmware;
mod gdb;
mod hostile;
mod human;
mod human_devices;
mod human_virtio;
mod linux;
mod linux_ata;
mod linux_disk;
mod linux_hotplug;
mod linux_virtio;
mod lockstep;
mod machine_types;
mod platform;
mod protocol;
mod python;
mod qom;
mod snapshots;
mod spec_examples;
mod spec_jobs;
mod spec_snapshots;
mod spec_storage;
mod spice;
mod spice_viewer;
mod storage;
mod storage_chain;
mod storage_guest;
mod storage_mute;
mod storage_reopen;
mod storage_slow;
mod stress;
mod support;
mod terminals;
mod viewers;
mod vnc;
mod web;
