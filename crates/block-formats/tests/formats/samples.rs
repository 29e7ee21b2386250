//! Images that others made, if `BLOCK_SAMPLES` names a directory with some (for example the unpacked sample images of
//! QEMU's own tests): what is read is what the peer reads.

use crate::support::*;

#[test]
fn sample_images_read_as_the_peer_reads_them() {
    let Some(directory) = std::env::var_os("BLOCK_SAMPLES") else {
        eprintln!("skipped: BLOCK_SAMPLES names no directory");
        return;
    };
    let formats = ["bochs", "cloop", "dmg", "parallels", "vhdx", "vmdk", "vhd", "vdi", "qed", "qcow"];
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let file = entry.expect("an entry").path();
        let name = path(&file);
        let Some(format) = formats.into_iter().find(|format| name.contains(format)) else { continue };
        let format = if format == "vhd" { "vpc" } else { format };
        let dir = tempfile::tempdir().expect("a directory");
        let image = match try_open(format, &file, true) {
            Ok(image) => image,
            Err(error) if error.to_string().contains("needs to be replayed") => {
                // Replayed by us; the peer reads a copy of what is left of it then, and one that it repaired itself.
                let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
                std::fs::copy(&file, &ours).expect("copies");
                std::fs::copy(&file, &theirs).expect("copies");
                open(format, &ours).close();
                run("qemu-img", &["check", "-r", "all", "-f", format, &path(&theirs)]);
                run("qemu-img", &["compare", "-f", format, "-F", format, &path(&ours), &path(&theirs)]);
                println!("{name}: replayed: equal");
                continue;
            }
            Err(error) => {
                println!("{name}: {error}");
                continue;
            }
        };
        let text = run("qemu-img", &["info", "--output=json", "-f", format, &name]);
        let info: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(info["virtual-size"].as_u64(), Some(image.child.len()), "{name}");
        let raw = path(&dir.path().join("raw"));
        run("qemu-img", &["convert", "-f", format, "-O", "raw", &name, &raw]);
        let theirs = std::fs::File::open(&raw).expect("a raw file");
        let mut at = 0;
        let mut data = 0;
        while at < image.child.len() {
            let status = aio::block_on(image.child.block_status(at, 64 << 20, true)).expect("status");
            let len = usize::try_from(status.len).expect("small");
            let zero = status.zero || !status.allocated;
            if !zero || at < 64 << 20 {
                let mut expected = vec![0; len];
                std::os::unix::fs::FileExt::read_exact_at(&theirs, &mut expected, at).expect("reads");
                let found = if zero { vec![0; len] } else { image.read(at, len) };
                assert!(found == expected, "{name}: {at}+{len}");
            }
            data += if zero { 0 } else { len };
            at += status.len;
        }
        println!("{name}: {} bytes, {data} of them with data: equal", image.child.len());
        image.close();
    }
}
