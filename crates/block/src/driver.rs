//! What a driver of a node is, and how a kind of driver announces itself.
//!
//! A [`Driver`] serves the requests of one node; it reaches the nodes below through the [`Child`] edges that it was
//! given when it was opened. A [`DriverType`] is the static side: its name, how it recognises its images, how it opens
//! and creates them.
//!
//! Rules for drivers:
//! - Methods may be called from several tasks at once. Requests of different clusters must not wait for each other;
//!   metadata has one writer (a lock of the driver's), and no such lock is held while data is read or written.
//! - A write that is under way when the same range is discarded or zeroed is kept apart from it by the node
//!   ([`crate::tracker`]), as are two unaligned writes to one block.
//! - Offsets and lengths are inside of the node and multiples of `limits().request_alignment`, except for reads of
//!   protocol nodes, which give zeroes behind the end, and writes there, which grow the file where it can grow.
//! - Whatever an image contains, a driver answers with an error; it does not panic, loop or allocate without bound.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use iobuf::IoBuf;

use crate::child::{BackingSlot, Child, Role};
use crate::create::{CreateOption, CreateRequest, Measure, MeasureRequest};
use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::image::{AmendRequest, CheckResult, FixMode, ImageBacking, ImageDetails, SnapshotInfo};
use crate::node::Node;
use crate::open::OpenRequest;
use crate::options::Options;
use crate::permissions::Permissions;
use crate::request::{BlockStatus, Limits, Preallocation, WriteFlags, ZeroFlags};

/// The future of a block operation.
pub type IoFuture<'a, T = ()> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A future that is ready with an error.
pub fn fail<'a, T: Send + 'a>(error: Error) -> IoFuture<'a, T> {
    Box::pin(std::future::ready(Err(error)))
}

/// A future that is ready.
pub fn done<'a, T: Send + 'a>(value: T) -> IoFuture<'a, T> {
    Box::pin(std::future::ready(Ok(value)))
}

fn unsupported<'a, T: Send + 'a>(what: &str) -> IoFuture<'a, T> {
    fail(Error::unsupported(format!("The driver does not support {what}")))
}

/// Serves the requests of one node.
///
/// A method that a driver does not implement fails with [`Error::is_unsupported`]; where the node has a fall-back
/// (zero writes, FUA, discard), it uses that.
pub trait Driver: Send + Sync + 'static {
    /// The size of the node in bytes, as guests and parents see it.
    fn len(&self) -> u64;

    /// Whether the size is zero.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What requests the driver takes.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// The edges to the nodes below, without the backing.
    fn children(&self) -> Vec<Arc<Child>>;

    /// Where the backing is attached, for formats with one.
    fn backing(&self) -> Option<&Arc<BackingSlot>> {
        None
    }

    /// The child whose bytes [`BlockStatus::offset`] means.
    fn data_child(&self) -> Option<Arc<Child>> {
        self.children().into_iter().next()
    }

    /// The child whose bytes [`BlockStatus::offset`] means for an answer about `offset`: formats with several files have
    /// several.
    fn data_child_at(&self, offset: u64) -> Option<Arc<Child>> {
        let _ = offset;
        self.data_child()
    }

    /// Reads `buf.len()` bytes at `offset`.
    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_>;

    /// Whether reads may be attempted ([`aio::attempt`]): a read that is given up before it ends must have changed
    /// nothing.
    fn reads_at_once(&self) -> bool {
        false
    }

    /// The slot of the backing, if all of the range is known to be stored there or below and nowhere here. A driver that
    /// would have to read its tables for that gives `None`.
    fn reads_through(&self, offset: u64, len: u64) -> Option<&Arc<BackingSlot>> {
        let _ = (offset, len);
        None
    }

    /// Brings into memory what [`Driver::reads_through`] needs to know about a range; false if that is no use.
    fn look_up(&self, offset: u64, len: u64) -> IoFuture<'_, bool> {
        let _ = (offset, len);
        done(false)
    }

    /// Writes `buf` at `offset`.
    fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'_> {
        let _ = (offset, buf, flags);
        unsupported("writes")
    }

    /// Whether [`WriteFlags::fua`] is done by the driver; if not, the node flushes after the write.
    fn supports_fua(&self) -> bool {
        false
    }

    /// Makes a range read as zeroes without writing them.
    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        let _ = (offset, len, flags);
        unsupported("efficient zero writes")
    }

    /// Gives a range back: afterwards it reads as before, as zeroes, or as the backing, by the format's rules.
    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        let _ = (offset, len);
        unsupported("discard")
    }

    /// Writes what the driver holds back (cached tables, compressed data) to its children, in an order that survives a
    /// crash. The node flushes the children afterwards.
    fn flush(&self) -> IoFuture<'_> {
        done(())
    }

    /// Copies `len` bytes from `source_offset` of the protocol node `source` to `offset` without reading them, if the host
    /// can; [`Error::is_unsupported`] otherwise, and then nothing is written.
    fn copy_from(&self, offset: u64, source: Arc<Node>, source_offset: u64, len: u64) -> IoFuture<'_> {
        let _ = (offset, source, source_offset, len);
        unsupported("copy offloading")
    }

    /// Changes the size. With `exact` off, a larger result is fine.
    fn truncate(&self, len: u64, exact: bool, preallocation: Preallocation) -> IoFuture<'_> {
        let _ = (len, exact, preallocation);
        unsupported("resizing")
    }

    /// What the driver knows of the range from `offset` on. With `precise` off, a quicker and coarser answer is fine.
    fn block_status(&self, offset: u64, len: u64, precise: bool) -> IoFuture<'_, BlockStatus> {
        let _ = precise;
        done(BlockStatus::data(len, Some(offset)))
    }

    /// Stores data compressed: `buf` is one cluster, or less at the end of the image.
    fn write_compressed(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        let _ = (offset, buf);
        unsupported("compressed writes")
    }

    /// Fetches a range into caches below, if there are any.
    fn prefetch(&self, offset: u64, len: u64) -> IoFuture<'_> {
        let _ = (offset, len);
        done(())
    }

    /// Bytes of host storage in use, or `None` if unknown. The default is that of the data child.
    fn allocated_size(&self) -> IoFuture<'_, Option<u64>> {
        Box::pin(async {
            match self.data_child() {
                Some(child) => child.node().driver().allocated_size().await,
                None => Ok(None),
            }
        })
    }

    /// The plain file name that opens this node again without options, or `None` if only options do.
    fn exact_filename(&self) -> Option<String> {
        None
    }

    /// The gate that a drain closes so that requests go on which a limit of throughput holds. Nobody enters it.
    fn limiting_gate(&self) -> Option<&Arc<Gate>> {
        None
    }

    /// Whoever waits for a server that does not answer is told to give up: nobody wants the result any more.
    fn cancel_in_flight(&self) {}

    /// Options that [`Driver::exact_filename`] does not contain: they make a `json:` name necessary.
    fn strong_options(&self) -> Options {
        Options::new()
    }

    /// What a tool reports of the image.
    fn details(&self) -> ImageDetails {
        ImageDetails::default()
    }

    /// The backing that the image names.
    fn image_backing(&self) -> Option<ImageBacking> {
        None
    }

    /// Stores another backing in the image, or none.
    fn change_backing(&self, backing: Option<ImageBacking>) -> IoFuture<'_> {
        let _ = backing;
        unsupported("changing the backing file")
    }

    /// Checks the image's consistency and repairs what `fix` allows.
    fn check(&self, fix: FixMode) -> IoFuture<'_, CheckResult> {
        let _ = fix;
        unsupported("checks")
    }

    /// Changes options of an existing image.
    fn amend(&self, request: AmendRequest) -> IoFuture<'_> {
        let _ = request;
        unsupported("amending options")
    }

    /// Options are about to be changed, or were: what the edges below use and share is asked for again after this. For
    /// formats whose metadata is not written while the image is used, so that others may use it, too.
    fn set_amending(&self, amending: bool) {
        let _ = amending;
    }

    /// Whether a new bitmap of that name and granularity (bytes) could be stored in the image.
    ///
    /// # Errors
    /// Says why not; [`Error::is_unsupported`] if the format stores none.
    fn can_store_bitmap(&self, name: &str, granularity: u64) -> Result<()> {
        let _ = (name, granularity);
        Err(Error::unsupported("Operation not supported"))
    }

    /// Removes a bitmap from the image. It is no error if there is none of that name.
    fn remove_stored_bitmap(&self, name: String) -> IoFuture<'_> {
        let _ = name;
        done(())
    }

    /// Whether images of this format can have internal snapshots.
    fn has_snapshots(&self) -> bool {
        false
    }

    /// The internal snapshots.
    fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        Ok(Vec::new())
    }

    /// Makes an internal snapshot. `info.id` is chosen by the driver.
    fn snapshot_create(&self, info: SnapshotInfo) -> IoFuture<'_> {
        let _ = info;
        unsupported("internal snapshots")
    }

    /// Goes back to the snapshot of that id or name.
    fn snapshot_apply(&self, name: String) -> IoFuture<'_> {
        let _ = name;
        unsupported("internal snapshots")
    }

    /// Deletes the snapshot of that id or name.
    fn snapshot_delete(&self, name: String) -> IoFuture<'_> {
        let _ = name;
        unsupported("internal snapshots")
    }

    /// Reads saved machine state, from `offset` of it on.
    fn read_vm_state(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        let _ = (offset, buf);
        unsupported("saved machine state")
    }

    /// Writes machine state that is saved with the next snapshot.
    fn write_vm_state(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        let _ = (offset, buf);
        unsupported("saved machine state")
    }

    /// From now on, reads show the snapshot of that id or name. Only for nodes that are read-only; the image stays as it
    /// is.
    fn snapshot_load(&self, name: String) -> IoFuture<'_> {
        let _ = name;
        unsupported("internal snapshots")
    }

    /// Drops all data of an overlay, so that its backing shows through everywhere.
    fn make_empty(&self) -> IoFuture<'_> {
        unsupported("being emptied")
    }

    /// Changes run-time options or the read-only state. Called while the node is drained. Options that are absent go
    /// back to their defaults; `options` holds only the driver's own. On an error nothing has changed.
    fn reopen(&self, options: Options, read_only: bool) -> IoFuture<'_> {
        let _ = read_only;
        match options.iter().next() {
            None => done(()),
            Some((name, _)) => fail(Error::invalid(format!("Cannot change the option '{name}'"))),
        }
    }

    /// Whether the node has this driver because no other recognised the image's bytes.
    fn is_guess(&self) -> bool {
        false
    }

    /// The discards that the host has done, where the driver counts them.
    fn discards(&self) -> Option<DiscardCounts> {
        None
    }

    /// Whether [`Driver::reopen`] takes `cache.direct` among its options: the driver has files of the host.
    fn reopens_cache(&self) -> bool {
        false
    }

    /// Takes the locks for what parents may do from now on: `used` is done by somebody here, `shared` is allowed to
    /// others. Only drivers of host files have locks.
    ///
    /// # Errors
    /// If another process stands against it; then the locks are as before.
    fn set_permissions(&self, used: Permissions, shared: Permissions) -> Result<()> {
        let _ = (used, shared);
        Ok(())
    }

    /// The last request to this driver: brings everything into the image and marks it as cleanly closed.
    fn close(&self) -> IoFuture<'_> {
        self.flush()
    }

    /// What the edge `child` uses and shares, where that does not follow from its role: `used` and `shared` hold for this
    /// node.
    fn child_permissions(
        &self,
        child: &Child,
        used: Permissions,
        shared: Permissions,
    ) -> Option<(Permissions, Permissions)> {
        let _ = (child, used, shared);
        None
    }

    /// Something that tests want to break at or to fail has happened in the parent or in the node, as `l2_update`. The
    /// future, if there is one, is waited for: it holds the request.
    fn debug_event(&self, event: &'static str) -> Option<IoFuture<'_>> {
        let _ = event;
        None
    }

    /// The list of children, for a driver whose children come and go while it is in use.
    fn child_list(&self) -> Option<&dyn ChildList> {
        None
    }

    /// Whether events go on to the first child: what is above a driver that changes nothing is a user of what is below.
    fn forwards_events(&self) -> bool {
        false
    }

    /// For what just one driver has (blkdebug's break points, quorum's children, throttle's group).
    fn as_any(&self) -> &dyn Any;
}

/// Discards that were passed to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiscardCounts {
    /// How many succeeded.
    pub done: u64,
    /// How many failed, those that the host can't do at all included.
    pub failed: u64,
    /// Bytes of those that succeeded.
    pub bytes: u64,
}

/// Children that come and go while the node is in use. Both happen under drain.
pub trait ChildList: Send + Sync {
    /// The name and the role of the child that is about to be added.
    ///
    /// # Errors
    /// If none can be added.
    fn next_child(&self) -> Result<(String, Role)>;

    /// Takes an edge of that name into the list.
    fn add_child(&self, child: Arc<Child>);

    /// Takes an edge out of the list.
    ///
    /// # Errors
    /// If the driver needs it; then nothing has changed.
    fn remove_child(&self, child: &Arc<Child>) -> Result<()>;
}

/// What a driver is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverKind {
    /// Gives access to storage: `file`, `nbd`.
    Protocol,
    /// Interprets its child's bytes: `qcow2`.
    Format,
    /// Passes its child's data through: `throttle`.
    Filter,
}

/// A kind of driver.
pub trait DriverType: Send + Sync {
    /// Its name in options, as `qcow2`.
    fn name(&self) -> &'static str;

    /// What it is good for.
    fn kind(&self) -> DriverKind;

    /// How sure the driver is, from 0 (no) to 100, that this is its image. `head` are the first bytes, at most 2048.
    fn probe(&self, head: &[u8], filename: &str) -> u32 {
        let _ = (head, filename);
        0
    }

    /// Prefixes of file names that this protocol opens, as `nbd:`.
    fn prefixes(&self) -> &'static [&'static str] {
        &[]
    }

    /// The options that a file name with one of the prefixes stands for.
    ///
    /// # Errors
    /// If the name is wrong.
    fn parse_filename(&self, filename: &str) -> Result<Options> {
        Ok(Options::new().with("filename", filename))
    }

    /// Whether images may name a backing file.
    fn supports_backing(&self) -> bool {
        false
    }

    /// The driver's own options that go back to their defaults where a reopen leaves them out. All others must be
    /// given again.
    fn mutable_options(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether clients may give its nodes other options (`blockdev-reopen`).
    fn supports_reopen(&self) -> bool {
        true
    }

    /// Opens a node's driver.
    fn open(&self, request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>>;

    /// The options of image creation; empty if the driver can't create.
    fn create_options(&self) -> &'static [CreateOption] {
        &[]
    }

    /// Options of creation that an existing image can be amended with.
    fn amend_options(&self) -> &'static [CreateOption] {
        &[]
    }

    /// Creates an image.
    fn create(&self, request: CreateRequest) -> IoFuture<'static> {
        let _ = request;
        fail(Error::unsupported(format!("Driver '{}' does not support image creation", self.name())))
    }

    /// How large a new image would be.
    fn measure(&self, request: MeasureRequest) -> IoFuture<'static, Measure> {
        let _ = request;
        fail(Error::unsupported(format!("Block driver '{}' does not support size measurement", self.name())))
    }
}
