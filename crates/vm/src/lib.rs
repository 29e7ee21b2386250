//! The control thread and the command handlers.
