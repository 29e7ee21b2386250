//! Embeds what `cargo xtask web` has built, if it is there: each file of `web/dist` that has been compressed.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::fs;
use std::hash::Hasher as _;
use std::path::{Path, PathBuf};

fn files_below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json" | "webmanifest") => "application/json",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn main() {
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let web = manifest.join("../../web");
    let dist = web.join("dist");
    // While there is nothing, look whether there is something now.
    let watched = if dist.is_dir() { &dist } else { &web };
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", watched.display());
    let mut found = Vec::new();
    files_below(&dist, &mut found);
    found.sort();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let mut code = String::from("&[\n");
    let compressed = found.iter().filter(|path| path.extension().is_some_and(|extension| extension == "gz"));
    for (index, gzip) in compressed.enumerate() {
        let plain = gzip.with_extension("");
        let brotli = fs::read(format!("{}.br", plain.display()));
        let (Ok(gzip), Ok(brotli), Ok(name)) = (fs::read(gzip), brotli, plain.strip_prefix(&dist)) else { continue };
        let name = name.to_string_lossy();
        let mut hash = DefaultHasher::new();
        hash.write(&gzip);
        // Copies: somebody may build the pages anew while this crate is compiled.
        let copies = [(format!("{index}.gz"), gzip), (format!("{index}.br"), brotli)];
        for (copy, content) in &copies {
            fs::write(out.join(copy), content).expect("the output directory can be written");
        }
        let fields = format!("path: {:?}, media_type: {:?}", format!("/{name}"), media_type(&name));
        let tag = format!("tag: \"\\\"{:016x}\\\"\"", hash.finish());
        let include =
            |(copy, _): &(String, Vec<u8>)| format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{copy}\"))");
        let [gzip, brotli] = copies.each_ref().map(include);
        // Writing to a string does not fail.
        let _ = writeln!(code, "    File {{ {fields}, {tag}, gzip: {gzip}, brotli: {brotli} }},");
    }
    code.push(']');
    fs::write(out.join("files.rs"), code).expect("the output directory can be written");
}
