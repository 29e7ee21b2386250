//! The driver `quorum`: several copies; writes go to all, reads are decided by vote.
//!
//! Children come and go while it runs (`x-blockdev-change`). Options: `children.N`, `vote-threshold`, `blkverify`, `rewrite-corrupted`, `read-pattern` (`quorum` or `fifo`).

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::driver::{ChildList, Driver, DriverKind, DriverType, IoFuture};
use block::{
    BlockStatus, Child, Error, Node, OpenRequest, Options, Permissions, Preallocation, Result, Role, Value, WriteFlags,
    ZeroFlags,
};
use iobuf::IoBuf;

/// How much from `offset` on is of one kind in a copy and its backings, and whether it is zeroes.
async fn reads_as(mut node: Arc<Node>, offset: u64, mut len: u64) -> Result<(u64, bool)> {
    loop {
        while let Some(child) = node.filtered() {
            node = child.node();
        }
        let left = node.len().saturating_sub(offset);
        if left == 0 {
            // A backing that is shorter than its overlay reads as zeroes.
            return Ok((len, true));
        }
        let status = node.block_status(offset, len.min(left), true).await?;
        len = status.len.clamp(1, len);
        if status.allocated || status.data || status.zero {
            return Ok((len, status.zero));
        }
        let Some(backing) = node.backing() else { return Ok((len, true)) };
        node = backing.node();
    }
}

const MAX_CHILDREN: usize = 32;
const TOO_MANY: &str = "Too many children";

/// The driver `quorum`.
pub struct QuorumType;

/// What a client of the quorum is told about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuorumEvent {
    /// A child failed or differs from the others: its node, the operation (`read`, `write`, `flush`), sector and count.
    ReportBad {
        /// The node.
        node: String,
        /// The operation.
        operation: &'static str,
        /// First sector.
        sector: u64,
        /// Number of sectors.
        sectors: u64,
        /// The error's text; `None` if the data differed.
        error: Option<String>,
    },
    /// Too few children agreed: the sector and count.
    Failure {
        /// First sector.
        sector: u64,
        /// Number of sectors.
        sectors: u64,
    },
}

/// Called with the name of the quorum's node; must not block.
pub type QuorumListener = Box<dyn Fn(&str, QuorumEvent) + Send + Sync>;

/// Who is told; the object `quorum-events` of the graph.
pub struct QuorumEvents(pub QuorumListener);

/// The id under which the graph keeps [`QuorumEvents`].
pub const EVENTS_OBJECT: &str = "quorum-events";

/// The edges, in order.
struct Children {
    list: Vec<Arc<Child>>,
    /// The number in the name of the next one: names are not used again while a later one exists.
    next: usize,
}

/// A node of several copies.
pub struct Quorum {
    name: String,
    children: Mutex<Children>,
    threshold: usize,
    blkverify: bool,
    rewrite: bool,
    fifo: bool,
    events: Option<Arc<QuorumEvents>>,
}

impl DriverType for QuorumType {
    fn name(&self) -> &'static str {
        "quorum"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn supports_reopen(&self) -> bool {
        false
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let options = &mut request.options;
            let threshold = options.take_u64("vote-threshold")?.unwrap_or(0);
            let blkverify = options.take_bool("blkverify")?.unwrap_or(false);
            let rewrite = options.take_bool("rewrite-corrupted")?.unwrap_or(false);
            let fifo = options.take_choice("read-pattern", &["quorum", "fifo"])? == Some(1);
            let mut children = Vec::new();
            while let Some(child) = request.image_child(&format!("children.{}", children.len()), Role::Data).await? {
                children.push(child);
                if children.len() > MAX_CHILDREN {
                    return Err(Error::invalid(TOO_MANY));
                }
            }
            request.finish()?;
            let threshold = usize::try_from(threshold).unwrap_or(usize::MAX);
            check(children.len(), threshold, blkverify, rewrite, fifo)?;
            let events = request.graph.object::<QuorumEvents>(EVENTS_OBJECT);
            let name = request.node_name.clone();
            let children = Mutex::new(Children { next: children.len(), list: children });
            Ok(Arc::new(Quorum { name, children, threshold, blkverify, rewrite, fifo, events }) as Arc<dyn Driver>)
        })
    }
}

fn check(children: usize, threshold: usize, blkverify: bool, rewrite: bool, fifo: bool) -> Result<()> {
    if children == 0 {
        return Err(Error::invalid("Number of provided children must be 1 or more"));
    }
    if !fifo && threshold == 0 {
        return Err(Error::invalid("Parameter 'vote-threshold' expects a value >= 1"));
    }
    if threshold > children {
        return Err(Error::invalid("threshold may not exceed children count"));
    }
    if blkverify && (children != 2 || threshold != 2) {
        return Err(Error::invalid(
            "blkverify=on can only be set if there are exactly two files and vote-threshold is 2",
        ));
    }
    if blkverify && rewrite {
        return Err(Error::invalid("rewrite-corrupted=on cannot be used with blkverify=on"));
    }
    Ok(())
}

impl Quorum {
    /// The edges, in order.
    pub fn copies(&self) -> Vec<Arc<Child>> {
        self.list().list.clone()
    }

    fn list(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, event: QuorumEvent) {
        if let Some(events) = &self.events {
            events.0(&self.name, event);
        }
    }

    fn bad(&self, child: &Child, operation: &'static str, offset: u64, len: u64, error: Option<&Error>) {
        self.report(QuorumEvent::ReportBad {
            node: child.node().name().to_owned(),
            operation,
            sector: offset / 512,
            sectors: len.div_ceil(512),
            error: error.map(|error| block::error::strerror(error.errno())),
        });
    }

    /// Decides over the results of an operation that all children did.
    fn decide(
        &self,
        operation: &'static str,
        offset: u64,
        len: u64,
        results: &[(Arc<Child>, Result<()>)],
    ) -> Result<()> {
        let good = results.iter().filter(|(_, result)| result.is_ok()).count();
        let mut first = None;
        for (child, result) in results {
            if let Err(error) = result {
                self.bad(child, operation, offset, len, Some(error));
                first.get_or_insert(error);
            }
        }
        if good >= self.threshold.max(1) {
            return Ok(());
        }
        self.report(QuorumEvent::Failure { sector: offset / 512, sectors: len.div_ceil(512) });
        Err(first.cloned().unwrap_or_else(|| Error::io("Too few copies succeeded")))
    }

    async fn read_fifo(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let mut last = Error::io("No copy could be read");
        for child in self.copies() {
            match child.read(offset, buf.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.bad(&child, "read", offset, buf.len() as u64, Some(&error));
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn read_vote(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let len = buf.len() as u64;
        let mut versions: Vec<(Vec<u8>, Vec<Arc<Child>>)> = Vec::new();
        let mut results = Vec::new();
        for child in self.copies() {
            let own = IoBuf::zeroed(buf.len());
            let result = child.read(offset, own.clone()).await;
            if result.is_ok() {
                let bytes = own.to_vec();
                match versions.iter_mut().find(|(known, _)| *known == bytes) {
                    Some((_, voters)) => voters.push(Arc::clone(&child)),
                    None => versions.push((bytes, vec![Arc::clone(&child)])),
                }
            }
            results.push((child, result));
        }
        self.decide("read", offset, len, &results)?;
        versions.sort_by_key(|(_, voters)| std::cmp::Reverse(voters.len()));
        let Some(((winner, voters), losers)) = versions.split_first() else {
            return Err(Error::io("No copy could be read"));
        };
        if self.blkverify && !losers.is_empty() {
            return Err(Error::io(format!("quorum: the copies differ at offset {offset}, {len} bytes")));
        }
        for child in losers.iter().flat_map(|(_, children)| children) {
            self.bad(child, "read", offset, len, None);
        }
        if voters.len() < self.threshold {
            self.report(QuorumEvent::Failure { sector: offset / 512, sectors: len.div_ceil(512) });
            return Err(Error::io("Too few copies agree"));
        }
        if self.rewrite {
            for child in losers.iter().flat_map(|(_, children)| children) {
                let _ = child.write_bytes(offset, winner).await;
            }
        }
        buf.write_at(0, winner);
        Ok(())
    }
}

impl ChildList for Quorum {
    fn next_child(&self) -> Result<(String, Role)> {
        if self.blkverify {
            return Err(Error::invalid("Cannot add a child to a quorum in blkverify mode"));
        }
        let children = self.list();
        if children.list.len() >= MAX_CHILDREN || children.next == usize::MAX {
            return Err(Error::invalid(TOO_MANY));
        }
        Ok((format!("children.{}", children.next), Role::Data))
    }

    fn add_child(&self, child: Arc<Child>) {
        let mut children = self.list();
        children.next = children.next.saturating_add(1);
        children.list.push(child);
    }

    fn remove_child(&self, child: &Arc<Child>) -> Result<()> {
        let mut children = self.list();
        // A quorum that reads in order has no threshold, but needs a copy.
        if children.list.len() <= self.threshold.max(1) {
            let least = self.threshold;
            let text = format!("The number of children cannot be lower than the vote threshold {least}");
            return Err(Error::invalid(text));
        }
        if children.next.checked_sub(1).is_some_and(|last| child.name() == format!("children.{last}")) {
            children.next -= 1;
        }
        children.list.retain(|known| !Arc::ptr_eq(known, child));
        Ok(())
    }
}

impl Driver for Quorum {
    fn len(&self) -> u64 {
        self.copies().first().map_or(0, |child| child.len())
    }

    fn limits(&self) -> block::Limits {
        block::Limits { max_transfer: 16 << 20, ..block::Limits::default() }
    }

    fn child_permissions(
        &self,
        _child: &Child,
        used: Permissions,
        shared: Permissions,
    ) -> Option<(Permissions, Permissions)> {
        let repairs = if self.rewrite { Permissions::WRITE } else { Permissions::NONE };
        // Written by others, the copies would differ.
        let share = Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED;
        Some((used | repairs, shared & share))
    }

    fn children(&self) -> Vec<Arc<Child>> {
        self.copies()
    }

    fn data_child(&self) -> Option<Arc<Child>> {
        None
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            if self.fifo { self.read_fifo(offset, buf).await } else { self.read_vote(offset, buf).await }
        })
    }

    fn write(&self, offset: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(async move {
            // All copies get the same bytes, even if a guest changes its memory meanwhile.
            let bytes = IoBuf::copy_of(&buf.to_vec());
            let mut results = Vec::new();
            for child in self.copies() {
                let result = child.write(offset, bytes.clone(), WriteFlags::default()).await;
                results.push((child, result));
            }
            self.decide("write", offset, buf.len() as u64, &results)
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        Box::pin(async move {
            let mut results = Vec::new();
            for child in self.copies() {
                let result = child.write_zeroes(offset, len, ZeroFlags { no_fallback: false, ..flags }).await;
                results.push((child, result));
            }
            self.decide("write", offset, len, &results)
        })
    }

    fn flush(&self) -> IoFuture<'_> {
        Box::pin(async move {
            let mut results = Vec::new();
            for child in self.copies() {
                let result = child.flush().await;
                results.push((child, result));
            }
            self.decide("flush", 0, 0, &results)
        })
    }

    fn truncate(&self, _len: u64, _exact: bool, _preallocation: Preallocation) -> IoFuture<'_> {
        block::fail(Error::unsupported("A quorum can't be resized"))
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        Box::pin(async move {
            // Zeroes are what all copies agree on; where one of them has data the longest run of data is one.
            let (mut zeroes, mut data) = (len, 0);
            for child in self.copies() {
                match reads_as(child.node(), offset, len).await {
                    Ok((run, true)) => zeroes = zeroes.min(run),
                    Ok((run, false)) => data = data.max(run),
                    // Who can't tell may have anything.
                    Err(_) => data = len,
                }
            }
            Ok(if data > 0 { BlockStatus::data(data, None) } else { BlockStatus::zero(zeroes) })
        })
    }

    fn allocated_size(&self) -> IoFuture<'_, Option<u64>> {
        Box::pin(async move {
            let mut sum = 0u64;
            for child in self.copies() {
                match child.node().driver().allocated_size().await? {
                    Some(bytes) => sum = sum.saturating_add(bytes),
                    None => return Ok(None),
                }
            }
            Ok(Some(sum))
        })
    }

    fn strong_options(&self) -> Options {
        let mut options = Options::new();
        options.set("vote-threshold", self.threshold as u64);
        options.set("blkverify", self.blkverify);
        options.set("rewrite-corrupted", self.rewrite);
        if self.fifo {
            options.set("read-pattern", Value::from("fifo"));
        }
        options
    }

    fn child_list(&self) -> Option<&dyn ChildList> {
        Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
