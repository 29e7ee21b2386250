//! Trays and media, by today's names and older ones.

use qapi::Error;
use qapi::block::events::DeviceTrayMoved;
use qapi::block::medium::{
    BlockPasswd, BlockdevChangeMedium, BlockdevCloseTray, BlockdevInsertMedium, BlockdevOpenTray, BlockdevRemoveMedium,
    Change, Eject, XBlockdevInsertMedium, XBlockdevRemoveMedium,
};

use qmp::CommandTable;

use crate::storage::StorageOwner;
use crate::storage::medium::Drive;

fn drive<'a>(device: &'a Option<String>, id: &'a Option<String>) -> Drive<'a> {
    Drive { device: device.as_deref(), id: id.as_deref() }
}

/// The commands of this subject.
pub fn register<C: StorageOwner, S: 'static>(table: &mut CommandTable<C, S>) {
    table.register_deferred::<Eject>(|control, _, command, reply| {
        let (drive, force) = (drive(&command.device, &command.id), command.force.unwrap_or(false));
        control.storage().eject(drive, force, move |_, ejected| reply.send(ejected));
    });
    table.register::<BlockdevOpenTray>(|control, _, command| {
        control.storage().open_tray(drive(&command.device, &command.id), command.force.unwrap_or(false))
    });
    table.register::<BlockdevCloseTray>(|control, _, command| {
        control.storage().close_tray(drive(&command.device, &command.id))
    });
    table.register_deferred::<BlockdevRemoveMedium>(|control, _, command, reply| {
        control.storage().remove_medium(drive(&None, &Some(command.id)), move |_, removed| reply.send(removed));
    });
    table.register_deferred::<XBlockdevRemoveMedium>(|control, _, command, reply| {
        control.storage().remove_medium(drive(&command.device, &command.id), move |_, removed| reply.send(removed));
    });
    table.register::<BlockdevInsertMedium>(|control, _, command| {
        control.storage().insert_medium(drive(&None, &Some(command.id)), &command.node_name)
    });
    table.register::<XBlockdevInsertMedium>(|control, _, command| {
        control.storage().insert_medium(drive(&command.device, &command.id), &command.node_name)
    });
    table.register_deferred::<BlockdevChangeMedium>(|control, _, command, reply| {
        control.storage().change_medium(command, move |_, changed| reply.send(changed));
    });
    table.register_deferred::<Change>(|control, _, command, reply| {
        if command.device == "vnc" {
            return reply.send(control.change_vnc(&command.target, command.arg.as_deref()));
        }
        let command = BlockdevChangeMedium {
            device: Some(command.device),
            id: None,
            filename: command.target,
            format: command.arg,
            force: None,
            read_only_mode: None,
        };
        control.storage().change_medium(command, move |_, changed| reply.send(changed));
    });
    table.register::<BlockPasswd>(|control, _, command| {
        let storage = control.storage();
        match &command.device {
            Some(device) => drop(storage.backend(device)?),
            None => drop(storage.node_by(None, command.node_name.as_deref())?),
        }
        Err(Error::generic("Setting block passwords directly is no longer supported"))
    });
    table.declare_event::<DeviceTrayMoved>();
}
