//! Zlib: raw pixels through one stream of deflate.

use display::{Rectangle, Surface};

use super::{Encoder, rows};

impl Encoder {
    pub(super) fn zlib(&mut self, picture: &Surface, area: Rectangle, out: &mut Vec<u8>) {
        self.scratch.clear();
        for row in rows(picture, area) {
            self.converter.put(row, &mut self.scratch);
        }
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        self.zlib.compress(&self.scratch, self.style.compression, out);
        super::zrle::put_length(out, start);
    }
}
