//! `-qtest`, `-qtest-log`, `-object qtest`.

use std::path::PathBuf;

use chardev::{ChardevSpec, Legacy, parse_legacy};
use vm::qtest::QtestConfig;

use super::arguments::{all, last};
use super::character::Character;
use super::value::Values;
use super::{Argument, CliError};

/// Whether `-object` asks for a qtest server.
pub fn is_object(argument: &Argument<'_>) -> bool {
    let first = argument.value.split(',').next().unwrap_or_default();
    first.strip_prefix("qom-type=").unwrap_or(first) == "qtest"
}

/// Reads the options; a character device that `-qtest` makes is added to the others.
pub fn settings(arguments: &[Argument<'_>], character: &mut Character) -> Result<Option<QtestConfig>, CliError> {
    let log = last(arguments, "qtest-log").map(|argument| PathBuf::from(argument.value));
    let mut found = Vec::new();
    if let Some(argument) = last(arguments, "qtest") {
        let parsed = parse_legacy("qtest", argument.value).map_err(|error| argument.error(error.to_string()))?;
        match parsed {
            Legacy::Nothing => {}
            Legacy::Existing(id) => found.push((argument, id, log)),
            Legacy::New(spec) => {
                let ChardevSpec { id, .. } = &spec;
                found.push((argument, id.clone(), log));
                character.chardevs.push(spec);
            }
        }
    }
    for argument in all(arguments, "object").filter(|argument| is_object(argument)) {
        let mut values = Values::parse(*argument, Some("qom-type"))?;
        values.required("qom-type")?;
        // Nothing refers to it by its id.
        values.required("id")?;
        let (chardev, log) = (values.required("chardev")?, values.text("log")?);
        values.finish()?;
        found.push((argument, chardev, log.map(PathBuf::from)));
    }
    if let Some((argument, ..)) = found.get(1) {
        return Err(argument.error("Only one instance of qtest can be created"));
    }
    let Some((argument, chardev, log)) = found.pop() else { return Ok(None) };
    if !character.has(&chardev) {
        return Err(argument.error(format!("Cannot find character device '{chardev}'")));
    }
    Ok(Some(QtestConfig { chardev, log }))
}
