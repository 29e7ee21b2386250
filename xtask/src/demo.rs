//! `cargo xtask demo`: from a bare checkout to a running guest and a short QMP session with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Client;
use crate::guest::{self, Guests};
use crate::run::{Outcome, build_programs, step, target};
use crate::web;

/// How long the guest may take to boot, and to power off.
const BOOT: Duration = Duration::from_secs(300);
const POWER_OFF: Duration = Duration::from_secs(60);

/// Sets up, builds, boots a guest and shows a short session.
pub fn run_demo() -> Outcome {
    let started = Instant::now();
    println!("The demo needs Debian's packages linux-image-cloud-amd64 (unpacked, not installed) and busybox-static,");
    println!("and a C compiler. It installs what is missing; without a kernel it boots a guest of its own.");
    println!("For the web console (-web) it runs `npm ci` in web/, and installs nodejs and npm if they are not there.");
    let guests = guest::build()?;
    let program = match std::env::var_os("OUZEL_BIN") {
        Some(program) => PathBuf::from(program),
        None => {
            if let Err(error) = web::build() {
                println!("no pages for the web console: {error}");
            }
            step("building the emulator, its client and the image tool for release");
            build_programs()?;
            target().join("release/ouzel")
        }
    };
    let image_tool = program.with_file_name("ouzel-img");
    let directory = guests.directory.join("demo");
    // What an earlier run left would be taken for this one's.
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let disk = directory.join("disk.qcow2");
    step("making a disk");
    image(&image_tool, &["create", "-f", "qcow2"], &disk, &["1G"])?;
    let scene = Scene::of(&guests, &disk);
    let mut machine = Machine::start(&program, &scene, &directory)?;
    let result = boot(&mut machine, &scene).and_then(|()| session(&mut machine, &scene));
    if let Err(error) = result {
        return Err(format!("{error}\n{}", machine.story()));
    }
    step("the disk, after the guest");
    image(&image_tool, &["info"], &disk, &[])?;
    image(&image_tool, &["check"], &disk, &[])?;
    println!(
        "\nThe demo is complete ({:.0} s). A shell for people: cargo run -p ouzel-ctl -- PATH-OF-THE-SOCKET",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Shows and runs a command of the image tool.
fn image(tool: &Path, before: &[&str], disk: &Path, after: &[&str]) -> Outcome {
    println!("$ ouzel-img {} {} {}", before.join(" "), disk.display(), after.join(" "));
    let status = Command::new(tool).args(before).arg(disk).args(after).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("ouzel-img ended with {status}")),
        Err(error) => Err(format!("cannot start {}: {error}", tool.display())),
    }
}

/// What is booted, and how one sees where it is.
struct Scene {
    title: &'static str,
    arguments: Vec<String>,
    ready: &'static str,
    /// What the guest prints when it has filled, unmounted and read a file system on its disk.
    mounted: Option<&'static str>,
}

impl Scene {
    fn of(guests: &Guests, disk: &Path) -> Self {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        match (&guests.kernel, &guests.initrd) {
            (Some(kernel), Some(initrd)) => Self {
                title: "Debian's cloud kernel, unmodified, with a busybox initrd",
                arguments: vec![
                    "-smp".into(),
                    "2".into(),
                    "-m".into(),
                    "256".into(),
                    "-kernel".into(),
                    path(kernel),
                    "-initrd".into(),
                    path(initrd),
                    "-append".into(),
                    "console=ttyS0 ouzel.run=loop,md5,virtio,disk-write,button,poweroff".into(),
                    "-drive".into(),
                    format!("if=none,id=disk0,format=qcow2,file={}", path(disk)),
                    "-device".into(),
                    "virtio-blk-pci,drive=disk0".into(),
                ],
                ready: "BUTTON-WAIT",
                mounted: Some("DISK-WRITTEN"),
            },
            _ => Self {
                title: "a bare-metal guest (there is no Linux kernel to be had here)",
                arguments: vec!["-m".into(), "64".into(), "-kernel".into(), path(&guests.bare("hello"))],
                ready: "Hello from a bare-metal guest.",
                mounted: None,
            },
        }
    }
}

/// The running emulator; killed when the demo ends early.
struct Machine {
    child: Child,
    directory: PathBuf,
}

impl Machine {
    fn start(program: &Path, scene: &Scene, directory: &Path) -> Outcome<Self> {
        step(&format!("booting {}", scene.title));
        let monitor = format!("unix:{},server=on,wait=off", directory.join("qmp").display());
        let serial = format!("file:{}", directory.join("serial").display());
        let mut command = Command::new(program);
        command.args(["-nodefaults", "-display", "none", "-qmp", &monitor, "-serial", &serial]).args(&scene.arguments);
        let log = File::create(directory.join("log")).map_err(|error| error.to_string())?;
        let output = log.try_clone().map_err(|error| error.to_string())?;
        println!("{command:?}");
        let child = command.stdin(Stdio::null()).stdout(output).stderr(log).spawn();
        let child = child.map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        Ok(Self { child, directory: directory.to_path_buf() })
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.join(name)).unwrap_or_default()).replace('\r', "")
    }

    fn ended(&mut self) -> Outcome<bool> {
        self.child.try_wait().map(|status| status.is_some()).map_err(|error| error.to_string())
    }

    /// What a person needs when it went wrong.
    fn story(&self) -> String {
        let serial = self.text("serial");
        let lines: Vec<&str> = serial.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n");
        format!("--- the emulator said\n{}\n--- end of the guest's output\n{tail}", self.text("log"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Shows how the boot goes, a line now and then, until the guest is ready.
fn boot(machine: &mut Machine, scene: &Scene) -> Outcome {
    let started = Instant::now();
    let mut shown = 0;
    loop {
        // The order matters: what was written before the end is seen.
        let ended = machine.ended()?;
        let serial = machine.text("serial");
        let ready = serial.contains(scene.ready);
        let lines: Vec<&str> = serial.lines().collect();
        if lines.len() >= shown + 40 || (ready && lines.len() > shown) {
            shown = lines.len();
            let line: String = lines[shown - 1].chars().take(100).collect();
            println!("{:6.1} s  {shown:4} lines  {line}", started.elapsed().as_secs_f64());
        }
        if ready {
            println!("The guest is up after {:.1} s.", started.elapsed().as_secs_f64());
            return Ok(());
        }
        if ended {
            return Err("the emulator ended before the guest was up".into());
        }
        if started.elapsed() > BOOT {
            return Err(format!("the guest was not up after {} s", BOOT.as_secs()));
        }
        sleep(Duration::from_millis(100));
    }
}

/// Announces and runs a command, and shows what came back.
fn show(client: &mut Client, comment: &str, command: &str, arguments: &Value) -> Outcome<Value> {
    println!("\n# {comment}");
    let given = if arguments.as_object().is_some_and(serde_json::Map::is_empty) {
        String::new()
    } else {
        format!(", \"arguments\": {arguments}")
    };
    println!("-> {{\"execute\": \"{command}\"{given}}}");
    let value = client.execute(command, arguments)?;
    println!("<- {{\"return\": {value}}}");
    Ok(value)
}

fn expect(what: &str, got: &Value, wanted: &Value) -> Outcome {
    if got == wanted { Ok(()) } else { Err(format!("{what} is {got} and not {wanted}")) }
}

fn show_event(client: &mut Client, name: &str) -> Outcome<Value> {
    let event = client.event(name)?;
    println!("<- {event}");
    Ok(event["data"].clone())
}

fn session(machine: &mut Machine, scene: &Scene) -> Outcome {
    step("a QMP session with the running guest");
    let none = json!({});
    let (mut client, greeting) = Client::connect(&machine.directory.join("qmp"))?;
    println!("<- {greeting}");
    show(&mut client, "Leave negotiation mode.", "qmp_capabilities", &none)?;
    let status = show(&mut client, "The guest is running.", "query-status", &none)?;
    expect("the status", &status["status"], &json!("running"))?;
    if let Some(mounted) = scene.mounted {
        show_disk(machine, &mut client, mounted)?;
    }
    show(&mut client, "Stop every virtual processor; the event goes to all monitors.", "stop", &none)?;
    show_event(&mut client, "STOP")?;
    let status = show(&mut client, "It is paused now.", "query-status", &none)?;
    expect("the status", &status["status"], &json!("paused"))?;
    let cpus =
        show(&mut client, "Where is each processor? (old spelling, with the program counter)", "query-cpus", &none)?;
    let counter = |cpu: &Value| cpu["pc"].as_i64().ok_or("query-cpus gives no program counter");
    for cpu in cpus.as_array().into_iter().flatten() {
        println!("   processor {}: program counter {:#018x}, halted: {}", cpu["CPU"], counter(cpu)?, cpu["halted"]);
    }
    show_memory(machine, &mut client, counter(&cpus[0])?)?;
    show(&mut client, "Go on.", "cont", &none)?;
    show_event(&mut client, "RESUME")?;
    show(&mut client, "Press the power button; the guest shuts itself down.", "system_powerdown", &none)?;
    show_event(&mut client, "POWERDOWN")?;
    let data = show_event(&mut client, "SHUTDOWN")?;
    expect("the reason of the shutdown", &data["reason"], &json!("guest-shutdown"))?;
    let deadline = Instant::now() + POWER_OFF;
    while !machine.ended()? {
        if Instant::now() > deadline {
            return Err("the emulator did not end after the guest's power-off".into());
        }
        sleep(Duration::from_millis(20));
    }
    let status = machine.child.wait().map_err(|error| error.to_string())?;
    println!("\nThe guest has powered off and the emulator has ended ({status}).");
    if status.success() { Ok(()) } else { Err(format!("the emulator ended with {status}")) }
}

/// The guest has made a file system on its disk, mounted it and read its files back; the monitor has counted.
fn show_disk(machine: &Machine, client: &mut Client, mounted: &str) -> Outcome {
    let serial = machine.text("serial");
    let lines: Vec<&str> = serial.lines().filter(|line| line.contains("DISK")).collect();
    println!("\nThe guest said of its disk:\n   {}", lines.join("\n   "));
    let digest = lines.iter().find_map(|line| line.trim().strip_prefix(mounted)).map(str::trim);
    let digest = digest.ok_or("the guest did not mount its disk")?;
    if !lines.iter().any(|line| line.contains("DISK-FILE") && line.ends_with(digest)) {
        return Err("the guest read something else than it had written".into());
    }
    let devices = show(client, "The guest's disk, an image file.", "query-block", &json!({}))?;
    expect("the format", &devices[0]["inserted"]["drv"], &json!("qcow2"))?;
    let counted = show(client, "What went through it.", "query-blockstats", &json!({}))?;
    match counted[0]["stats"]["wr_bytes"].as_u64() {
        Some(bytes) if bytes > 1 << 20 => Ok(()),
        bytes => Err(format!("the statistics count {bytes:?} bytes written")),
    }
}

fn show_memory(machine: &Machine, client: &mut Client, address: i64) -> Outcome {
    const SIZE: usize = 32;
    let file = machine.directory.join("memory");
    let arguments = json!({ "val": address, "size": SIZE, "filename": file.to_string_lossy(), "cpu-index": 0 });
    show(client, "Save memory as processor 0 sees it: the instructions that it runs next.", "memsave", &arguments)?;
    let bytes = fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    if bytes.len() != SIZE || bytes.iter().all(|byte| *byte == 0) {
        return Err(format!("the saved memory is not what it should be: {bytes:02x?}"));
    }
    for (row, start) in bytes.chunks(16).zip((address..).step_by(16)) {
        let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String =
            row.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect();
        println!("   {start:016x}  {}  {text}", hex.join(" "));
    }
    Ok(())
}
