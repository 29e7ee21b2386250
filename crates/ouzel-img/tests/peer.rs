//! The commands against `qemu-img`: each line runs with both programs in directories of their own, and what they print
//! and return must be the same. Without `qemu-img` on this machine the tests report that they were skipped.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Two directories, and in each a program called `qemu-img`.
struct Pair {
    ours: (PathBuf, tempfile::TempDir),
    theirs: (PathBuf, tempfile::TempDir),
}

fn peer(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}

impl Pair {
    fn new(test: &str) -> Option<Self> {
        let Some(theirs) = peer("qemu-img") else {
            eprintln!("skipped: {test}: qemu-img is not installed");
            return None;
        };
        let version = Command::new(&theirs).arg("--version").output().expect("it runs").stdout;
        if !String::from_utf8_lossy(&version).contains("version 7.2") {
            eprintln!("skipped: {test}: qemu-img is not version 7.2");
            return None;
        }
        let directory = || tempfile::tempdir().expect("a directory");
        let (a, b) = (directory(), directory());
        let link = a.path().join("qemu-img");
        symlink(env!("CARGO_BIN_EXE_ouzel-img"), &link).expect("a link");
        Some(Self { ours: (link, a), theirs: (theirs, b) })
    }

    fn run(program: &Path, directory: &Path, line: &str) -> (String, Option<i32>) {
        let words = line.split_whitespace().map(|word| if word == "''" { "" } else { word });
        let output = Command::new(program).args(words).current_dir(directory).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        // How much storage an image takes is up to its driver.
        let lines: Vec<&str> =
            text.lines().filter(|line| !line.contains("disk size:") && !line.contains("\"actual-size\"")).collect();
        (lines.join("\n"), output.status.code())
    }

    /// Runs a line with both.
    fn same(&self, line: &str) {
        let ours = Self::run(&self.ours.0, self.ours.1.path(), line);
        let theirs = Self::run(&self.theirs.0, self.theirs.1.path(), line);
        assert_eq!(ours, theirs, "qemu-img {line}");
    }

    fn all_same(&self, lines: &str) {
        lines.lines().map(str::trim).filter(|line| !line.is_empty()).for_each(|line| self.same(line));
    }

    /// Puts the same file into both directories.
    fn write(&self, name: &str, bytes: &[u8]) {
        for directory in [&self.ours.1, &self.theirs.1] {
            std::fs::write(directory.path().join(name), bytes).expect("a file");
        }
    }

    /// Both images have the same contents, as the peer sees them.
    fn same_contents(&self, name: &str) {
        let ours = self.ours.1.path().join(name);
        let theirs = self.theirs.1.path().join(name);
        let output = Command::new(&self.theirs.0).arg("compare").args([ours, theirs]).output().expect("it runs");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }

    /// The peer finds no errors in our image.
    fn is_clean(&self, name: &str) {
        let output = Command::new(&self.theirs.0).args(["check", name]).current_dir(self.ours.1.path()).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// 3 MiB with data at odd places, a run of zeroes and a hole at the end.
fn pattern() -> Vec<u8> {
    let mut bytes = vec![0; 3 << 20];
    for (start, len, byte) in [(1000, 70_000, 7), (200_000, 1, 9), (1 << 20, 65536, 3), (2_000_001, 300_000, 200)] {
        bytes[start..start + len].fill(byte);
    }
    bytes
}

#[test]
fn raw_images_are_made_described_and_resized_alike() {
    let Some(pair) = Pair::new("raw_images_are_made_described_and_resized_alike") else { return };
    pair.all_same(
        "create -f raw a.raw 1M
        create a.raw 1000
        info a.raw
        info --output=json a.raw
        info --output=json --backing-chain a.raw
        create -f raw a.raw 1.5M
        resize -f raw a.raw +1G
        resize -f raw a.raw 1M
        resize -f raw --shrink a.raw 1M
        resize -f raw --shrink a.raw -1k
        resize -f raw a.raw 0
        resize a.raw 1x
        resize -f raw --preallocation=nope a.raw 1
        info --output=json a.raw
        create -f raw -o preallocation=full b.raw 64k
        create -f raw -o preallocation=falloc c.raw 64k
        create -f raw -o help
        create -f raw -o help x
        measure --size 1G
        measure --output=json -O raw a.raw
        info json:{'driver':'raw','offset':512,'file':{'driver':'file','filename':'a.raw'}}
        info --image-opts driver=raw,file.filename=a.raw
        check a.raw
        snapshot -l a.raw",
    );
}

#[test]
fn wrong_command_lines_get_the_same_answers() {
    let Some(pair) = Pair::new("wrong_command_lines_get_the_same_answers") else { return };
    pair.write("a.raw", &[0; 4096]);
    pair.all_same(
        "nonsense
        create
        create -f raw
        create x
        create x 1 2
        create x 1x
        create x 9E
        create -f nope x 1
        create -f bochs x 1
        create -f raw -o nope=1 x 1
        create -f raw -o size=1x x
        create -f raw -o size=1 x 1
        create -f raw -o ,size=1 x
        create -f raw -b y -F raw x
        create nope:x 1
        create no/dir 1
        create --nope
        create -Z
        create -b
        info
        info a b
        info -f
        info missing
        info --output=nope a.raw
        info -f nope a.raw
        info --image-opts a.raw
        info --image-opts -f raw file.filename=a.raw
        info --image-opts driver=raw,file.filename=a.raw,colour=red
        info --object nope,id=a a.raw
        info --object secret,id=a a.raw
        info --object secret,id=a,file=/missing a.raw
        info -U --image-opts force-share=off,file.filename=a.raw
        map missing
        compare a.raw
        compare a.raw missing
        compare -T nope a.raw a.raw
        convert a.raw
        convert -S 1 a.raw x
        convert -m 0 a.raw x
        convert -m 17 a.raw x
        convert -O nope a.raw x
        convert -c a.raw x
        convert -n a.raw missing
        convert -n -o x=1 a.raw x
        convert --target-is-zero a.raw x
        convert --target-image-opts a.raw file.filename=x
        convert -t nope a.raw x
        convert -T nope a.raw x
        convert -C -S 1k a.raw x
        convert -B b -O raw a.raw x
        convert missing x
        convert a.raw no/dir
        dd if=a.raw
        dd nope
        dd nope=1
        dd if=a.raw of=x bs=0
        measure
        measure --size 1 a.raw
        measure -f raw
        measure -O nope a.raw
        amend a.raw
        amend -f raw -o help
        rebase a.raw
        commit -f raw a.raw
        commit -f raw -b x a.raw
        bench -c x a.raw
        bench -t x a.raw
        bench -i x a.raw
        bench --flush-interval=1 a.raw
        bench -d 4 --flush-interval=1 -w a.raw
        snapshot -l -c a a.raw
        check -r nope a.raw
        resize
        resize a.raw",
    );
}

#[test]
fn conversions_between_raw_images_keep_data_and_holes() {
    let Some(pair) = Pair::new("conversions_between_raw_images_keep_data_and_holes") else { return };
    pair.write("a.raw", &pattern());
    pair.write("odd.raw", &pattern()[..43009]);
    pair.all_same(
        "convert -f raw a.raw b.raw
        map --output=json b.raw
        map b.raw
        map --output=json -s 32k -l 100k b.raw
        map --output=json odd.raw
        compare a.raw b.raw
        compare -s a.raw b.raw
        convert -S 0 a.raw c.raw
        map --output=json c.raw
        convert -S 64k a.raw d.raw
        map --output=json d.raw
        convert a.raw odd.raw cat.raw
        info --output=json cat.raw
        compare a.raw cat.raw
        compare cat.raw a.raw
        compare -s a.raw cat.raw
        convert -n a.raw cat.raw
        convert -n --target-is-zero a.raw cat.raw
        convert -W -m 16 -t none a.raw e.raw
        convert -r 1G --salvage -q a.raw f.raw
        dd if=a.raw of=g.raw bs=1k count=2000 skip=60
        info --output=json g.raw
        dd if=a.raw of=h.raw skip=100000",
    );
    for name in ["b.raw", "c.raw", "d.raw", "cat.raw", "e.raw", "f.raw", "g.raw", "h.raw"] {
        pair.same_contents(name);
    }
}

#[test]
fn qcow2_images_go_through_conversions_chains_and_snapshots_alike() {
    let Some(pair) = Pair::new("qcow2_images_go_through_conversions_chains_and_snapshots_alike") else { return };
    pair.write("a.raw", &pattern());
    pair.all_same(
        "convert -f raw -O qcow2 a.raw a.qcow2
        check a.qcow2
        info a.qcow2
        compare -F raw a.qcow2 a.raw
        create -f qcow2 -b a.qcow2 -F qcow2 b.qcow2
        info --output=json --backing-chain b.qcow2
        convert -n -O qcow2 a.raw b.qcow2
        convert -O qcow2 -c b.qcow2 c.qcow2
        check c.qcow2
        convert -O qcow2 -B a.qcow2 -F qcow2 b.qcow2 d.qcow2
        resize b.qcow2 8M
        rebase -b a.raw -F raw b.qcow2
        info b.qcow2
        rebase -b '' b.qcow2
        info b.qcow2
        check b.qcow2
        compare b.qcow2 c.qcow2
        create -f qcow2 -b c.qcow2 -F qcow2 e.qcow2 4M
        commit e.qcow2
        compare c.qcow2 b.qcow2
        rebase -u -b missing -F qcow2 e.qcow2
        info e.qcow2
        create -f qcow2 -b missing -F raw x.qcow2
        create -f qcow2 -b a.qcow2 x.qcow2
        create -f qcow2 -u -b a.qcow2 x.qcow2
        create -f qcow2 x.qcow2 8E
        amend -o cluster_size=4k b.qcow2
        amend -o nope=1 b.qcow2
        measure -O qcow2 --size 1T
        snapshot -d nope b.qcow2
        snapshot -a nope b.qcow2",
    );
    for name in ["a.qcow2", "b.qcow2", "c.qcow2", "d.qcow2"] {
        pair.is_clean(name);
        pair.same_contents(name);
    }
}

#[test]
fn progress_is_shown_on_request() {
    let Some(pair) = Pair::new("progress_is_shown_on_request") else { return };
    pair.write("a.raw", &vec![1; 8 << 20]);
    pair.all_same("convert -p -f raw a.raw b.raw\nconvert -p -q -f raw a.raw b.raw\ncompare -p a.raw b.raw");
}
