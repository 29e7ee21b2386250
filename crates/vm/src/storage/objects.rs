//! Objects that users create: secrets, throttle groups, I/O threads, TLS credentials, memory, sources of
//! random numbers.

use std::sync::{Arc, mpsc};

use block::Graph;
use block::throttle::{Group, Limits};
use block_net::{Credentials, X509};
use block_tools::secret::Description;
use device::entropy::Entropy;
use machine::entropy::HostEntropy;
use qapi::Error;
use qapi::memory::Memdev;
use qapi::objects::{
    IOThreadInfo, IothreadProperties, ObjectAdd, ObjectTypeOptions, QCryptoSecretFormat, QCryptoTLSCredsEndpoint,
    RngProperties, TlsCredsX509Properties,
};

use super::client_error;
use super::memory::{MachineMemory, MemoryObject};
use super::throttle::limits_of_group;

enum Object {
    Secret,
    ThrottleGroup(Arc<Group>),
    IoThread(Box<IoThread>),
    Credentials,
    Memory(Box<MemoryObject>),
    /// A source of random numbers, with its type.
    Rng(&'static str, Arc<dyn Entropy>),
}

struct IoThread {
    reactor: aio::IoThread,
    info: IOThreadInfo,
    /// Of each [`IoThreadUse`], and this one.
    users: Arc<()>,
}

/// One use of an I/O thread, by a disk, an export or a node: `object-del` refuses the thread until all have gone.
pub struct IoThreadUse {
    reactor: aio::Handle,
    _counted: Arc<()>,
}

impl IoThreadUse {
    /// Where the work is to be done.
    pub fn reactor(&self) -> &aio::Handle {
        &self.reactor
    }
}

/// The objects by their ids, in the order of their creation.
pub struct Objects {
    graph: Arc<Graph>,
    list: Vec<(String, Object)>,
}

impl Objects {
    /// No objects.
    pub fn new(graph: Arc<Graph>) -> Self {
        Self { graph, list: Vec::new() }
    }

    /// `object-add`.
    ///
    /// # Errors
    /// The id is none or is taken, or the properties can't be had.
    pub fn add(&mut self, command: ObjectAdd) -> Result<(), Error> {
        let ObjectAdd { object, id } = command;
        if !qapi::keyval::is_identifier(&id) {
            return Err(Error::expects("id", "an identifier"));
        }
        let duplicate = format!("attempt to add duplicate property '{id}' to object (type 'container')");
        let is_new = !self.list.iter().any(|(known, _)| *known == id);
        let unless_known = |()| if is_new { Ok(()) } else { Err(Error::generic(duplicate)) };
        let object = match object {
            ObjectTypeOptions::Secret(properties) => {
                let description = Description {
                    data: properties.data,
                    file: properties.file,
                    base64: properties.format == Some(QCryptoSecretFormat::Base64),
                    key_id: properties.keyid,
                    iv: properties.iv,
                };
                let bytes = description.load(&self.graph).map_err(client_error)?;
                unless_known(())?;
                self.graph.set_secret(&id, bytes);
                Object::Secret
            }
            ObjectTypeOptions::ThrottleGroup(properties) => {
                let limits = limits_of_group(&properties, Limits::default())?;
                let group = Arc::new(Group::new(&id, limits).map_err(client_error)?);
                unless_known(())?;
                self.graph.set_object(&id, Arc::clone(&group) as Arc<dyn std::any::Any + Send + Sync>);
                Object::ThrottleGroup(group)
            }
            ObjectTypeOptions::Iothread(properties) => {
                unless_known(())?;
                Object::IoThread(Box::new(IoThread::start(&id, &properties)?))
            }
            ObjectTypeOptions::MemoryBackendRam(properties) => {
                unless_known(())?;
                Object::Memory(Box::new(MemoryObject::ram(&properties)?))
            }
            ObjectTypeOptions::MemoryBackendMemfd(properties) => {
                unless_known(())?;
                Object::Memory(Box::new(MemoryObject::memfd(&id, &properties)?))
            }
            ObjectTypeOptions::MemoryBackendFile(properties) => {
                unless_known(())?;
                Object::Memory(Box::new(MemoryObject::file(&properties)?))
            }
            ObjectTypeOptions::RngBuiltin(RngProperties { opened: _ }) => {
                unless_known(())?;
                let source = HostEntropy::builtin().map_err(|error| Error::generic(error.to_string()))?;
                Object::Rng("rng-builtin", Arc::new(source))
            }
            ObjectTypeOptions::RngRandom(properties) => {
                let name = properties.filename.as_deref().unwrap_or("/dev/urandom");
                let failed = |error: std::io::Error| {
                    let reason = block::error::strerror(error.raw_os_error().unwrap_or(0));
                    Error::generic(format!("Could not open '{name}': {reason}"))
                };
                let source = HostEntropy::file(std::path::Path::new(name)).map_err(failed)?;
                unless_known(())?;
                Object::Rng("rng-random", Arc::new(source))
            }
            ObjectTypeOptions::TlsCredsX509(properties) => {
                let credentials = credentials(&properties)?;
                unless_known(())?;
                self.graph.set_object(&id, credentials.into_object());
                Object::Credentials
            }
        };
        self.list.push((id, object));
        Ok(())
    }

    /// `object-del`.
    ///
    /// # Errors
    /// There is no such object, or it is in use.
    pub fn delete(&mut self, id: &str) -> Result<(), Error> {
        let at = self.list.iter().position(|(known, _)| known == id);
        let at = at.ok_or_else(|| Error::generic(format!("object '{id}' not found")))?;
        let in_use = match self.list.get(at).map(|(_, object)| object) {
            // One is here, one in the graph.
            Some(Object::ThrottleGroup(group)) => Arc::strong_count(group) > 2,
            Some(Object::IoThread(thread)) => Arc::strong_count(&thread.users) > 1,
            Some(Object::Memory(memory)) => memory.is_used(),
            Some(Object::Rng(_, source)) => Arc::strong_count(source) > 1,
            _ => false,
        };
        if in_use {
            return Err(Error::generic(format!("object '{id}' is in use, can not be deleted")));
        }
        match self.list.remove(at).1 {
            Object::Secret => self.graph.remove_secret(id),
            Object::ThrottleGroup(_) | Object::Credentials => self.graph.remove_object(id),
            // Their threads end here.
            Object::IoThread(_) | Object::Memory(_) | Object::Rng(..) => {}
        }
        Ok(())
    }

    /// The type of each object, by id.
    pub fn types(&self) -> Vec<(String, &'static str)> {
        let type_of = |object: &Object| match object {
            Object::Secret => "secret",
            Object::ThrottleGroup(_) => "throttle-group",
            Object::IoThread(_) => "iothread",
            Object::Credentials => "tls-creds-x509",
            Object::Memory(memory) => memory.type_name(),
            Object::Rng(type_name, _) => type_name,
        };
        self.list.iter().map(|(id, object)| (id.clone(), type_of(object))).collect()
    }

    /// A memory object.
    pub fn memory(&mut self, id: &str) -> Option<&mut MemoryObject> {
        self.list.iter_mut().find_map(|(known, object)| match object {
            Object::Memory(memory) if known == id => Some(&mut **memory),
            _ => None,
        })
    }

    /// `query-memdev`: the latest first.
    pub fn memories(&self, machine: MachineMemory) -> Vec<Memdev> {
        let info = |(id, object): &(String, Object)| match object {
            Object::Memory(memory) => Some(memory.info(id, machine)),
            _ => None,
        };
        self.list.iter().rev().filter_map(info).collect()
    }

    /// Adds the memory object that a machine has without being told.
    ///
    /// # Errors
    /// A user has taken the name.
    pub fn add_default_memory(&mut self, id: &str, size: u64) -> Result<(), Error> {
        if self.list.iter().any(|(known, _)| known == id) {
            return Err(Error::generic(format!(
                "object name '{id}' is reserved for the default RAM backend, it can't be used for any other purposes. \
                 Change the object's 'id' to something else"
            )));
        }
        self.list.push((id.to_owned(), Object::Memory(Box::new(MemoryObject::of_machine(size)))));
        Ok(())
    }

    /// The groups that share limits of throughput.
    pub fn throttle_groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.list.iter().filter_map(|(_, object)| match object {
            Object::ThrottleGroup(group) => Some(group),
            _ => None,
        })
    }

    /// An I/O thread, for one more user.
    ///
    /// # Errors
    /// There is no such thread.
    pub fn io_thread(&self, id: &str) -> Result<IoThreadUse, Error> {
        let found = self.list.iter().find_map(|(known, object)| match object {
            Object::IoThread(thread) if known == id => Some(thread),
            _ => None,
        });
        let thread = found.ok_or_else(|| Error::device_not_found(id))?;
        Ok(IoThreadUse { reactor: thread.reactor.handle().clone(), _counted: Arc::clone(&thread.users) })
    }

    /// A source of random numbers.
    ///
    /// # Errors
    /// There is no such source.
    pub fn entropy(&self, id: &str) -> Result<Arc<dyn Entropy>, Error> {
        let found = self.list.iter().find_map(|(known, object)| match object {
            Object::Rng(_, source) if known == id => Some(Arc::clone(source)),
            _ => None,
        });
        found.ok_or_else(|| Error::device_not_found(id))
    }

    /// `query-iothreads`.
    pub fn io_threads(&self) -> Vec<IOThreadInfo> {
        let info = |(_, object): &(String, Object)| match object {
            Object::IoThread(thread) => Some(thread.info.clone()),
            _ => None,
        };
        self.list.iter().filter_map(info).collect()
    }
}

/// Certificates of a client or a server.
fn credentials(properties: &TlsCredsX509Properties) -> Result<Credentials, Error> {
    let files = X509 {
        dir: properties.dir.clone(),
        server: properties.endpoint == Some(QCryptoTLSCredsEndpoint::Server),
        verify_peer: properties.verify_peer,
        sanity_check: properties.sanity_check,
        priority: properties.priority.clone(),
        password_id: properties.passwordid.clone(),
    };
    files.load().map_err(client_error)
}

impl IoThread {
    fn start(id: &str, properties: &IothreadProperties) -> Result<Self, Error> {
        for (name, value) in [
            ("poll-max-ns", properties.poll_max_ns),
            ("poll-grow", properties.poll_grow),
            ("poll-shrink", properties.poll_shrink),
            ("aio-max-batch", properties.aio_max_batch),
        ] {
            if value.is_some_and(|value| value < 0) {
                let text = format!("{name} value must be in range [0, {}]", i64::MAX);
                return Err(Error::generic(text));
            }
        }
        let refused = |error: &dyn std::fmt::Display| Error::generic(format!("the host refuses a thread: {error}"));
        let reactor = aio::IoThread::start(&format!("IO {id}")).map_err(|error| refused(&error))?;
        let (tell, told) = mpsc::channel();
        reactor.handle().spawn(async move {
            // The receiver waits for exactly this.
            let _ = tell.send(rustix::thread::gettid());
        });
        let thread_id = told.recv().map_err(|error| refused(&error))?;
        let info = IOThreadInfo {
            id: id.to_owned(),
            thread_id: i64::from(thread_id.as_raw_nonzero().get()),
            poll_max_ns: properties.poll_max_ns.unwrap_or(32768),
            poll_grow: properties.poll_grow.unwrap_or(0),
            poll_shrink: properties.poll_shrink.unwrap_or(0),
            aio_max_batch: properties.aio_max_batch.unwrap_or(0),
        };
        Ok(Self { reactor, info, users: Arc::default() })
    }
}
