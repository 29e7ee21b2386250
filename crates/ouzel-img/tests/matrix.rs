//! format × option × direction: what one program makes, the other one opens, reads back identically, writes and checks.
//! The table is printed (`cargo test -p ouzel-img --test matrix -- --nocapture`); the test fails if a cell does.
//!
//! Columns: `read` is an image of `qemu-img` read and checked by Ouzel; `write` the same image written by Ouzel, read and
//! checked by `qemu-img`; `made` an image of Ouzel under `qemu-img`; `peer` that image written by `qemu-img` and read by
//! Ouzel. `-` is what the format does not do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

const OURS: &str = env!("CARGO_BIN_EXE_ouzel-img");
const THEIRS: &str = "qemu-img";
/// No multiple of any cluster size, but of a sector.
const SIZE: usize = (3 << 20) + 1536;

/// Format, options of creation, options of `convert`.
const CASES: &[(&str, &str, &str)] = &[
    ("raw", "", ""),
    ("raw", "preallocation=falloc", ""),
    ("raw", "preallocation=full", ""),
    ("qcow2", "", ""),
    ("qcow2", "compat=0.10", ""),
    ("qcow2", "compat=0.10,cluster_size=512", ""),
    ("qcow2", "cluster_size=512", ""),
    ("qcow2", "cluster_size=4k,refcount_bits=1", ""),
    ("qcow2", "cluster_size=2M,refcount_bits=64", ""),
    ("qcow2", "lazy_refcounts=on", ""),
    ("qcow2", "extended_l2=on", ""),
    ("qcow2", "extended_l2=on,cluster_size=16k", ""),
    ("qcow2", "preallocation=metadata", ""),
    ("qcow2", "preallocation=falloc", ""),
    ("qcow2", "preallocation=full", ""),
    ("qcow2", "preallocation=metadata,extended_l2=on", ""),
    ("qcow2", "data_file=DIR/data", ""),
    ("qcow2", "data_file=DIR/data,data_file_raw=on", ""),
    ("qcow2", "", "-c"),
    ("qcow2", "compat=0.10", "-c"),
    ("qcow2", "compression_type=zstd", "-c"),
    ("qcow2", "cluster_size=4k,compression_type=zstd", "-c -W"),
    ("qcow2", "", "-S 0"),
    ("qcow2", "", "-W -m 16"),
    ("qcow", "", ""),
    ("qed", "", ""),
    ("qed", "cluster_size=4k,table_size=2", ""),
    ("qed", "cluster_size=256k,table_size=4", ""),
    ("vmdk", "", ""),
    ("vmdk", "zeroed_grain=on", ""),
    ("vmdk", "compat6=on,adapter_type=lsilogic", ""),
    ("vmdk", "adapter_type=legacyESX,hwversion=9", ""),
    ("vmdk", "subformat=monolithicFlat", ""),
    ("vmdk", "subformat=twoGbMaxExtentSparse", ""),
    ("vmdk", "subformat=twoGbMaxExtentFlat", ""),
    ("vmdk", "subformat=streamOptimized", ""),
    ("vdi", "", ""),
    ("vdi", "static=on", ""),
    ("vpc", "", ""),
    ("vpc", "force_size=on", ""),
    ("vpc", "subformat=fixed", ""),
    ("vpc", "subformat=fixed,force_size=on", ""),
    ("vhdx", "", ""),
    ("vhdx", "block_size=1M,log_size=2M", ""),
    ("vhdx", "block_state_zero=off", ""),
    ("vhdx", "subformat=fixed", ""),
    ("parallels", "", ""),
    ("parallels", "cluster_size=64k", ""),
    ("luks", "key-secret=s,iter-time=10", ""),
    (
        "luks",
        "key-secret=s,iter-time=10,cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha512",
        "",
    ),
    ("luks", "key-secret=s,iter-time=10,cipher-alg=serpent-256,hash-alg=sha512", ""),
];

fn qemu_img_is_there() -> bool {
    Command::new(THEIRS).arg("--version").output().is_ok_and(|output| output.status.success())
}

struct Case {
    format: &'static str,
    options: String,
    convert: &'static str,
    directory: PathBuf,
}

fn run(program: &str, args: &[String]) -> Result<String, String> {
    let output = Command::new(program).args(args).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // What is not checked by a format is not wrong.
    let fine = output.status.success() || args[0] == "check" && output.status.code() == Some(63);
    if fine { Ok(text) } else { Err(format!("{program} {}: {}", args.join(" "), text.trim())) }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

impl Case {
    fn has_secret(&self) -> bool {
        self.format == "luks"
    }

    /// Images with compressed data only are written once.
    fn is_written_once(&self) -> bool {
        self.options.contains("streamOptimized")
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).to_str().expect("a plain path").to_owned()
    }

    fn objects(&self) -> Vec<String> {
        if self.has_secret() { words("--object secret,id=s,data=geheim") } else { Vec::new() }
    }

    /// The image as a list of options.
    fn image(&self, name: &str) -> String {
        let secret = if self.has_secret() { ",key-secret=s" } else { "" };
        format!("driver={}{secret},file.driver=file,file.filename={}", self.format, self.path(name))
    }

    fn raw(&self, name: &str) -> String {
        format!("driver=raw,file.driver=file,file.filename={}", self.path(name))
    }

    /// Makes `image` with the contents of the raw file `from`.
    fn make(&self, program: &str, from: &str, image: &str) -> Result<(), String> {
        let mut args = words("convert -q");
        args.extend(self.objects());
        args.extend(words(self.convert));
        args.extend(["-f".into(), "raw".into(), "-O".into(), self.format.into()]);
        if !self.options.is_empty() {
            args.extend(["-o".into(), self.options.clone()]);
        }
        args.extend([self.path(from), self.path(image)]);
        // The peer measures its own speed for LUKS and, where the kernel counts processor time by ticks, often finds none.
        let is_unmeasured = |result: &Result<_, String>| {
            result.as_ref().is_err_and(|error| error.contains("Unable to get accurate CPU usage"))
        };
        let mut result = run(program, &args);
        for _ in 0..50 {
            if !is_unmeasured(&result) {
                break;
            }
            result = run(program, &args);
        }
        result.map(|_| ())
    }

    /// Replaces the contents of `image` by those of the raw file `from`: whole ranges, and zeroes.
    fn replace(&self, program: &str, from: &str, image: &str) -> Result<(), String> {
        let mut args = words("convert -q -n --image-opts --target-image-opts");
        args.extend(self.objects());
        args.extend([self.raw(from), self.image(image)]);
        run(program, &args).map(|_| ())
    }

    /// Writes parts of clusters, in the image and in a raw file.
    fn scribble(&self, program: &str, image: &str, raw: &str) -> Result<(), String> {
        for name in [self.image(image), self.raw(raw)] {
            let mut args = words("bench -q --image-opts -w --pattern=90 -c 7 -d 3 -o 1536 -s 3072 -S 405504");
            args.push(name);
            run(program, &args)?;
        }
        Ok(())
    }

    /// Compares the image with a raw file, and checks it.
    fn verify(&self, program: &str, image: &str, raw: &str) -> Result<(), String> {
        let mut args = words("compare -q --image-opts");
        args.extend(self.objects());
        args.extend([self.image(image), self.raw(raw)]);
        run(program, &args)?;
        let mut args = words("check -q --image-opts");
        args.extend(self.objects());
        args.push(self.image(image));
        run(program, &args).map(|_| ())
    }

    /// What both programs say of the size.
    fn same_size(&self, image: &str) -> Result<(), String> {
        let size = |program: &str| {
            let mut args = words("info --output=json --image-opts");
            args.extend(self.objects());
            args.push(self.image(image));
            let text = run(program, &args)?;
            let line = text.lines().find(|line| line.trim_start().starts_with("\"virtual-size\""));
            line.map(|line| line.trim().trim_end_matches(',').to_owned()).ok_or(text)
        };
        let (ours, theirs) = (size(OURS)?, size(THEIRS)?);
        if ours == theirs { Ok(()) } else { Err(format!("{ours}, but for the peer {theirs}")) }
    }

    /// An image of `maker` is read by `other`; then `other` writes it and `maker` reads.
    fn directions(&self, maker: &str, other: &str) -> [Cell; 2] {
        let (image, contents) = ("image", "contents");
        fs::copy(self.path("first"), self.path(contents)).expect("copies");
        let made = self.make(maker, contents, image).and_then(|()| self.same_size(image));
        if let Err(error) = made {
            return [Cell::Failed(error), Cell::Failed("nothing to write".to_owned())];
        }
        let read = self.verify(other, image, contents);
        let written = if self.is_written_once() {
            Cell::Not
        } else {
            let write = || {
                if !self.has_secret() {
                    // `bench` takes no secrets.
                    self.scribble(other, image, contents)?;
                    self.verify(maker, image, contents)?;
                }
                fs::copy(self.path("second"), self.path(contents)).expect("copies");
                self.replace(other, contents, image)?;
                self.verify(maker, image, contents)?;
                self.verify(other, image, contents)
            };
            write().into()
        };
        for entry in fs::read_dir(&self.directory).expect("a directory").flatten() {
            if !["first", "second"].contains(&entry.file_name().to_str().unwrap_or_default()) {
                fs::remove_file(entry.path()).expect("removes");
            }
        }
        [read.into(), written]
    }
}

enum Cell {
    Good,
    Not,
    Failed(String),
}

impl From<Result<(), String>> for Cell {
    fn from(result: Result<(), String>) -> Self {
        result.map_or_else(Self::Failed, |()| Self::Good)
    }
}

/// Data, noise and holes, different for each `seed`.
fn contents(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    let mut state = seed;
    for (index, chunk) in bytes.chunks_mut(24 << 10).enumerate() {
        for byte in chunk.iter_mut() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = match (index as u64 + seed) % 4 {
                0 => 0,
                1 => b'a' + (index % 26) as u8,
                _ => (state >> 56) as u8,
            };
        }
    }
    bytes
}

fn row(format: &'static str, options: &str, convert: &'static str, directory: &Path) -> [Cell; 4] {
    let options = options.replace("DIR", directory.to_str().expect("a plain path"));
    let case = Case { format, options, convert, directory: directory.to_owned() };
    static CONTENTS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| [contents(1), contents(2)]);
    fs::write(directory.join("first"), &CONTENTS[0]).expect("writes");
    fs::write(directory.join("second"), &CONTENTS[1]).expect("writes");
    let [read, write] = case.directions(THEIRS, OURS);
    let [made, peer] = case.directions(OURS, THEIRS);
    [read, write, made, peer]
}

#[test]
fn images_of_either_program_are_read_written_and_checked_by_the_other() {
    if !qemu_img_is_there() {
        eprintln!("skipped: qemu-img is not installed");
        return;
    }
    let next = AtomicUsize::new(0);
    let rows: Mutex<Vec<(usize, [Cell; 4])>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((format, options, convert)) = CASES.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let index = CASES.iter().position(|case| case == &(*format, *options, *convert)).expect("a case");
                    let directory = tempfile::tempdir().expect("a directory");
                    let cells = row(format, options, convert, directory.path());
                    rows.lock().expect("no panic").push((index, cells));
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("no panic");
    rows.sort_by_key(|(index, _)| *index);
    let mut failures = Vec::new();
    println!("{:10} {:70} {:9} read write made peer", "format", "options", "convert");
    for (index, cells) in &rows {
        let (format, options, convert) = CASES[*index];
        let mut marks = String::new();
        for (cell, width) in cells.iter().zip([5, 6, 5, 4]) {
            let mark = match cell {
                Cell::Good => "ok",
                Cell::Not => "-",
                Cell::Failed(error) => {
                    failures.push(format!("{format} {options} {convert}: {error}"));
                    "FAIL"
                }
            };
            marks.push_str(&format!("{mark:width$}"));
        }
        println!("{format:10} {options:70.70} {convert:9} {marks}");
    }
    println!("{} of {} cells failed", failures.len(), rows.len() * 4);
    assert_eq!(rows.len(), CASES.len(), "all cases ran");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
