//! The layer check: which crate may depend on which (`layers.json`), and which may contain `unsafe`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::run::{Outcome, output, root};

/// Checks all the workspace's crates.
pub fn check() -> Outcome {
    let rules = fs::read_to_string(root().join("xtask/layers.json")).map_err(|error| error.to_string())?;
    let rules: Value = serde_json::from_str(&rules).map_err(|error| format!("layers.json: {error}"))?;
    let metadata =
        output("cargo", &["metadata", "--format-version", "1", "--no-deps"]).ok_or("cargo metadata failed")?;
    let metadata: Value = serde_json::from_str(&metadata).map_err(|error| error.to_string())?;
    let mut problems = dependency_problems(&rules, &metadata);
    problems.extend(unsafe_problems(&rules, &metadata));
    if problems.is_empty() {
        println!("layers: every dependency points upwards");
        return Ok(());
    }
    Err(format!("the layers are broken:\n  {}", problems.join("\n  ")))
}

fn names(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn packages(metadata: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let list = metadata["packages"].as_array().into_iter().flatten();
    list.filter_map(|package| Some((package["name"].as_str()?, package)))
}

fn dependency_problems(rules: &Value, metadata: &Value) -> Vec<String> {
    let mut layer_of = HashMap::new();
    for (index, layer) in rules["layers"].as_array().into_iter().flatten().enumerate() {
        for name in names(&layer["crates"]) {
            layer_of.insert(name, index);
        }
    }
    let mut problems = Vec::new();
    for (name, package) in packages(metadata) {
        let Some(&layer) = layer_of.get(name) else {
            problems.push(format!("{name} is in no layer of xtask/layers.json"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            // Development dependencies may look anywhere.
            let Some(other) = dependency["name"].as_str().filter(|_| dependency["kind"].is_null()) else { continue };
            let Some(&other_layer) = layer_of.get(other) else { continue };
            let within = names(&rules["allowed_within_layer"][name]).any(|allowed| allowed == other);
            if other_layer > layer || (other_layer == layer && !within) {
                problems.push(format!("{name} may not depend on {other}: it is not in an earlier layer"));
            }
            if names(&rules["forbidden"][name]).any(|forbidden| forbidden == other) {
                problems.push(format!("{name} must not know {other}"));
            }
        }
    }
    problems
}

fn unsafe_problems(rules: &Value, metadata: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, package) in packages(metadata) {
        if names(&rules["unsafe_allowed"]).any(|allowed| allowed == name) {
            continue;
        }
        for target in package["targets"].as_array().into_iter().flatten() {
            let is_product = names(&target["kind"]).any(|kind| matches!(kind, "lib" | "bin" | "proc-macro"));
            let Some(path) = target["src_path"].as_str().filter(|_| is_product) else { continue };
            let text = fs::read_to_string(Path::new(path)).unwrap_or_default();
            if !text.contains("#![forbid(unsafe_code)]") {
                problems.push(format!("{name}: {path} lacks #![forbid(unsafe_code)]"));
            }
        }
    }
    problems
}
