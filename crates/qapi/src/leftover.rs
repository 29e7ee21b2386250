//! Which unexpected member is reported when there are several.
//!
//! QEMU keeps the names of an object's members in a GLib hash table, takes out those that it
//! visits, and reports the first that is left in table order. This follows that order, so that the
//! one name in the error text is the same. It was checked against `qemu-system-x86_64` 7.2.

/// Above this many members the first one in the client's order is reported instead: a crafted
/// object could make the probing below slow.
const LIMIT: usize = 64;

/// Prime moduli for table sizes 2^3 to 2^8.
const MODULI: [u32; 6] = [7, 13, 31, 61, 127, 251];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot<'a> {
    Unused,
    Removed,
    Name(&'a str),
}

struct Table<'a> {
    slots: Vec<Slot<'a>>,
    names: usize,
    /// Names and removed ones.
    occupied: usize,
}

fn hash(name: &str) -> u32 {
    let step = |hash: u32, byte: u8| hash.wrapping_mul(33).wrapping_add_signed(i32::from(byte.cast_signed()));
    name.bytes().fold(5381, step).max(2)
}

impl<'a> Table<'a> {
    fn new() -> Self {
        Self { slots: vec![Slot::Unused; 8], names: 0, occupied: 0 }
    }

    /// The place of `name`, or where it would be put.
    fn find(&self, name: &str) -> usize {
        let shift = self.slots.len().trailing_zeros() as usize;
        let modulus = MODULI.get(shift.saturating_sub(3)).copied().unwrap_or(251);
        let mut at = (hash(name).wrapping_mul(11) % modulus) as usize;
        let mut removed = None;
        for step in 1..=self.slots.len() {
            match self.slots.get(at) {
                Some(Slot::Name(other)) if *other == name => return at,
                Some(Slot::Removed) if removed.is_none() => removed = Some(at),
                Some(Slot::Unused) | None => return removed.unwrap_or(at),
                _ => {}
            }
            at = (at + step) & (self.slots.len() - 1);
        }
        removed.unwrap_or(at)
    }

    fn put(&mut self, name: &'a str) -> Slot<'a> {
        let at = self.find(name);
        self.slots.get_mut(at).map_or(Slot::Unused, |slot| std::mem::replace(slot, Slot::Name(name)))
    }

    fn insert(&mut self, name: &'a str) {
        let old = self.put(name);
        self.names += 1;
        if old == Slot::Unused {
            self.occupied += 1;
            self.resize_if_due();
        }
    }

    fn remove(&mut self, name: &str) {
        let at = self.find(name);
        if let Some(slot @ Slot::Name(_)) = self.slots.get_mut(at) {
            *slot = Slot::Removed;
            self.names -= 1;
            self.resize_if_due();
        }
    }

    fn resize_if_due(&mut self) {
        let size = self.slots.len();
        let sparse = size > self.names * 4 && size > 8;
        if !sparse && size > self.occupied + self.occupied / 16 {
            return;
        }
        // A third more than needed, rounded up to a power of two.
        let wanted = self.names * 1333 / 1000;
        let shift = (usize::BITS - wanted.leading_zeros()).clamp(3, 8);
        let old = std::mem::replace(&mut self.slots, vec![Slot::Unused; 1 << shift]);
        self.occupied = self.names;
        for slot in old {
            if let Slot::Name(name) = slot {
                self.put(name);
            }
        }
    }
}

/// The member to report. `names` are all members in QEMU's dictionary order, `taken` those that
/// were visited, in that order.
pub(crate) fn first_left<'a>(names: &[&'a str], taken: &[String]) -> Option<&'a str> {
    if names.len() > LIMIT {
        return names.iter().copied().find(|name| !taken.iter().any(|other| other == name));
    }
    let mut table = Table::new();
    for name in names {
        table.insert(name);
    }
    for name in taken {
        table.remove(name);
    }
    table.slots.iter().find_map(|slot| match slot {
        Slot::Name(name) => Some(*name),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::first_left;
    use crate::json::{Map, Value};

    fn reported(names: &str, taken: &[&str]) -> Option<String> {
        let map: Map = names.split(',').map(|name| (name, Value::Null)).collect();
        let names: Vec<&str> = map.in_hash_order().into_iter().map(|(name, _)| name).collect();
        let taken: Vec<String> = taken.iter().map(ToString::to_string).collect();
        first_left(&names, &taken).map(str::to_owned)
    }

    #[test]
    fn leftover_of_several_is_the_one_that_qemu_names() {
        assert_eq!(reported("b,a", &[]).as_deref(), Some("b"));
        assert_eq!(reported("a,b,c", &[]).as_deref(), Some("b"));
        assert_eq!(reported("device,id,driver", &[]).as_deref(), Some("driver"));
        assert_eq!(reported("zeta,alpha,name,q,x,hello,foo,bar,baz", &[]).as_deref(), Some("bar"));
        assert_eq!(reported("up,name,q,r,s,t,u,v,w,xx,yy", &["name", "up"]).as_deref(), Some("u"));
    }

    #[test]
    fn leftover_of_nothing_is_nothing() {
        assert_eq!(reported("a", &["a"]), None);
    }

    #[test]
    fn leftover_of_a_huge_object_is_found() {
        let names: Vec<String> = (0..5000).map(|number| format!("n{number}")).collect();
        assert!(reported(&names.join(","), &["n0"]).is_some());
        for count in [7, 8, 9, 63, 64, 65] {
            let names: Vec<String> = (0..count).map(|number| format!("n{number}")).collect();
            assert!(reported(&names.join(","), &["n0", "n5"]).is_some());
        }
    }
}
