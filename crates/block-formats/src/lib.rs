//! Image formats of other programs.
//!
//! | format | of | read | written | created |
//! | --- | --- | --- | --- | --- |
//! | [`vdi`] | VirtualBox | yes | yes | yes |
//! | [`vpc`] | Virtual PC, Hyper-V (VHD) | yes | yes | yes |
//! | [`vmdk`] | VMware | yes | yes | yes |
//! | [`vhdx`] | Hyper-V | yes | yes | yes |
//! | [`parallels`] | Parallels, Virtuozzo | yes | yes | yes |
//! | [`qed`] | QEMU before qcow2 version 3 | yes | yes | yes |
//! | [`qcow`] | QEMU before qcow2 | yes | yes | yes |
//! | [`bochs`], [`cloop`], [`dmg`] | Bochs, Knoppix, macOS | yes | no | no |
//!
//! Where formats have clusters, [`sparse`] reads and writes them; [`meta`] keeps their tables and writes them in order.
//! The modules of the formats say what is special about each.

#![forbid(unsafe_code)]

pub mod bochs;
mod bytes;
pub mod cloop;
pub mod dmg;
mod meta;
pub mod parallels;
pub mod qcow;
pub mod qed;
mod readonly;
mod sparse;
mod tables;
pub mod vdi;
pub mod vhdx;
pub mod vmdk;
pub mod vpc;

use block::DriverType;

/// The drivers of this crate.
pub fn drivers() -> Vec<&'static dyn DriverType> {
    vec![
        &vdi::VdiType,
        &vpc::VpcType,
        &vmdk::VmdkType,
        &vhdx::VhdxType,
        &parallels::ParallelsType,
        &qed::QedType,
        &qcow::QcowType,
        &bochs::BochsType,
        &cloop::CloopType,
        &dmg::DmgType,
    ]
}
