//! Numbers in headers and tables. All reads are checked: what lies behind the end of the bytes reads as zero, so that the
//! checks of the values decide.

macro_rules! getters {
    ($($name:ident $type:ident $from:ident $doc:literal)*) => {
        $(#[doc = $doc]
        pub fn $name(bytes: &[u8], at: usize) -> $type {
            const N: usize = size_of::<$type>();
            match at.checked_add(N).and_then(|end| bytes.get(at..end)).and_then(|field| field.try_into().ok()) {
                Some(field) => $type::$from(field),
                None => 0,
            }
        })*
    };
}

getters! {
    le16 u16 from_le_bytes "The little-endian number of 16 bits at `at`; 0 behind the end."
    le32 u32 from_le_bytes "The little-endian number of 32 bits at `at`; 0 behind the end."
    le64 u64 from_le_bytes "The little-endian number of 64 bits at `at`; 0 behind the end."
    be16 u16 from_be_bytes "The big-endian number of 16 bits at `at`; 0 behind the end."
    be32 u32 from_be_bytes "The big-endian number of 32 bits at `at`; 0 behind the end."
    be64 u64 from_be_bytes "The big-endian number of 64 bits at `at`; 0 behind the end."
}
