//! What guests send to a tablet on a serial line (`wctablet`), at any speed and in any pieces, while somebody draws.
#![no_main]

use chardev::Tablet;
use libfuzzer_sys::fuzz_target;

/// The longest answer and report that a tablet may owe at once.
const OUTPUT_MAX: usize = 512;

/// Everything but commands: speeds, the pen, what the guest reads. Where commands are cut does not matter.
fn play(data: &[u8], piece: usize) -> Vec<u8> {
    let tablet = Tablet::default();
    let mut heard = Vec::new();
    tablet.set_speed(9600);
    for line in data.split_inclusive(|byte| *byte == 0) {
        let (command, act) = line.split_at(line.len().saturating_sub(5));
        command.chunks(piece).for_each(|piece| tablet.receive(piece));
        let [act, x, y, fine, _] = *act else { continue };
        match act & 7 {
            0 => tablet.set_speed(if x & 1 == 0 { 9600 } else { u32::from(y) * 600 }),
            1 => tablet.touch(x & 1 == 1),
            2 => tablet.report(),
            3 => {
                let output = tablet.take_output();
                assert!(output.len() <= OUTPUT_MAX);
                heard.extend(output);
            }
            _ => {
                let place = |high: u8| (high != 0xff).then_some((i64::from(high) - 64) << 8 | i64::from(fine));
                tablet.move_to(place(x), place(y));
            }
        }
    }
    heard.extend(tablet.take_output());
    heard
}

fuzz_target!(|data: &[u8]| {
    let Some((piece, data)) = data.split_first() else { return };
    let heard = play(data, usize::MAX);
    assert_eq!(heard, play(data, usize::from(*piece).max(1)));
    // Only reports and answers to tests have the highest bit set, and only in their first byte.
    for (at, byte) in heard.iter().enumerate().filter(|(_, byte)| **byte & 0x80 != 0) {
        assert!(matches!(byte, 0xa0..=0xa3 | 0xe0..=0xe3), "{byte:#x} at {at}");
    }
});
