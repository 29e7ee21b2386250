//! `blockdev-create`: an image is created as a job.

use std::sync::{Arc, Mutex, PoisonError};

use block::create::CreateRequest;
use block::{Child, Defaults, DriverType, Graph, IoFuture, NodeConfig, OpenFlags, Options, Permissions, Value};
use block_jobs::{Common, Job, JobDriver, Kind, NewJob};
use qapi::block::create::{BlockdevCreate, BlockdevCreateOptions};
use qapi::block::options::BlockdevOptions;
use qapi::json;
use qapi::{Error, Members, Path, QapiType};

use super::{Storage, client_error, options};

/// A node that an image is put on: there already, or to be opened.
enum Target {
    Name(String),
    New(Options),
}

impl Target {
    fn read(value: Value) -> Result<Self, Error> {
        match value {
            Value::Str(name) => Ok(Self::Name(name)),
            dictionary => {
                let parsed = BlockdevOptions::from_value(options::to_json(&dictionary), &Path::root())?;
                Ok(Self::New(options::of_node(&parsed)?))
            }
        }
    }

    async fn attach(self, graph: &Arc<Graph>) -> block::Result<Arc<Child>> {
        let node = match self {
            Self::Name(name) => graph.find(&name)?,
            Self::New(options) => {
                graph.open(options, Defaults::new(NodeConfig::default(), OpenFlags::default())).await?
            }
        };
        let used = Permissions::CONSISTENT_READ | Permissions::WRITE | Permissions::RESIZE;
        match graph.attach_root(&node, "blockdev-create", used, Permissions::ALL) {
            Ok(child) => Ok(child),
            Err(error) => {
                graph.close(&node).await?;
                Err(error)
            }
        }
    }
}

struct Plan {
    driver: &'static dyn DriverType,
    file: Option<Target>,
    data_file: Option<Target>,
    filename: String,
    size: u64,
    options: Options,
}

/// The work of the job.
struct Create {
    graph: Arc<Graph>,
    plan: Mutex<Option<Plan>>,
}

impl JobDriver for Create {
    fn run(self: Arc<Self>, job: Arc<Job>) -> IoFuture<'static> {
        Box::pin(async move {
            job.set_remaining(1);
            let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner).take();
            let result = match plan {
                Some(plan) => create(&self.graph, plan).await,
                None => Ok(()),
            };
            job.advance(1);
            result.inspect_err(|error| job.set_error_text(error.to_string()))
        })
    }
}

impl Storage {
    /// Starts the job.
    ///
    /// # Errors
    /// The driver can't create images, or the job's id is taken.
    pub fn create_image(&self, command: &BlockdevCreate) -> Result<(), Error> {
        let plan = self.plan(&command.options)?;
        let new = NewJob {
            common: Common { id: command.job_id.clone(), speed: 0, auto_finalize: true, auto_dismiss: false },
            kind: Kind::Create,
            gate: Arc::default(),
            transaction: None,
        };
        let work = Create { graph: Arc::clone(&self.graph), plan: Mutex::new(Some(plan)) };
        let job = self.jobs.create(new, Arc::new(work)).map_err(client_error)?;
        self.start_job(&job);
        Ok(())
    }

    fn plan(&self, options: &BlockdevCreateOptions) -> Result<Plan, Error> {
        let unsupported = || Error::generic("Driver does not support blockdev-create");
        let mut map = options.to_map();
        let name = map.remove("driver").and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
        let driver = self.graph.registry().find(&name).ok_or_else(unsupported)?;
        if driver.create_options().is_empty() || matches!(options, BlockdevCreateOptions::Other(_)) {
            return Err(unsupported());
        }
        if map.remove("extents").is_some_and(|extents| extents.as_array().is_none_or(|list| !list.is_empty())) {
            return Err(Error::generic("Extents in files of their own are not available in this version"));
        }
        let mut target = |name: &str| map.remove(name).map(|value| Target::read(options::value(&value))).transpose();
        let (file, data_file) = (target("file")?, target("data-file")?);
        let filename = map.remove("filename").and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
        let size = map.remove("size").and_then(|size| size.as_u64()).unwrap_or(0);
        Ok(Plan { driver, file, data_file, filename, size, options: creation_options(&name, map) })
    }
}

/// The members by the names that the drivers' own options have.
pub(super) fn creation_options(driver: &str, members: json::Map) -> Options {
    let mut options = Options::new();
    for (name, value) in members {
        match (driver, name.as_str(), &value) {
            ("qcow2", "version", json::Value::String(version)) => {
                options.set("compat", if version == "v2" { "0.10" } else { "1.1" });
            }
            // Keys and ciphers have the same names everywhere.
            ("luks", "preallocation", value) => options.set("preallocation", options::value(value)),
            ("luks", name, value) => options.set(name, options::value(value)),
            (_, "encrypt", json::Value::Object(encryption)) => {
                for (name, value) in encryption.iter() {
                    let value = match (name, value.as_str()) {
                        ("format", Some("qcow")) => Value::from("aes"),
                        _ => options::value(value),
                    };
                    options.set(&format!("encrypt.{name}"), value);
                }
            }
            (_, name, value) => options.set(&name.replace('-', "_"), options::value(value)),
        }
    }
    options
}

async fn create(graph: &Arc<Graph>, plan: Plan) -> block::Result<()> {
    let file = match plan.file {
        Some(target) => Some(target.attach(graph).await?),
        None => None,
    };
    let data_file = match plan.data_file {
        Some(target) => match target.attach(graph).await {
            Ok(child) => Some(child),
            Err(error) => {
                release(graph, file).await?;
                return Err(error);
            }
        },
        None => None,
    };
    let request = CreateRequest {
        graph: Arc::clone(graph),
        file: file.clone(),
        filename: plan.filename,
        size: plan.size,
        options: plan.options,
        data_file: data_file.clone(),
    };
    let created = plan.driver.create(request).await;
    let data_released = release(graph, data_file).await;
    let released = release(graph, file).await;
    created.and(data_released).and(released)
}

async fn release(graph: &Graph, child: Option<Arc<Child>>) -> block::Result<()> {
    match child {
        Some(child) => graph.detach(&child).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_get_the_names_of_the_drivers_own_options() {
        let members = json::parse(
            r#"{"version": "v2", "cluster-size": 4096, "lazy-refcounts": true,
                "encrypt": {"format": "luks", "key-secret": "s", "iter-time": 10}}"#,
        );
        let members = members.ok().and_then(|value| value.as_object().cloned()).unwrap_or_default();
        let options = creation_options("qcow2", members);
        let names: Vec<&str> = options.iter().map(|(name, _)| name).collect();
        let expected =
            ["cluster_size", "compat", "encrypt.format", "encrypt.iter-time", "encrypt.key-secret", "lazy_refcounts"];
        assert_eq!(names, expected);
        assert_eq!(options.get_str("compat"), Some("0.10"));
        assert_eq!(options.get_str("encrypt.format"), Some("luks"));
    }
}
