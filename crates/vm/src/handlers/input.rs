//! Keys, buttons and movements from monitors.

use ::display::input::{Axis, Button, Event};
use ::display::keys::Key;
use qapi::Error;
use qapi::schema::Enumeration;
use qapi::ui::{InputAxis, InputButton, InputEvent, InputSendEvent, KeyValue, MouseInfo, QueryMice, SendKey};

use super::Table;
use super::display::console;
use crate::control::Control;
use crate::run_state::can_hear;

/// How long keys are held, in milliseconds.
const HOLD: i64 = 100;

/// The commands of this subject.
pub fn register(table: &mut Table) {
    table.register::<QueryMice>(|control, _, _| Ok(mice(control)));
    table.register::<SendKey>(|control, _, arguments| {
        if can_hear(control.states().current()) {
            let keys: Vec<Key> = arguments.keys.iter().filter_map(key).collect();
            let hold = arguments.hold_time.filter(|time| *time > 0).unwrap_or(HOLD);
            control.machine().key_queue().press(&keys, (hold as u64).saturating_mul(1_000_000));
        }
        Ok(())
    });
    table.register::<InputSendEvent>(|control, _, arguments| send_event(control, &arguments));
}

/// The key; nothing for numbers and names that no keyboard has.
fn key(value: &KeyValue) -> Option<Key> {
    match value {
        KeyValue::Number(number) => u8::try_from(*number).ok().and_then(Key::numbered),
        KeyValue::Qcode(code) => Key::named(code.name()),
    }
}

fn mice(control: &Control) -> Vec<MouseInfo> {
    let pointers = control.machine().input().pointers();
    let describe = |pointer: ::display::input::Pointer| MouseInfo {
        name: pointer.name,
        index: pointer.index as i64,
        current: pointer.is_current,
        absolute: pointer.is_absolute,
    };
    // QEMU lists the active one last.
    pointers.into_iter().rev().map(describe).collect()
}

fn send_event(control: &Control, arguments: &InputSendEvent) -> Result<(), Error> {
    let console = match &arguments.device {
        Some(device) => Some(console(control.machine(), device, arguments.head)?),
        None => None,
    };
    if !can_hear(control.states().current()) {
        return Err(Error::generic("VM not running"));
    }
    let hub = control.machine().input();
    let events: Vec<_> = arguments.events.iter().map(|event| (event, translate(event))).collect();
    for (event, probe) in &events {
        // A key without a code goes to the keyboards, too, and is heard by none.
        let kind = probe.unwrap_or(Event::Button { button: Button::Left, is_down: false });
        if probe.is_some() && !hub.has_taker(&kind, console.as_ref()) {
            return Err(Error::generic(format!("Input handler not found for event type {}", name(event))));
        }
    }
    for event in events.into_iter().filter_map(|(_, event)| event) {
        hub.send(&event, console.as_ref());
    }
    hub.sync();
    Ok(())
}

fn name(event: &InputEvent) -> &'static str {
    match event {
        InputEvent::Key(_) => "key",
        InputEvent::Btn(_) => "btn",
        InputEvent::Rel(_) => "rel",
        InputEvent::Abs(_) => "abs",
    }
}

/// Nothing for keys that no keyboard has.
fn translate(event: &InputEvent) -> Option<Event> {
    let axis = |axis| match axis {
        InputAxis::X => Axis::X,
        InputAxis::Y => Axis::Y,
    };
    Some(match event {
        InputEvent::Key(event) => Event::Key { key: key(&event.key)?, is_down: event.down },
        InputEvent::Btn(event) => Event::Button { button: button(event.button), is_down: event.down },
        InputEvent::Rel(event) => Event::Relative { axis: axis(event.axis), by: event.value },
        InputEvent::Abs(event) => Event::Absolute { axis: axis(event.axis), to: event.value },
    })
}

fn button(button: InputButton) -> Button {
    match button {
        InputButton::Left => Button::Left,
        InputButton::Middle => Button::Middle,
        InputButton::Right => Button::Right,
        InputButton::WheelUp => Button::WheelUp,
        InputButton::WheelDown => Button::WheelDown,
        InputButton::Side => Button::Side,
        InputButton::Extra => Button::Extra,
        InputButton::WheelLeft => Button::WheelLeft,
        InputButton::WheelRight => Button::WheelRight,
    }
}
