//! The files of the console, compressed when they were built; `build.rs` embeds them.

use std::io::Read as _;

/// One file.
pub struct File {
    /// Its path: `/index.html`.
    pub path: &'static str,
    /// What it is.
    pub media_type: &'static str,
    /// What it contains, for browsers that have it already.
    pub tag: &'static str,
    /// Its content.
    pub gzip: &'static [u8],
    /// The same.
    pub brotli: &'static [u8],
}

static FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// Whether the console was built when the program was.
pub fn are_there() -> bool {
    !FILES.is_empty()
}

/// The file at a path.
pub fn find(path: &str) -> Option<&'static File> {
    let path = if path == "/" { "/index.html" } else { path };
    FILES.iter().find(|file| file.path == path)
}

impl File {
    /// Its name tells its content.
    pub fn is_for_ever(&self) -> bool {
        self.path.starts_with("/assets/")
    }

    /// Its content as it was, for those who can't unpack.
    pub fn unpacked(&self) -> Vec<u8> {
        let mut content = Vec::new();
        // What the build has packed can be unpacked.
        let _ = flate2::read::GzDecoder::new(self.gzip).read_to_end(&mut content);
        content
    }
}
