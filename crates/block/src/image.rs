//! What tools and management see of an image beside its data.

use std::sync::Arc;

use crate::create::CreateOptions;
use crate::value::Value;

/// The backing that an image names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageBacking {
    /// The file name as stored: a path relative to the image, or with a protocol.
    pub file: String,
    /// The format as stored.
    pub format: Option<String>,
}

/// What a tool reports of an image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageDetails {
    /// Bytes of a cluster, for formats that have them.
    pub cluster_size: Option<u64>,
    /// The image was not closed properly.
    pub dirty: Option<bool>,
    /// The data is encrypted.
    pub encrypted: bool,
    /// All data is stored compressed (streaming formats).
    pub compressed: bool,
    /// Offset in the image where saved machine state begins.
    pub vm_state_offset: Option<u64>,
    /// Unallocated ranges without a backing read as zeroes.
    pub unallocated_is_zero: bool,
    /// The image must not be changed any more: it was found corrupt.
    pub corrupt: bool,
    /// The format's own data, as `ImageInfoSpecific`: the type and its data.
    pub specific: Option<(String, Value)>,
}

/// An internal snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its number, as text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Bytes of saved machine state.
    pub vm_state_size: u64,
    /// Seconds since the epoch.
    pub date_sec: u64,
    /// Nanoseconds of the second.
    pub date_nsec: u32,
    /// Nanoseconds that the guest had run.
    pub vm_clock_nsec: u64,
    /// Instructions that the guest had executed, if counted.
    pub icount: Option<u64>,
    /// Size of the disk then, bytes.
    pub disk_size: u64,
}

/// What a check may repair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FixMode {
    /// Clusters that nothing uses.
    pub leaks: bool,
    /// Everything else.
    pub errors: bool,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckResult {
    /// Inconsistencies that can mean lost data.
    pub corruptions: u64,
    /// Clusters that nothing uses.
    pub leaks: u64,
    /// Errors of the check itself (unreadable tables).
    pub check_errors: u64,
    /// Corruptions that were repaired.
    pub corruptions_fixed: u64,
    /// Leaks that were repaired.
    pub leaks_fixed: u64,
    /// Where the used part of the file ends, bytes; 0 if unknown.
    pub image_end_offset: u64,
    /// Clusters of the virtual size; 0 if unknown.
    pub total_clusters: u64,
    /// Clusters with data.
    pub allocated_clusters: u64,
    /// Clusters not behind their predecessor.
    pub fragmented_clusters: u64,
    /// Clusters stored compressed.
    pub compressed_clusters: u64,
    /// A line for each finding, as `ERROR cluster 5 refcount=0 reference=1` or `Leaked cluster …`, and for repairs.
    pub messages: Vec<String>,
}

/// A change of an existing image's options.
#[derive(Clone, Debug)]
pub struct AmendRequest {
    /// The options to change.
    pub options: CreateOptions,
    /// Also changes that give up compatibility with data that can't be kept.
    pub force: bool,
    /// Who is told how far a long change is.
    pub progress: AmendProgress,
}

impl AmendRequest {
    /// A change that nobody watches.
    pub fn new(options: CreateOptions, force: bool) -> Self {
        Self { options, force, progress: AmendProgress::default() }
    }
}

/// How far a change is, and of how much.
type Watch = dyn Fn(u64, u64) + Send + Sync;

/// Somebody who is told how far a change is.
#[derive(Clone, Default)]
pub struct AmendProgress(Option<Arc<Watch>>);

impl AmendProgress {
    /// `watch` is told.
    pub fn new(watch: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watch)))
    }

    /// Who is told of one of `parts` equal parts, the first of which has the index 0.
    #[must_use]
    pub fn part(&self, index: u64, parts: u64) -> Self {
        let Some(watch) = self.0.clone() else { return Self::default() };
        Self::new(move |done, total| watch(index * total + done, parts * total))
    }

    /// Tells that so much of the whole is done.
    pub fn update(&self, done: u64, total: u64) {
        if let Some(watch) = &self.0 {
            watch(done, total);
        }
    }
}

impl std::fmt::Debug for AmendProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AmendProgress")
    }
}

/// An image was found corrupt while it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// The node.
    pub node: String,
    /// What was found.
    pub message: String,
    /// Where in the image file, bytes, if there is a place.
    pub offset: Option<u64>,
    /// How many bytes there.
    pub size: Option<u64>,
    /// The image was marked as corrupt and is not used any more.
    pub fatal: bool,
}

/// Who wants to know of corrupt images: an object of the graph ([`crate::Graph::set_object`]) that formats look for when
/// they are opened.
pub struct CorruptionEvents(pub Box<dyn Fn(Corruption) + Send + Sync>);

impl CorruptionEvents {
    /// The id of the object.
    pub const OBJECT: &'static str = "/block/corruption";
}
