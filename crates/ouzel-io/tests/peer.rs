//! The commands against `qemu-io`: what both print, except for times and speeds, must be the same. Without `qemu-io` on
//! this machine the tests report that they were skipped.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

struct Pair {
    ours: (PathBuf, tempfile::TempDir),
    theirs: (PathBuf, tempfile::TempDir),
}

fn peer(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// Times and speeds made equal.
fn without_times(text: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once(" ops; ") {
        Some((before, _)) => format!("{before} ops; X"),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

impl Pair {
    fn new(test: &str) -> Option<Self> {
        let Some(theirs) = peer("qemu-io") else {
            eprintln!("skipped: {test}: qemu-io is not installed");
            return None;
        };
        let directory = || tempfile::tempdir().expect("a directory");
        let (a, b) = (directory(), directory());
        let link = a.path().join("qemu-io");
        symlink(env!("CARGO_BIN_EXE_ouzel-io"), &link).expect("a link");
        for directory in [&a, &b] {
            let image = std::fs::File::create(directory.path().join("t.raw")).expect("an image");
            image.set_len(1 << 20).expect("its size");
        }
        Some(Self { ours: (link, a), theirs: (theirs, b) })
    }

    fn run(program: &Path, directory: &Path, args: &[&str], input: &str) -> (String, String, Option<i32>) {
        let mut child = Command::new(program)
            .args(args)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("its input");
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes: &[u8]| without_times(&String::from_utf8_lossy(bytes));
        (text(&output.stdout), text(&output.stderr), output.status.code())
    }

    fn same(&self, args: &[&str], input: &str) {
        let ours = Self::run(&self.ours.0, self.ours.1.path(), args, input);
        let theirs = Self::run(&self.theirs.0, self.theirs.1.path(), args, input);
        assert_eq!(ours, theirs, "{args:?} {input}");
    }

    fn commands(&self, options: &[&str], commands: &[&str]) {
        let mut args = options.to_vec();
        for command in commands {
            args.extend(["-c", command]);
        }
        self.same(&args, "");
    }
}

#[test]
fn reads_and_writes_are_reported_alike() {
    let Some(pair) = Pair::new("reads_and_writes_are_reported_alike") else { return };
    pair.commands(
        &["-f", "raw", "t.raw"],
        &[
            "write -P 7 1000 70000",
            "read -P 7 1000 70000",
            "read -P 7 0 2000",
            "read -P 7 -s 1000 -l 1000 0 2000",
            "read -v 996 20",
            "readv -v 1000 1 2 3",
            "readv -P 0 512k 1k 1k 512",
            "writev -P 3 512k 1k 1k 512",
            "readv -P 3 512k 2k",
            "write -z 512k 1k",
            "write -zu 0 64k",
            "read -P 0 0 64k",
            "discard 64k 4k",
            "aio_write -P 9 900k 4k",
            "aio_flush",
            "aio_read -P 9 900k 4k",
            "aio_flush",
            "flush",
            "write -q 0 1k",
            "length",
            "info",
            "alloc 0 1M",
            "map",
            "truncate 2M",
            "length",
            "write 2M 512",
            "read 2097151 2",
            "discard 2M 1k",
        ],
    );
}

#[test]
fn wrong_commands_get_the_same_answers() {
    let Some(pair) = Pair::new("wrong_commands_get_the_same_answers") else { return };
    pair.commands(
        &["-f", "raw", "t.raw"],
        &[
            "nope",
            "read",
            "read 0",
            "read -x 0 1",
            "read -P",
            "read -P 256 0 1",
            "read -P x 0 1",
            "read x 1",
            "read 0 1x",
            "read 0 16E",
            "read 0 4G",
            "read -l 5 0 10",
            "read -P 0 -s 5 -l 10 0 10",
            "write -n 0 512",
            "write -u 0 512",
            "write -z -P 1 0 512",
            "write -s missing 0 512",
            "write -c 0 1",
            "readv 0 3G",
            "readv 0 2147483136 512",
            "aio_write -z 0 1 2",
            "aio_write -u 0 512",
            "sleep x",
            "sleep 1",
            "truncate -m nope 1M",
            "alloc x",
            "break a b",
            "resume a",
            "help nope",
            "help read 1",
            "open t.raw",
            "discard -x 0 1",
            "reopen -r -w",
            "aio_read -i 0 1",
            "sigraise x",
        ],
    );
    pair.commands(&["-r", "-f", "raw", "t.raw"], &["write 0 512", "truncate 1k", "discard 0 512", "read 0 512"]);
    pair.commands(&[], &["read 0 512", "open -r missing", "open -r -o driver=raw t.raw", "length", "close", "length"]);
    pair.same(&["missing"], "");
    pair.same(&["-f", "raw", "--image-opts", "t.raw"], "");
    pair.same(&["-t", "nope", "t.raw"], "");
}

#[test]
fn commands_come_from_standard_input_too() {
    let Some(pair) = Pair::new("commands_come_from_standard_input_too") else { return };
    pair.same(&["-f", "raw", "t.raw"], "write 0 4k\n\nread -P 205 0 4k\nquit\nlength\n");
    pair.same(&[], "open -o driver=raw t.raw\nlength\nclose\nread 0 1\n");
}

#[test]
fn requests_stop_at_break_points_until_they_are_resumed() {
    let Some(pair) = Pair::new("requests_stop_at_break_points_until_they_are_resumed") else { return };
    pair.commands(
        &[],
        &[
            "open -o driver=raw,file.align=4k blkdebug::t.raw",
            "break pwritev_rmw_head A",
            "aio_write -P 10 0x200 0x200",
            "wait_break A",
            "aio_write -P 11 0x400 0x200",
            "sleep 50",
            "resume A",
            "aio_flush",
            "read -P 0 0 0x200",
            "read -P 10 0x200 0x200",
            "read -P 11 0x400 0x200",
        ],
    );
}

#[test]
fn break_points_of_one_name_each_hold_one_request() {
    let Some(pair) = Pair::new("break_points_of_one_name_each_hold_one_request") else { return };
    let once = ["break write_aio A", "aio_write 0 512", "wait_break A", "resume A", "aio_flush"];
    let other_event = ["break read_aio A", "aio_read 0 512", "wait_break A", "resume A", "aio_flush"];
    let mut commands = vec!["open -o driver=raw blkdebug::t.raw"];
    for part in [&once, &once, &other_event] {
        commands.extend(part);
    }
    pair.commands(&[], &commands);
}

#[test]
fn machine_state_is_on_disk_when_it_is_written_through() {
    let Some(pair) = Pair::new("machine_state_is_on_disk_when_it_is_written_through") else { return };
    let Some(creator) = peer("qemu-img") else {
        eprintln!("skipped: machine_state_is_on_disk_when_it_is_written_through: qemu-img is not installed");
        return;
    };
    for event in ["l1_update", "l2_update", "l2_load"] {
        for directory in [&pair.ours.1, &pair.theirs.1] {
            let create = ["create", "-q", "-f", "qcow2", "-o", "cluster_size=1k", "t.qcow2", "1G"];
            let status = Command::new(&creator).args(create).current_dir(directory.path()).status();
            assert!(status.expect("it runs").success());
            let rule = format!("[inject-error]\nevent = \"{event}\"\nerrno = \"5\"\nonce = \"on\"\n");
            std::fs::write(directory.path().join("rules"), rule).expect("a file");
        }
        let image = "blkdebug:rules:t.qcow2";
        // What a new table holds is known: nothing is loaded for it.
        pair.commands(&["-t", "writethrough", "-f", "qcow2", image], &["write -b 0 128k"]);
        pair.commands(&["-t", "writethrough", "-f", "qcow2", image], &["write 0 128k", "read 0 1k"]);
    }
}

#[test]
fn relative_backings_below_a_filter_start_where_the_file_is() {
    let Some(pair) = Pair::new("relative_backings_below_a_filter_start_where_the_file_is") else { return };
    let Some(creator) = peer("qemu-img") else {
        eprintln!("skipped: relative_backings_below_a_filter_start_where_the_file_is: qemu-img is not installed");
        return;
    };
    for directory in [&pair.ours.1, &pair.theirs.1] {
        let create = ["create", "-q", "-f", "qcow2", "-b", "t.raw", "-F", "raw", "top"];
        let status = Command::new(&creator).args(create).current_dir(directory.path()).status();
        assert!(status.expect("it runs").success());
    }
    pair.commands(&["-f", "raw", "t.raw"], &["write -P 9 0 4k"]);
    pair.commands(&["-f", "qcow2", "blkdebug::top"], &["read -P 9 0 4k"]);
}
