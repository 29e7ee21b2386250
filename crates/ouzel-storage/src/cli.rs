//! The command line. Its options are done in their order.

use qapi::block::export::{BlockExportAdd, NbdServerOptions};
use qapi::block::options::BlockdevOptions;
use qapi::control::{MonitorMode, MonitorOptions};
use qapi::keyval::{self, Grammar};
use qapi::objects::ObjectAdd;
use vm::config::MonitorConfig;
use vm::daemon::Step;

/// Options with a value; those without are handled by name.
const WITH_VALUE: [&str; 8] = ["blockdev", "chardev", "export", "monitor", "nbd-server", "object", "pidfile", "trace"];
const WITHOUT: [&str; 3] = ["daemonize", "help", "version"];

/// What the command line asks for.
pub enum Request {
    /// To run.
    Run(Line),
    /// To explain.
    Help,
    /// To say the version.
    Version,
}

/// What the command line says.
#[derive(Default)]
pub struct Line {
    /// What to do, with the option's text for messages.
    pub steps: Vec<(String, Step)>,
    /// Go on in the background.
    pub daemonize: bool,
    /// Where the process's id goes.
    pub pid_file: Option<String>,
}

/// Reads the arguments behind the program's name.
pub fn parse(args: &[String]) -> Result<Request, String> {
    let mut line = Line::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let name = match arg.as_str() {
            "-h" => "help",
            "-V" => "version",
            "-T" => "trace",
            text => text.strip_prefix("--").filter(|name| !name.is_empty()).ok_or("Unexpected argument")?,
        };
        let (name, value) = name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
        let names = || WITH_VALUE.iter().chain(&WITHOUT);
        let exact = names().find(|known| **known == name);
        let mut similar = names().filter(|known| known.starts_with(name));
        let found = exact.or_else(|| similar.next().filter(|_| similar.next().is_none()));
        let name = *found.ok_or_else(|| format!("unrecognized option '--{name}'"))?;
        if !WITH_VALUE.contains(&name) {
            if value.is_some() {
                return Err(format!("option '--{name}' doesn't allow an argument"));
            }
            match name {
                "help" => return Ok(Request::Help),
                "version" => return Ok(Request::Version),
                _ => line.daemonize = true,
            }
            continue;
        }
        let value = match value {
            Some(value) => value,
            None => args.next().ok_or_else(|| format!("option '--{name}' requires an argument"))?,
        };
        let source = format!("--{name} {value}");
        match name {
            "pidfile" => line.pid_file = Some(value.to_owned()),
            "trace" => return Err(format!("{source}: Trace events are not supported")),
            _ => {
                let step = step(name, value).map_err(|error| format!("{source}: {error}"))?;
                line.steps.push((source, step));
            }
        }
    }
    Ok(Request::Run(line))
}

fn typed<T: qapi::Members>(value: &str, implied: Option<&str>) -> Result<T, String> {
    let grammar = implied.map_or_else(Grammar::strict, Grammar::implied);
    keyval::from_keyval(value, &grammar).map_err(|error| error.desc)
}

fn step(name: &str, value: &str) -> Result<Step, String> {
    Ok(match name {
        "blockdev" => {
            let node: BlockdevOptions = typed(value, Some("driver"))?;
            if node.node_name.is_none() {
                return Err("'node-name' must be specified for the root node".to_owned());
            }
            Step::Node(Box::new(node))
        }
        "chardev" => Step::Chardev(Box::new(chardev::parse_option(value).map_err(|error| error.to_string())?)),
        "export" => {
            let export: BlockExportAdd = typed(value, Some("type"))?;
            Step::Export(Box::new(export))
        }
        "monitor" => {
            let monitor: MonitorOptions = typed(value, Some("chardev"))?;
            if monitor.mode == Some(MonitorMode::Readline) {
                return Err("there is no human monitor here; give mode=control".to_owned());
            }
            let pretty = monitor.pretty.unwrap_or(false);
            Step::Monitor(MonitorConfig { chardev: monitor.chardev, pretty, is_human: false })
        }
        "nbd-server" => {
            let server: NbdServerOptions = typed(value, None)?;
            Step::NbdServer(server)
        }
        _ => {
            let object: ObjectAdd = typed(value, Some("qom-type"))?;
            Step::Object(Box::new(object))
        }
    })
}

/// The text of `--help`.
pub fn usage(program: &str) -> String {
    format!(
        "Usage: {program} [options]\nThe block layer without a machine, driven by QMP.\n\n  \
         -h, --help             this text\n  \
         -V, --version          the version\n\n  \
         --blockdev [driver=]DRIVER,node-name=NAME[,OPTION=VALUE...]\n                         \
         a node\n  \
         --chardev BACKEND,id=ID[,OPTION=VALUE...]\n                         \
         a character device\n  \
         --daemonize            go on in the background once everything is set up\n  \
         --export [type=]nbd,id=ID,node-name=NODE[,name=NAME][,writable=on|off]\n           \
         [,writethrough=on|off][,iothread=ID][,description=TEXT]\n           \
         [,bitmaps.N=NAME][,allocation-depth=on|off]\n                         \
         an export of a node over NBD (needs --nbd-server)\n  \
         --export [type=]fuse,id=ID,node-name=NODE,mountpoint=FILE[,writable=on|off]\n           \
         [,growable=on|off][,writethrough=on|off][,iothread=ID]\n           \
         [,allow-other=on|off|auto]\n                         \
         an export of a node as a file that is mounted over another one\n  \
         --export [type=]vhost-user-blk,id=ID,node-name=NODE,addr.type=unix,addr.path=PATH\n           \
         [,writable=on|off][,writethrough=on|off][,iothread=ID]\n           \
         [,num-queues=N][,logical-block-size=BYTES]\n                         \
         an export of a node as a disk for a virtual machine of another program\n  \
         --monitor [chardev=]ID[,mode=control][,pretty=on|off]\n                         \
         a QMP monitor\n  \
         --nbd-server addr.type=inet,addr.host=HOST,addr.port=PORT\n               \
         [,tls-creds=ID][,max-connections=N]\n  \
         --nbd-server addr.type=vsock,addr.cid=MACHINE,addr.port=PORT\n               \
         [,tls-creds=ID][,max-connections=N]\n  \
         --nbd-server addr.type=unix,addr.path=PATH\n               \
         [,tls-creds=ID][,max-connections=N]\n                         \
         the NBD server\n  \
         --object TYPE,id=ID[,PROPERTY=VALUE...]\n                         \
         an object: iothread, secret, throttle-group, tls-creds-x509 ...\n  \
         --pidfile PATH         put the process's id into a file\n"
    )
}
