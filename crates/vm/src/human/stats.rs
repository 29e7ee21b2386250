//! `info stats`: what the host's kernel counts of the machine, or of the CPU that is looked at.

use std::fmt::Write as _;

use ::hmp::Arguments;
use qapi::QapiType as _;
use qapi::json::{Map, Value};
use qapi::stats::{StatsProvider, StatsTarget};

use super::{Human, Outcome, shown, text};
use crate::handlers::stats;

// Strings take everything: results of `write!` are not looked at.

/// `info stats TARGET [NAMES] [PROVIDER]`
pub fn info(human: &mut Human<'_>, arguments: &Arguments) -> Outcome {
    let target = arguments.required("target");
    let of_vcpu = match target {
        "vm" => false,
        "vcpu" => true,
        other => return format!("invalid stats target {other}\n").into(),
    };
    let provider = arguments.text("provider");
    if let Some(other) = provider.filter(|name| *name != "kvm") {
        return format!("invalid stats provider {other}\n").into();
    }
    let names = arguments.text("names").filter(|names| *names != "*");
    let mut wanted = vec![("target", Value::from(target))];
    if of_vcpu {
        let slot = human.control.machine().cpu_slots().get(human.cpu());
        let path = slot.and_then(|slot| slot.path.clone()).unwrap_or_default();
        wanted.push(("vcpus", Value::Array(vec![path.into()])));
    }
    if provider.is_some() || names.is_some() {
        let mut request = Map::from_iter([("provider", StatsProvider::Kvm.to_value())]);
        if let Some(names) = names {
            request.insert("names", Value::Array(names.split(',').map(Value::from).collect()));
        }
        wanted.push(("providers", Value::Array(vec![Value::Object(request)])));
    }
    let schemas = stats::schemas(human.control.machine());
    let target = if of_vcpu { StatsTarget::Vcpu } else { StatsTarget::Vm };
    let schemas = schemas.into_iter().filter(|schema| schema.target == target);
    let described = schemas.flat_map(|schema| schema.stats).map(|one| (one.name.clone(), one.to_value())).collect();
    let has_heading = provider.is_none();
    shown("query-stats", wanted, move |results| lines(results, &described, has_heading))
}

/// What statistics are, by their names.
type Described = std::collections::HashMap<String, Value>;

fn lines(results: &Value, described: &Described, has_heading: bool) -> String {
    let mut lines = String::new();
    for result in results.as_array().unwrap_or_default() {
        if has_heading {
            let _ = writeln!(lines, "provider: {}", text(result, "provider"));
        }
        for one in result.get("stats").and_then(Value::as_array).unwrap_or_default() {
            let name = text(one, "name");
            let Some(what) = described.get(&name) else { continue };
            let _ = writeln!(lines, "    {name} ({}): {}", kind(what), value(one.get("value")));
        }
    }
    lines
}

/// What a statistic is: its kind, and what it is measured in.
fn kind(what: &Value) -> String {
    let mut shown = text(what, "type");
    let number = |name: &str| what.get(name).and_then(Value::as_i64);
    let (base, exponent, unit) = (number("base").unwrap_or(0), number("exponent").unwrap_or(0), text(what, "unit"));
    if !unit.is_empty() || exponent != 0 {
        let sign = match unit.as_str() {
            "seconds" => "s",
            "bytes" => "B",
            _ => "",
        };
        let prefix = prefix(base, exponent).filter(|_| !sign.is_empty());
        let _ = match (prefix, exponent) {
            (Some(prefix), _) => write!(shown, ", {prefix}{sign}"),
            (None, 0) => write!(shown, ", {}", if sign.is_empty() { unit.as_str() } else { sign }),
            (None, _) if unit.is_empty() => write!(shown, ", * {base}^{exponent}"),
            (None, _) => write!(shown, ", * {base}^{exponent} {unit}"),
        };
    }
    if let Some(size) = number("bucket-size") {
        let _ = write!(shown, ", bucket size={size}");
    }
    shown
}

/// The prefix of a unit that stands for a power.
fn prefix(base: i64, exponent: i64) -> Option<&'static str> {
    const DECIMAL: [&str; 13] = ["a", "f", "p", "n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let (step, first, names): (i64, i64, &[&str]) = match base {
        10 => (3, -18, &DECIMAL),
        2 => (10, 0, &BINARY),
        _ => return None,
    };
    let index = usize::try_from(exponent - first).ok().filter(|_| exponent % step == 0)?;
    names.get(index / step as usize).copied()
}

fn value(value: Option<&Value>) -> String {
    let number = |value: &Value| match value {
        Value::Uint(number) => number.to_string(),
        other => other.as_i64().unwrap_or(0).to_string(),
    };
    match value {
        Some(Value::Bool(flag)) => (if *flag { "yes" } else { "no" }).to_owned(),
        Some(Value::Array(counts)) => {
            counts.iter().enumerate().map(|(index, count)| format!("[{}]={} ", index + 1, number(count))).collect()
        }
        Some(other) => number(other),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_shown_with_prefixes_where_units_have_them() {
        for (what, expected) in [
            (r#"{"type": "instant", "exponent": 0}"#, "instant"),
            (r#"{"type": "cumulative", "unit": "seconds", "base": 10, "exponent": -9}"#, "cumulative, ns"),
            (r#"{"type": "peak", "unit": "bytes", "base": 2, "exponent": 20}"#, "peak, MiB"),
            (r#"{"type": "peak", "unit": "bytes", "exponent": 0}"#, "peak, B"),
            (r#"{"type": "peak", "unit": "bytes", "base": 2, "exponent": 5}"#, "peak, * 2^5 bytes"),
            (r#"{"type": "instant", "unit": "cycles", "base": 10, "exponent": 3}"#, "instant, * 10^3 cycles"),
            (r#"{"type": "instant", "unit": "boolean", "exponent": 0}"#, "instant, boolean"),
            (r#"{"type": "linear-histogram", "exponent": 0, "bucket-size": 7}"#, "linear-histogram, bucket size=7"),
        ] {
            assert_eq!(qapi::json::parse(what).map(|what| kind(&what)).as_deref(), Ok(expected));
        }
    }
}
