//! Dirty bitmaps.

use qapi::block::bitmaps::{
    BlockDirtyBitmapAddCommand, BlockDirtyBitmapClear, BlockDirtyBitmapDisable, BlockDirtyBitmapEnable,
    BlockDirtyBitmapMergeCommand, BlockDirtyBitmapRemove, BlockDirtyBitmapSha256, XBlockDirtyBitmapDisable,
    XBlockDirtyBitmapEnable, XBlockDirtyBitmapMergeCommand, XDebugBlockDirtyBitmapSha256,
};

use qmp::CommandTable;

use crate::storage::StorageOwner;

/// The commands of this subject.
pub fn register<C: StorageOwner, S: 'static>(table: &mut CommandTable<C, S>) {
    table.register::<BlockDirtyBitmapAddCommand>(|control, _, command| {
        control.storage().add_bitmap(&command.bitmap).map(drop)
    });
    table.register::<BlockDirtyBitmapRemove>(|control, _, command| control.storage().remove_bitmap(&command.bitmap));
    table.register::<BlockDirtyBitmapClear>(|control, _, command| control.storage().clear_bitmap(&command.bitmap));
    table.register::<BlockDirtyBitmapEnable>(|control, _, command| control.storage().enable_bitmap(&command.bitmap));
    table.register::<BlockDirtyBitmapDisable>(|control, _, command| control.storage().disable_bitmap(&command.bitmap));
    table.register::<BlockDirtyBitmapMergeCommand>(|control, _, command| {
        control.storage().merge_bitmaps(&command.merge)
    });
    table.register::<XBlockDirtyBitmapEnable>(|control, _, command| control.storage().enable_bitmap(&command.bitmap));
    table.register::<XBlockDirtyBitmapDisable>(|control, _, command| control.storage().disable_bitmap(&command.bitmap));
    table.register::<XBlockDirtyBitmapMergeCommand>(|control, _, command| {
        control.storage().merge_bitmaps(&command.merge.into())
    });
    table.register::<XDebugBlockDirtyBitmapSha256>(|control, _, command| {
        let sha256 = control.storage().bitmap_sha256(&command.bitmap)?;
        Ok(BlockDirtyBitmapSha256 { sha256 })
    });
}
