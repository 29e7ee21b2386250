//! The shell for a person at a terminal.

use crate::session::{Outcome, Session, SessionError};
use crate::{complete, line};
use qapi::schema::Model;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Context, Editor, ExternalPrinter as _, Helper};
use std::path::PathBuf;

/// What rustyline asks while a line is typed.
struct Assistant {
    model: Model,
}

impl Completer for Assistant {
    type Candidate = String;

    fn complete(&self, text: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(complete::complete(&self.model, text.get(..position).unwrap_or(text)))
    }
}

impl Hinter for Assistant {
    type Hint = String;
}

impl Highlighter for Assistant {}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if line::is_open(context.input()) { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Helper for Assistant {}

/// Runs the shell until the person leaves. Failed commands do not fail the shell.
pub(crate) fn run(mut session: Session, address: &str) -> Result<bool, SessionError> {
    let config = Config::builder().auto_add_history(true).history_ignore_dups(true)?.build();
    let mut editor: Editor<Assistant, DefaultHistory> = Editor::with_config(config)?;
    editor.set_helper(Some(Assistant { model: session.model.clone() }));
    let history = history_file();
    if let Some(file) = &history {
        // The first time there is none.
        _ = editor.load_history(file);
    }
    let mut printer = editor.create_external_printer()?;
    session.watch(move |text| _ = printer.print(text));
    println!("Connected to {address}. 'help' lists the commands, 'exit' leaves.");
    let result = read_lines(&mut session, &mut editor);
    if let Some(file) = &history {
        save_history(&mut editor, file);
    }
    result.map(|()| true)
}

fn read_lines(session: &mut Session, editor: &mut Editor<Assistant, DefaultHistory>) -> Result<(), SessionError> {
    loop {
        match editor.readline("qmp> ") {
            Ok(text) => {
                if session.run_line(&text)? == Outcome::Leave {
                    return Ok(());
                }
            }
            // Ctrl-c drops the line, Ctrl-d leaves.
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Where the history is kept: under `$XDG_STATE_HOME`, or `~/.local/state`.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    Some(state.or_else(home)?.join("ouzel/ctl-history"))
}

fn save_history(editor: &mut Editor<Assistant, DefaultHistory>, file: &std::path::Path) {
    let made = file.parent().is_none_or(|directory| std::fs::create_dir_all(directory).is_ok());
    if let (true, Err(error)) = (made, editor.save_history(file)) {
        eprintln!("ouzel-ctl: the history is not saved: {error}");
    }
}
