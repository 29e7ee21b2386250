//! `cargo xtask test`: set-up, format, lints, layers, builds, and every test whose peer is there.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::debian;
use crate::guest::{self, Guests};
use crate::layers;
use crate::run::{Outcome, build_programs, root, run, run_command, step, target};
use crate::setup;
use crate::web;

/// What an ignored test needs. Such a test's own name (not its module's) begins with `peer_<name>_` or `<name>_`.
struct Peer {
    name: &'static str,
    /// Why its tests can't be run.
    missing: Option<String>,
    /// Whether Debian has it: then it must be there in CI.
    from_debian: bool,
}

/// Runs everything. The runner's own summary is printed last.
pub fn run_tests() -> Outcome {
    let started = Instant::now();
    let timed = |what: &str| step(&format!("{what}   [after {:.0} s]", started.elapsed().as_secs_f64()));
    timed("format");
    run("cargo", &["fmt", "--all", "--check"])?;
    timed("layers");
    layers::check()?;
    timed("set-up");
    let guests = guest::build()?;
    let pages = web::build();
    let (peers, python) = peers(&guests, pages.err());
    check_peers(&peers)?;
    timed("lints");
    run("cargo", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    timed("release build");
    build_programs()?;
    timed("documentation tests");
    run("cargo", &["test", "--quiet", "--workspace", "--doc"])?;
    timed("tests");
    let environment = environment(&guests, python);
    if output_of_nextest(&["--version"], &environment).is_some() {
        with_nextest(&peers, &environment)
    } else {
        println!("cargo-nextest is not installed: running `cargo test`, without bounds on time");
        with_cargo_test(&peers, &environment)
    }
}

/// Installs the peers and says which are there.
fn peers(guests: &Guests, no_pages: Option<String>) -> (Vec<Peer>, Option<PathBuf>) {
    let wanted: Vec<&setup::Package> = setup::PEERS.iter().collect();
    let missing = setup::install(&wanted);
    let package = |name: &'static str, package: &'static str| Peer {
        name,
        missing: missing.contains(&package).then(|| format!("Debian package {package} can't be installed")),
        from_debian: true,
    };
    let (python, no_python) = match setup::python_with_qmp() {
        Ok(python) => (Some(python), None),
        Err(error) => (None, Some(format!("no Python with qemu.qmp: {error}"))),
    };
    let linux =
        (guests.kernel.is_none() || guests.initrd.is_none()).then(|| "no Debian kernel or no busybox".to_owned());
    let no_suite = std::env::var_os("OUZEL_TEST386").is_none();
    let no_suite = no_suite.then(|| "OUZEL_TEST386 names no ROM; see bench/suites/README.md".to_owned());
    let debian = debian::image().err();
    let no_browser = match (no_pages, setup::install(&setup::BROWSER.each_ref())) {
        (Some(error), _) => Some(format!("the web console can't be built: {error}")),
        (None, missing) if missing.is_empty() => None,
        (None, missing) => Some(format!("Debian's packages {} can't be installed", missing.join(", "))),
    };
    let missing_viewer = setup::install(&setup::VIEWER.each_ref());
    let no_viewer = (!missing_viewer.is_empty())
        .then(|| format!("Debian's packages {} can't be installed", missing_viewer.join(", ")));
    for name in setup::BLOCK_PEERS.iter().filter(|name| missing.contains(name)) {
        println!("SKIPPED: comparisons with {name} in block-*, ouzel-img and ouzel-io (their tests end early)");
    }
    let mut peers = vec![
        package("qemu", "qemu-system-x86"),
        package("nc", "netcat-openbsd"),
        package("seabios", "seabios"),
        package("ovmf", "ovmf"),
        package("nasm", "nasm"),
        package("gdb", "gdb"),
        package("spicy", "spice-client-gtk"),
        Peer { name: "python", missing: no_python, from_debian: false },
        Peer { name: "chromium", missing: no_browser, from_debian: false },
        // Without a screen of its own a viewer is of no use: all of these packages, or none.
        Peer { name: "tigervnc", missing: no_viewer.clone(), from_debian: false },
        Peer {
            name: "viewer",
            missing: package("spicy", "spice-client-gtk").missing.or(no_viewer),
            from_debian: false,
        },
        Peer { name: "test386", missing: no_suite, from_debian: false },
        Peer { name: "fuse", missing: setup::why_no_fuse(), from_debian: false },
        Peer { name: "linux", missing: linux, from_debian: true },
        // Building it takes a package registry and the rights to make a root file system.
        Peer { name: "debian", missing: debian, from_debian: false },
    ];
    peers.extend(setup::BLOCK_PEERS.iter().map(|name| package(name, name)));
    (peers, python)
}

fn check_peers(peers: &[Peer]) -> Outcome {
    for peer in peers {
        match &peer.missing {
            None => println!("peer {}: there", peer.name),
            Some(why) => println!("peer {}: missing ({why})", peer.name),
        }
    }
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    let lacking: Vec<&str> =
        peers.iter().filter(|peer| peer.from_debian && peer.missing.is_some()).map(|peer| peer.name).collect();
    if in_ci && !lacking.is_empty() {
        return Err(format!("CI must have what Debian provides: {}", lacking.join(", ")));
    }
    Ok(())
}

fn environment(guests: &Guests, python: Option<PathBuf>) -> Vec<(&'static str, PathBuf)> {
    let release = target().join("release");
    let mut environment = vec![
        ("OUZEL_BIN", release.join("ouzel")),
        ("OUZEL_CTL_BIN", release.join("ouzel-ctl")),
        ("OUZEL_GUESTS", guests.directory.clone()),
    ];
    environment.extend(python.map(|python| ("OUZEL_PYTHON", python)));
    environment
}

/// The peer that an ignored test needs.
fn peer_of<'a>(peers: &'a [Peer], test: &str) -> Option<&'a Peer> {
    let name = test.rsplit("::").next()?;
    let name = name.strip_prefix("peer_").unwrap_or(name);
    peers.iter().find(|peer| name.strip_prefix(peer.name).is_some_and(|rest| rest.starts_with('_')))
}

fn output_of_nextest(arguments: &[&str], environment: &[(&str, PathBuf)]) -> Option<String> {
    let mut command = Command::new("cargo");
    command.arg("nextest").args(arguments).current_dir(root()).stdin(Stdio::null());
    // Its progress is for people.
    let output =
        command.envs(environment.iter().map(|(name, value)| (name, value))).stderr(Stdio::inherit()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn with_nextest(peers: &[Peer], environment: &[(&str, PathBuf)]) -> Outcome {
    let list = ["list", "--workspace", "--run-ignored", "only", "--message-format", "json"];
    let list = output_of_nextest(&list, environment).ok_or("the tests can't be listed (do they compile?)")?;
    let list: Value = serde_json::from_str(&list).map_err(|error| format!("nextest's list: {error}"))?;
    let mut left_out = Vec::new();
    for (suite, content) in list["rust-suites"].as_object().into_iter().flatten() {
        for (test, case) in content["testcases"].as_object().into_iter().flatten() {
            if case["ignored"] != true {
                continue;
            }
            match peer_of(peers, test) {
                Some(Peer { missing: None, .. }) => continue,
                Some(Peer { missing: Some(why), .. }) => println!("SKIPPED: {suite} {test} ({why})"),
                None => println!("SKIPPED: {suite} {test} (ignored by itself; see its attribute)"),
            }
            left_out.push(format!("(binary_id(={suite}) & test(={test}))"));
        }
    }
    let mut command = Command::new("cargo");
    command.args(["nextest", "run", "--workspace", "--run-ignored", "all"]);
    if !left_out.is_empty() {
        command.arg("--filterset").arg(format!("not ({})", left_out.join(" | ")));
    }
    run_command(command.envs(environment.iter().map(|(name, value)| (name, value))))
}

fn with_cargo_test(peers: &[Peer], environment: &[(&str, PathBuf)]) -> Outcome {
    let with = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(["test", "--workspace", "--all-targets"]).args(arguments);
        run_command(command.envs(environment.iter().map(|(name, value)| (name, value))))
    };
    with(&[])?;
    let mut arguments =
        vec!["--".to_owned(), "--ignored".to_owned(), "peer_".to_owned(), "--test-threads=2".to_owned()];
    for peer in peers {
        if let Some(why) = &peer.missing {
            println!("SKIPPED: peer_{}_… ({why})", peer.name);
            arguments.extend(["--skip".to_owned(), format!("peer_{}_", peer.name)]);
        }
    }
    with(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}
