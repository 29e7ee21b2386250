//! What commands do that `qemu-img` is not needed for: bitmaps, copies by the host, chains with loops.

use std::fs;
use std::path::Path;
use std::process::Command;

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// What a line prints, and whether it ends with success.
    fn run(&self, line: &str) -> (String, bool) {
        let output = Command::new(env!("CARGO_BIN_EXE_ouzel-img"))
            .args(line.split_whitespace())
            .current_dir(self.path())
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (text, output.status.success())
    }

    fn good(&self, line: &str) -> String {
        let (text, success) = self.run(line);
        assert!(success, "{line}: {text}");
        text
    }

    fn fails(&self, line: &str, message: &str) {
        let (text, success) = self.run(line);
        assert!(!success, "{line} succeeds");
        assert!(text.contains(message), "{line}: {text}");
    }

    /// The names of the bitmaps of an image, with their granularities, and `auto` for those that record.
    fn bitmaps(&self, image: &str) -> Vec<String> {
        let text = self.good(&format!("info --output=json {image}"));
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let list = json["format-specific"]["data"]["bitmaps"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<String> = list
            .iter()
            .map(|bitmap| {
                let auto = bitmap["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "auto"));
                let auto = if auto { " auto" } else { "" };
                format!("{} {}{auto}", bitmap["name"].as_str().unwrap_or("?"), bitmap["granularity"])
            })
            .collect();
        names.sort();
        names
    }
}

#[test]
fn bitmaps_are_made_changed_merged_and_copied() {
    let directory = Directory::new();
    directory.good("create -q -f qcow2 a 8M");
    directory.good("bitmap --add a one");
    directory.good("bitmap --add --disable -g 512k a two");
    assert_eq!(directory.bitmaps("a"), ["one 65536 auto", "two 524288"]);
    directory.good("bench -q -w -f qcow2 -c 1 -s 65536 -o 1M a");
    directory.good("bitmap --merge one --enable a two");
    directory.good("bitmap --disable --clear a one");
    assert_eq!(directory.bitmaps("a"), ["one 65536", "two 524288 auto"]);
    directory.good("create -q -f qcow2 b 8M");
    directory.good("bitmap --add --merge two -b a -F qcow2 b three");
    assert_eq!(directory.bitmaps("b"), ["three 65536 auto"]);
    directory.good("convert --bitmaps -O qcow2 a copy");
    assert_eq!(directory.bitmaps("copy"), directory.bitmaps("a"));
    directory.good("bitmap --remove copy one");
    assert_eq!(directory.bitmaps("copy"), ["two 524288 auto"]);
    directory.good("check -q copy");
    directory.fails("bitmap --remove copy one", "Operation remove on bitmap one failed: Dirty bitmap 'one' not found");
    directory.fails("bitmap --add copy two", "Operation add on bitmap two failed: Bitmap already exists: two");
    directory
        .fails("bitmap copy two", "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
    directory.fails("bitmap --clear -g 64k copy two", "granularity only supported with --add");
    directory.fails("bitmap --add -g 1000 copy x", "Granularity must be power of 2");
    directory.fails("convert --bitmaps -O raw a raw", "Format driver 'raw' does not support bitmaps");
    directory.fails("convert --skip-broken-bitmaps -O raw a raw", "--skip-broken-bitmaps requires --bitmaps");
}

#[test]
fn copies_by_the_host_have_the_same_bytes_and_holes() {
    let directory = Directory::new();
    let mut bytes = vec![0; 5 << 20];
    for (index, byte) in bytes[1 << 20..2 << 20].iter_mut().enumerate() {
        *byte = (index % 251) as u8 + 1;
    }
    bytes[4_999_999] = 9;
    fs::write(directory.path().join("raw"), &bytes).expect("writes");
    directory.good("convert -f raw -O qcow2 raw image");
    for line in ["convert -C -f raw -O raw raw out", "convert -C -f qcow2 -O raw image out"] {
        directory.good(line);
        let found = fs::read(directory.path().join("out")).expect("reads");
        assert!(found == bytes, "{line}");
        fs::remove_file(directory.path().join("out")).expect("removes");
    }
    directory.good("convert -C -f raw -O qcow2 raw out");
    directory.good("compare -q -f raw -F qcow2 raw out");
    directory.fails("convert -C -c -f raw -O qcow2 raw out", "Cannot enable copy offloading when -c is used");
}

#[test]
fn chains_with_loops_are_refused() {
    let directory = Directory::new();
    directory.good("create -q -f qcow2 a 1M");
    directory.good("create -q -f qcow2 -b a -F qcow2 b");
    directory.good("rebase -u -b b -F qcow2 a");
    directory.fails("info --backing-chain a", "Backing file 'a' creates an infinite loop.");
    directory.fails("convert -O raw a out", "The backing files of 'a' lead back to it");
    directory.fails("map b", "lead back to it");
    directory.good("rebase -u -b a -F qcow2 a");
    directory.fails("compare a b", "lead back to it");
}
