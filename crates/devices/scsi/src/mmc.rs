//! What a CD or DVD drive tells of its medium (MMC-5, chapter 6), with QEMU's contents: one data track, one session.

/// Profile numbers (MMC-5, 5.3.1).
pub const CD_ROM: u16 = 0x0008;
/// See [`CD_ROM`].
pub const DVD_ROM: u16 = 0x0010;
/// Bytes of a block of a data disc.
pub const BLOCK: u64 = 2048;

/// The profile of a medium of that many blocks of [`BLOCK`] bytes: CDs end at 80 minutes.
pub fn profile(blocks: u64) -> u16 {
    const CD_BLOCKS: u64 = 80 * 60 * 75;
    if blocks > CD_BLOCKS { DVD_ROM } else { CD_ROM }
}

/// A profile list: feature 0, persistent and current.
pub fn profile_list(profile: Option<u16>) -> Vec<u8> {
    let mut data = vec![0, 0, 0x03, 8];
    for offered in [DVD_ROM, CD_ROM] {
        data.extend(offered.to_be_bytes());
        data.extend([u8::from(profile == Some(offered)), 0]);
    }
    data
}

/// Minutes, seconds, frames of a block.
pub fn msf(block: u64) -> [u8; 3] {
    let frames = block.saturating_add(150);
    [(frames / 75 / 60) as u8, (frames / 75 % 60) as u8, (frames % 75) as u8]
}

/// A block's address as the table of contents has it.
fn address(block: u64, is_msf: bool) -> [u8; 4] {
    if is_msf {
        let [minute, second, frame] = msf(block);
        [0, minute, second, frame]
    } else {
        (block as u32).to_be_bytes()
    }
}

fn with_length(mut data: Vec<u8>) -> Vec<u8> {
    let len = (data.len() - 2) as u16;
    data[..2].copy_from_slice(&len.to_be_bytes());
    data
}

/// READ TOC, format 0: the table of contents of one data track; `None` for tracks that do not exist.
pub fn toc(blocks: u64, is_msf: bool, first_track: u8) -> Option<Vec<u8>> {
    const LEAD_OUT: u8 = 0xaa;
    if first_track > 1 && first_track != LEAD_OUT {
        return None;
    }
    let mut data = vec![0, 0, 1, 1];
    if first_track <= 1 {
        data.extend([0, 0x14, 1, 0]);
        data.extend(address(0, is_msf));
    }
    data.extend([0, 0x16, LEAD_OUT, 0]);
    data.extend(address(blocks, is_msf));
    Some(with_length(data))
}

/// READ TOC, format 1: the one session.
pub fn sessions() -> Vec<u8> {
    vec![0, 10, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// READ TOC, format 2: the Q channel of the lead-in.
pub fn raw_toc(blocks: u64, is_msf: bool) -> Vec<u8> {
    let mut data = vec![0, 0, 1, 1];
    data.extend([1, 0x14, 0, 0xa0, 0, 0, 0, 0, 1, 0, 0]);
    data.extend([1, 0x14, 0, 0xa1, 0, 0, 0, 0, 1, 0, 0]);
    data.extend([1, 0x14, 0, 0xa2, 0, 0, 0]);
    data.extend(address(blocks, is_msf));
    data.extend([1, 0x14, 0, 1, 0, 0, 0]);
    data.extend(if is_msf { address(0, true) } else { [0; 4] });
    with_length(data)
}

/// READ DISC INFORMATION: complete and finalised; one session with one track; unrestricted use.
pub fn disc_information() -> Vec<u8> {
    let mut information = vec![0; 34];
    information[1..8].copy_from_slice(&[32, 0x0e, 1, 1, 1, 1, 0x20]);
    information
}

/// MECHANISM STATUS: one slot.
pub fn mechanism_status() -> Vec<u8> {
    vec![0, 0, 0, 0, 0, 1, 0, 0]
}

/// The formats of READ DVD STRUCTURE that a drive lists, with their lengths.
pub type DvdFormats = [(u8, u16)];

/// A DVD's structure: the physical format, copyright, manufacturing (`formats` has them), and with `0xff` the list.
pub fn dvd_structure(format: u8, blocks: u64, formats: &DvdFormats) -> Option<Vec<u8>> {
    if format == 0xff {
        let mut data = vec![0; 4];
        for (format, len) in formats {
            data.extend([*format, if *format == 0xff { 0x00 } else { 0x40 }]);
            data.extend(len.to_be_bytes());
        }
        return Some(with_length(data));
    }
    let len = formats.iter().find(|(known, _)| *known == format)?.1;
    let mut data = vec![0; usize::from(len).max(4)];
    if format == 0x00 {
        // DVD-ROM, part version 1; 120 mm; one embossed layer; from sector 0 on.
        data.resize(data.len().max(20), 0);
        data[4..8].copy_from_slice(&[0x01, 0x0f, 0x01, 0x00]);
        let last = (blocks.saturating_sub(1) as u32).to_be_bytes();
        data[12..16].copy_from_slice(&last);
        data[16..20].copy_from_slice(&last);
    }
    Some(with_length(data))
}

/// GET EVENT STATUS NOTIFICATION (MMC-5, 6.7) for the classes that `requested` has bits for. A pending new medium or
/// request to eject is told once. Only the media class exists.
pub fn event_status(
    requested: u8,
    (tray_open, has_medium): (bool, bool),
    new_media: &mut bool,
    eject_requested: &mut bool,
) -> Vec<u8> {
    const MEDIA: u8 = 4;
    if requested & (1 << MEDIA) == 0 {
        return vec![0, 0, 0x80, 1 << MEDIA];
    }
    let (event, condition) = if tray_open {
        (0, 1)
    } else {
        let event = if std::mem::take(new_media) {
            2
        } else if std::mem::take(eject_requested) {
            1
        } else {
            0
        };
        (event, if has_medium { 2 } else { 0 })
    };
    vec![0, 4, MEDIA, 1 << MEDIA, event, condition, 0, 0]
}
