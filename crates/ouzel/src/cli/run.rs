//! How the program runs: name, UUID, time of day, actions, process, log.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clock::RtcBase;
use vm::config::{Actions, PanicAction, RebootAction, ShutdownAction, WatchdogAction};
use vm::log::LogConfig;

use super::arguments::{all, given, last};
use super::value::Values;
use super::{Argument, CliError};

/// The settings of this subject.
pub struct Run {
    pub name: Option<String>,
    pub uuid: [u8; 16],
    pub rtc: RtcBase,
    pub actions: Actions,
    pub autostart: bool,
    pub daemonize: bool,
    pub pidfile: Option<PathBuf>,
    pub log: LogConfig,
}

/// Reads the options.
pub fn settings(arguments: &[Argument<'_>]) -> Result<Run, CliError> {
    let mut log = LogConfig::default();
    for argument in all(arguments, "d") {
        log.add_items(argument.value).map_err(|error| argument.error(error.to_string()))?;
    }
    for argument in all(arguments, "trace") {
        let mut values = Values::parse(*argument, Some("enable"))?;
        let (enable, events, file) = (values.text("enable")?, values.text("events")?, values.text("file")?);
        values.finish()?;
        log.add_trace(enable.as_deref(), events.as_deref(), file.as_deref())
            .map_err(|error| argument.error(error.to_string()))?;
    }
    log.file = last(arguments, "D").map(|argument| PathBuf::from(argument.value));
    Ok(Run {
        name: name(arguments)?,
        uuid: last(arguments, "uuid").map(uuid).transpose()?.unwrap_or_default(),
        rtc: last(arguments, "rtc").map_or(Ok(RtcBase::Host { offset: 0 }), rtc)?,
        actions: actions(arguments)?,
        autostart: !given(arguments, "S"),
        daemonize: given(arguments, "daemonize"),
        pidfile: last(arguments, "pidfile").map(|argument| PathBuf::from(argument.value)),
        log,
    })
}

fn name(arguments: &[Argument<'_>]) -> Result<Option<String>, CliError> {
    let Some(argument) = last(arguments, "name") else { return Ok(None) };
    let mut values = Values::parse(*argument, Some("guest"))?;
    let guest = values.text("guest")?;
    // Threads always have names, so either value is honoured by what is there.
    values.flag("debug-threads")?;
    if let Some(process) = values.text("process")? {
        set_process_name(&process).map_err(|message| argument.error(message))?;
    }
    values.finish()?;
    Ok(guest)
}

/// Sets what `ps` and `top` show for the main thread.
fn set_process_name(name: &str) -> Result<(), String> {
    let name = std::ffi::CString::new(name).map_err(|_| "the process name has a NUL character".to_owned())?;
    rustix::thread::set_name(&name).map_err(|error| format!("could not change the process name: {error}"))
}

/// `8-4-4-4-12` hexadecimal digits.
fn uuid(argument: &Argument<'_>) -> Result<[u8; 16], CliError> {
    let wrong = || argument.error("failed to parse UUID string: wrong format");
    let groups: Vec<&str> = argument.value.split('-').collect();
    if groups.iter().map(|group| group.len()).ne([8, 4, 4, 4, 12]) || !argument.value.is_ascii() {
        return Err(wrong());
    }
    let digits: String = groups.concat();
    let mut uuid = [0; 16];
    for (index, byte) in uuid.iter_mut().enumerate() {
        let pair = digits.get(2 * index..2 * index + 2).filter(|pair| pair.bytes().all(|c| c.is_ascii_hexdigit()));
        *byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(wrong)?;
    }
    Ok(uuid)
}

/// `-rtc base=utc|localtime|DATE,clock=host|rt|vm`.
fn rtc(argument: &Argument<'_>) -> Result<RtcBase, CliError> {
    let mut values = Values::parse(*argument, Some("base"))?;
    let base = values.text("base")?;
    let clock = values.text("clock")?;
    if let Some(fix) = values.text("driftfix")?.filter(|fix| fix != "none") {
        return Err(values.error(format!("driftfix={fix} is not available: ticks are not lost here")));
    }
    values.finish()?;
    let host_now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let (offset, fixed) = match base.as_deref() {
        None | Some("utc") => (0, None),
        Some("localtime") => (local_offset(), None),
        Some(date) => {
            let start = parse_date(date).ok_or_else(|| {
                argument.error("invalid datetime format\nvalid formats: '2006-06-17T16:01:21' or '2006-06-17'")
            })?;
            (start - host_now, Some(start))
        }
    };
    match clock.as_deref() {
        None | Some("host" | "rt") => Ok(RtcBase::Host { offset }),
        Some("vm") => Ok(RtcBase::Virtual { start: fixed.unwrap_or(host_now + offset) }),
        Some(other) => Err(argument.error(format!("invalid option value '{other}'"))),
    }
}

/// The host zone's distance from UTC in seconds, as `date` tells it.
fn local_offset() -> i64 {
    let output = std::process::Command::new("date").arg("+%z").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let Some((sign, digits)) = text.split_at_checked(1) else { return 0 };
    let Ok(number) = digits.parse::<i64>() else { return 0 };
    let seconds = (number / 100 * 60 + number % 100) * 60;
    if sign == "-" { -seconds } else { seconds }
}

/// Seconds since the epoch of `YYYY-MM-DD` or `YYYY-MM-DDTHH:MM:SS`.
fn parse_date(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00"));
    let fields = |text: &str, separator: char| -> Option<[i64; 3]> {
        let fields: Vec<i64> = text
            .split(separator)
            .map(|field| field.bytes().all(|c| c.is_ascii_digit()).then(|| field.parse().ok()).flatten())
            .collect::<Option<_>>()?;
        fields.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (fields(date, '-')?, fields(time, ':')?);
    let valid = (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61;
    valid.then(|| days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar. Years begin in March, so that leap days come last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// `-action`, `-no-reboot`, `-no-shutdown`.
fn actions(arguments: &[Argument<'_>]) -> Result<Actions, CliError> {
    let mut actions = Actions::default();
    for argument in arguments {
        match argument.option.name {
            "no-reboot" => actions.reboot = RebootAction::Shutdown,
            "no-shutdown" => actions.shutdown = ShutdownAction::Pause,
            "action" => action(argument, &mut actions)?,
            "watchdog-action" => {
                let known = watchdog_action(argument.value);
                let unknown = || argument.error("Unknown -watchdog-action parameter");
                actions.watchdog = known.ok_or_else(unknown)?;
            }
            _ => {}
        }
    }
    Ok(actions)
}

fn action(argument: &Argument<'_>, actions: &mut Actions) -> Result<(), CliError> {
    let mut values = Values::parse(*argument, None)?;
    let refuse = |key: &str, value: &str| argument.error(format!("Parameter '{key}' does not accept value '{value}'"));
    if let Some(value) = values.text("reboot")? {
        actions.reboot = match value.as_str() {
            "reset" => RebootAction::Reset,
            "shutdown" => RebootAction::Shutdown,
            _ => return Err(refuse("reboot", &value)),
        };
    }
    if let Some(value) = values.text("shutdown")? {
        actions.shutdown = match value.as_str() {
            "poweroff" => ShutdownAction::Poweroff,
            "pause" => ShutdownAction::Pause,
            _ => return Err(refuse("shutdown", &value)),
        };
    }
    if let Some(value) = values.text("panic")? {
        actions.panic = match value.as_str() {
            "pause" => PanicAction::Pause,
            "shutdown" => PanicAction::Shutdown,
            "exit-failure" => PanicAction::ExitFailure,
            "none" => PanicAction::None,
            _ => return Err(refuse("panic", &value)),
        };
    }
    if let Some(value) = values.text("watchdog")? {
        actions.watchdog = watchdog_action(&value).ok_or_else(|| refuse("watchdog", &value))?;
    }
    values.finish()
}

fn watchdog_action(name: &str) -> Option<WatchdogAction> {
    Some(match name {
        "reset" => WatchdogAction::Reset,
        "shutdown" => WatchdogAction::Shutdown,
        "poweroff" => WatchdogAction::Poweroff,
        "pause" => WatchdogAction::Pause,
        "debug" => WatchdogAction::Debug,
        "none" => WatchdogAction::None,
        "inject-nmi" => WatchdogAction::InjectNmi,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_seconds_since_the_epoch() {
        assert_eq!(parse_date("1970-01-01"), Some(0));
        assert_eq!(parse_date("2000-03-01T00:00:01"), Some(951_868_801));
        assert_eq!(parse_date("2026-11-22T02:03:04"), Some(1_795_312_984));
        for wrong in ["", "2000", "2000-13-01", "2000-01-01T24:00:00", "2000-01-01T", "-2000-01-01", "2000-1-+1"] {
            assert_eq!(parse_date(wrong), None, "{wrong}");
        }
    }
}
