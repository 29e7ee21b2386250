//! A client of our own against the encoders and against a whole server.

mod client;
mod decoder;
mod encodings;
mod server;
