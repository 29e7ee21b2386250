//! Where in the arguments a value stands, for error texts such as `keys[0].data`.

/// A place in nested input. Paths live on the stack while the input is visited.
#[derive(Debug, Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
    mode: Mode,
    depth: usize,
}

/// Where input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Request,
    Keyval,
    Reply,
}

#[derive(Debug, Clone, Copy)]
enum Segment<'a> {
    Root,
    Member(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// The top of JSON input.
    #[must_use]
    pub const fn root() -> Path<'static> {
        Path { parent: None, segment: Segment::Root, mode: Mode::Request, depth: 0 }
    }

    /// The top of input in QEMU's `key=value` grammar: scalars are strings, and indices are
    /// written as in `a.0.b`.
    #[must_use]
    pub const fn keyval() -> Path<'static> {
        Path { parent: None, segment: Segment::Root, mode: Mode::Keyval, depth: 0 }
    }

    /// The top of another server's reply or event: members that a newer server has added are
    /// passed over.
    #[must_use]
    pub const fn reply() -> Path<'static> {
        Path { parent: None, segment: Segment::Root, mode: Mode::Reply, depth: 0 }
    }

    /// Whether members that the schema does not know are passed over.
    #[must_use]
    pub const fn is_reply(&self) -> bool {
        matches!(self.mode, Mode::Reply)
    }

    /// The place of the member `name`.
    #[must_use]
    pub const fn member(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Member(name), mode: self.mode, depth: self.depth + 1 }
    }

    /// The place of the element `index`.
    #[must_use]
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Index(index), mode: self.mode, depth: self.depth + 1 }
    }

    /// Whether scalars are strings to be converted.
    #[must_use]
    pub const fn is_keyval(&self) -> bool {
        matches!(self.mode, Mode::Keyval)
    }

    /// How many members and elements deep this is.
    #[must_use]
    pub const fn depth(&self) -> usize {
        self.depth
    }

    /// The last name alone; `null` for an array's element and at the top. QEMU's texts about
    /// enumerations and small integers say no more.
    #[must_use]
    pub const fn last(&self) -> &'a str {
        match self.segment {
            Segment::Member(name) => name,
            Segment::Root | Segment::Index(_) => "null",
        }
    }
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at_top = self.parent.is_none_or(|parent| parent.parent.is_none());
        if let (Some(parent), false) = (self.parent, at_top) {
            parent.fmt(f)?;
        }
        let dot = if at_top { "" } else { "." };
        match self.segment {
            Segment::Root => f.write_str("<anonymous>"),
            Segment::Member(name) => write!(f, "{dot}{name}"),
            Segment::Index(index) if self.is_keyval() => write!(f, "{dot}{index}"),
            Segment::Index(index) => write!(f, "[{index}]"),
        }
    }
}
