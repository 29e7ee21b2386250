//! What users of a node may do at the same time.
//!
//! Each edge says what it uses and what it lets others do on the same node. Two edges on one node are compatible if
//! neither uses what the other does not share. What an edge of a node uses of the nodes below follows from what is used
//! of it.

use std::fmt;

use crate::child::{Child, Role};
use crate::node::Node;

/// A set of permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions(u8);

impl Permissions {
    /// None.
    pub const NONE: Self = Self(0);
    /// Reads that see consistent data.
    pub const CONSISTENT_READ: Self = Self(1);
    /// Writes that change what is read.
    pub const WRITE: Self = Self(2);
    /// Writes that don't change what is read.
    pub const WRITE_UNCHANGED: Self = Self(4);
    /// Changes of the size.
    pub const RESIZE: Self = Self(8);
    /// All.
    pub const ALL: Self = Self(15);

    const NAMES: [(Self, &'static str); 4] = [
        (Self::CONSISTENT_READ, "consistent read"),
        (Self::WRITE, "write"),
        (Self::WRITE_UNCHANGED, "write unchanged"),
        (Self::RESIZE, "resize"),
    ];

    /// The one of this name in QEMU's options.
    pub fn by_name(name: &str) -> Option<Self> {
        let known = Self::NAMES.iter().find(|(_, shown)| shown.replace(' ', "-") == name);
        known.map(|(one, _)| *one)
    }

    /// Whether all of `other` are in here.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are not in here.
    #[must_use]
    pub fn complement(self) -> Self {
        Self(Self::ALL.0 & !self.0)
    }

    /// As bits: 0 consistent read, 1 write, 2 write unchanged, 3 resize. The numbers are those of the file locks.
    pub fn bits(self) -> u8 {
        self.0
    }
}

impl std::ops::BitOr for Permissions {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitAnd for Permissions {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            Self::NAMES.iter().filter(|(bit, _)| self.contains(*bit)).map(|(_, name)| *name).collect();
        f.write_str(&names.join(", "))
    }
}

/// What a node's edge with `role` uses and shares, when `used` and `shared` hold for the node itself.
pub fn of_child(role: Role, read_only: bool, used: Permissions, shared: Permissions) -> (Permissions, Permissions) {
    use Permissions as P;
    let down = used & (P::CONSISTENT_READ | P::WRITE | P::WRITE_UNCHANGED | P::RESIZE);
    match role {
        Role::Root => (used, shared),
        Role::Filtered | Role::PlainStorage => (down, shared),
        Role::Cow => {
            let share_write = if shared.contains(P::WRITE) { P::WRITE | P::RESIZE } else { P::NONE };
            (used & P::CONSISTENT_READ, share_write | P::CONSISTENT_READ | P::WRITE_UNCHANGED)
        }
        Role::Storage => {
            // The format's tables must stay consistent, may be written whatever the parents do, and by nobody else.
            let write = if read_only { P::NONE } else { P::WRITE | P::RESIZE };
            (P::CONSISTENT_READ | down | write, shared & (P::WRITE | P::RESIZE).complement())
        }
        Role::Data => {
            let resize = if used.contains(P::WRITE) { P::RESIZE } else { P::NONE };
            (down | resize, shared & P::RESIZE.complement())
        }
    }
}

/// What the edge `child` of `parent` uses and shares, when `used` and `shared` hold for `parent`.
pub fn of_edge(parent: &Node, child: &Child, used: Permissions, shared: Permissions) -> (Permissions, Permissions) {
    let (used, shared) = match parent.driver().child_permissions(child, used, shared) {
        Some(own) => own,
        None => of_child(child.role(), parent.is_read_only(), used, shared),
    };
    let is_forced = child.node().config().force_share;
    (used, if is_forced { Permissions::ALL } else { shared })
}
