//! The web console's pages: packages from the npm registry, as `web/package-lock.json` names them, and their build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::run::{Outcome, has, output, root, run_command, step};
use crate::setup::{self, Package};

/// What builds the pages, from Debian where it is not there.
const NODE: [Package; 2] =
    [Package { name: "nodejs", file: "/usr/bin/node" }, Package { name: "npm", file: "/usr/bin/npm" }];
/// The oldest Node.js that the build runs on.
const NODE_OLDEST: (u32, u32) = (20, 19);

fn directory() -> PathBuf {
    root().join("web")
}

/// Builds the pages unless they are there and as new as their sources. Crate `web` embeds them.
pub fn build() -> Outcome {
    if is_fresh() {
        return Ok(());
    }
    if !has("node") || !has("npm") {
        let missing = setup::install(&NODE.each_ref());
        if !missing.is_empty() {
            return Err(format!("Debian's packages {} can't be installed", missing.join(", ")));
        }
    }
    let version = output("node", &["--version"]).unwrap_or_default();
    if number(&version).is_none_or(|version| version < NODE_OLDEST) {
        let (major, minor) = NODE_OLDEST;
        return Err(format!("Node.js {} is too old: {major}.{minor} is needed", version.trim()));
    }
    let npm = |arguments: &[&str]| {
        let mut command = Command::new("npm");
        // `run_command` goes to the repository's root.
        command.arg("--prefix").arg(directory()).args(arguments);
        run_command(&mut command)
    };
    if !is_installed() {
        step("installing the web console's npm packages into web/node_modules: npm ci");
        npm(&["ci", "--no-audit", "--no-fund", "--ignore-scripts"])?;
    }
    step("building the web console: npm run build");
    npm(&["run", "build"])
}

/// `v20.19.2`
fn number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim().strip_prefix('v')?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// Whether the packages are those of the lock file.
fn is_installed() -> bool {
    let installed = changed(&directory().join("node_modules/.package-lock.json"));
    installed.is_some() && installed >= changed(&directory().join("package-lock.json"))
}

/// The latest change of what the pages are made of.
fn latest(path: &Path) -> Option<SystemTime> {
    let below = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| latest(&entry.path()));
    below.chain([changed(path)]).max().flatten()
}

fn is_fresh() -> bool {
    let sources =
        ["src", "public", "index.html", "package.json", "package-lock.json", "vite.config.ts", "compress.mjs"];
    let built = changed(&directory().join("dist/licences.txt.br"));
    built.is_some() && built >= sources.iter().map(|name| latest(&directory().join(name))).max().flatten()
}
