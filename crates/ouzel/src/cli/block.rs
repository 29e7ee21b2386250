//! `-object`, `-blockdev`, `-drive` and its short forms `-hda` to `-hdd`, `-cdrom`, `-fda` and `-fdb`.
//!
//! `-blockdev` and `-object` take what the QMP commands take. `-drive` is older and wider: options of the back end (its
//! name, error policies, limits, statistics), short names for those of the medium, and everything else for the block
//! layer. Left out: controllers other than virtio, IDE and floppy (a SCSI
//! adapter is a `-device`).

use std::sync::Arc;

use block::Engine;
use block::Options;
use block::backend::ErrorPolicy;
use block::throttle::{Bucket, Limits, Rate};
use machine::config::{ChipsetKind, DeviceConfig};
use qapi::block::options::BlockdevOptions;
use qapi::keyval::{self, Grammar};
use qapi::objects::ObjectAdd;
use vm::hotplug::DriveParser;
use vm::storage::{self, DriveConfig, Interface, Snapshot, StorageConfig};

use super::arguments::{all, given, names_device};
use super::{Argument, CliError, devices, qtest, usb};

/// Reads the options. Drives that want a device of their own get it behind `devices`.
pub fn settings(arguments: &[Argument<'_>], devices: &mut Vec<DeviceConfig>) -> Result<StorageConfig, CliError> {
    let mut config = StorageConfig::default();
    for argument in all(arguments, "object").filter(|argument| !qtest::is_object(argument)) {
        let is_of = |kind: &str| argument.value.split([',', '"', '=']).any(|word| word == kind);
        if let Some(kind) = ["tls-creds-psk", "tls-creds-anon"].into_iter().find(|kind| is_of(kind)) {
            let text = "is not available: the TLS library has neither shared keys nor anonymous sessions";
            return Err(argument.error(format!("'{kind}' {text}")));
        }
        let object: ObjectAdd = argument.typed("qom-type")?;
        config.objects.push((source(argument), object));
    }
    for argument in all(arguments, "blockdev") {
        let node: BlockdevOptions = argument.typed("driver")?;
        if node.node_name.is_none() {
            return Err(argument.error("'node-name' must be specified for the root node"));
        }
        config.nodes.push((source(argument), node));
    }
    let snapshot = all(arguments, "snapshot").next().is_some();
    let chipset = super::machine::chipset(arguments);
    let ide = IdePlaces::of(chipset);
    let defaults = default_drives(arguments, chipset);
    let defaults = defaults.iter().map(|value| Argument::not_given("drive", value));
    let defaults = defaults.collect::<Result<Vec<_>, _>>()?;
    for (is_default, argument) in
        arguments.iter().map(|argument| (false, argument)).chain(defaults.iter().map(|argument| (true, argument)))
    {
        let Some((forced, is_file)) = short_form(argument.option.name) else { continue };
        let text;
        let value = if is_file {
            text = format!("{forced},file={}", argument.value.replace(',', ",,"));
            &text
        } else {
            argument.value
        };
        let before: Vec<Interface> = config.drives.iter().map(|drive| drive.interface).collect();
        let drive = match drive(argument, value, &before, (ide, snapshot)) {
            // The user has put another one there.
            Err(_) if is_default => continue,
            drive => drive?,
        };
        let device = match drive.0.interface {
            Interface::None | Interface::Flash(_) => None,
            Interface::Virtio => Some(devices::virtio_disk(arguments, argument, &drive.0.id, devices)?),
            Interface::Ide { bus, unit } => {
                Some(devices::ide_drive(arguments, argument, (&drive.0.id, drive.1), (bus, unit), devices)?)
            }
            Interface::Floppy { unit } => Some(devices::floppy_drive(arguments, argument, &drive.0.id, unit, devices)?),
        };
        devices.extend(device);
        if drive.1 == Media::Cdrom {
            usb::drive_is_cd(devices, &drive.0.id);
        }
        config.drives.push(drive.0);
    }
    Ok(config)
}

/// Reads drives that come while the machine runs, by the same rules.
pub fn parser(arguments: &[Argument<'_>]) -> Result<DriveParser, CliError> {
    let Argument { option, .. } = Argument::not_given("drive", "")?;
    let snapshot = all(arguments, "snapshot").next().is_some();
    let ide = IdePlaces::of(super::machine::chipset(arguments));
    Ok(DriveParser(Arc::new(move |value: &str, before: &[Interface]| {
        let made = drive(&Argument { option, value }, value, before, (ide, snapshot));
        made.map(|(config, _)| config).map_err(|error| match error {
            CliError::Option { message, .. } => message,
            other => other.to_string(),
        })
    })))
}

/// The drives that a machine has without being told: an empty CD drive and, but for a `q35`, an empty floppy drive.
fn default_drives(arguments: &[Argument<'_>], chipset: ChipsetKind) -> Vec<String> {
    /// Devices with one of which there is no CD drive, or no floppy drive, by default.
    const CD: [&str; 6] = ["ide-cd", "ide-hd", "scsi-cd", "scsi-hd", "ide-drive", "scsi-disk"];
    const FLOPPY: [&str; 2] = ["floppy", "isa-fdc"];
    if given(arguments, "nodefaults") || matches!(chipset, ChipsetKind::Empty | ChipsetKind::Microvm) {
        return Vec::new();
    }
    let mut drives = Vec::new();
    if !names_device(arguments, &CD) {
        drives.push("if=ide,index=2,media=cdrom".to_owned());
    }
    if chipset != ChipsetKind::Q35 && !names_device(arguments, &FLOPPY) {
        drives.push("if=floppy,index=0".to_owned());
    }
    drives
}

/// What a short form of `-drive` stands for, and whether its value is a file name.
fn short_form(option: &str) -> Option<(&'static str, bool)> {
    Some(match option {
        "drive" => ("", false),
        "hda" => ("index=0,media=disk", true),
        "hdb" => ("index=1,media=disk", true),
        "hdc" => ("index=2,media=disk", true),
        "hdd" => ("index=3,media=disk", true),
        "cdrom" => ("index=2,media=cdrom", true),
        "fda" => ("index=0,if=floppy", true),
        "fdb" => ("index=1,if=floppy", true),
        _ => return None,
    })
}

fn source(argument: &Argument<'_>) -> String {
    format!("-{} {}", argument.option.name, argument.value)
}

fn no_controller(kind: &str) -> String {
    format!("there is no {kind} controller in this version; use if=virtio, or if=none with -device virtio-blk-pci")
}

/// The text for `-drive format=help`, if a drive asks for it.
pub fn formats_help(arguments: &[Argument<'_>]) -> Option<String> {
    let asks = |argument: &&Argument<'_>| {
        argument.value.split(',').any(|part| matches!(part, "format=help" | "format=?" | "driver=help" | "driver=?"))
    };
    all(arguments, "drive").find(asks)?;
    let names: Vec<&str> = storage::drivers().iter().map(|driver| driver.name()).collect();
    Some(format!("Supported formats: {}\n", names.join(" ")))
}

/// Older names of the limits, and today's.
const LIMITS: [(&str, Bucket); 6] = [
    ("bps", Bucket::BpsTotal),
    ("bps_rd", Bucket::BpsRead),
    ("bps_wr", Bucket::BpsWrite),
    ("iops", Bucket::IopsTotal),
    ("iops_rd", Bucket::IopsRead),
    ("iops_wr", Bucket::IopsWrite),
];

/// The board's IDE buses.
#[derive(Clone, Copy, PartialEq, Eq)]
struct IdePlaces {
    buses: u64,
    /// Drives on each.
    units: u64,
}

impl IdePlaces {
    fn of(chipset: ChipsetKind) -> Self {
        match chipset {
            ChipsetKind::I440fx | ChipsetKind::Isa => Self { buses: 2, units: 2 },
            // Each port of an AHCI controller is a bus.
            ChipsetKind::Q35 => Self { buses: 6, units: 1 },
            ChipsetKind::Microvm | ChipsetKind::Empty => Self { buses: 0, units: 1 },
        }
    }
}

/// What a drive is connected to, before its place is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bus {
    None,
    Virtio,
    Ide,
    Floppy,
    Flash,
}

impl Bus {
    /// The place on this kind of bus; `None` where the board has none, or places mean nothing.
    fn of(self, ide: IdePlaces, bus: u64, unit: u64) -> Option<Interface> {
        match self {
            Bus::Ide if bus < ide.buses && unit < ide.units => {
                Some(Interface::Ide { bus: bus as u8, unit: unit as u8 })
            }
            Bus::Floppy if bus == 0 && unit < 2 => Some(Interface::Floppy { unit: unit as u8 }),
            Bus::Flash if bus == 0 && unit < 2 => Some(Interface::Flash(unit as u8)),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Bus::None => "none",
            Bus::Flash => "pflash",
            Bus::Virtio => "virtio",
            Bus::Ide => "ide",
            Bus::Floppy => "floppy",
        }
    }
}

/// What media a drive takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    Disk,
    Cdrom,
}

/// The options of one `-drive`, taken one by one.
struct Drive<'a> {
    argument: &'a Argument<'a>,
    options: Options,
}

impl Drive<'_> {
    fn fail(&self, error: &block::Error) -> CliError {
        self.argument.error(error.to_string())
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, CliError> {
        self.options.take_str(name).map_err(|error| self.fail(&error))
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>, CliError> {
        self.options.take_bool(name).map_err(|error| self.fail(&error))
    }

    /// A number by today's name or the older one, not both.
    fn number(&mut self, name: &str, older: &str) -> Result<Option<u64>, CliError> {
        if name != older && self.options.contains(name) && self.options.contains(older) {
            let text = format!("'{name}' and its alias '{older}' can't be used at the same time");
            return Err(self.argument.error(text));
        }
        let name = if self.options.contains(older) { older } else { name };
        let Some(text) = self.text(name)? else { return Ok(None) };
        let number = keyval::parse_u64(&text).filter(|_| !text.trim_start().starts_with('-'));
        number.map(Some).ok_or_else(|| self.argument.error(format!("Parameter '{name}' expects a number")))
    }

    fn interface(&mut self) -> Result<Bus, CliError> {
        let name = self.text("if")?;
        match name.as_deref() {
            Some("none") => Ok(Bus::None),
            Some("virtio") => Ok(Bus::Virtio),
            None | Some("ide") => Ok(Bus::Ide),
            Some("floppy") => Ok(Bus::Floppy),
            Some("scsi") => Err(self.argument.error(
                "the board has no SCSI controller for drives; use if=none with -device virtio-scsi-pci and -device scsi-hd",
            )),
            Some("pflash") => Ok(Bus::Flash),
            Some(kind @ ("mtd" | "sd" | "xen")) => Err(self.argument.error(no_controller(kind))),
            Some(other) => Err(self.argument.error(format!("unsupported bus type '{other}'"))),
        }
    }

    /// Bus and unit: as given, or the first that are free.
    fn place(&mut self, kind: Bus, ide: IdePlaces, before: &[Interface]) -> Result<(u64, u64), CliError> {
        let units = if kind == Bus::Ide { ide.units } else { 0 };
        let given_bus = self.number("bus", "bus")?;
        let given_unit = self.number("unit", "unit")?;
        let index = self.number("index", "index")?;
        let (mut bus, mut unit) = (given_bus.unwrap_or(0), given_unit);
        if let Some(index) = index {
            if given_bus.is_some() || given_unit.is_some() {
                return Err(self.argument.error("index cannot be used with bus and unit"));
            }
            (bus, unit) = match units {
                0 => (0, Some(index)),
                units => (index / units, Some(index % units)),
            };
        }
        let is_taken = |bus, unit| before.iter().any(|other| kind.of(ide, bus, unit).is_some_and(|it| it == *other));
        let unit = match unit {
            Some(unit) if units != 0 && unit >= units => {
                return Err(self.argument.error(format!("unit {unit} too big (max is {})", units - 1)));
            }
            Some(unit) => unit,
            // Drives without a place of their own are only counted.
            None if matches!(kind, Bus::None | Bus::Virtio) => {
                let same = if kind == Bus::None { Interface::None } else { Interface::Virtio };
                before.iter().filter(|other| **other == same).count() as u64
            }
            None => {
                let mut unit = 0;
                while is_taken(bus, unit) {
                    unit += 1;
                    if units != 0 && unit >= units {
                        (unit, bus) = (0, bus + 1);
                    }
                }
                unit
            }
        };
        if is_taken(bus, unit) {
            let text = format!("drive with bus={bus}, unit={unit} (index={}) exists", index.unwrap_or(0));
            return Err(self.argument.error(text));
        }
        Ok((bus, unit))
    }

    /// `cache=` in one word.
    fn cache(&mut self) -> Result<(), CliError> {
        let Some(mode) = self.text("cache")? else { return Ok(()) };
        let (write_cache, direct, no_flush) = match mode.as_str() {
            "none" | "off" => (true, true, false),
            "directsync" => (false, true, false),
            "writeback" => (true, false, false),
            "unsafe" => (true, false, true),
            "writethrough" => (false, false, false),
            _ => return Err(self.argument.error("invalid cache option")),
        };
        for (name, on) in [("cache.writeback", write_cache), ("cache.direct", direct), ("cache.no-flush", no_flush)] {
            self.options.set_default(name, on);
        }
        Ok(())
    }

    fn error_policy(&mut self, name: &str, is_read: bool) -> Result<Option<ErrorPolicy>, CliError> {
        Ok(Some(match self.text(name)?.as_deref() {
            None => return Ok(None),
            Some("report") => ErrorPolicy::Report,
            Some("ignore") => ErrorPolicy::Ignore,
            Some("stop") => ErrorPolicy::Stop,
            Some("enospc") if !is_read => ErrorPolicy::Enospc,
            Some(other) => {
                let kind = if is_read { "read" } else { "write" };
                return Err(self.argument.error(format!("'{other}' invalid {kind} error action")));
            }
        }))
    }

    fn limits(&mut self) -> Result<Limits, CliError> {
        let mut limits = Limits::default();
        for (older, bucket) in LIMITS {
            let name = format!("throttling.{}", bucket.name());
            let average = self.number(&name, older)?.unwrap_or(0);
            let max = self.number(&format!("{name}-max"), &format!("{older}_max"))?.unwrap_or(0);
            let burst_length = self.number(&format!("{name}-max-length"), &format!("{older}_max_length"))?.unwrap_or(1);
            if let Some(slot) = limits.buckets.get_mut(bucket as usize) {
                *slot = Rate { average, max, burst_length };
            }
        }
        limits.iops_size = self.number("throttling.iops-size", "iops_size")?.unwrap_or(0);
        Ok(limits)
    }

    fn intervals(&mut self) -> Result<Vec<u64>, CliError> {
        let listed = self.options.take_list("stats-intervals").map_err(|error| self.fail(&error))?;
        let one = self.text("stats-intervals")?;
        let texts = listed.into_iter().chain(one.iter().flat_map(|one| one.split(':')).map(str::to_owned));
        let mut intervals = Vec::new();
        for text in texts {
            let seconds = text.parse().ok().filter(|seconds| *seconds > 0 && *seconds <= u64::from(u32::MAX));
            intervals.push(seconds.ok_or_else(|| self.argument.error(format!("Invalid interval length: '{text}'")))?);
        }
        Ok(intervals)
    }

    fn media(&mut self) -> Result<Media, CliError> {
        match self.text("media")?.as_deref() {
            None | Some("disk") => Ok(Media::Disk),
            Some("cdrom") => Ok(Media::Cdrom),
            Some(other) => Err(self.argument.error(format!("'{other}' invalid media"))),
        }
    }

    /// How the files of the drive are read and written.
    fn engine(&mut self) -> Result<Engine, CliError> {
        let Some(name) = self.text("aio")? else { return Ok(Engine::default()) };
        Engine::by_name(&name).ok_or_else(|| self.argument.error("invalid aio option"))
    }

    /// What is left belongs to the medium; short names become the block layer's.
    fn medium(mut self, media: Media) -> Result<Option<Options>, CliError> {
        if self.options.contains("readonly") {
            let read_only = self.flag("readonly")?;
            if self.options.contains("read-only") {
                let text = "'read-only' and its alias 'readonly' can't be used at the same time";
                return Err(self.argument.error(text));
            }
            if let Some(read_only) = read_only {
                self.options.set("read-only", read_only);
            }
        }
        if media == Media::Cdrom {
            self.options.set("read-only", true);
        }
        if let Some(format) = self.text("format")? {
            if self.options.contains("driver") {
                return Err(self.argument.error("Cannot specify both 'driver' and 'format'"));
            }
            if !storage::drivers().iter().any(|driver| driver.name() == format) {
                return Err(self.argument.error(format!("'{format}' invalid format")));
            }
            self.options.set("driver", format);
        }
        // `file` is a name here, not a node.
        let filename = self.text("file")?.filter(|name| !name.is_empty());
        let names_medium = |name: &str| {
            name.starts_with("file.") || matches!(name, "filename" | "driver") || name.starts_with("backing")
        };
        if filename.is_none() && !self.options.iter().any(|(name, _)| names_medium(name)) {
            return self.empty();
        }
        if let Some(filename) = filename {
            if self.options.contains("file.filename") {
                return Err(self.argument.error("Can't specify 'file' and 'filename' options at the same time"));
            }
            let has_driver = self.options.contains("file.driver");
            name_file(&mut self.options, filename, has_driver);
        }
        for (name, on) in
            [("cache.direct", false), ("cache.no-flush", false), ("read-only", false), ("auto-read-only", true)]
        {
            self.options.set_default(name, on);
        }
        Ok(Some(self.options))
    }

    /// A drive without a medium has no options of one, but may say what those to come inherit.
    fn empty(mut self) -> Result<Option<Options>, CliError> {
        for name in ["cache.direct", "cache.no-flush", "read-only", "auto-read-only", "discard", "detect-zeroes"] {
            self.options.take(name);
        }
        match self.options.iter().next() {
            None => Ok(None),
            Some((name, _)) => Err(self.argument.error(format!("Invalid parameter '{name}'"))),
        }
    }
}

/// Puts a file's name into the options. With options for the file itself, a plain name has to go where they are.
fn name_file(options: &mut Options, filename: String, has_file_options: bool) {
    let is_plain = block::filename::protocol_of(&filename).is_none() && !filename.starts_with("json:");
    if has_file_options && is_plain {
        options.set_default("file.driver", "file");
        options.set("file.filename", filename);
    } else {
        options.set("filename", filename);
    }
}

/// Reads one drive; `value` is that of the `-drive` that the option stands for.
fn drive(
    argument: &Argument<'_>,
    value: &str,
    before: &[Interface],
    (ide, snapshot): (IdePlaces, bool),
) -> Result<(DriveConfig, Media), CliError> {
    let grammar = Grammar { implied_key: None, boolean_shorthand: true };
    let mut options = Options::new();
    for (name, value) in keyval::parse_flat(value, &grammar).map_err(|error| argument.error(error.desc))? {
        options.set(&name, value);
    }
    let mut drive = Drive { argument, options };
    let kind = drive.interface()?;
    let (bus, unit) = drive.place(kind, ide, before)?;
    let media = drive.media()?;
    let interface = match kind {
        Bus::None => Interface::None,
        Bus::Virtio => Interface::Virtio,
        Bus::Ide | Bus::Floppy | Bus::Flash => kind.of(ide, bus, unit).ok_or_else(|| {
            argument.error(format!("machine type does not support if={},bus={bus},unit={unit}", kind.name()))
        })?,
    };
    let default_id = match (kind, media) {
        (Bus::Ide, Media::Disk) => format!("ide{bus}-hd{unit}"),
        (Bus::Ide, Media::Cdrom) => format!("ide{bus}-cd{unit}"),
        _ => format!("{}{unit}", kind.name()),
    };
    let id = drive.text("id")?.unwrap_or(default_id);
    drive.cache()?;
    let write_cache = drive.flag("cache.writeback")?.unwrap_or(true);
    let write_error = drive.error_policy("werror", false)?.unwrap_or(ErrorPolicy::Enospc);
    let read_error = drive.error_policy("rerror", true)?.unwrap_or(ErrorPolicy::Report);
    let limits = drive.limits()?;
    let group = match drive.text("throttling.group")? {
        Some(group) => Some(group),
        None => drive.text("group")?,
    };
    let intervals = drive.intervals()?;
    let account_invalid = drive.flag("stats-account-invalid")?;
    let account_failed = drive.flag("stats-account-failed")?;
    let copy_on_read = drive.flag("copy-on-read")?.unwrap_or(false);
    let snapshot = match drive.flag("snapshot")?.unwrap_or(snapshot) {
        true => Snapshot::Temporary,
        false => Snapshot::Off,
    };
    let engine = drive.engine()?;
    let medium = drive.medium(media)?;
    let config = DriveConfig {
        id,
        interface,
        source: source(argument),
        medium,
        engine,
        snapshot,
        copy_on_read,
        write_cache,
        read_error,
        write_error,
        limits,
        group,
        account_invalid,
        account_failed,
        intervals,
    };
    Ok((config, media))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::split;
    use block::Value;

    fn parse(words: &[&str]) -> Result<StorageConfig, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let arguments = split(&words).map_err(|error| error.to_string())?;
        settings(&arguments, &mut Vec::new()).map_err(|error| error.to_string())
    }

    fn one(text: &str) -> Result<DriveConfig, String> {
        parse(&["-drive", text]).map(|mut config| config.drives.remove(0))
    }

    #[test]
    fn drive_with_everything_is_read_in_full() {
        let drive = one(concat!(
            "if=none,id=d,file=a,,b.img,format=raw,cache=none,aio=io_uring,readonly=on,discard=unmap,",
            "detect-zeroes=unmap,werror=stop,rerror=ignore,bps=1000,throttling.iops-read=5,throttling.iops-read-max=9,",
            "bps_max=2000,bps_max_length=3,group=g,stats-intervals.0=1,stats-intervals.1=60"
        ));
        let Ok(drive) = drive else { panic!("{drive:?}") };
        assert_eq!((drive.id.as_str(), drive.interface, drive.write_cache), ("d", Interface::None, true));
        assert_eq!(drive.engine, Engine::Uring);
        assert_eq!((drive.read_error, drive.write_error), (ErrorPolicy::Ignore, ErrorPolicy::Stop));
        assert_eq!(drive.limits.rate(Bucket::BpsTotal), Rate { average: 1000, max: 2000, burst_length: 3 });
        assert_eq!(drive.limits.rate(Bucket::IopsRead), Rate { average: 5, max: 9, burst_length: 1 });
        assert_eq!((drive.group.as_deref(), drive.intervals), (Some("g"), vec![1, 60]));
        let medium = drive.medium.unwrap_or_default();
        let expected = [
            ("auto-read-only", "true"),
            ("cache.direct", "true"),
            ("cache.no-flush", "false"),
            ("detect-zeroes", "\"unmap\""),
            ("discard", "\"unmap\""),
            ("driver", "\"raw\""),
            ("filename", "\"a,b.img\""),
            ("read-only", "true"),
        ];
        let found: Vec<(&str, String)> = medium.iter().map(|(name, value)| (name, value.to_string())).collect();
        let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn drives_without_an_id_are_named_by_their_interface() {
        let config =
            parse(&["-nodefaults", "-drive", "if=none", "-drive", "if=none,file=x", "-drive", "if=none,index=7"]);
        let names: Vec<String> = config.unwrap_or_default().drives.into_iter().map(|drive| drive.id).collect();
        assert_eq!(names, ["none0", "none1", "none7"]);
    }

    #[test]
    fn word_that_is_no_option_is_the_image_of_the_first_disk() {
        let text = |words: &[&str]| format!("{:?}", parse(words).map(|config| config.drives));
        assert_eq!(text(&["disk.img", "-nodefaults"]), text(&["-nodefaults", "-hda", "disk.img"]));
        assert!(text(&["disk.img", "-hda", "other.img"]).contains("index=0"), "there is one first disk");
        assert!(text(&["-"]).contains("invalid option"));
    }

    #[test]
    fn ide_drives_have_places_and_names() {
        let words = [
            "-nodefaults",
            "-hda",
            "a",
            "-cdrom",
            "b",
            "-drive",
            "file=c",
            "-drive",
            "media=cdrom",
            "-drive",
            "if=none",
        ];
        let config = parse(&words).unwrap_or_default();
        let names: Vec<(&str, Interface)> =
            config.drives.iter().map(|drive| (drive.id.as_str(), drive.interface)).collect();
        let place = |bus, unit| Interface::Ide { bus, unit };
        let expected = [
            ("ide0-hd0", place(0, 0)),
            ("ide1-cd0", place(1, 0)),
            ("ide0-hd1", place(0, 1)),
            ("ide1-cd1", place(1, 1)),
            ("none0", Interface::None),
        ];
        assert_eq!(names, expected);
        let error = parse(&["-hda", "a", "-drive", "index=0"]).map(|_| ()).unwrap_err();
        assert_eq!(error, "-drive index=0: drive with bus=0, unit=0 (index=0) exists");
    }

    #[test]
    fn machine_has_a_cd_and_a_floppy_drive_unless_told_otherwise() {
        let drives = |words: &[&str]| -> Vec<String> {
            parse(words).unwrap_or_default().drives.into_iter().map(|drive| drive.id).collect()
        };
        assert_eq!(drives(&[]), ["ide1-cd0", "floppy0"]);
        assert_eq!(drives(&["-machine", "q35"]), ["ide2-cd0"]);
        assert_eq!(drives(&["-machine", "q35", "-drive", "file=x"]), ["ide0-hd0", "ide2-cd0"]);
        assert_eq!(drives(&["-cdrom", "a", "-device", "floppy"]), ["ide1-cd0"]);
        assert!(drives(&["-machine", "none"]).is_empty() && drives(&["-nodefaults"]).is_empty());
    }

    #[test]
    fn drive_without_a_file_is_empty() {
        assert_eq!(
            one("if=none,id=d,cache=writethrough").map(|drive| (drive.medium, drive.write_cache)),
            Ok((None, false))
        );
        assert!(one("if=none,file.driver=null-co").is_ok_and(|drive| drive.medium.is_some()));
        assert!(one("if=none,bogus=1").is_err_and(|error| error.ends_with("Invalid parameter 'bogus'")));
    }

    #[test]
    fn wrong_drives_are_refused_with_the_option() {
        for (text, expected) in [
            ("if=ide,unit=2,file=x", "unit 2 too big (max is 1)"),
            ("if=ide,index=4,file=x", "machine type does not support if=ide,bus=2,unit=0"),
            ("if=scsi,file=x", "the board has no SCSI controller for drives; use if=none with -device virtio-scsi-pci"),
            ("if=foo,file=x", "unsupported bus type 'foo'"),
            ("if=none,file=x,cache=maybe", "invalid cache option"),
            ("if=none,file=x,aio=maybe", "invalid aio option"),
            ("if=none,file=x,format=nope", "'nope' invalid format"),
            ("if=none,file=x,werror=maybe", "'maybe' invalid write error action"),
            ("if=none,file=x,rerror=enospc", "'enospc' invalid read error action"),
            ("if=none,file=x,media=tape", "'tape' invalid media"),
            ("if=none,bps=1,throttling.bps-total=1", "'throttling.bps-total' and its alias 'bps'"),
            ("if=none,bps=many", "Parameter 'bps' expects a number"),
        ] {
            let error = one(text).map(|drive| drive.id).expect_err(text);
            assert!(error.starts_with(&format!("-drive {text}: ")) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn nodes_and_objects_are_read_like_commands() {
        let config = parse(&[
            "-blockdev",
            r#"{"driver": "null-co", "node-name": "a", "size": 512}"#,
            "-blockdev",
            "raw,node-name=b,file.driver=null-co,read-only=on",
            "-object",
            "secret,id=s,data=x",
            "-object",
            "throttle-group,id=g,limits.iops-total=5",
        ]);
        let Ok(config) = config else { panic!("{config:?}") };
        assert_eq!((config.nodes.len(), config.objects.len()), (2, 2));
        for (words, expected) in [
            (["-blockdev", "null-co"], "'node-name' must be specified for the root node"),
            (["-blockdev", "nope,node-name=a"], "Parameter 'driver' does not accept value 'nope'"),
            (["-blockdev", "null-co,node-name=a,x=1"], "Parameter 'x' is unexpected"),
            (["-object", "nope,id=a"], "Parameter 'qom-type' does not accept value 'nope'"),
            (["-object", "secret"], "Parameter 'id' is missing"),
            (["-object", "tls-creds-psk,id=t,dir=/x"], "the TLS library has neither shared keys"),
        ] {
            let error = parse(&words).map(|_| ()).expect_err(words[1]);
            assert!(error.starts_with(&words.join(" ")) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn file_and_options_of_the_file_go_together() {
        let medium = |text: &str| -> Vec<String> {
            let Ok(drive) = one(text) else { panic!("{text} is refused") };
            let medium = drive.medium.unwrap_or_default();
            let told = |(name, _): &(&str, &Value)| name.starts_with("file") || *name == "driver";
            medium.iter().filter(told).map(|(name, value)| format!("{name}={value}")).collect()
        };
        let null = medium("if=none,file=null-co://,file.read-zeroes=on");
        assert_eq!(null, ["file.read-zeroes=\"on\"", "filename=\"null-co://\""]);
        let plain = medium("if=none,file=x,format=raw,file.locking=off");
        assert_eq!(plain, ["driver=\"raw\"", "file.locking=\"off\"", "filename=\"x\""]);
        let driver = medium("if=none,file=x,file.driver=host_device");
        assert_eq!(driver, ["file.driver=\"host_device\"", "file.filename=\"x\""]);
        let error = one("if=none,file=x,file.filename=y").map(|drive| drive.id).expect_err("two names");
        assert!(error.ends_with("Can't specify 'file' and 'filename' options at the same time"), "{error}");
    }

    #[test]
    fn values_on_the_command_line_are_text() {
        let drive = one("if=none,file=x,format=raw,offset=512").map(|drive| drive.medium.unwrap_or_default());
        assert_eq!(drive.ok().and_then(|medium| medium.get("offset").cloned()), Some(Value::from("512")));
    }
}
