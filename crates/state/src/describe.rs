//! Descriptions of saved state, from which the stream's JSON description is made.

/// What a field holds. The names are those of QEMU's stream description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the types")]
pub enum Kind {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    /// Bytes of a length that varies.
    Buffer,
    Struct,
}

impl Kind {
    /// The type's name in QEMU's description.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Int8 => "int8",
            Kind::Int16 => "int16",
            Kind::Int32 => "int32",
            Kind::Int64 => "int64",
            Kind::UInt8 => "uint8",
            Kind::UInt16 => "uint16",
            Kind::UInt32 => "uint32",
            Kind::UInt64 => "uint64",
            Kind::Buffer => "buffer",
            Kind::Struct => "struct",
        }
    }
}

/// One saved struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The declared name. A subsection's name begins with its parent's.
    pub name: String,
    /// The version that is written.
    pub version: u32,
    /// Fields in the order of the stream.
    pub fields: Vec<FieldDescription>,
    /// Subsections that are present, in the order of the stream.
    pub subsections: Vec<Description>,
}

/// One field, or an array of equal elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldDescription {
    /// The field's name.
    pub name: String,
    /// What an element is.
    pub kind: Kind,
    /// Bytes of one element in the stream.
    pub size: usize,
    /// Number of elements, when the field is an array.
    pub array_len: Option<usize>,
    /// The element's number, when an array's elements differ and are described one by one.
    pub index: Option<usize>,
    /// The element's own description, when it is a struct.
    pub nested: Option<Description>,
}

impl FieldDescription {
    /// A single value that is no struct.
    pub fn plain(name: &str, kind: Kind, size: usize) -> Self {
        FieldDescription { name: name.to_string(), kind, size, array_len: None, index: None, nested: None }
    }

    /// Bytes in the stream.
    pub fn total_size(&self) -> usize {
        self.size * self.array_len.unwrap_or(1)
    }
}

impl Description {
    /// Bytes in the stream, with subsections.
    pub fn size(&self) -> usize {
        let fields: usize = self.fields.iter().map(FieldDescription::total_size).sum();
        let subsections: usize =
            self.subsections.iter().map(|sub| crate::stream::subsection_header(&sub.name) + sub.size()).sum();
        fields + subsections
    }

    /// The path of the field that holds the byte at `offset`: `channels[1].mode`.
    pub fn field_at(&self, offset: usize) -> Option<String> {
        let mut start = 0;
        for field in &self.fields {
            let end = start + field.total_size();
            if offset < end {
                let (element, rest) = ((offset - start) / field.size, (offset - start) % field.size);
                let mut path = field.name.clone();
                if field.array_len.is_some() {
                    path += &format!("[{element}]");
                } else if let Some(index) = field.index {
                    path += &format!("[{index}]");
                }
                if let Some(inner) = field.nested.as_ref().and_then(|nested| nested.field_at(rest)) {
                    path += &format!(".{inner}");
                }
                return Some(path);
            }
            start = end;
        }
        for sub in &self.subsections {
            let header = crate::stream::subsection_header(&sub.name);
            if offset < start + header + sub.size() {
                let inner = offset.checked_sub(start + header).and_then(|rest| sub.field_at(rest));
                return Some(format!("{}:{}", sub.name, inner.as_deref().unwrap_or("header")));
            }
            start += header + sub.size();
        }
        None
    }
}
