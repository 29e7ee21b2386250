//! The options of an existing image that can be changed (QEMU's `block-core.json`, parts of `crypto.json`).

use super::common::BlockdevDriver;
use crate::{Command, QapiType};

/// States of a key slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, QapiType)]
pub enum QCryptoBlockLUKSKeyslotState {
    /// It opens the volume.
    Active,
    /// Its key is erased.
    Inactive,
}

/// How the key slots of a LUKS volume are changed.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct QCryptoBlockAmendOptionsLUKS {
    /// The state that the slots get.
    pub state: QCryptoBlockLUKSKeyslotState,
    /// The secret object with the passphrase that a slot gets.
    pub new_secret: Option<String>,
    /// The secret object with the passphrase whose slots are erased.
    pub old_secret: Option<String>,
    /// The secret object with a passphrase that opens the volume; the one that it was opened with if absent.
    pub secret: Option<String>,
    /// The slot; a free one, or all that the passphrase opens, if absent.
    pub keyslot: Option<i64>,
    /// How long the key derivation shall take, in milliseconds; 2000 if absent.
    pub iter_time: Option<i64>,
}

/// How the encryption of an image is changed.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "format")]
pub enum QCryptoBlockAmendOptions {
    /// The old AES encryption, of which nothing can be changed.
    Qcow,
    /// LUKS.
    Luks(QCryptoBlockAmendOptionsLUKS),
}

/// How a qcow2 image is changed.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
pub struct BlockdevAmendOptionsQcow2 {
    /// The encryption.
    pub encrypt: Option<QCryptoBlockAmendOptions>,
}

/// How an image is changed.
#[derive(Debug, Clone, PartialEq, Eq, QapiType)]
#[qapi(tag = "driver", tag_type = BlockdevDriver)]
#[expect(missing_docs, reason = "the drivers are described at their names")]
pub enum BlockdevAmendOptions {
    Luks(QCryptoBlockAmendOptionsLUKS),
    Qcow2(BlockdevAmendOptionsQcow2),
    /// A driver whose images can't be changed.
    #[qapi(other)]
    Other(BlockdevDriver),
}

/// Changes options of an image in use, as a job.
#[derive(Debug, Clone, PartialEq, Command)]
#[command(name = "x-blockdev-amend", preconfig, unstable)]
pub struct XBlockdevAmend {
    /// The job's name.
    pub job_id: String,
    /// The image's node.
    pub node_name: String,
    /// What is changed.
    pub options: BlockdevAmendOptions,
    /// Whether also what makes data unreadable is done; off if absent.
    pub force: Option<bool>,
}
