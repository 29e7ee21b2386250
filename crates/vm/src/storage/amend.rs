//! `x-blockdev-amend`: options of an image in use are changed as a job.

use std::sync::{Arc, Mutex, PoisonError};

use block::amend::Amendment;
use block::gate::Gate;
use block::image::AmendRequest;
use block::{Child, Graph, IoFuture, Permissions};
use block_jobs::{Common, Job, JobDriver, Kind, NewJob};
use qapi::block::amend::{BlockdevAmendOptions, XBlockdevAmend};
use qapi::{Error, Members};

use super::create::creation_options;
use super::{Storage, client_error};

/// The work of the job.
struct Amend {
    graph: Arc<Graph>,
    /// The node is not closed meanwhile.
    edge: Arc<Child>,
    plan: Mutex<Option<(Amendment, AmendRequest)>>,
}

impl JobDriver for Amend {
    fn run(self: Arc<Self>, job: Arc<Job>) -> IoFuture<'static> {
        Box::pin(async move {
            job.set_remaining(1);
            let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner).take();
            let result = match plan {
                Some((amendment, request)) => amendment.run(request).await,
                None => Ok(()),
            };
            job.advance(1);
            result.inspect_err(|error| job.set_error_text(error.to_string()))
        })
    }

    fn clean<'a>(&'a self, _job: &'a Arc<Job>) -> IoFuture<'a> {
        Box::pin(async move {
            drop(self.plan.lock().unwrap_or_else(PoisonError::into_inner).take());
            self.graph.detach(&self.edge).await
        })
    }
}

impl Storage {
    /// Starts the job.
    ///
    /// # Errors
    /// The image can't be changed so, somebody else uses it, or the job's id is taken.
    pub fn amend_image(&self, command: &XBlockdevAmend) -> Result<(), Error> {
        let node = self.node_by(None, Some(&command.node_name))?;
        let mut map = command.options.to_map();
        let name = map.remove("driver").and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
        let driver = node.driver_type();
        if self.graph.registry().find(&name).is_none() {
            return Err(Error::generic(format!("Block driver '{name}' not found or not supported")));
        }
        if driver.name() != name {
            return Err(Error::generic("x-blockdev-amend doesn't support changing the block driver"));
        }
        if driver.amend_options().is_empty() || matches!(command.options, BlockdevAmendOptions::Other(_)) {
            return Err(Error::generic("Driver does not support x-blockdev-amend"));
        }
        self.jobs.check_id(&command.job_id).map_err(client_error)?;
        let common = Common { id: command.job_id.clone(), speed: 0, auto_finalize: true, auto_dismiss: false };
        let gate = Arc::new(Gate::new());
        let holder = Job::holder(Kind::Amend, &common.id);
        let begun = if node.is_read_only() {
            Err(block::Error::permission("Block node is read-only"))
        } else {
            self.graph.amend(&node).and_then(|amendment| {
                let (used, shared) = (Permissions::NONE, Permissions::ALL);
                let edge = self.graph.attach_named(&node, (&holder, "image"), &gate, used, shared)?;
                Ok((amendment, edge))
            })
        };
        let begun = begun.inspect_err(|_| self.jobs.announce_stillborn(&common, Kind::Amend));
        let (amendment, edge) = begun.map_err(client_error)?;
        let request = AmendRequest::new(creation_options(&name, map), command.force.unwrap_or(false));
        let graph = Arc::clone(&self.graph);
        let work = Amend { graph, edge: Arc::clone(&edge), plan: Mutex::new(Some((amendment, request))) };
        let new = NewJob { common, kind: Kind::Amend, gate, transaction: None };
        match self.jobs.create(new, Arc::new(work)) {
            Ok(job) => {
                self.start_job(&job);
                Ok(())
            }
            Err(error) => {
                // Others use the node, too: nothing is closed.
                aio::block_on(self.graph.detach(&edge)).map_err(client_error)?;
                Err(client_error(error))
            }
        }
    }
}
