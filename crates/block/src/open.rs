//! Opening a node: what a driver is given, and the way from options or a file name to a node.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use aio::Engine;

use crate::bitmap::Bitmaps;
use crate::child::{Child, Parent, Role, missing_child};
use crate::driver::{DriverKind, DriverType};
use crate::error::{Error, Result};
use crate::filename;
use crate::graph::Graph;
use crate::node::{CacheMode, DetectZeroes, Node, NodeConfig};
use crate::options::Options;
use crate::value::Value;

/// Bytes that drivers look at to recognise their images.
pub(crate) const PROBE_LEN: usize = 2048;
/// How deep children may lie in one another: each is opened while its parent is.
const MAX_DEPTH: u32 = 200;
/// The longest chain of backings that is opened.
const MAX_CHAIN: usize = 1000;

/// How a tool or a device wants a tree opened. Applies to all nodes that the call opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFlags {
    /// Don't open the backing that the image names.
    pub no_backing: bool,
    /// Only metadata will be read: no passwords are needed, no data files are opened.
    pub no_io: bool,
    /// The image will be checked: open it as it is, without repairing anything.
    pub check: bool,
    /// Open in spite of other users (read-only nodes).
    pub force_share: bool,
    /// How files are read and written whose own options don't say it.
    pub engine: Engine,
}

/// What a node inherits unless its options say otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Defaults {
    /// The parent's configuration.
    pub config: NodeConfig,
    /// How everything is opened.
    pub flags: OpenFlags,
    /// Without a driver this node is a protocol; its format is not probed.
    is_protocol: bool,
    /// How deep in the tree this node is.
    depth: u32,
}

impl Defaults {
    /// Defaults of a root with this configuration and these flags.
    pub fn new(config: NodeConfig, flags: OpenFlags) -> Self {
        Self { config, flags, is_protocol: false, depth: 0 }
    }

    /// The defaults of a child of a node with these, which inherits `config`.
    fn below(&self, config: NodeConfig) -> Result<Self> {
        if self.depth >= MAX_DEPTH {
            return Err(Error::invalid(format!("Nodes are more than {MAX_DEPTH} deep in one another")));
        }
        Ok(Self { config, flags: self.flags, is_protocol: false, depth: self.depth + 1 })
    }
}

/// What a driver is opened with.
pub struct OpenRequest {
    /// The graph, for drivers that open further nodes later.
    pub graph: Arc<Graph>,
    /// The name that the node will have.
    pub node_name: String,
    /// The driver's own options and those of its children; the driver takes what it knows.
    pub options: Options,
    /// The node's configuration. `read_only` is what was asked for.
    pub config: NodeConfig,
    /// How everything is opened.
    pub flags: OpenFlags,
    /// The bitmaps that the node will have.
    pub bitmaps: Arc<Bitmaps>,
    /// Nobody has said what the format is: the image's own bytes have.
    pub is_guessed: bool,
    driver_type: &'static dyn DriverType,
    defaults: Defaults,
    opened: HashMap<String, Arc<Node>>,
    /// The nodes that were opened for this one.
    made: Arc<Mutex<Vec<Arc<Node>>>>,
}

impl OpenRequest {
    /// Opens the child that the options under `name` describe or refer to.
    ///
    /// # Errors
    /// If there are none, or opening fails.
    pub async fn child(&mut self, name: &str, role: Role) -> Result<Arc<Child>> {
        self.optional_child(name, role).await?.ok_or_else(|| missing_child(name))
    }

    /// As [`OpenRequest::child`], for a child that may be absent.
    ///
    /// # Errors
    /// If opening fails.
    pub async fn optional_child(&mut self, name: &str, role: Role) -> Result<Option<Arc<Child>>> {
        let is_protocol = match role {
            Role::Filtered => self.defaults.is_protocol,
            Role::Storage | Role::PlainStorage | Role::Data => true,
            Role::Cow | Role::Root => false,
        };
        self.open_child(name, role, is_protocol).await
    }

    /// As [`OpenRequest::optional_child`], for a child that is an image of its own (a copy of a quorum): without a
    /// driver its format is probed.
    ///
    /// # Errors
    /// If opening fails.
    pub async fn image_child(&mut self, name: &str, role: Role) -> Result<Option<Arc<Child>>> {
        self.open_child(name, role, false).await
    }

    async fn open_child(&mut self, name: &str, role: Role, is_protocol: bool) -> Result<Option<Arc<Child>>> {
        let node = if let Some(node) = self.opened.remove(name) {
            node
        } else if let Some(value) = self.options.take(name) {
            match value {
                Value::Str(reference) => self.graph.find(&reference)?,
                Value::Null => return Ok(None),
                _ => return Err(Error::invalid(format!("Invalid parameter type for '{name}', expected: node name"))),
            }
        } else {
            let options = self.options.take_below(name);
            if options.is_empty() {
                return Ok(None);
            }
            let config = self.config.of_child(role);
            let defaults = Defaults { is_protocol, ..self.defaults.below(config)? };
            let node = Box::pin(self.graph.open(options, defaults)).await?;
            self.note_made(&node);
            node
        };
        let child = Child::new(name, role, node, Parent::Node(OnceLock::new()));
        self.graph.grant_initial(&child, self.config.read_only)?;
        Ok(Some(child))
    }

    /// Opens a child by a file name that an image contains: a plain path relative to the image, never a protocol or
    /// `json:` (an image must not make the host open what its user did not name).
    ///
    /// # Errors
    /// If opening fails.
    pub async fn child_by_path(&mut self, name: &str, base: &str, path: &str, role: Role) -> Result<Arc<Child>> {
        // What looks like a protocol is a file of that name.
        let plain = if filename::protocol_of(path).is_some() { format!("./{path}") } else { path.to_owned() };
        let options = Options::new().with("driver", "file").with("filename", filename::combine(base, &plain));
        let defaults = self.defaults.below(self.config.of_child(role))?;
        let node = Box::pin(self.graph.open(options, defaults)).await?;
        self.note_made(&node);
        let child = Child::new(name, role, node, Parent::Node(OnceLock::new()));
        self.graph.grant_initial(&child, self.config.read_only)?;
        Ok(child)
    }

    fn note_made(&self, node: &Arc<Node>) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(node));
    }

    /// The driver took all its options.
    ///
    /// # Errors
    /// Names the first option that is left.
    pub fn finish(&self) -> Result<()> {
        let Some((name, _)) = self.options.iter().find(|(name, _)| !name.starts_with("backing")) else { return Ok(()) };
        Err(Error::invalid(match self.driver_type.kind() {
            DriverKind::Protocol => {
                format!("Block protocol '{}' doesn't support the option '{name}'", self.driver_type.name())
            }
            _ => format!("Block format '{}' does not support the option '{name}'", self.driver_type.name()),
        }))
    }
}

/// The backing of an overlay, which is not open yet.
enum Below {
    /// A node that is there already.
    Known(String),
    /// One that these options describe.
    New(Options, Defaults),
}

const NO_BACKING: &str = "Could not open backing file";

impl Graph {
    /// Opens a tree of nodes. The caller attaches the result to a root, or releases it.
    ///
    /// Generic options: `driver`, `node-name`, `read-only`, `auto-read-only`, `discard`, `detect-zeroes`,
    /// `cache.direct`, `cache.no-flush`, `force-share`, `filename`, `backing`. Without a driver the format is probed.
    ///
    /// # Errors
    /// Unknown drivers and options, and what opening the files gives.
    pub async fn open(self: &Arc<Self>, options: Options, defaults: Defaults) -> Result<Arc<Node>> {
        // A chain may be long: it is opened from its top down without recursion, and joined from its bottom up.
        let mut chain: Vec<(Arc<Node>, bool)> = Vec::new();
        let mut next = Some(Below::New(options, defaults));
        let mut names = HashSet::new();
        while let Some(below) = next.take() {
            if chain.len() >= MAX_CHAIN {
                return Err(Error::invalid(format!("The chain of images is longer than {MAX_CHAIN}")));
            }
            let is_new = matches!(below, Below::New(..));
            let opened = match below {
                Below::Known(name) => self.find(&name).map(|node| (node, None)),
                // An error of the top itself has no context here.
                Below::New(options, defaults) => {
                    let opened = Box::pin(self.open_one(options, defaults)).await;
                    let above = chain.len();
                    opened.map_err(|error| (0..above).fold(error, |error, _| error.context(NO_BACKING)))
                }
            };
            let (node, below) = opened?;
            if let Some(name) = filename::exact(&node)
                && !names.insert(name.clone())
            {
                return Err(Error::invalid(format!("The backing files of '{name}' lead back to it")));
            }
            chain.push((node, is_new));
            next = below;
        }
        let mut below: Option<(Arc<Node>, bool)> = None;
        filename::remembering(|| {
            while let Some((node, is_new)) = chain.pop() {
                if let Some((backing, is_made)) = below.take() {
                    if is_made {
                        backing.make_for(&node);
                    }
                    node.note_backing(|| filename::of(&backing));
                    self.attach_backing(&node, backing)?;
                }
                below = Some((node, is_new));
            }
            Ok::<_, Error>(())
        })?;
        below.map(|(node, _)| node).ok_or_else(|| Error::invalid("Must specify either driver or file"))
    }

    /// Opens a node without its backing, which is told instead.
    async fn open_one(
        self: &Arc<Self>,
        mut options: Options,
        defaults: Defaults,
    ) -> Result<(Arc<Node>, Option<Below>)> {
        let names_protocol = options.get_str("driver").and_then(|name| self.registry().find(name));
        // A file of the host that is named gets its file name as it is: it may come from an image.
        if names_protocol.is_none_or(|driver| !crate::file::is_host_file(driver.name())) {
            expand_filename(&mut options)?;
        }
        let explicit = options.clone();
        let node_name = options.take_str("node-name")?;
        if let Some(name) = &node_name {
            self.check_new_name(name)?;
        }
        let inherited = NodeConfig { force_share: defaults.flags.force_share, ..defaults.config };
        let config = take_config(&mut options, &inherited)?;
        if config.force_share && !config.read_only {
            return Err(Error::invalid("force-share=on can only be used with read-only images"));
        }
        let flags = OpenFlags { force_share: config.force_share, ..defaults.flags };
        let defaults = Defaults { flags, ..defaults };
        let filename = options.get_str("filename").map(str::to_owned);
        let mut opened = HashMap::new();
        let made = Arc::<Mutex<Vec<Arc<Node>>>>::default();
        let mut driver_name = options.take_str("driver")?;
        let is_guessed = driver_name.is_none() && !defaults.is_protocol;
        if driver_name.is_none() && defaults.is_protocol {
            if let Some(filename) = options.take_str("filename")? {
                for (name, value) in protocol_options(self, &filename)?.iter() {
                    options.set_default(name, value.clone());
                }
            }
            driver_name = options.take_str("driver")?;
        }
        let driver_type = match &driver_name {
            Some(name) => {
                self.registry().find(name).ok_or_else(|| Error::invalid(format!("Unknown driver '{name}'")))?
            }
            None => {
                let refers = options.contains("file");
                let file = self.open_for_probing(&mut options, &defaults, config).await?;
                if !refers {
                    made.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&file));
                }
                let probed = self.probe(&file, filename.as_deref().unwrap_or("")).await?;
                opened.insert("file".to_owned(), file);
                probed
            }
        };
        if let Some(filename) = &filename
            && options.contains("filename")
        {
            let is_parsed = driver_type.prefixes().iter().any(|prefix| filename.starts_with(prefix));
            // A filter with names of its own also knows what a plain name means to it.
            if is_parsed || (driver_type.kind() == DriverKind::Filter && !driver_type.prefixes().is_empty()) {
                options.take("filename");
                for (name, value) in driver_type.parse_filename(filename)?.iter() {
                    options.set_default(name, value.clone());
                }
            } else if driver_type.kind() != DriverKind::Protocol {
                options.take("filename");
                // A driver that was named for the file below gets the name as it is.
                let below = match options.contains("file.driver") {
                    true => Options::new().with("filename", filename.as_str()),
                    false => protocol_options(self, filename)?,
                };
                below.iter().for_each(|(name, value)| options.set_default(&format!("file.{name}"), value.clone()));
            }
        }
        let node_name = node_name.unwrap_or_else(|| self.generate_name());
        let backing_options = options.take_below("backing");
        let backing_reference = options.take("backing");
        let bitmaps = Arc::<Bitmaps>::default();
        let request = OpenRequest {
            graph: Arc::clone(self),
            node_name: node_name.clone(),
            options,
            config,
            flags,
            bitmaps: Arc::clone(&bitmaps),
            is_guessed,
            driver_type,
            defaults,
            opened,
            made: Arc::clone(&made),
        };
        let driver = driver_type.open(request).await?;
        let node = Node::new(node_name, driver_type, driver, own_options(&explicit), config, bitmaps);
        made.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|below| below.make_for(&node));
        self.register(&node)?;
        let below = match backing_reference {
            Some(Value::Str(name)) if !name.is_empty() => Some(Below::Known(name)),
            Some(Value::Str(_) | Value::Null) => None,
            Some(_) => return Err(Error::invalid("Invalid parameter type for 'backing', expected: node name")),
            None if driver_type.supports_backing() && !flags.no_backing => {
                backing_of(&node, backing_options, &defaults)?
            }
            None => None,
        };
        Ok((node, below))
    }

    async fn open_for_probing(
        self: &Arc<Self>,
        options: &mut Options,
        defaults: &Defaults,
        config: NodeConfig,
    ) -> Result<Arc<Node>> {
        if let Some(Value::Str(reference)) = options.take("file") {
            return self.find(&reference);
        }
        let mut below = options.take_below("file");
        if let Some(filename) = options.take_str("filename")? {
            for (name, value) in protocol_options(self, &filename)?.iter() {
                below.set_default(name, value.clone());
            }
        }
        if below.is_empty() {
            return Err(Error::invalid("Must specify either driver or file"));
        }
        let defaults = Defaults { is_protocol: true, ..defaults.below(config.of_child(Role::Storage))? };
        Box::pin(self.open(below, defaults)).await
    }

    /// The driver that is surest that `file` is its image; `raw` if none is.
    ///
    /// # Errors
    /// If the first bytes can't be read.
    pub async fn probe(&self, file: &Arc<Node>, filename: &str) -> Result<&'static dyn DriverType> {
        let len = usize::try_from(file.len()).unwrap_or(usize::MAX).min(PROBE_LEN);
        let buf = iobuf::IoBuf::zeroed(len);
        file.read(0, buf.clone()).await.map_err(|e| e.context("Could not read image for determining its format"))?;
        self.guess(&buf.to_vec(), filename).ok_or_else(|| Error::invalid("Could not determine image format"))
    }

    /// The driver that is surest that an image begins with these bytes; `raw` if none is.
    pub(crate) fn guess(&self, head: &[u8], filename: &str) -> Option<&'static dyn DriverType> {
        let best = self.registry().iter().map(|t| (t.probe(head, filename), t)).max_by_key(|(score, _)| *score);
        match best {
            Some((score, driver)) if score > 0 => Some(driver),
            _ => self.registry().find("raw"),
        }
    }

    fn attach_backing(&self, node: &Arc<Node>, backing: Arc<Node>) -> Result<()> {
        let Some(slot) = node.backing_slot() else {
            return Err(Error::invalid(format!(
                "Driver '{}' of node '{}' does not support backing files",
                node.driver_type().name(),
                node.name()
            )));
        };
        let child = Child::new("backing", Role::Cow, backing, Parent::Node(OnceLock::new()));
        child.set_parent_node(node);
        self.grant_initial(&child, true)?;
        slot.set(Some(child));
        Ok(())
    }
}

/// The backing of a node that was just opened: what the image names, changed by the user's options.
fn backing_of(node: &Arc<Node>, mut options: Options, defaults: &Defaults) -> Result<Option<Below>> {
    let stored = node.driver().image_backing();
    if stored.is_some() && options.is_empty() {
        node.expect_named_backing();
    }
    let names_file = options.iter().any(|(name, _)| name == "filename" || name == "file" || name.starts_with("file."));
    if let Some(stored) = &stored
        && !names_file
    {
        let base = filename::base_of(node).unwrap_or_else(|_| filename::of(node));
        options.set("filename", filename::combine(&base, &stored.file));
    }
    if let Some(format) = stored.as_ref().and_then(|stored| stored.format.as_ref())
        && !options.contains("driver")
    {
        options.set("driver", format.as_str());
    }
    if options.is_empty() {
        return Ok(None);
    }
    let config = node.config().of_child(Role::Cow);
    // The chain is opened one after the other: this is no deeper.
    let below = Defaults { depth: defaults.depth, ..defaults.below(config)? };
    Ok(Some(Below::New(options, below)))
}

/// What a user is to be told whose image was taken for a raw one because nobody said what it is.
pub fn guess_warning(node: &Arc<Node>) -> Option<String> {
    (node.driver().is_guess() && !node.is_read_only()).then(|| {
        format!(
            "WARNING: Image format was not specified for '{}' and probing guessed raw.\n         \
             Automatically detecting the format is dangerous for raw images, write operations on block 0 will be \
             restricted.\n         Specify the 'raw' format explicitly to remove the restrictions.",
            node.driver().data_child().map_or_else(|| filename::of(node), |file| filename::of(&file.node()))
        )
    })
}

/// What belongs to the node itself: without the options of its children.
fn own_options(options: &Options) -> Options {
    let mut own = Options::new();
    for (name, value) in options.iter() {
        if !name.contains('.') || name.starts_with("cache.") {
            own.set(name, value.clone());
        }
    }
    own
}

/// Replaces a `filename` with a protocol or `json:` by the options that it stands for, unless a driver is given.
fn expand_filename(options: &mut Options) -> Result<()> {
    let Some(filename) = options.get_str("filename").map(str::to_owned) else { return Ok(()) };
    if let Some(json) = filename.strip_prefix("json:") {
        options.take("filename");
        let parsed = filename::parse_json(json)?;
        for (name, value) in Options::from_value(&parsed).iter() {
            options.set_default(name, value.clone());
        }
        return expand_filename(options);
    }
    Ok(())
}

/// The options of the protocol node that opens `filename`.
fn protocol_options(graph: &Graph, filename: &str) -> Result<Options> {
    if let Some(json) = filename.strip_prefix("json:") {
        return Ok(Options::from_value(&filename::parse_json(json)?));
    }
    let protocol = graph.registry().iter().find(|t| t.prefixes().iter().any(|prefix| filename.starts_with(prefix)));
    if let Some(protocol) = protocol {
        return Ok(protocol.parse_filename(filename)?.with("driver", protocol.name()));
    }
    if let Some(prefix) = filename::protocol_of(filename) {
        return Err(Error::invalid(format!("Unknown protocol '{prefix}'")));
    }
    Ok(Options::new().with("driver", crate::file::driver_for_path(filename)).with("filename", filename))
}

/// The options that all nodes have, whatever their driver; the cache mode has a prefix of its own.
pub const GENERIC_OPTIONS: [&str; 9] = [
    "driver",
    "node-name",
    "read-only",
    "auto-read-only",
    "discard",
    "detect-zeroes",
    "force-share",
    "filename",
    "backing",
];

impl NodeConfig {
    /// What a child of a node inherits. What a node passes down it means: what its users may give back to the host is up to
    /// its own option.
    pub fn of_child(self, role: Role) -> Self {
        // What is done with zeroes is a matter of one node.
        let config = Self { discard: true, detect_zeroes: DetectZeroes::Off, ..self };
        match role {
            Role::Cow => Self { read_only: true, auto_read_only: false, ..config },
            _ => config,
        }
    }

    /// Takes the options that change nothing but how a node handles requests.
    ///
    /// # Errors
    /// Unknown values, or zeroes shall be given back where discards are ignored.
    pub fn take_handling(&mut self, options: &mut Options) -> Result<()> {
        if let Some(index) = options.take_choice("discard", &["ignore", "off", "unmap", "on"])? {
            self.discard = index >= 2;
        }
        if let Some(index) = options.take_choice("detect-zeroes", &DetectZeroes::NAMES)? {
            self.detect_zeroes = [DetectZeroes::Off, DetectZeroes::On, DetectZeroes::Unmap][index];
        }
        if self.detect_zeroes == DetectZeroes::Unmap && !self.discard {
            return Err(Error::invalid(
                "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
            ));
        }
        Ok(())
    }
}

fn take_config(options: &mut Options, inherited: &NodeConfig) -> Result<NodeConfig> {
    let mut config = *inherited;
    if let Some(read_only) = options.take_bool("read-only")? {
        config.read_only = read_only;
    }
    if let Some(auto) = options.take_bool("auto-read-only")? {
        config.auto_read_only = auto;
    }
    config.take_handling(options)?;
    let direct = options.take_bool("cache.direct")?.unwrap_or(config.cache.direct);
    let no_flush = options.take_bool("cache.no-flush")?.unwrap_or(config.cache.no_flush);
    config.cache = CacheMode { direct, no_flush };
    if let Some(force_share) = options.take_bool("force-share")? {
        config.force_share = force_share;
    }
    Ok(config)
}
