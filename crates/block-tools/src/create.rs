//! Creating images: the protocol file, then the format in it.

use std::sync::Arc;

use block::create::{CreateOption, CreateRequest};
use block::driver::DriverKind;
use block::{Child, DriverType, Error, Graph, Options, Result};

use crate::keyval::CreateValues;
use crate::open::{Access, file_options, open, protocol_of};
use crate::status::{self, SECTOR};

/// An image that is to be created.
pub struct Creation {
    /// Its format.
    pub format: &'static dyn DriverType,
    /// The driver of its file.
    pub protocol: &'static dyn DriverType,
    /// The name of its file.
    pub filename: String,
    /// The options.
    pub values: CreateValues,
}

/// Options that every protocol file has whose driver lists none of its own are those of raw images.
fn can_create(format: &'static dyn DriverType) -> bool {
    format.name() == "raw" || !format.create_options().is_empty()
}

impl Creation {
    /// Prepares to create `filename` in the format of that name.
    ///
    /// # Errors
    /// Unknown formats, and those that can't be created.
    pub fn new(graph: &Graph, format: &str, filename: &str) -> Result<Self> {
        let format =
            graph.registry().find(format).ok_or_else(|| Error::invalid(format!("Unknown file format '{format}'")))?;
        let protocol = protocol_of(graph, filename)?;
        if !can_create(format) {
            return Err(Error::unsupported(format!(
                "Format driver '{}' does not support image creation",
                format.name()
            )));
        }
        if protocol.create_options().is_empty() {
            return Err(Error::unsupported(format!(
                "Protocol driver '{}' does not support image creation",
                protocol.name()
            )));
        }
        let mut values = CreateValues::new([format.create_options(), protocol.create_options()]);
        values.arrange(format.name());
        Ok(Self { format, protocol, filename: filename.to_owned(), values })
    }

    /// Names the backing, in place of options of the list.
    ///
    /// # Errors
    /// If the format has no backing.
    pub fn set_backing(&mut self, file: Option<&str>, format: Option<&str>) -> Result<()> {
        let name = self.format.name();
        if let Some(file) = file {
            self.values
                .set("backing_file", file)
                .map_err(|error| error.with_message(format!("Backing file not supported for file format '{name}'")))?;
        }
        if let Some(format) = format {
            self.values.set("backing_fmt", format).map_err(|error| {
                error.with_message(format!("Backing file format not supported for file format '{name}'"))
            })?;
        }
        Ok(())
    }

    /// Checks the backing that is named, opens it unless told not to, and takes the size from it if none is given.
    ///
    /// # Errors
    /// A backing that can't be opened or has no format; no size.
    pub async fn resolve_backing(&mut self, graph: &Arc<Graph>, open_backing: bool) -> Result<()> {
        let backing = self.values.get("backing_file").map(str::to_owned);
        let format = self.values.get("backing_fmt").map(str::to_owned);
        if let Some(backing) = backing {
            if backing == self.filename {
                return Err(Error::invalid(
                    "Error: Trying to create an image with the same filename as the backing file",
                ));
            }
            if backing.is_empty() {
                return Err(Error::invalid("Expected backing file name, got empty string"));
            }
            const NO_FORMAT: &str = "Backing file specified without backing format";
            if !open_backing {
                if format.is_none() {
                    return Err(Error::invalid(NO_FORMAT));
                }
            } else {
                let full = block::filename::combine(&self.filename, &backing);
                let mut access = Access::default();
                access.flags.no_io = true;
                access.flags.force_share = true;
                let child = open(graph, file_options(&full, format.as_deref()), access).await.map_err(|error| {
                    let text = format!("{error}\nCould not open backing image.");
                    error.with_message(text)
                })?;
                let (len, detected) = (status::size(&child.node()), child.node().driver_type().name());
                graph.detach(&child).await?;
                if format.is_none() {
                    return Err(Error::invalid(format!("{NO_FORMAT}\nDetected format of {detected}.")));
                }
                if self.values.size().is_none() {
                    self.values.set("size", &len.to_string())?;
                }
            }
        }
        if self.values.size().is_none() {
            return Err(Error::invalid("Image creation needs a size parameter"));
        }
        Ok(())
    }

    /// Creates the image. A file that was made for nothing is removed.
    ///
    /// # Errors
    /// The drivers'.
    pub async fn run(&self, graph: &Arc<Graph>) -> Result<()> {
        let size = self.values.size().unwrap_or(0);
        let size = size
            .checked_next_multiple_of(SECTOR)
            .filter(|size| i64::try_from(*size).is_ok())
            .ok_or_else(|| Error::too_big("Image size is too large"))?;
        let is_bare = self.format.kind() == DriverKind::Protocol;
        let (format_options, protocol_options) = self.split_options();
        self.protocol
            .create(CreateRequest {
                graph: Arc::clone(graph),
                file: None,
                filename: self.filename.clone(),
                size: if is_bare { size } else { 0 },
                options: if is_bare { format_options.clone() } else { protocol_options },
                data_file: None,
            })
            .await?;
        if is_bare {
            // The file is the image, as with `format=file`.
            return Ok(());
        }
        let result = self.create_format(graph, size, format_options).await;
        if result.is_err() && self.protocol.name() == "file" && self.format.name() != "raw" {
            let _ = std::fs::remove_file(self.filename.strip_prefix("file:").unwrap_or(&self.filename));
        }
        result
    }

    /// The options of the format, and those that only the protocol has.
    fn split_options(&self) -> (Options, Options) {
        let has = |list: &[CreateOption], name: &str| list.iter().any(|option| option.name == name);
        let (mut format, mut protocol) = (Options::new(), Options::new());
        for (name, value) in self.values.to_options().iter() {
            // Raw images have no options of their own: what their file reserves is up to the size that they get.
            let is_raw_preallocation = self.format.name() == "raw" && name == "preallocation";
            if is_raw_preallocation || has(self.format.create_options(), name) {
                format.set(name, value.clone());
            } else {
                protocol.set(name, value.clone());
            }
        }
        (format, protocol)
    }

    async fn create_format(&self, graph: &Arc<Graph>, size: u64, options: Options) -> Result<()> {
        let file = open_protocol(graph, self.protocol, &self.filename).await?;
        let data_file = match options.get_str("data_file") {
            Some(name) => {
                let protocol = protocol_of(graph, name)?;
                let request = CreateRequest {
                    graph: Arc::clone(graph),
                    file: None,
                    filename: name.to_owned(),
                    size: 0,
                    options: Options::new(),
                    data_file: None,
                };
                protocol.create(request).await?;
                Some(open_protocol(graph, protocol, name).await?)
            }
            None => None,
        };
        let request = CreateRequest {
            graph: Arc::clone(graph),
            file: Some(Arc::clone(&file)),
            filename: self.filename.clone(),
            size,
            options,
            data_file: data_file.clone(),
        };
        let mut result = self.format.create(request).await;
        for child in [Some(file), data_file].into_iter().flatten() {
            result = result.and(graph.detach(&child).await);
        }
        result
    }
}

async fn open_protocol(graph: &Arc<Graph>, protocol: &dyn DriverType, filename: &str) -> Result<Arc<Child>> {
    let options = protocol.parse_filename(filename)?.with("driver", protocol.name());
    let access = Access { write: true, resize: true, exclusive: true, ..Access::default() };
    open(graph, options, access).await
}
