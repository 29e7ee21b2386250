//! What a packet drive tells of itself and of its medium: the layouts of MMC-5 and SPC-3, with QEMU's contents.

use super::{BLOCK, RAW_BLOCK};

/// Profile numbers (MMC-5, 5.3.1).
pub const CD_ROM: u16 = 0x0008;
/// See [`CD_ROM`].
pub const DVD_ROM: u16 = 0x0010;

fn text(page: &mut Vec<u8>, text: &str, len: usize) {
    page.extend(text.bytes().chain(std::iter::repeat(b' ')).take(len));
}

/// The standard inquiry data.
pub fn inquiry(version: &str) -> Vec<u8> {
    let mut page = vec![0x05, 0x80, 0x00, 0x21, 31, 0, 0, 0];
    text(&mut page, "QEMU", 8);
    text(&mut page, "QEMU DVD-ROM", 16);
    text(&mut page, version, 4);
    page
}

/// The device identification page; `None` when not even its first descriptor fits.
pub fn identification(serial: &str, model: &str, wwn: u64, allocated: usize) -> Option<Vec<u8>> {
    const FIRST: usize = 24;
    const SECOND: usize = 72;
    let mut page = vec![0x05, 0x83, 0, 0];
    if page.len() + FIRST > allocated {
        return None;
    }
    page.extend([0x02, 0x00, 0, 20]);
    text(&mut page, serial, 20);
    if page.len() + SECOND <= allocated {
        page.extend([0x02, 0x01, 0, 68]);
        text(&mut page, "ATA", 8);
        text(&mut page, model, 40);
        text(&mut page, serial, 20);
        if wwn != 0 && page.len() + 12 <= allocated {
            page.extend([0x01, 0x03, 0, 8]);
            page.extend(wwn.to_be_bytes());
        }
    }
    page[3] = (page.len() - 4) as u8;
    Some(page)
}

/// The profile list, and which profile the medium has.
pub fn configuration(profile: Option<u16>) -> Vec<u8> {
    let mut data = vec![0, 0, 0, 16, 0, 0];
    data.extend(profile.unwrap_or(0).to_be_bytes());
    // Feature 0, persistent and current.
    data.extend([0, 0, 0x03, 8]);
    for offered in [DVD_ROM, CD_ROM] {
        data.extend(offered.to_be_bytes());
        data.extend([u8::from(profile == Some(offered)), 0]);
    }
    data
}

/// Minutes, seconds, frames.
fn msf(block: u64) -> [u8; 3] {
    let frames = block + 150;
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

/// The table of contents of one data track; `None` for tracks that do not exist.
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

/// The raw table of contents: the Q channel of the lead-in.
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

/// A DVD's structures: the physical format, copyright, manufacturing, and the list of them.
pub fn dvd_structure(format: u8, blocks: u64) -> Option<Vec<u8>> {
    const LIST: [(u8, u16); 4] = [(0x00, 2048 + 4), (0x01, 4 + 4), (0x04, 2048 + 4), (0xff, 4 * 4 + 4)];
    let len = LIST.iter().find(|(known, _)| *known == format)?.1;
    let mut data = vec![0; usize::from(len)];
    match format {
        0x00 => {
            // DVD-ROM, part version 1; 120 mm; one embossed layer; from sector 0 on.
            data[4..8].copy_from_slice(&[0x01, 0x0f, 0x01, 0x00]);
            let last = (blocks.saturating_sub(1) as u32).to_be_bytes();
            data[12..16].copy_from_slice(&last);
            data[16..20].copy_from_slice(&last);
        }
        0xff => {
            for (entry, (format, len)) in data[4..].chunks_mut(4).zip(LIST) {
                entry[..2].copy_from_slice(&[format, if format == 0xff { 0x00 } else { 0x40 }]);
                entry[2..].copy_from_slice(&len.to_be_bytes());
            }
        }
        _ => {}
    }
    Some(with_length(data))
}

/// A mode page: error recovery, audio control, capabilities.
pub fn mode_page(code: u8, is_locked: bool) -> Option<Vec<u8>> {
    Some(match code {
        0x01 => vec![0x01, 6, 0x00, 0x05, 0, 0, 0, 0],
        0x0e => [&[0x0e, 14][..], &[0; 14]].concat(),
        0x2a => {
            // Reads all media; multi-session, mode 2, audio play; C2 pointers and subchannels of audio; a tray that is
            // locked and ejected by command; four-fold speed, 512 KiB of buffer.
            let lock = 0x29 | if is_locked { 0x02 } else { 0 };
            let mut page = vec![0x2a, 20, 0x3b, 0x00, 0x71, 0x60, lock, 0x00];
            for word in [704u16, 2, 512, 704] {
                page.extend(word.to_be_bytes());
            }
            page.extend([0; 6]);
            page
        }
        _ => return None,
    })
}

/// Blocks with what is around their data: synchronisation, address, mode. The error correction is not computed.
pub fn raw(first: u64, blocks: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(blocks.len() / BLOCK * RAW_BLOCK);
    for (block, number) in blocks.chunks(BLOCK).zip(first..) {
        let end = data.len() + RAW_BLOCK;
        data.push(0);
        data.extend([0xff; 10]);
        data.push(0);
        data.extend(msf(number));
        data.push(1);
        data.extend(block);
        data.resize(end, 0);
    }
    data
}
