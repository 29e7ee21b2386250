//! The commands and events that a program has, and where each command's handler runs.

use crate::context::SessionContext;
use crate::reply::{RawReply, Reply};
use qapi::control::{QmpCapabilities, QueryCommands, QueryEvents, QueryQmpSchema};
use qapi::json::{Map, Value};
use qapi::schema::{Declaration, DeclarationKind, Feature};
use qapi::{Command, Error, ErrorClass, Event, QapiType};
use std::collections::HashMap;

/// A command for the control thread, its arguments read.
pub(crate) type Prepared<C> = Box<dyn FnOnce(&mut C, &mut SessionContext, RawReply) + Send>;
type Prepare<C> = Box<dyn Fn(Option<Map>) -> Result<Prepared<C>, Error> + Send + Sync>;
type InPlace<S> = Box<dyn Fn(&S, &mut SessionContext, Option<Map>) -> Result<Value, Error> + Send + Sync>;
type Introspect = fn(&Inventory, Option<Map>) -> Result<Value, Error>;

/// Where a command runs.
pub(crate) enum Handler<C, S> {
    /// On the control thread.
    Control(Prepare<C>),
    /// Wherever its turn is found to have come.
    InPlace(InPlace<S>),
    /// Likewise, from the table itself.
    Introspect(Introspect),
}

/// One command.
pub(crate) struct Entry<C, S> {
    pub(crate) declaration: Declaration,
    pub(crate) handler: Handler<C, S>,
    disabled: Option<String>,
}

impl<C, S> Entry<C, S> {
    fn allows(&self) -> (bool, bool) {
        match self.declaration.kind {
            DeclarationKind::Command { allow_oob, allow_preconfig, .. } => (allow_oob, allow_preconfig),
            _ => (false, false),
        }
    }
}

/// What `-compat` says about commands.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policy {
    /// Refuse deprecated commands.
    pub reject_deprecated: bool,
    /// Refuse unstable commands.
    pub reject_unstable: bool,
}

/// The names of what there is, for the commands that tell.
#[derive(Default)]
pub(crate) struct Inventory {
    pub(crate) declarations: Vec<Declaration>,
}

/// The commands and events of a program. `C` is what the control thread owns, `S` the state that it
/// publishes for commands that run in place.
pub struct CommandTable<C, S> {
    entries: HashMap<&'static str, Entry<C, S>>,
    pub(crate) inventory: Inventory,
    policy: Policy,
}

impl<C: 'static, S: 'static> Default for CommandTable<C, S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: 'static, S: 'static> CommandTable<C, S> {
    /// A table with the commands about the protocol itself: `qmp_capabilities`, `query-commands`,
    /// `query-events` and `query-qmp-schema`.
    #[must_use]
    pub fn new() -> Self {
        let mut table = Self { entries: HashMap::new(), inventory: Inventory::default(), policy: Policy::default() };
        table.introspect::<QmpCapabilities>(|_, arguments| {
            QmpCapabilities::from_arguments(arguments)?;
            let text = "Capabilities negotiation is already complete, command ignored";
            Err(Error::new(ErrorClass::CommandNotFound, text))
        });
        table.introspect::<QueryCommands>(|inventory, arguments| {
            QueryCommands::from_arguments(arguments)?;
            Ok(inventory.names(true))
        });
        table.introspect::<QueryEvents>(|inventory, arguments| {
            QueryEvents::from_arguments(arguments)?;
            Ok(inventory.names(false))
        });
        table.introspect::<QueryQmpSchema>(|inventory, arguments| {
            QueryQmpSchema::from_arguments(arguments)?;
            Ok(qapi::schema::describe(&inventory.declarations).to_value())
        });
        table
    }

    /// A command whose handler runs on the control thread and returns the result.
    pub fn register<X: Command + Send>(
        &mut self,
        run: impl Fn(&mut C, &mut SessionContext, X) -> Result<X::Return, Error> + Clone + Send + Sync + 'static,
    ) {
        self.register_prepared::<X>(move |command| {
            let run = run.clone();
            Box::new(move |control, context, reply| {
                let result = run(control, context, command);
                reply.send(result.map(|value| value.to_value()));
            })
        });
    }

    /// A command whose handler runs on the control thread and answers later.
    pub fn register_deferred<X: Command + Send>(
        &mut self,
        run: impl Fn(&mut C, &mut SessionContext, X, Reply<X::Return>) + Clone + Send + Sync + 'static,
    ) {
        self.register_prepared::<X>(move |command| {
            let run = run.clone();
            Box::new(move |control, context, reply| run(control, context, command, Reply::new(reply)))
        });
    }

    fn register_prepared<X: Command + Send>(&mut self, prepare: impl Fn(X) -> Prepared<C> + Send + Sync + 'static) {
        assert!(!X::ALLOW_OOB, "{} may run out of band, so it cannot wait for the control thread", X::NAME);
        let prepare = move |arguments| X::from_arguments(arguments).map(&prepare);
        self.add::<X>(Handler::Control(Box::new(prepare)));
    }

    /// A command that is answered in place from published state, in its turn. It must not block.
    pub fn register_snapshot<X: Command>(
        &mut self,
        run: impl Fn(&S, &mut SessionContext, X) -> Result<X::Return, Error> + Send + Sync + 'static,
    ) {
        let run = move |state: &S, context: &mut SessionContext, arguments| {
            let command = X::from_arguments(arguments)?;
            run(state, context, command).map(|value| value.to_value())
        };
        self.add::<X>(Handler::InPlace(Box::new(run)));
    }

    /// A command that runs in place and, if the client says `exec-oob`, before its turn. It must not
    /// block, nor wait for anything that the control thread does.
    pub fn register_oob<X: Command>(
        &mut self,
        run: impl Fn(&S, &mut SessionContext, X) -> Result<X::Return, Error> + Send + Sync + 'static,
    ) {
        assert!(X::ALLOW_OOB, "{} is not declared to run out of band", X::NAME);
        self.register_snapshot::<X>(run);
    }

    fn introspect<X: Command>(&mut self, run: Introspect) {
        self.add::<X>(Handler::Introspect(run));
    }

    fn add<X: Command>(&mut self, handler: Handler<C, S>) {
        let declaration = Declaration::of::<X>();
        let entry = Entry { declaration, handler, disabled: None };
        let before = self.entries.insert(X::NAME, entry);
        assert!(before.is_none(), "command {} is registered twice", X::NAME);
        self.inventory.declarations.push(declaration);
    }

    /// Declares an event that the program may send.
    pub fn declare_event<E: Event>(&mut self) {
        self.inventory.declarations.push(Declaration::event::<E>());
    }

    /// Switches a command off: `Command X has been disabled`, and the reason if there is one. It is
    /// then neither listed nor described.
    pub fn disable(&mut self, name: &str, reason: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.disabled = Some(reason.to_owned());
            self.inventory.declarations.retain(|declaration| !declaration.is_command() || declaration.name != name);
        }
    }

    /// Sets what is refused.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// What the table declares: commands in the order of registration, and events.
    #[must_use]
    pub fn declarations(&self) -> &[Declaration] {
        &self.inventory.declarations
    }

    /// Finds a command and makes every check that comes before its arguments.
    pub(crate) fn find(&self, name: &str, oob: bool, preconfig: bool) -> Result<&Entry<C, S>, Error> {
        let refuse = |text: String| Error::new(ErrorClass::CommandNotFound, text);
        let entry = self.entries.get(name).ok_or_else(|| Error::command_not_found(name))?;
        for (feature, rejected, adjective) in [
            (Feature::Deprecated, self.policy.reject_deprecated, "Deprecated"),
            (Feature::Unstable, self.policy.reject_unstable, "Unstable"),
        ] {
            if rejected && entry.declaration.features.contains(&feature) {
                return Err(refuse(format!("{adjective} command {name} disabled by policy")));
            }
        }
        if let Some(reason) = &entry.disabled {
            let colon = if reason.is_empty() { "" } else { ": " };
            return Err(refuse(format!("Command {name} has been disabled{colon}{reason}")));
        }
        let (allow_oob, allow_preconfig) = entry.allows();
        if oob && !allow_oob {
            return Err(Error::generic(format!("The command {name} does not support OOB")));
        }
        if preconfig && !allow_preconfig {
            return Err(Error::generic(format!(
                "The command '{name}' is permitted only after machine initialization has completed"
            )));
        }
        Ok(entry)
    }
}

impl Inventory {
    /// The result of `query-commands` or `query-events`: the latest first.
    fn names(&self, commands: bool) -> Value {
        let wanted = self.declarations.iter().rev().filter(|declaration| declaration.is_command() == commands);
        let entry = |declaration: &Declaration| Value::Object(Map::from_iter([("name", declaration.name)]));
        Value::Array(wanted.map(entry).collect())
    }
}

/// The one who waits for a command of the program itself.
type Waiting = Box<dyn FnOnce(Result<Value, Error>) + Send>;

struct Told(std::sync::Mutex<Option<Waiting>>);

impl crate::reply::ReplyTarget for Told {
    fn finish(self: std::sync::Arc<Self>, _: u64, _: Option<Value>, result: Result<Value, Error>) {
        let waiting = crate::lock(&self.0).take();
        if let Some(tell) = waiting {
            tell(result);
        }
    }
}

impl<C: 'static, S: 'static> CommandTable<C, S> {
    /// Runs a command that the program itself asks for, on the control thread, and tells the result: at once or, where
    /// the command answers later, from another thread.
    pub fn call(
        &self,
        (control, state): (&mut C, &S),
        context: &mut SessionContext,
        name: &str,
        arguments: Map,
        done: impl FnOnce(Result<Value, Error>) + Send + 'static,
    ) {
        let entry = match self.find(name, false, false) {
            Ok(entry) => entry,
            Err(error) => return done(Err(error)),
        };
        match &entry.handler {
            Handler::Control(prepare) => match prepare(Some(arguments)) {
                Ok(run) => {
                    let target = std::sync::Arc::new(Told(std::sync::Mutex::new(Some(Box::new(done)))));
                    run(control, context, RawReply { target: Some(target), connection: 0, id: None });
                }
                Err(error) => done(Err(error)),
            },
            Handler::InPlace(run) => done(run(state, context, Some(arguments))),
            Handler::Introspect(run) => done(run(&self.inventory, Some(arguments))),
        }
    }
}
