//! The filter `blkdebug`: errors on purpose, requests held at break points, alignment and length limits, for tests.
//!
//! Rules wait for events that a format announces (`l2_update` …). While the filter's state is the rule's state (0: any),
//! an `inject-error` rule becomes active at its event; requests that match its kind and sector then fail. A `set-state`
//! rule changes the state.

use std::any::Any;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use block::driver::{Driver, DriverKind, DriverType, IoFuture};
use block::{
    BlockStatus, Child, Error, Limits, OpenRequest, Options, Permissions, Preallocation, Result, Role, WriteFlags,
    ZeroFlags, permissions,
};
use iobuf::IoBuf;
use tokio::sync::Notify;

/// The driver `blkdebug`.
pub struct BlkdebugType;

/// The events that formats and nodes announce.
pub const EVENTS: &[&str] = &[
    "l1_update",
    "l1_grow_alloc_table",
    "l1_grow_write_table",
    "l1_grow_activate_table",
    "l2_load",
    "l2_update",
    "l2_update_compressed",
    "l2_alloc_cow_read",
    "l2_alloc_write",
    "read_aio",
    "read_backing_aio",
    "read_compressed",
    "write_aio",
    "write_compressed",
    "vmstate_load",
    "vmstate_save",
    "cow_read",
    "cow_write",
    "reftable_load",
    "reftable_grow",
    "reftable_update",
    "refblock_load",
    "refblock_update",
    "refblock_update_part",
    "refblock_alloc",
    "refblock_alloc_hookup",
    "refblock_alloc_write",
    "refblock_alloc_write_blocks",
    "refblock_alloc_write_table",
    "refblock_alloc_switch_table",
    "cluster_alloc",
    "cluster_alloc_bytes",
    "cluster_free",
    "flush_to_os",
    "flush_to_disk",
    "pwritev_rmw_head",
    "pwritev_rmw_after_head",
    "pwritev_rmw_tail",
    "pwritev_rmw_after_tail",
    "pwritev",
    "pwritev_zero",
    "pwritev_done",
    "empty_image_prepare",
    "l1_shrink_write_table",
    "l1_shrink_free_l2_clusters",
    "cor_write",
    "cluster_alloc_space",
    "none",
];

const IO_TYPES: [&str; 6] = ["read", "write", "write-zeroes", "discard", "flush", "block-status"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum IoType {
    Read,
    Write,
    WriteZeroes,
    Discard,
    Flush,
    BlockStatus,
}

#[derive(Clone, Debug, PartialEq)]
struct Injection {
    /// `None`: all kinds but block status.
    io_type: Option<usize>,
    errno: i32,
    /// Bytes; `None` is anywhere.
    offset: Option<u64>,
    once: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Inject(Injection),
    SetState(u32),
    Suspend(String),
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    id: u64,
    event: &'static str,
    /// 0 is any.
    state: u32,
    action: Action,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    active: Vec<(u64, Injection)>,
    suspended: Vec<(u64, String)>,
    next: u64,
}

/// A node that fails on purpose.
pub struct Blkdebug {
    image: Arc<Child>,
    config: Option<String>,
    limits: Limits,
    /// What is used of the node below besides what is used of the filter.
    takes: Permissions,
    /// What others may not use of it.
    unshares: Permissions,
    strong: Options,
    state_number: AtomicU32,
    state: Mutex<State>,
    resumed: Notify,
}

/// A list of permissions.
fn take_permissions(options: &mut Options, name: &str) -> Result<Permissions> {
    options.take_list(name)?.iter().try_fold(Permissions::NONE, |all, item| {
        let one = Permissions::by_name(item);
        Ok(all | one.ok_or_else(|| Error::invalid(format!("Invalid parameter '{item}'")))?)
    })
}

impl DriverType for BlkdebugType {
    fn name(&self) -> &'static str {
        "blkdebug"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Filter
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &["blkdebug:"]
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        let Some(rest) = filename.strip_prefix("blkdebug:") else {
            return Ok(Options::new().with("image.filename", filename));
        };
        let (config, image) =
            rest.split_once(':').ok_or_else(|| Error::invalid("blkdebug requires both config file and image path"))?;
        let mut options = Options::new().with("image.filename", image);
        if block::filename::protocol_of(image).is_none() {
            // Named like a file, it stands in for one: the format is found in what it gives.
            options.set("image.driver", block::file::driver_for_path(image));
        }
        Ok(if config.is_empty() { options } else { options.with("config", config) })
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let options = &mut request.options;
            let strong = options.clone();
            let mut state = State::default();
            let config = options.take_str("config")?;
            if let Some(name) = &config {
                let text = std::fs::read_to_string(name)
                    .map_err(|e| Error::host(&e).context("Could not read blkdebug config file"))?;
                parse_config(&text, &mut state)?;
            }
            for kind in ["inject-error", "set-state"] {
                for index in 0.. {
                    let mut rule = options.take_below(&format!("{kind}.{index}"));
                    if rule.is_empty() {
                        break;
                    }
                    add_rule(kind, &mut rule, &mut state)?;
                }
            }
            let own = take_limits(options)?;
            let takes = take_permissions(options, "take-child-perms")?;
            let unshares = take_permissions(options, "unshare-child-perms")?;
            let image = request.child("image", Role::Filtered).await?;
            request.finish()?;
            // They hold as long as the node is there, whether anybody uses it or not.
            let (used, shared) = image.permissions();
            request.graph.set_permissions(&image, used | takes, shared & unshares.complement())?;
            let limits = merge(own, image.node().driver().limits());
            check_limits(&own, &limits)?;
            let strong = Options::from_value(&strong_value(&strong));
            let driver = Blkdebug {
                image,
                config,
                limits,
                takes,
                unshares,
                strong,
                state_number: AtomicU32::new(1),
                state: Mutex::new(state),
                resumed: Notify::new(),
            };
            driver.process("none");
            Ok(Arc::new(driver) as Arc<dyn Driver>)
        })
    }
}

/// The options without those of the image.
fn strong_value(options: &Options) -> block::Value {
    let mut own = options.clone();
    own.take_below("image");
    own.take("image");
    own.to_value()
}

fn take_limits(options: &mut Options) -> Result<Limits> {
    let mut size = |name: &str| options.take_size(name).map(|v| v.unwrap_or(0));
    let narrow = |name: &str, value: u64| {
        u32::try_from(value).map_err(|_| Error::invalid(format!("Cannot meet constraints with {name} {value}")))
    };
    let align = size("align")?;
    if align != 0 && (!align.is_power_of_two() || align > 1 << 30) {
        return Err(Error::invalid(format!("Cannot meet constraints with align {align}")));
    }
    Ok(Limits {
        request_alignment: narrow("align", align)?.max(1),
        max_transfer: size("max-transfer")?,
        zeroes_alignment: narrow("opt-write-zero", size("opt-write-zero")?)?,
        max_zeroes: size("max-write-zero")?,
        discard_alignment: narrow("opt-discard", size("opt-discard")?)?,
        max_discard: size("max-discard")?,
        ..Limits::default()
    })
}

/// What was asked for wins; what was not asked for is the image's.
fn merge(own: Limits, image: Limits) -> Limits {
    let or = |own: u64, image: u64| if own == 0 { image } else { own };
    Limits {
        request_alignment: if own.request_alignment > 1 { own.request_alignment } else { image.request_alignment },
        memory_alignment: image.memory_alignment,
        max_transfer: or(own.max_transfer, image.max_transfer),
        zeroes_alignment: if own.zeroes_alignment == 0 { image.zeroes_alignment } else { own.zeroes_alignment },
        max_zeroes: or(own.max_zeroes, image.max_zeroes),
        // Pieces of the unit that was asked for are discarded, too; what is too small for the image it says itself.
        discard_alignment: image.discard_alignment,
        max_discard: or(own.max_discard, image.max_discard),
        optimal_transfer: image.optimal_transfer,
    }
}

fn check_limits(own: &Limits, merged: &Limits) -> Result<()> {
    let align = u64::from(merged.request_alignment);
    for (name, value, unit) in [
        ("max-transfer", own.max_transfer, align),
        ("opt-write-zero", own.zeroes_alignment.into(), align),
        ("max-write-zero", own.max_zeroes, u64::from(own.zeroes_alignment).max(align)),
        ("opt-discard", own.discard_alignment.into(), align),
        ("max-discard", own.max_discard, u64::from(own.discard_alignment).max(align)),
    ] {
        if !value.is_multiple_of(unit) {
            return Err(Error::invalid(format!("Cannot meet constraints with {name} {value}")));
        }
    }
    Ok(())
}

fn event_named(name: &str) -> Result<&'static str> {
    EVENTS
        .iter()
        .find(|event| **event == name)
        .copied()
        .ok_or_else(|| Error::invalid(format!("Invalid event name \"{name}\"")))
}

fn add_rule(kind: &str, options: &mut Options, state: &mut State) -> Result<()> {
    let event = options.take_str("event")?.ok_or_else(|| Error::invalid("Missing event name for rule"))?;
    let event = event_named(&event)?;
    let number = |value: Option<u64>, default: u32| {
        value.map_or(Ok(default), |v| u32::try_from(v).map_err(|_| Error::invalid("A rule's number is too large")))
    };
    let in_state = number(options.take_u64("state")?, 0)?;
    let action = if kind == "set-state" {
        Action::SetState(number(options.take_u64("new_state")?, 0)?)
    } else {
        let errno = number(options.take_u64("errno")?, 5)?;
        let io_type = options.take_choice("iotype", &IO_TYPES)?;
        let offset = match options.take("sector") {
            None => None,
            Some(block::Value::Int(-1)) => None,
            Some(block::Value::Str(text)) if text == "-1" => None,
            Some(value) => {
                options.set("sector", value);
                options.take_u64("sector")?.and_then(|sector| sector.checked_mul(512))
            }
        };
        // Errors are always given at once here: every request is a task of its own.
        options.take_bool("immediately")?;
        let once = options.take_bool("once")?.unwrap_or(false);
        Action::Inject(Injection { io_type, errno: i32::try_from(errno).unwrap_or(5), offset, once })
    };
    if let Some((name, _)) = options.iter().next() {
        return Err(Error::invalid(format!("Invalid parameter '{name}'")));
    }
    state.next += 1;
    state.rules.push(Rule { id: state.next, event, state: in_state, action });
    Ok(())
}

/// The rules of a configuration file: sections `[inject-error]` and `[set-state]` with lines `name = "value"`.
fn parse_config(text: &str, state: &mut State) -> Result<()> {
    let mut section: Option<(String, Options)> = None;
    let mut finish = |section: Option<(String, Options)>| match section {
        Some((kind, mut options)) => add_rule(&kind, &mut options, state),
        None => Ok(()),
    };
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let kind = name.split_whitespace().next().unwrap_or("");
            if !["inject-error", "set-state"].contains(&kind) {
                return Err(Error::invalid(format!("There is no option group '{kind}'")));
            }
            finish(section.replace((kind.to_owned(), Options::new())))?;
        } else if let (Some((name, value)), Some((_, options))) = (line.split_once('='), &mut section) {
            options.set(name.trim(), value.trim().trim_matches('"'));
        } else {
            return Err(Error::invalid("Could not parse blkdebug config file"));
        }
    }
    finish(section)
}

impl Blkdebug {
    fn with<R>(&self, visit: impl FnOnce(&mut State) -> R) -> R {
        visit(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets the rules of an event act. The id of the break point that holds the request, if one does.
    fn process(&self, event: &'static str) -> Option<u64> {
        let current = self.state_number.load(Ordering::Acquire);
        let mut new = current;
        let suspended = self.with(|state| {
            let mut suspended = None;
            let mut replaced = false;
            let matching: Vec<Rule> = state
                .rules
                .iter()
                .filter(|rule| rule.event == event && (rule.state == 0 || rule.state == current))
                .cloned()
                .collect();
            for rule in matching {
                match rule.action {
                    Action::Inject(injection) => {
                        if !std::mem::replace(&mut replaced, true) {
                            state.active.clear();
                        }
                        state.active.insert(0, (rule.id, injection));
                    }
                    Action::SetState(number) => new = number,
                    Action::Suspend(tag) => {
                        state.rules.retain(|other| other.id != rule.id);
                        state.suspended.push((rule.id, tag));
                        suspended = Some(rule.id);
                    }
                }
            }
            suspended
        });
        self.state_number.store(new, Ordering::Release);
        suspended
    }

    fn check(&self, offset: u64, len: u64, io_type: IoType) -> Result<()> {
        let errno = self.with(|state| {
            let hit = state.active.iter().position(|(_, injection)| {
                let kind = match injection.io_type {
                    Some(wanted) => wanted == io_type as usize,
                    None => io_type != IoType::BlockStatus,
                };
                let place = injection.offset.is_none_or(|at| offset <= at && at < offset.saturating_add(len));
                kind && place
            })?;
            let (id, injection) = state.active[hit].clone();
            if injection.once {
                state.active.remove(hit);
                state.rules.retain(|rule| rule.id != id);
            }
            Some(injection.errno)
        });
        match errno {
            Some(errno) if errno != 0 => Err(Error::errno_only(errno)),
            _ => Ok(()),
        }
    }

    /// Holds the next request that passes `event`, under the name `tag`.
    ///
    /// # Errors
    /// If there is no such event.
    pub fn set_breakpoint(&self, event: &str, tag: &str) -> Result<()> {
        let event = event_named(event)?;
        self.with(|state| {
            state.next += 1;
            state.rules.push(Rule { id: state.next, event, state: 0, action: Action::Suspend(tag.to_owned()) });
        });
        Ok(())
    }

    /// Lets the oldest request go on that `tag` holds.
    ///
    /// # Errors
    /// If it holds none.
    pub fn resume(&self, tag: &str) -> Result<()> {
        let found = self.with(|state| {
            let at = state.suspended.iter().position(|(_, held)| held == tag)?;
            Some(state.suspended.remove(at))
        });
        self.resumed.notify_waiters();
        found.map(|_| ()).ok_or_else(|| Error::not_found(format!("No request is held by '{tag}'")))
    }

    /// Removes break points, and lets the requests go on that they hold.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn remove_breakpoint(&self, tag: &str) -> Result<()> {
        let found = self.with(|state| {
            let before = state.rules.len() + state.suspended.len();
            state.rules.retain(|rule| rule.action != Action::Suspend(tag.to_owned()));
            state.suspended.retain(|(_, held)| held != tag);
            before != state.rules.len() + state.suspended.len()
        });
        self.resumed.notify_waiters();
        if found { Ok(()) } else { Err(Error::not_found(format!("There is no break point '{tag}'"))) }
    }

    /// How many requests `tag` holds.
    pub fn suspended(&self, tag: &str) -> usize {
        self.with(|state| state.suspended.iter().filter(|(_, held)| held == tag).count())
    }

    async fn hold(&self, id: u64) {
        loop {
            let resumed = self.resumed.notified();
            let mut resumed = std::pin::pin!(resumed);
            resumed.as_mut().enable();
            if !self.with(|state| state.suspended.iter().any(|(held, _)| *held == id)) {
                return;
            }
            resumed.await;
        }
    }
}

impl Driver for Blkdebug {
    fn len(&self) -> u64 {
        self.image.len()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.image)]
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            self.check(offset, buf.len() as u64, IoType::Read)?;
            self.image.read(offset, buf).await
        })
    }

    fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(async move {
            self.check(offset, buf.len() as u64, IoType::Write)?;
            self.image.write(offset, buf, flags).await
        })
    }

    fn supports_fua(&self) -> bool {
        true
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        Box::pin(async move {
            let unit = u64::from(self.limits.zeroes_alignment).max(u64::from(self.limits.request_alignment));
            if len < unit {
                return Err(Error::unsupported("Zeroes of part of a unit have to be written"));
            }
            self.check(offset, len, IoType::WriteZeroes)?;
            self.image.write_zeroes(offset, len, flags).await
        })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(async move {
            self.check(offset, len, IoType::Discard)?;
            self.image.discard(offset, len).await
        })
    }

    fn flush(&self) -> IoFuture<'_> {
        Box::pin(async move { self.check(0, u64::MAX, IoType::Flush) })
    }

    fn truncate(&self, len: u64, exact: bool, preallocation: Preallocation) -> IoFuture<'_> {
        Box::pin(async move { self.image.truncate(len, exact, preallocation).await })
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        Box::pin(async move {
            self.check(offset, len, IoType::BlockStatus)?;
            crate::pass_status(offset, len).await
        })
    }

    fn child_permissions(
        &self,
        child: &Child,
        used: Permissions,
        shared: Permissions,
    ) -> Option<(Permissions, Permissions)> {
        let (used, shared) = permissions::of_child(child.role(), false, used, shared);
        Some((used | self.takes, shared & self.unshares.complement()))
    }

    fn exact_filename(&self) -> Option<String> {
        // Rules that came as options can't be put into a plain name.
        if self.strong.iter().any(|(name, _)| name != "config") {
            return None;
        }
        let image = block::filename::exact(&self.image.node())?;
        Some(format!("blkdebug:{}:{image}", self.config.as_deref().unwrap_or("")))
    }

    fn strong_options(&self) -> Options {
        self.strong.clone()
    }

    fn debug_event(&self, event: &'static str) -> Option<IoFuture<'_>> {
        let held = self.process(event)?;
        Some(Box::pin(async move {
            self.hold(held).await;
            Ok(())
        }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_file_has_sections_of_quoted_values() {
        let mut state = State::default();
        let text = "[inject-error]\nevent = \"l2_load\"\nerrno = \"28\"\nonce = \"on\"\n\n# note\n[set-state]\nstate = \"1\"\n\
                    event = \"cluster_alloc\"\nnew_state = \"2\"\n";
        parse_config(text, &mut state).expect("a good file");
        assert_eq!(state.rules.len(), 2);
        assert_eq!(
            state.rules[0].action,
            Action::Inject(Injection { io_type: None, errno: 28, offset: None, once: true })
        );
        assert_eq!((state.rules[1].state, &state.rules[1].action), (1, &Action::SetState(2)));
        for bad in ["[other]\n", "[inject-error]\nevent = \"nope\"\n", "x\n", "[inject-error]\n"] {
            assert!(parse_config(bad, &mut State::default()).is_err(), "{bad}");
        }
    }
}
