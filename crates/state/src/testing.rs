//! Helpers for the tests of devices.

use crate::{LoadError, Reader, SavedState, Writer};

/// The state's bytes.
pub fn saved(state: &dyn SavedState) -> Vec<u8> {
    let mut writer = Writer::new();
    state.save(&mut writer);
    writer.into_bytes()
}

/// Loads all of `bytes` in the current version.
pub fn load_all(state: &mut dyn SavedState, bytes: &[u8]) -> Result<(), LoadError> {
    let version = state.version();
    state.load(&mut Reader::new(bytes), version)
}

/// Changes as many bytes of the state as it accepts.
///
/// # Panics
/// When the state does not accept what it has saved.
pub fn scramble(state: &mut dyn SavedState) {
    let mut bytes = saved(state);
    let all: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    if load_all(state, &all).is_ok() {
        return;
    }
    for index in 0..bytes.len() {
        let original = bytes[index];
        let accepted = [!original, original ^ 1, original.wrapping_add(1)].into_iter().any(|value| {
            bytes[index] = value;
            // A length that changed would move the bytes that follow.
            load_all(state, &bytes).is_ok() && saved(state).len() == bytes.len()
        });
        if !accepted {
            bytes[index] = original;
            load_all(state, &bytes).expect("the state accepts its own bytes");
        }
    }
}

/// Checks that a reset leads to the same state from everywhere: resets, scrambles the state, resets again and
/// compares.
///
/// # Panics
/// When a field keeps its scrambled value. The message names it.
pub fn assert_reset_is_complete<T>(
    device: &mut T,
    mut state: impl FnMut(&mut T) -> &mut dyn SavedState,
    mut reset: impl FnMut(&mut T),
) {
    reset(device);
    let expected = saved(state(device));
    scramble(state(device));
    assert!(expected.is_empty() || saved(state(device)) != expected, "the state accepts no change");
    reset(device);
    let found = saved(state(device));
    if let Some(offset) = (0..expected.len().max(found.len())).find(|&i| expected.get(i) != found.get(i)) {
        let description = state(device).describe();
        let field = description.field_at(offset).unwrap_or_else(|| format!("byte {offset}"));
        panic!("reset leaves '{field}' of '{}' as it was", description.name);
    }
}

/// Loads `rounds` variations of the state's bytes, most of them broken, and checks that a refused load changes
/// nothing and an accepted one can be saved and loaded again.
///
/// # Panics
/// When one of these does not hold.
pub fn assert_hostile_bytes_are_harmless(state: &mut dyn SavedState, seed: u64, rounds: usize) {
    let original = saved(state);
    let mut random = seed | 1;
    let mut next = move || {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for round in 0..rounds {
        let mut bytes =
            if round % 3 == 0 { (0..next() % 300).map(|_| next() as u8).collect() } else { original.clone() };
        for _ in 0..next() % 8 {
            let index = next() as usize % bytes.len().max(1);
            match next() % 3 {
                0 => bytes.truncate(index),
                1 => bytes.insert(index.min(bytes.len()), next() as u8),
                _ => bytes.iter_mut().skip(index).take(1).for_each(|byte| *byte = next() as u8),
            }
        }
        let before = saved(state);
        let version = if next() % 8 == 0 { next() as u32 } else { state.version() };
        match state.load(&mut Reader::new(&bytes), version) {
            Err(_) => assert_eq!(saved(state), before, "a refused load changed the state"),
            Ok(()) => {
                let accepted = saved(state);
                load_all(state, &accepted).expect("the state accepts its own bytes");
                assert_eq!(saved(state), accepted, "a load of the state's own bytes changed it");
            }
        }
        assert_eq!(state.describe().size(), saved(state).len(), "the description does not fit the bytes");
    }
}
