//! Objects that tools take with `--object`: secrets.

use std::sync::Arc;

use block::{Error, Graph, Options, Result};

/// Makes the object that `text` describes known to the graph. Only `secret` exists: inline (`data`) or from a `file`,
/// as it is (`format=raw`) or in `base64`.
///
/// # Errors
/// If the description is wrong, or the file can't be read.
pub fn add_object(graph: &Arc<Graph>, text: &str) -> Result<()> {
    let options = if text.trim_start().starts_with('{') {
        Options::from_value(&block::filename::parse_json(text)?)
    } else {
        crate::keyval::to_options(text, Some("qom-type"))
    };
    let mut options = options;
    let kind = options.take_str("qom-type")?.ok_or_else(|| Error::invalid("Parameter 'qom-type' is missing"))?;
    if kind != "secret" {
        return Err(Error::invalid(format!("Parameter 'qom-type' does not accept value '{kind}'")));
    }
    let id = options.take_str("id")?.ok_or_else(|| Error::invalid("Parameter 'id' is missing"))?;
    let bytes = read(&mut options)?;
    if let Some((name, _)) = options.iter().next() {
        return Err(Error::invalid(format!("Parameter '{name}' is unexpected")));
    }
    graph.set_secret(&id, bytes);
    Ok(())
}

fn read(options: &mut Options) -> Result<Vec<u8>> {
    let format = options.take_choice("format", &["raw", "base64"])?.unwrap_or(0);
    for name in ["keyid", "iv"] {
        if options.contains(name) {
            return Err(Error::unsupported(format!("Secrets with '{name}' are not supported")));
        }
    }
    let bytes = match (options.take_str("data")?, options.take_str("file")?) {
        (Some(_), Some(_)) => return Err(Error::invalid("'file' and 'data' are mutually exclusive")),
        (None, None) => return Err(Error::invalid("Either 'file' or 'data' must be provided")),
        (Some(data), None) => data.into_bytes(),
        (None, Some(file)) => std::fs::read(&file).map_err(|error| {
            Error::host(&error)
                .context(format!("Failed to open file “{file}”"))
                .context(format!("Unable to read {file}"))
        })?,
    };
    if format == 0 {
        return Ok(bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    from_base64(&bytes).ok_or_else(|| Error::invalid(format!("Base64 data '{text}' is not valid")))
}

/// The bytes of base64 text. White space is skipped, and digits at the end that make no byte.
fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => continue,
            byte if byte.is_ascii_whitespace() => continue,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count).to_le_bytes()[0]);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_inline_or_base64() {
        let graph = Graph::new(block::Registry::default());
        add_object(&graph, "secret,id=a,data=hello").expect("inline");
        add_object(&graph, "secret,id=b,data=aGVsbG8=,format=base64").expect("base64");
        assert_eq!(*graph.secret("a").expect("known"), b"hello");
        assert_eq!(*graph.secret("b").expect("known"), b"hello");
        let error = add_object(&graph, "secret,id=c,data=a$b=,format=base64").expect_err("a wrong digit");
        assert_eq!(error.to_string(), "Base64 data 'a$b=' is not valid");
        let error = add_object(&graph, "secret,id=c").expect_err("nothing");
        assert_eq!(error.to_string(), "Either 'file' or 'data' must be provided");
    }
}
