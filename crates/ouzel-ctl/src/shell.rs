//! The shell for a person at a terminal.

use crate::complete::{self, Candidate};
use crate::input;
use crate::output;
use crate::session::{Outcome, Session, SessionError};
use qapi::schema::Model;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, ExternalPrinter as _, Helper};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PROMPT: &str = "qmp> ";

/// What rustyline asks while a line is typed.
struct Assistant {
    model: Arc<Model>,
}

impl Completer for Assistant {
    type Candidate = Candidate;

    fn complete(&self, text: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Candidate>)> {
        Ok(complete::complete(&self.model, text.get(..position).unwrap_or(text)))
    }
}

impl Hinter for Assistant {
    type Hint = String;
}

impl Highlighter for Assistant {}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let open = input::is_open(context.input());
        Ok(if open { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Helper for Assistant {}

/// Runs the shell until the person leaves or the server does. Failed commands do not fail the shell.
pub(crate) fn run(mut session: Session, address: &str) -> Result<Outcome, SessionError> {
    let version = session.version();
    let model = session.model()?;
    let config = Config::builder()
        .auto_add_history(true)
        .history_ignore_space(true)
        .history_ignore_dups(true)?
        .completion_type(CompletionType::List)
        .build();
    let mut editor: Editor<Assistant, DefaultHistory> = Editor::with_config(config)?;
    editor.set_helper(Some(Assistant { model }));
    let history = history_file();
    if let Some(file) = &history {
        // The first time there is none.
        _ = editor.load_history(file);
    }
    let mut printer = editor.create_external_printer()?;
    session.watch(move |text| _ = printer.print(text));
    let greeting = format!("{address}: {version}\n'help' lists the commands, 'exit' leaves the shell.\n");
    output::print(greeting.trim_start_matches(": ")).map_err(SessionError::Output)?;
    let result = read_lines(&mut session, &mut editor);
    if let Some(file) = &history {
        save_history(&mut editor, file);
    }
    result
}

fn read_lines(session: &mut Session, editor: &mut Editor<Assistant, DefaultHistory>) -> Result<Outcome, SessionError> {
    while !session.is_closed() {
        match editor.readline(PROMPT) {
            // The reading thread has said why.
            Ok(_) if session.is_closed() => return Ok(Outcome::Misused),
            Ok(text) => {
                if session.run(input::parse_line(&text))? == Outcome::Left {
                    break;
                }
            }
            // Ctrl-C drops the line, Ctrl-D leaves.
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Outcome::Succeeded)
}

/// Where the history is kept: under `$XDG_STATE_HOME`, or `~/.local/state`.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    Some(state.or_else(home)?.join("ouzel-ctl/history"))
}

fn save_history(editor: &mut Editor<Assistant, DefaultHistory>, file: &Path) {
    let directory = file.parent().map_or(Ok(()), std::fs::create_dir_all);
    let saved = directory.map_err(ReadlineError::Io).and_then(|()| editor.save_history(file));
    if let Err(error) = saved {
        eprintln!("ouzel-ctl: the history cannot be saved: {error}");
    }
}
