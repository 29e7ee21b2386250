//! Pictures as files: binary PPM (Netpbm's `ppm(5)`, P6) and PNG (ISO/IEC 15948), both 8 bits a channel.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::surface::Surface;

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// Portable pixmap.
    Ppm,
    /// Portable network graphics.
    Png,
}

fn rgb(row: &[u32], into: &mut Vec<u8>) {
    for pixel in row {
        let [blue, green, red, _] = pixel.to_le_bytes();
        into.extend_from_slice(&[red, green, blue]);
    }
}

/// Writes a picture.
///
/// # Errors
/// Those of `to`.
pub fn write(picture: &Surface, format: ImageFormat, to: &mut dyn Write) -> io::Result<()> {
    match format {
        ImageFormat::Ppm => write_ppm(picture, to),
        ImageFormat::Png => write_png(picture, to),
    }
}

fn write_ppm(picture: &Surface, to: &mut dyn Write) -> io::Result<()> {
    write!(to, "P6\n{} {}\n255\n", picture.width(), picture.height())?;
    let mut line = Vec::with_capacity(3 * picture.width() as usize);
    for y in 0..picture.height() {
        line.clear();
        rgb(picture.row(y), &mut line);
        to.write_all(&line)?;
    }
    Ok(())
}

fn write_png(picture: &Surface, to: &mut dyn Write) -> io::Result<()> {
    to.write_all(b"\x89PNG\r\n\x1a\n")?;
    let mut header = Vec::new();
    header.extend_from_slice(&picture.width().to_be_bytes());
    header.extend_from_slice(&picture.height().to_be_bytes());
    // 8 bits a channel, RGB, and the only methods that there are.
    header.extend_from_slice(&[8, 2, 0, 0, 0]);
    chunk(to, *b"IHDR", &header)?;
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let mut line = Vec::with_capacity(1 + 3 * picture.width() as usize);
    for y in 0..picture.height() {
        line.clear();
        // Each row says by which filter it was made: none.
        line.push(0);
        rgb(picture.row(y), &mut line);
        encoder.write_all(&line)?;
    }
    chunk(to, *b"IDAT", &encoder.finish()?)?;
    chunk(to, *b"IEND", &[])
}

fn chunk(to: &mut dyn Write, kind: [u8; 4], data: &[u8]) -> io::Result<()> {
    let len = u32::try_from(data.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut crc = flate2::Crc::new();
    crc.update(&kind);
    crc.update(data);
    to.write_all(&len.to_be_bytes())?;
    to.write_all(&kind)?;
    to.write_all(data)?;
    to.write_all(&crc.sum().to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn picture() -> Surface {
        let mut picture = Surface::new(2, 1);
        picture.row_mut(0).copy_from_slice(&[0x0012_3456, 0xff00_00ff]);
        picture
    }

    #[test]
    fn ppm_has_header_and_red_green_blue() {
        let mut file = Vec::new();
        write(&picture(), ImageFormat::Ppm, &mut file).expect("written");
        assert_eq!(file, b"P6\n2 1\n255\n\x12\x34\x56\x00\x00\xff");
    }

    #[test]
    fn png_has_its_chunks_and_unpacks_to_the_rows() {
        let mut file = Vec::new();
        write(&picture(), ImageFormat::Png, &mut file).expect("written");
        assert_eq!(&file[12..33], b"IHDR\0\0\0\x02\0\0\0\x01\x08\x02\0\0\0\x7b\x40\xe8\xdd");
        let data = file.windows(4).position(|window| window == b"IDAT").expect("data");
        let mut rows = Vec::new();
        flate2::read::ZlibDecoder::new(&file[data + 4..]).read_to_end(&mut rows).expect("unpacked");
        assert_eq!(rows, b"\0\x12\x34\x56\x00\x00\xff");
        assert!(file.ends_with(b"\0\0\0\0IEND\xae\x42\x60\x82"));
    }
}
