//! The command line.

use block::{CacheMode, DetectZeroes, Engine};
use block_export::Address;
use block_net::nbd::wire::MAX_STRING;
use block_tools::arguments::{Argument, Arguments, LongOption};
use block_tools::open;

/// The port of NBD.
const PORT: &str = "10809";

/// What else to do.
pub enum Instead {
    /// Explain.
    Help,
    /// Say the version.
    Version,
    /// Complain.
    Fail(String),
    /// Complain and point to the help.
    Misuse(String),
}

const OPTIONS: &[LongOption] = &[
    ("help", false, "h"),
    ("version", false, "V"),
    ("bind", true, "b"),
    ("port", true, "p"),
    ("socket", true, "k"),
    ("offset", true, "o"),
    ("read-only", false, "r"),
    ("allocation-depth", false, "A"),
    ("bitmap", true, "B"),
    ("connect", true, "c"),
    ("disconnect", false, "d"),
    ("list", false, "L"),
    ("snapshot", false, "s"),
    ("load-snapshot", true, "l"),
    ("nocache", false, "n"),
    ("cache", true, "cache"),
    ("aio", true, "aio"),
    ("discard", true, "discard"),
    ("detect-zeroes", true, "detect-zeroes"),
    ("shared", true, "e"),
    ("format", true, "f"),
    ("persistent", false, "t"),
    ("verbose", false, "v"),
    ("object", true, "object"),
    ("export-name", true, "x"),
    ("description", true, "D"),
    ("tls-creds", true, "tls-creds"),
    ("tls-hostname", true, "tls-hostname"),
    ("tls-authz", true, "tls-authz"),
    ("image-opts", false, "image-opts"),
    ("trace", true, "T"),
    ("fork", false, "fork"),
    ("pid-file", true, "pid-file"),
    ("selinux-label", true, "selinux-label"),
];

/// What the command line says.
#[derive(Debug, Default)]
pub struct Line {
    pub bind: Option<String>,
    pub port: Option<String>,
    pub socket: Option<String>,
    pub offset: u64,
    pub read_only: bool,
    pub allocation_depth: bool,
    pub bitmaps: Vec<String>,
    /// A kernel device is asked for.
    device: bool,
    pub list: bool,
    pub snapshot: bool,
    pub load_snapshot: Option<String>,
    pub cache: Option<(CacheMode, bool)>,
    pub aio: Option<Engine>,
    pub discard: Option<bool>,
    pub detect_zeroes: DetectZeroes,
    /// How many clients; one if absent, 0 for any number.
    pub shared: Option<u32>,
    pub format: Option<String>,
    pub persistent: bool,
    pub objects: Vec<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub tls_creds: Option<String>,
    pub tls_hostname: Option<String>,
    tls_authz: bool,
    pub image_opts: bool,
    pub fork: bool,
    pub pid_file: Option<String>,
    files: Vec<String>,
}

fn fail<T>(text: impl Into<String>) -> Result<T, Instead> {
    Err(Instead::Fail(text.into()))
}

impl Line {
    /// Reads the arguments behind the program's name.
    pub fn parse(args: &[String]) -> Result<Self, Instead> {
        let mut line = Self::default();
        for argument in Arguments::new(args, OPTIONS) {
            match argument.map_err(Instead::Misuse)? {
                Argument::Option(key, value) => line.take(key, &value)?,
                Argument::Operand(file) => line.files.push(file),
            }
        }
        line.finish()
    }

    fn take(&mut self, key: &str, value: &str) -> Result<(), Instead> {
        let text = || Some(value.to_owned());
        match key {
            "h" => return Err(Instead::Help),
            "V" => return Err(Instead::Version),
            "b" => self.bind = text(),
            "p" => self.port = text(),
            "k" if value.starts_with('/') => self.socket = text(),
            "k" => return fail("socket path must be absolute"),
            "r" => self.read_only = true,
            "A" => self.allocation_depth = true,
            "B" => self.bitmaps.push(value.to_owned()),
            "c" | "d" => self.device = true,
            "L" => self.list = true,
            "s" => self.snapshot = true,
            "t" => self.persistent = true,
            // There is nothing more to say without the kernel's device.
            "v" => {}
            "f" => self.format = text(),
            "x" if value.len() > MAX_STRING => return fail(format!("export name '{value}' too long")),
            "x" => self.name = text(),
            "D" if value.len() > MAX_STRING => return fail(format!("export description '{value}' too long")),
            "D" => self.description = text(),
            "T" => return fail("Trace events are not supported"),
            "l" => {
                self.load_snapshot = text();
                self.read_only = true;
            }
            "object" => self.objects.push(value.to_owned()),
            "tls-creds" => self.tls_creds = text(),
            "tls-hostname" => self.tls_hostname = text(),
            "tls-authz" => self.tls_authz = true,
            "image-opts" => self.image_opts = true,
            "fork" => self.fork = true,
            "pid-file" => self.pid_file = text(),
            "selinux-label" => return fail("SELinux support not enabled in this binary"),
            _ => return self.take_mode(key, value),
        }
        Ok(())
    }

    fn take_mode(&mut self, key: &str, value: &str) -> Result<(), Instead> {
        match key {
            "o" => match number(value) {
                Some(offset) => self.offset = offset,
                None => return fail(format!("Invalid offset '{value}'")),
            },
            "e" => match number(value).and_then(|number| i32::try_from(number).ok()) {
                Some(shared) => self.shared = Some(shared.unsigned_abs()),
                None => return fail(format!("Invalid shared device number '{value}'")),
            },
            "n" | "cache" if self.cache.is_some() => return fail("-n and --cache can only be specified once"),
            "n" | "cache" => {
                let name = if key == "n" { "none" } else { value };
                let mode = open::parse_cache(name);
                self.cache = Some(mode.ok_or_else(|| Instead::Fail(format!("Invalid cache mode `{name}'")))?);
            }
            "aio" if self.aio.is_some() => return fail("--aio can only be specified once"),
            "aio" => match Engine::by_name(value) {
                None => return fail(format!("Invalid aio mode '{value}'")),
                engine => self.aio = engine,
            },
            "discard" if self.discard.is_some() => return fail("--discard can only be specified once"),
            "discard" => match value {
                "unmap" | "on" => self.discard = Some(true),
                "ignore" | "off" => self.discard = Some(false),
                _ => return fail(format!("Invalid discard mode `{value}'")),
            },
            _ => {
                self.detect_zeroes = match value {
                    "off" => DetectZeroes::Off,
                    "on" => DetectZeroes::On,
                    "unmap" => DetectZeroes::Unmap,
                    _ => return fail(format!("Failed to parse detect_zeroes mode: Invalid parameter '{value}'")),
                };
                if self.detect_zeroes == DetectZeroes::Unmap && self.discard != Some(true) {
                    return fail(
                        "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
                    );
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Self, Instead> {
        if self.list {
            if !self.files.is_empty() {
                return fail("List mode is incompatible with a file name");
            }
            let image = self.name.is_some() || self.description.is_some() || self.offset != 0 || self.device;
            let image = image || self.format.is_some() || self.load_snapshot.is_some() || !self.bitmaps.is_empty();
            if image || self.allocation_depth || self.aio.is_some() || self.discard.is_some() || self.cache.is_some() {
                return fail("List mode is incompatible with per-device settings");
            }
            if self.fork {
                return fail("List mode is incompatible with forking");
            }
        } else if self.files.len() != 1 {
            return Err(Instead::Misuse("Invalid number of arguments".to_owned()));
        }
        Ok(self)
    }

    /// What can't be had together.
    pub fn check(&self, activated: u32) -> Result<(), String> {
        let fail = |text: &str| Err(text.to_owned());
        if activated != 0 {
            let given = [
                (self.device, "NBD device can't be set when using socket activation"),
                (self.socket.is_some(), "Unix socket can't be set when using socket activation"),
                (self.bind.is_some(), "The interface can't be set when using socket activation"),
                (self.port.is_some(), "TCP port number can't be set when using socket activation"),
                (self.list, "List mode is incompatible with socket activation"),
            ];
            if let Some((_, text)) = given.iter().find(|(given, _)| *given) {
                return fail(text);
            }
            if activated > 1 {
                return fail("qemu-nbd does not support socket activation with LISTEN_FDS > 1");
            }
        }
        if self.tls_creds.is_none() {
            if self.tls_authz {
                return fail("--tls-authz is not permitted without --tls-creds");
            }
            if self.tls_hostname.is_some() {
                return fail("--tls-hostname is not permitted without --tls-creds");
            }
        } else if self.device {
            return fail("TLS is not supported with a host device");
        } else if self.tls_authz && self.list {
            return fail("TLS authorization is incompatible with export list");
        } else if self.tls_authz {
            return fail("--tls-authz is not available: there are no authorization objects in this version");
        } else if self.tls_hostname.is_some() && !self.list {
            return fail("TLS hostname is only supported with export list");
        }
        if self.device && !self.list {
            return fail("Kernel /dev/nbdN support not available");
        }
        if self.image_opts && self.format.is_some() {
            return fail("--image-opts and -f are mutually exclusive");
        }
        Ok(())
    }

    /// The image.
    pub fn file(&self) -> &str {
        self.files.first().map_or("", String::as_str)
    }

    /// The host and port to listen at or to connect to.
    pub fn tcp(&self) -> (String, String) {
        let host = self.bind.clone().unwrap_or_else(|| "0.0.0.0".to_owned());
        (host, self.port.clone().unwrap_or_else(|| PORT.to_owned()))
    }

    /// Where to listen.
    pub fn address(&self) -> Address {
        match &self.socket {
            Some(path) => Address::Unix { path: path.clone() },
            None => {
                let (host, port) = self.tcp();
                Address::Tcp { host, port, to: None, ipv4: None, ipv6: None }
            }
        }
    }
}

/// A number as C writes them.
fn number(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(digits, 16).ok();
    }
    match text.strip_prefix('0').filter(|digits| !digits.is_empty()) {
        Some(digits) => u64::from_str_radix(digits, 8).ok(),
        None => text.parse().ok(),
    }
}

/// The text of `--help`.
pub fn usage(program: &str) -> String {
    format!(
        "Usage: {program} [OPTIONS] FILE\n  or:  {program} -L [OPTIONS]\nServes an image over NBD.\n\n  \
         -h, --help                this text\n  \
         -V, --version             the version\n\n\
         Connections:\n  \
         -p, --port=PORT           the port to listen at (default `{PORT}')\n  \
         -b, --bind=IFACE          the address to listen at (default `0.0.0.0')\n  \
         -k, --socket=PATH         the unix socket to listen at\n  \
         -e, --shared=NUM          so many clients at once (default `1', 0 for any number)\n  \
         -t, --persistent          don't end with the last client\n  \
         -v, --verbose             accepted: there is nothing more to say\n  \
         -x, --export-name=NAME    the export's name (default is the empty one)\n  \
         -D, --description=TEXT    the export's description\n\n\
         Parts of the image:\n  \
         -o, --offset=OFFSET       from this byte on\n  \
         -A, --allocation-depth    tell how deep in the chain data is\n  \
         -B, --bitmap=NAME         tell what a dirty bitmap says\n\n\
         General:\n  \
         -L, --list                list the exports of another server\n  \
         --object type,id=ID,...   an object, as a secret or TLS credentials\n  \
         --tls-creds=ID            the object with the TLS credentials\n  \
         --tls-hostname=NAME       whom the certificate of the other server must be for\n  \
         --fork                    go on in the background once the server runs\n  \
         --pid-file=PATH           put the process's id into a file\n\n\
         The image:\n  \
         -f, --format=FORMAT       its format\n  \
         -r, --read-only           don't write\n  \
         -s, --snapshot            write to a temporary overlay\n  \
         -l, --load-snapshot=SNAPSHOT\n                            \
                                   show an internal snapshot: its id or name, or\n                            \
                                   snapshot.id=ID,snapshot.name=NAME\n  \
         -n, --nocache             same as --cache=none\n      \
         --cache=MODE          none, writeback (default), writethrough, directsync, unsafe\n      \
         --aio=MODE            threads, native or io_uring\n      \
         --discard=MODE        ignore (default) or unmap\n      \
         --detect-zeroes=MODE  off (default), on or unmap\n      \
         --image-opts          FILE is a list of options\n"
    )
}
