//! Messages: a header of request, flags and size, then a payload. Numbers have the host's byte order, as the
//! specification says, for which this crate takes little-endian.

/// Bytes of a header.
pub const HEADER_LEN: usize = 12;
/// The longest payload that is read.
pub const MAX_PAYLOAD: usize = 4096;
/// Descriptors that a message may carry.
pub const MAX_FDS: usize = 8;
/// Regions that a table may have when it is sent as a whole.
pub const MAX_TABLE: usize = MAX_FDS;
/// The longest configuration.
pub const MAX_CONFIG: usize = 256;

/// Flags of a header.
pub mod flag {
    #![expect(missing_docs, reason = "named as in the specification")]
    pub const VERSION_MASK: u32 = 3;
    pub const VERSION: u32 = 1;
    pub const REPLY: u32 = 1 << 2;
    pub const NEED_REPLY: u32 = 1 << 3;
}

/// The feature bit that brings protocol features, and with them rings that must be enabled.
pub const PROTOCOL_FEATURES: u64 = 1 << 30;

/// Protocol features.
pub mod protocol {
    #![expect(missing_docs, reason = "named as in the specification")]
    pub const MQ: u64 = 1 << 0;
    pub const REPLY_ACK: u64 = 1 << 3;
    pub const BACKEND_REQ: u64 = 1 << 5;
    pub const CONFIG: u64 = 1 << 9;
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
}

/// The request of a back end that says that the configuration has changed.
pub const BACKEND_CONFIG_CHANGE: u32 = 2;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Another version, or a reply.
    #[error("flags {0:#x} are not those of a request")]
    Flags(u32),
    /// Too long.
    #[error("a payload of {0} bytes")]
    Size(u32),
    /// Not known, or not offered.
    #[error("request {0} is not known")]
    Request(u32),
    /// The payload is not that of its request.
    #[error("request {0} does not have its payload")]
    Payload(u32),
    /// Too many descriptors, or too few.
    #[error("request {0} does not have its descriptors")]
    Descriptors(u32),
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What is asked.
    pub request: u32,
    /// [`flag`].
    pub flags: u32,
    /// Bytes of the payload.
    pub size: u32,
}

impl Header {
    /// Reads a request's header.
    ///
    /// # Errors
    /// [`WireError::Flags`], [`WireError::Size`].
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, WireError> {
        let word = u128::from_le_bytes(std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0)));
        let header = Self { request: word as u32, flags: (word >> 32) as u32, size: (word >> 64) as u32 };
        if header.flags & flag::VERSION_MASK != flag::VERSION || header.flags & flag::REPLY != 0 {
            return Err(WireError::Flags(header.flags));
        }
        if header.size as usize > MAX_PAYLOAD {
            return Err(WireError::Size(header.size));
        }
        Ok(header)
    }

    /// Whether the front end waits for a word that it was done.
    pub fn needs_reply(&self) -> bool {
        self.flags & flag::NEED_REPLY != 0
    }

    /// The bytes of a reply to this.
    pub fn reply(&self, payload: &[u8]) -> Vec<u8> {
        message(self.request, flag::VERSION | flag::REPLY, payload)
    }
}

/// The bytes of a message.
pub fn message(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    for number in [request, flags, payload.len() as u32] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(payload);
    bytes
}

/// A range of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Guest-physical address.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// The front end's own address of it.
    pub user: u64,
    /// Where it begins in its file.
    pub offset: u64,
}

/// Where a ring lies, by the front end's own addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingAddresses {
    /// The descriptors.
    pub descriptors: u64,
    /// What was used.
    pub used: u64,
    /// What is available.
    pub available: u64,
}

/// What a descriptor of a ring is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingFd {
    /// The driver notifies the device.
    Kick,
    /// The device interrupts the driver.
    Call,
    /// The device says that the ring is broken.
    Error,
}

/// A request of a front end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `GET_FEATURES`
    GetFeatures,
    /// `SET_FEATURES`
    SetFeatures(u64),
    /// `SET_OWNER`, and `RESET_OWNER`, which means nothing any more.
    Owner,
    /// `SET_MEM_TABLE`, with a descriptor for each region.
    SetMemTable(Vec<Region>),
    /// `SET_VRING_NUM`: ring and entries.
    SetVringNum(u32, u32),
    /// `SET_VRING_ADDR`
    SetVringAddr(u32, RingAddresses),
    /// `SET_VRING_BASE`: ring and position.
    SetVringBase(u32, u32),
    /// `GET_VRING_BASE`
    GetVringBase(u32),
    /// `SET_VRING_KICK`, `SET_VRING_CALL`, `SET_VRING_ERR`: with a descriptor if `has_fd`.
    SetVringFd {
        /// Which of them.
        kind: RingFd,
        /// The ring.
        ring: u32,
        /// A descriptor comes with it.
        has_fd: bool,
    },
    /// `GET_PROTOCOL_FEATURES`
    GetProtocolFeatures,
    /// `SET_PROTOCOL_FEATURES`
    SetProtocolFeatures(u64),
    /// `GET_QUEUE_NUM`
    GetQueueNum,
    /// `SET_VRING_ENABLE`
    SetVringEnable(u32, bool),
    /// `SET_BACKEND_REQ_FD`, with a descriptor.
    SetBackendRequestFd,
    /// `GET_CONFIG`: offset and length. The flags come back.
    GetConfig {
        /// Where.
        offset: u32,
        /// How many bytes.
        len: u32,
        /// What the front end says of them.
        flags: u32,
    },
    /// `SET_CONFIG`: offset and bytes.
    SetConfig(u32, Vec<u8>),
    /// `GET_MAX_MEM_SLOTS`
    GetMaxMemSlots,
    /// `ADD_MEM_REG`, with a descriptor.
    AddMemRegion(Region),
    /// `REM_MEM_REG`
    RemoveMemRegion(Region),
}

/// Numbers of a payload, one after another.
struct Fields<'a> {
    left: &'a [u8],
    error: WireError,
}

impl Fields<'_> {
    fn u32(&mut self) -> Result<u32, WireError> {
        let (bytes, left) = self.left.split_first_chunk::<4>().ok_or(self.error)?;
        self.left = left;
        Ok(u32::from_le_bytes(*bytes))
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        let (bytes, left) = self.left.split_first_chunk::<8>().ok_or(self.error)?;
        self.left = left;
        Ok(u64::from_le_bytes(*bytes))
    }

    fn region(&mut self) -> Result<Region, WireError> {
        Ok(Region { guest: self.u64()?, size: self.u64()?, user: self.u64()?, offset: self.u64()? })
    }

    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.left).to_vec()
    }
}

impl Request {
    /// Understands a payload that came with `fds` descriptors.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn parse(request: u32, payload: &[u8], fds: usize) -> Result<Self, WireError> {
        let mut fields = Fields { left: payload, error: WireError::Payload(request) };
        let parsed = Self::read(request, &mut fields)?;
        if !fields.left.is_empty() {
            return Err(WireError::Payload(request));
        }
        // Whoever takes a region away may send its descriptor once more.
        let optional = matches!(parsed, Self::RemoveMemRegion(_)) && fds == 1;
        if fds != parsed.descriptors() && !optional {
            return Err(WireError::Descriptors(request));
        }
        Ok(parsed)
    }

    fn read(request: u32, fields: &mut Fields<'_>) -> Result<Self, WireError> {
        Ok(match request {
            1 => Self::GetFeatures,
            2 => Self::SetFeatures(fields.u64()?),
            3 | 4 => Self::Owner,
            5 => {
                let (count, _padding) = (fields.u32()?, fields.u32()?);
                if count as usize > MAX_TABLE {
                    return Err(WireError::Payload(request));
                }
                let regions = (0..count).map(|_| fields.region()).collect::<Result<_, _>>()?;
                // Some send room for all regions that there might be.
                fields.left = &[];
                Self::SetMemTable(regions)
            }
            8 => Self::SetVringNum(fields.u32()?, fields.u32()?),
            9 => {
                let (ring, _flags) = (fields.u32()?, fields.u32()?);
                let (descriptors, used, available, _log) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
                Self::SetVringAddr(ring, RingAddresses { descriptors, used, available })
            }
            10 => Self::SetVringBase(fields.u32()?, fields.u32()?),
            11 => {
                let (ring, _nothing) = (fields.u32()?, fields.u32()?);
                Self::GetVringBase(ring)
            }
            12..=14 => {
                const NO_FD: u64 = 1 << 8;
                let kind = [RingFd::Kick, RingFd::Call, RingFd::Error][request as usize - 12];
                let value = fields.u64()?;
                Self::SetVringFd { kind, ring: (value & 0xff) as u32, has_fd: value & NO_FD == 0 }
            }
            15 => Self::GetProtocolFeatures,
            16 => Self::SetProtocolFeatures(fields.u64()?),
            17 => Self::GetQueueNum,
            18 => Self::SetVringEnable(fields.u32()?, fields.u32()? != 0),
            21 => Self::SetBackendRequestFd,
            24 => {
                let (offset, len, flags) = (fields.u32()?, fields.u32()?, fields.u32()?);
                let _room = fields.rest();
                Self::GetConfig { offset, len, flags }
            }
            25 => {
                let (offset, len, _flags) = (fields.u32()?, fields.u32()?, fields.u32()?);
                let bytes = fields.rest();
                if bytes.len() != len as usize {
                    return Err(WireError::Payload(request));
                }
                Self::SetConfig(offset, bytes)
            }
            36 => Self::GetMaxMemSlots,
            37 | 38 => {
                let (_padding, region) = (fields.u64()?, fields.region()?);
                if request == 37 { Self::AddMemRegion(region) } else { Self::RemoveMemRegion(region) }
            }
            _ => return Err(WireError::Request(request)),
        })
    }

    /// How many descriptors come with it.
    fn descriptors(&self) -> usize {
        match self {
            Self::SetMemTable(regions) => regions.len(),
            Self::SetVringFd { has_fd, .. } => usize::from(*has_fd),
            Self::SetBackendRequestFd | Self::AddMemRegion(_) => 1,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn header_of_another_version_a_reply_or_too_long_a_payload_is_refused() {
        let parse = |request: u32, flags: u32, size: u32| {
            let mut bytes = [0; HEADER_LEN];
            for (at, number) in [request, flags, size].into_iter().enumerate() {
                bytes[4 * at..4 * at + 4].copy_from_slice(&number.to_le_bytes());
            }
            Header::parse(&bytes)
        };
        assert_eq!(parse(1, 9, 8), Ok(Header { request: 1, flags: 9, size: 8 }));
        assert_eq!(parse(1, 2, 0), Err(WireError::Flags(2)));
        assert_eq!(parse(1, 5, 0), Err(WireError::Flags(5)));
        assert_eq!(parse(1, 1, 4097), Err(WireError::Size(4097)));
    }

    #[test]
    fn payload_and_descriptors_that_do_not_fit_their_request_are_refused() {
        let table = [vec![1, 0, 0, 0, 0, 0, 0, 0], numbers(&[0x1000, 0x2000, 0x7000_0000, 0])].concat();
        let region = Region { guest: 0x1000, size: 0x2000, user: 0x7000_0000, offset: 0 };
        assert_eq!(Request::parse(5, &table, 1), Ok(Request::SetMemTable(vec![region])));
        assert_eq!(Request::parse(5, &table, 0), Err(WireError::Descriptors(5)));
        assert_eq!(Request::parse(5, &table[..39], 1), Err(WireError::Payload(5)));
        assert_eq!(Request::parse(5, &[9, 0, 0, 0, 0, 0, 0, 0], 0), Err(WireError::Payload(5)));
        assert_eq!(Request::parse(2, &numbers(&[5, 5]), 0), Err(WireError::Payload(2)));
        assert_eq!(Request::parse(1, &[], 1), Err(WireError::Descriptors(1)));
        assert_eq!(Request::parse(99, &[], 0), Err(WireError::Request(99)));
        let kick = Request::SetVringFd { kind: RingFd::Kick, ring: 3, has_fd: false };
        assert_eq!(Request::parse(12, &numbers(&[0x103]), 0), Ok(kick));
        assert_eq!(Request::parse(12, &numbers(&[3]), 0), Err(WireError::Descriptors(12)));
        let config = [vec![32, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0], vec![1, 2]].concat();
        assert_eq!(Request::parse(25, &config, 0), Ok(Request::SetConfig(32, vec![1, 2])));
        assert_eq!(Request::parse(25, &config[..13], 0), Err(WireError::Payload(25)));
        let removed = [vec![0; 8], numbers(&[0x1000, 0x2000, 0x7000_0000, 0])].concat();
        assert_eq!(Request::parse(38, &removed, 1), Ok(Request::RemoveMemRegion(region)));
        assert_eq!(Request::parse(37, &removed, 0), Err(WireError::Descriptors(37)));
    }
}
