//! Bytes of saved state: a writer, a reader that never panics, and the errors of loading.

/// The byte that announces a subsection.
const SUBSECTION: u8 = 5;

/// Bytes before a subsection's fields.
pub(crate) fn subsection_header(name: &str) -> usize {
    1 + 1 + name.len() + 4
}

/// Collects saved state.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends bytes as they are.
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Announces a subsection. Its fields follow. The name must be shorter than 256 bytes.
    pub fn put_subsection(&mut self, name: &str, version: u32) {
        let length = u8::try_from(name.len()).expect("the name of a subsection is shorter than 256 bytes");
        self.put(&[SUBSECTION, length]);
        self.put(name.as_bytes());
        self.put(&version.to_be_bytes());
    }

    /// What was written so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads saved state.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, position: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> &'a [u8] {
        self.bytes.get(self.position..).unwrap_or_default()
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], LoadError> {
        let bytes = self.remaining().get(..length).ok_or(LoadErrorKind::Truncated)?;
        self.position += length;
        Ok(bytes)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let bytes = self.remaining().first_chunk().ok_or(LoadErrorKind::Truncated)?;
        self.position += N;
        Ok(*bytes)
    }

    /// The header of a subsection of the struct `parent`, if one comes next: the rest of its name and its version.
    /// Other bytes, among them subsections of an enclosing struct, are left alone.
    pub fn subsection(&mut self, parent: &str) -> Result<Option<(String, u32)>, LoadError> {
        let [SUBSECTION, length, rest @ ..] = self.remaining() else { return Ok(None) };
        let length = usize::from(*length);
        let name = rest.get(..length).and_then(|name| std::str::from_utf8(name).ok());
        let own = name.and_then(|name| name.strip_prefix(parent)).and_then(|name| name.strip_prefix('/'));
        let Some(own) = own.filter(|own| !own.is_empty()) else { return Ok(None) };
        let own = own.to_string();
        self.take(2 + length)?;
        let version = u32::from_be_bytes(self.array()?);
        Ok(Some((own, version)))
    }
}

/// Why saved state was refused, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{kind}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct LoadError {
    /// The field, from the outermost struct: `channels[1].mode`. Empty for the struct as a whole.
    pub path: String,
    /// The reason.
    pub kind: LoadErrorKind,
}

/// Reasons of a [`LoadError`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadErrorKind {
    /// The stream ends early.
    #[error("the saved state ends early")]
    Truncated,
    /// The struct cannot be loaded from that version.
    #[error("version {version} of '{name}' is not supported ({minimum} to {current} are)")]
    Version {
        /// The struct's name.
        name: String,
        /// The stream's version.
        version: u32,
        /// The oldest that can be loaded.
        minimum: u32,
        /// The newest that can be loaded.
        current: u32,
    },
    /// A value that the field cannot have.
    #[error("the saved value is out of range")]
    Value,
    /// A buffer that is longer than the field's bound.
    #[error("the saved buffer has {length} bytes, at most {maximum} are allowed")]
    Length {
        /// Bytes in the stream.
        length: u32,
        /// The bound.
        maximum: usize,
    },
    /// A subsection that the struct does not have.
    #[error("unknown subsection '{0}'")]
    Subsection(String),
}

impl From<LoadErrorKind> for LoadError {
    fn from(kind: LoadErrorKind) -> Self {
        LoadError { path: String::new(), kind }
    }
}

impl LoadError {
    /// The same error, seen from the struct that has it in `field`.
    pub fn within(mut self, field: &str) -> Self {
        let separator = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{field}{separator}{}", self.path);
        self
    }
}
