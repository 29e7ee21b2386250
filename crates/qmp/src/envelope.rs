//! The request around a command: `execute` or `exec-oob`, `arguments`, `id` (`qmp.md` section 4).

use qapi::Error;
use qapi::json::{Map, Value};

/// A request whose envelope is right.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) command: String,
    pub(crate) arguments: Option<Map>,
    pub(crate) oob: bool,
}

/// Whether a message asks to be run at once, before those that wait.
pub(crate) fn is_oob(message: &Value) -> bool {
    let has = |name| message.get(name).is_some();
    has("exec-oob") && !has("execute")
}

/// Takes the `id` that the reply has to repeat.
pub(crate) fn take_id(message: &mut Value) -> Option<Value> {
    match message {
        Value::Object(map) => map.remove("id"),
        _ => None,
    }
}

/// Checks a message, its `id` taken off. Members are looked at in QEMU's order of iteration.
pub(crate) fn check(message: Value, allow_oob: bool) -> Result<Request, Error> {
    let Value::Object(mut map) = message else {
        return Err(Error::generic("QMP input must be a JSON object"));
    };
    let mut command_key = None;
    for (name, value) in map.in_hash_order() {
        match name {
            "execute" | "exec-oob" if name == "execute" || allow_oob => {
                if value.as_str().is_none() {
                    return Err(Error::generic(format!("QMP input member '{name}' must be a string")));
                }
                if let Some(other) = command_key {
                    return Err(Error::generic(format!("QMP input member '{name}' clashes with '{other}'")));
                }
                command_key = Some(if name == "execute" { "execute" } else { "exec-oob" });
            }
            "arguments" if value.as_object().is_none() => {
                return Err(Error::generic("QMP input member 'arguments' must be an object"));
            }
            "arguments" => {}
            _ => return Err(Error::generic(format!("QMP input member '{name}' is unexpected"))),
        }
    }
    let command = command_key.and_then(|key| map.remove(key));
    let (Some(Value::String(command)), Some(key)) = (command, command_key) else {
        return Err(Error::generic("QMP input lacks member 'execute'"));
    };
    let arguments = match map.remove("arguments") {
        Some(Value::Object(arguments)) => Some(arguments),
        _ => None,
    };
    Ok(Request { command, arguments, oob: key == "exec-oob" })
}
