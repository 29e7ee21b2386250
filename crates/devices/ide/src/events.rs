//! What happens to a drive from outside: its disk changes, media are exchanged, somebody wants the tray open.

use std::sync::{Arc, Weak};

use device::disk::{Disk, DiskObserver, Removable};

use crate::drive::{Drive, DriveKind};

/// Calls a visitor with a drive, its controller locked; does nothing when the controller is gone.
pub type DriveAccess = Arc<dyn Fn(&mut dyn FnMut(&mut Drive<'_>)) + Send + Sync>;

/// The way from a disk to its drive. The disk knows it weakly, the controller keeps it.
pub struct DriveEvents {
    access: DriveAccess,
}

impl DriveEvents {
    /// Registers a drive with its disk.
    pub fn register(disk: &dyn Disk, kind: DriveKind, access: DriveAccess) -> Arc<Self> {
        let events = Arc::new(Self { access });
        let observer: Arc<dyn DiskObserver> = events.clone();
        let weak: Weak<dyn DiskObserver> = Arc::downgrade(&observer);
        disk.observe(weak);
        if kind == DriveKind::Cd {
            let removable: Arc<dyn Removable> = events.clone();
            let weak: Weak<dyn Removable> = Arc::downgrade(&removable);
            disk.set_removable(weak);
        }
        events
    }

    fn ask(&self, question: fn(&Drive<'_>) -> bool) -> bool {
        let mut answer = false;
        (self.access)(&mut |drive| answer = question(drive));
        answer
    }
}

impl DiskObserver for DriveEvents {
    fn changed(&self) {
        (self.access)(&mut |drive| drive.disk_changed());
    }
}

impl Removable for DriveEvents {
    fn has_tray(&self) -> bool {
        true
    }

    fn is_tray_open(&self) -> bool {
        self.ask(|drive| drive.is_tray_open())
    }

    fn is_locked(&self) -> bool {
        self.ask(|drive| drive.is_locked())
    }

    fn eject_request(&self, force: bool) {
        (self.access)(&mut |drive| drive.eject_request(force));
    }

    fn medium_changed(&self, loaded: bool) {
        (self.access)(&mut |drive| drive.medium_changed(loaded));
    }
}
