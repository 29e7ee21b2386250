//! Boards, tables, kernel loading, reset.
